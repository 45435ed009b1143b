"""``custody drain ...``: where it stands, what a run would do, hold and release."""

from __future__ import annotations

import sys

import click

from custody.cli import drain_artifacts
from custody.cli.show import show
from custody.drain import actions, plan, report, survey
from custody.drain import config as configuration
from custody.drain.series import SeriesState
from custody.ledger import Ledger, run_name
from custody.units import format_size


@click.group()
def drain() -> None:
    """Empty filling crawler disks into an archive."""


@drain.command()
@click.argument("config_name", required=False)
@click.option("--stuck", is_flag=True, help="Only what does not go on by itself.")
@click.option("--all", "show_all", is_flag=True, help="Finished series too.")
@click.option("--json", "as_json", is_flag=True)
def status(config_name: str | None, stuck: bool, show_all: bool, as_json: bool) -> None:
    """Show every series, how far it is, and what stops it."""
    ledger = Ledger.open()
    lines = report.list_series(ledger, config_name, stuck_only=stuck)
    shown = [line for line in lines if show_all or stuck or line.state not in {SeriesState.CLEAN, SeriesState.DROPPED}]
    show(
        ("series", "config", "item", "state", "files", "size", "since", "stopped by"),
        [
            (
                line.id,
                line.config,
                line.item,
                f"{line.state} (on hold)" if line.on_hold else line.state,
                line.files,
                line.size_bytes if as_json else format_size(line.size_bytes),
                line.changed_at,
                line.fault,
            )
            for line in shown
        ],
        as_json=as_json,
    )
    if not as_json:
        for state, (series, files, size) in sorted(report.totals(ledger, config_name).items()):
            click.echo(f"{state}: {series} series, {files} files, {format_size(size)}")
    if any(line.fault for line in shown):
        sys.exit(2)


@drain.command()
@click.argument("config_name")
def check(config_name: str) -> None:
    """Check a configuration and its disk, and show what a run would do. Nothing is written."""
    config = configuration.load(config_name)
    disk = survey.check_disk(config)
    click.echo(f"{config.job_dir}: {disk.usage.used_pct:.1f} % used, {format_size(disk.usage.free_bytes)} free")
    click.echo(f"draining: {'on' if disk.draining else 'off (no DRAINME)'}")
    click.echo(f"finishing: {'yes (FINISH_DRAIN)' if disk.finishing else 'no'}")
    planned = plan.plan_series(Ledger.open(), config_name, config, who=run_name(), dry_run=True)
    for line in plan.describe(planned):
        click.echo(line)


@drain.command()
@click.argument("series_id", type=int)
def hold(series_id: int) -> None:
    """Keep the local files of a series, whatever is proven."""
    click.echo(f"{actions.hold(Ledger.open(), series_id, who=run_name()).item}: on hold")


@drain.command()
@click.argument("series_id", type=int)
def release(series_id: int) -> None:
    """Take a series off hold."""
    series = actions.release(Ledger.open(), series_id, who=run_name())
    click.echo(f"{series.item}: released. Next: {series.next_command}")


@drain.command()
@click.argument("series_id", type=int)
def retry(series_id: int) -> None:
    """Let the next run take up a series that was given up on."""
    series = actions.retry(Ledger.open(), series_id, who=run_name())
    click.echo(f"{series.item}: the next run takes it up. Next: {series.next_command}")


for _command in drain_artifacts.COMMANDS:
    drain.add_command(_command)
