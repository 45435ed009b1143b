"""``custody drain ...``: where it stands, what a run would do, and what an operator does by hand."""

from __future__ import annotations

import sys

import click

from custody.cli import drain_artifacts
from custody.cli.show import show
from custody.drain import actions, plan, report, survey
from custody.drain import config as configuration
from custody.drain import set_aside as setting_aside
from custody.drain.series import FINISHED
from custody.drain.view import config_names, printable
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger, run_name
from custody.units import format_size

_NUMBER = click.IntRange(1, (1 << 63) - 1)


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
    if config_name is not None:
        _demand_known(ledger, config_name)
    lines = report.list_series(ledger, config_name, stuck_only=stuck)
    shown = [line for line in lines if show_all or stuck or line.state not in FINISHED]
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


def _demand_known(ledger: Ledger, config_name: str) -> None:
    known = sorted({*config_names(ledger), *configuration.config_names()})
    if config_name not in known:
        reason = f"is not there; there are: {', '.join(known) or 'none'}"
        raise Fault(FaultKind.CONFIG, f"configuration {config_name}", reason)


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
    click.echo("not tried from here: connection, bucket and remote_dir; the first run that needs them does")


@drain.command()
@click.argument("series_id", type=_NUMBER)
def hold(series_id: int) -> None:
    """Keep the local files of a series, whatever is proven."""
    click.echo(f"{actions.hold(Ledger.open(), series_id, who=run_name()).item}: on hold")


@drain.command()
@click.argument("series_id", type=_NUMBER)
def release(series_id: int) -> None:
    """Take a series off hold."""
    series = actions.release(Ledger.open(), series_id, who=run_name())
    click.echo(f"{series.item}: released. Next: {series.next_command}")


@drain.command()
@click.argument("series_id", type=_NUMBER)
@click.option("--file", "name", metavar="NAME", help="One file of it: it is asked for, sent and proven anew.")
def retry(series_id: int, name: str | None) -> None:
    """Let the next run take up a series that was given up on, or one file of it."""
    series = actions.retry(Ledger.open(), series_id, who=run_name(), name=name)
    subject = series.item if name is None else f"{series.item}/{name}"
    click.echo(f"{subject}: the next run takes it up. Next: {series.next_command}")


@drain.command()
@click.argument("series_id", type=_NUMBER)
def prove(series_id: int) -> None:
    """Have the next run prove a series once more before it deletes anything of it."""
    series = actions.prove_again(Ledger.open(), series_id, who=run_name())
    click.echo(f"{series.item}: is proven anew by the next run. Next: {series.next_command}")


@drain.command()
@click.argument("series_id", type=_NUMBER)
@click.option("--because", "why", required=True, help="The reason, for the audit.")
@click.option("--accept-loss", is_flag=True, help="Close it although no copy of some file is known any more.")
def close(series_id: int, why: str, accept_loss: bool) -> None:
    """End a series by hand. Nothing is moved or deleted: its files stay where they are."""
    closed = actions.close(Ledger.open(), series_id, why=why, who=run_name(), accept_loss=accept_loss)
    click.echo(
        f"{closed.series.item}: closed. {len(closed.here)} files lie here, {len(closed.stored)} are proven elsewhere"
    )
    for path in closed.here:
        click.echo(f"here: {printable(str(path))}")
    for name in closed.nowhere:
        click.echo(f"no copy known: {printable(name)}")


@drain.command("set-aside")
@click.argument("series_id", type=_NUMBER)
@click.argument("name")
@click.option("--because", "why", required=True, help="The reason, for the audit.")
@click.option("--accept-loss", is_flag=True, help="Do it although no copy of the file is known any more.")
def set_aside(series_id: int, name: str, why: str, accept_loss: bool) -> None:
    """Move one file of a series to quarantine, so that the others can go on."""
    ledger = Ledger.open()
    aside = setting_aside.set_aside(ledger, series_id, name, why=why, who=run_name(), accept_loss=accept_loss)
    where = f"lies at {printable(str(aside))}" if aside else "was gone already"
    click.echo(f"{printable(name)}: {where}; the series goes on without it")


for _command in drain_artifacts.COMMANDS:
    drain.add_command(_command)
