"""``custody wiki ...``: dump, watch and look at a farm of wikis; and the tools for its files."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from custody.cli import wiki_files
from custody.cli.show import show
from custody.ledger import Ledger, run_name
from custody.ledger.store import now
from custody.wiki_dump import claim, farm_config, jobs, monitor, report, runs, shelf, tables
from custody.wiki_dump.farm import read_farm
from custody.wiki_dump.jobs import PUBLIC_TABLES
from custody.wiki_dump.layout import Places
from custody.wiki_dump.runs import Options
from custody.wiki_dump.status import RunState
from custody.wiki_dump.whole import dump as dump_whole


@click.group()
def wiki() -> None:
    """Dump a MediaWiki farm, and look after its dumps."""


@wiki.command()
@click.argument("farm", required=False)
@click.option("--stuck", is_flag=True, help="Only what is not complete.")
@click.option("--json", "as_json", is_flag=True)
def status(farm: str | None, stuck: bool, as_json: bool) -> None:
    """Show the newest run of every wiki."""
    lines = report.list_runs(Ledger.open(), farm, stuck_only=stuck)
    show(
        ("wiki", "date", "state", "jobs", "failed", "lost texts", "since", "stopped by"),
        [
            (
                *(line.wiki, line.date, line.words, f"{line.done}/{line.jobs}", ", ".join(line.failed), line.lost),
                *(line.changed_at, line.fault if line.state is not RunState.DONE else None),
            )
            for line in lines
        ],
        as_json=as_json,
    )
    if any(report.is_stuck(line) for line in lines):
        sys.exit(2)


@wiki.command()
@click.argument("farm")
def check(farm: str) -> None:
    """Check a farm's configuration and lists, and show which wiki is next. Nothing is written."""
    config = farm_config.load(farm)
    conf = claim.read_conf(config)
    known = read_farm(conf.of())
    click.echo(f"{conf.path}: {len(known.wikis)} wikis, {sum(wiki.private for wiki in known.wikis)} private")
    for wiki_ in claim.order(known, conf, today=f"{now():%Y%m%d}")[:20]:
        settings = conf.of(wiki_.name)
        past = claim.past_of(Places.of(wiki_, settings))
        count = len(jobs.all_jobs(wiki_, settings, config, PUBLIC_TABLES))
        said = ("never dumped", f"not complete: {past.date}", f"last dump {past.date}")[past.rank]
        click.echo(f"{wiki_.name}: {said}, up to {count} jobs")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


@wiki.command()
@click.argument("farm")
@click.option("--wiki", "name", help="Db name; else the one that waits longest.")
@click.option("--date", help="YYYYMMDD, or last.")
@click.option("--job", help="Only these jobs, parted by commas.")
@click.option("--restartfrom", help="This job and all after it.")
@click.option("--skipjobs", help="Without these jobs.")
@click.option("--skipdone", is_flag=True, help="Leave jobs alone that are named and done.")
@click.option("--cutoff", help="Leave out wikis dumped on this day or later.")
@click.option("--noop", is_flag=True, help="Only lists, links and pages.")
@click.option("--redo", is_flag=True, help="Take up a dump though it is complete.")
@click.option("--noprefetch", is_flag=True, help="Do not take text from earlier dumps.")
@click.option("--prefetchdate", help="Take it from the dump of this day.")
def dump(farm: str, name: str | None, date: str | None, cutoff: str | None, **given: Any) -> None:
    """Dump one wiki in this process, without Airflow."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that lock and lease are given back
    options = Options(
        jobs=_names(given["job"]),
        restartfrom=given["restartfrom"],
        skipjobs=_names(given["skipjobs"]),
        skipdone=given["skipdone"],
        noop=given["noop"],
        redo=given["redo"],
        prefetch=not given["noprefetch"],
        prefetchdate=given["prefetchdate"],
    )
    who = f"{run_name()} {now():%Y%m%dT%H%M%S}"
    run, state = dump_whole(
        *(Ledger.open(), farm, farm_config.load(farm)),
        who=who,
        wiki=name,
        date=date,
        options=options,
        cutoff=cutoff,
    )
    click.echo(f"{run.subject}: {state}, in {run.places.run(run.date)}")
    if state is not RunState.DONE and not options.is_partial:
        sys.exit(2)


@wiki.command("monitor")
@click.argument("farm")
def monitor_(farm: str) -> None:
    """Write the index pages and end what a dead worker left, once."""
    found = monitor.sweep(Ledger.open(), farm_config.load(farm), who=run_name())
    for name in found.aborted:
        click.echo(f"{name}: dump aborted")
    for name in found.broken:
        click.echo(name, err=True)
    click.echo(f"{found.wikis} wikis, {found.running} running")
    if found.broken:
        sys.exit(2)


@wiki.command()
@click.argument("name")
@click.argument("date")
@click.argument("text", required=False)
def notice(name: str, date: str, text: str | None) -> None:
    """Put TEXT on the page of a run, or take the notice down."""
    ledger = Ledger.open()
    found = runs.select(ledger, tables.run.c.wiki == name, tables.run.c.date == date)
    if not found:
        raise click.ClickException(f"{name} {date}: there is no such run on record")
    shelf.set_notice(ledger, found[0], text)
    click.echo(f"{name} {date}: {'notice is up' if text else 'notice is down'}")


for _command in wiki_files.COMMANDS:
    wiki.add_command(_command)
