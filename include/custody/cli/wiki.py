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
from custody.wiki_dump import adopt, choose, claim, farm_config, jobs, monitor, report, runs, shelf, tables
from custody.wiki_dump.access import from_files, is_in_environment
from custody.wiki_dump.farm import farm_of, unknown_sections
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.jobs import PUBLIC_TABLES
from custody.wiki_dump.marks import mark_of
from custody.wiki_dump.privacy import refuse_exposed
from custody.wiki_dump.runs import Options
from custody.wiki_dump.settings import Settings
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
                *(line.changed_at, report.with_next_command(line) if report.is_stuck(line) else None),
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
    known = farm_of(conf)
    click.echo(f"{conf.path}: {len(known.wikis)} wikis, {sum(wiki.private for wiki in known.wikis)} private")
    for name in unknown_sections(conf, {wiki.name for wiki in known.wikis}):
        click.echo(f"section [{name}] is no wiki of the db list and not chosen: it has no effect here")
    waiting = choose.waiting(known, conf, today=f"{now():%Y%m%d}")
    for past, wiki_ in waiting[:20]:
        count = len(jobs.all_jobs(wiki_, conf.of(wiki_.name), config, PUBLIC_TABLES))
        said = ("never dumped", f"not complete: {past.date}", f"last dump {past.date}")[past.rank]
        click.echo(f"{wiki_.name}: {said}, up to {count} jobs")
    for wiki_ in known.wikis:
        refuse_exposed(wiki_, conf.of(wiki_.name))
    for _, wiki_ in waiting[:1]:
        _try_database(config.of(wiki_.name), conf.of(wiki_.name), wiki_.name)


def _try_database(config: FarmConfig, settings: Settings, name: str) -> None:
    """Look whether the database of the next wiki answers; where only Airflow knows the way, say so."""
    if config.connection and not is_in_environment(config.connection):
        click.echo(f"database: not looked at, since connection {config.connection} is known to Airflow alone")
        return
    mark = mark_of(from_files(config, settings).address(name))
    click.echo(f"database: that of {name} answers, its last revision is {mark['last_revision']}")


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


@wiki.command("adopt")
@click.argument("farm")
@click.option("--wiki", "name", help="Db name; else all of the farm.")
def adopt_(farm: str, name: str | None) -> None:
    """Put dumps on record that lie in the trees: after the ledger was lost, or another program's.

    Every file is read to its end and compared with the lists beside it. Nothing in the trees is changed.
    """
    complaints = 0
    for found in adopt.adopt(Ledger.open(), farm, farm_config.load(farm), who=run_name(), wiki=name):
        if found.state is not None:
            said = f"{found.files} files, {found.size_bytes} bytes read back, {found.state}"
            click.echo(f"{found.wiki} {found.date}: {said}")
        for complaint in found.complaints:
            complaints += 1
            click.echo(f"custody: {complaint}", err=True)
    if complaints:
        sys.exit(1)


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
