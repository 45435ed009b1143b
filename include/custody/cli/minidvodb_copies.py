"""``custody minidvodb ...``: what minidvodbtool did to single copies, and the steps without Airflow."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

from custody.cli.show import show
from custody.faults import Fault
from custody.ledger import Ledger, run_name
from custody.minidvodb import actions, audit, catalogue, destination, load, queue, retire
from custody.minidvodb.actions import Line, Selection
from custody.minidvodb.connections import reach
from custody.minidvodb.manifest import printable
from custody.minidvodb.records import CopyState
from custody.minidvodb.run import carry_out


def one_line(text: str) -> str:
    """A name or a complaint with a name in it, whatever that is made of."""
    return printable(os.fsencode(text))


def _selects(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which copies are meant."""
    for option in (
        click.option("--copy", "copy_ids", type=int, multiple=True, help="minidvodbcopy_id"),
        click.option("--minidvodb", "minidvodb_ids", type=int, multiple=True, help="minidvodb_id"),
        click.option("--group"),
        click.option("--host"),
        click.option("--fault", help="A number or a name."),
        click.option("--state", type=click.Choice([state.value for state in CopyState])),
    ):
        command = option(command)
    return command


def _selection(options: dict[str, Any], *, everything: bool = False) -> Selection:
    names = ("copy_ids", "minidvodb_ids", "group", "host", "fault", "state")
    return Selection(**{name: options.pop(name) for name in names}, everything=everything)


@click.command("queue")
@click.option("--group")
@click.option("--host")
@click.option("--path", help="With --group and --host: queue this pair once, wanted or not.")
@click.option("--minidvodb", "minidvodb_ids", type=int, multiple=True, help="With --path: only these databases.")
@click.option("--pretend", is_flag=True, help="Say of every database whether it would be queued, and why not.")
@click.option("--json", "as_json", is_flag=True)
def queue_command(
    group: str | None, host: str | None, path: str | None, minidvodb_ids: tuple[int, ...], pretend: bool, as_json: bool
) -> None:
    """Queue what is wanted and not queued yet (the old -definebyquery)."""
    ledger = Ledger.open()
    if path and not (group and host):
        raise click.UsageError("--path needs --group and --host")
    pair = queue.pair_of(group or "", host or "", path) if path else None
    chosen = list(minidvodb_ids) or None
    if pretend:
        found = (
            queue.explain_pair(ledger, pair, minidvodb_ids=chosen)
            if pair
            else queue.explain(ledger, group=group, host=host)
        )
        rows = [(one.minidvodb_id, one.name, one.host, one.reason or "would be queued") for one in found]
        show(("minidvodb", "name", "host", "queued?"), rows, as_json=as_json)
        return
    if pair:
        made = [queue.queue_pair(ledger, pair, who=run_name(), minidvodb_ids=chosen)]
    else:
        made = queue.queue_wanted(ledger, who=run_name(), group=group, host=host)
    show(
        ("group", "host", "queued", "already"),
        [(one.group, one.host, one.queued, one.already) for one in made],
        as_json=as_json,
    )


@click.command("list")
@_selects
@click.option("--pending", is_flag=True, help="New ones without a fault.")
@click.option("--faulted", is_flag=True, help="Only those with a fault.")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="At most so many; 0: all.")
@click.option("--simple", is_flag=True, help="One line each: number, database, host, state, fault.")
@click.option(
    "--old",
    metavar="[URL]",
    is_flag=False,
    flag_value="",
    help="Read the old database's own table in place; without URL that of $CUSTODY_MINIDVODB_OLD.",
)
@click.option("--json", "as_json", is_flag=True)
def list_command(
    pending: bool, faulted: bool, limit: int, simple: bool, old: str | None, as_json: bool, **options: Any
) -> None:
    """List copies, faulted ones too (the old -listminidvodbcopy)."""
    if old is not None:
        where = catalogue.OldTables(old or os.environ.get("CUSTODY_MINIDVODB_OLD", ""))
        rows = where.copies(host=options["host"], faulted=faulted or None, limit=limit)
        names = ("minidvodbcopy_id", "minidvodb_name", "destination_host", "state", "fault", "dtime", "epoch")
        show(names, [[row[name] for name in names] for row in rows], as_json=as_json)
        return
    lines = actions.select(Ledger.open(), _selection(options), pending=pending, faulted=faulted, limit=limit)
    if simple:
        for line in lines:
            click.echo(f"{line.id} {line.minidvodb_id} {line.host} {line.state} {line.fault}")
        return
    headings = (
        "copy",
        "minidvodb",
        "name",
        "host",
        "path",
        "state",
        "step",
        "fault",
        "dtime",
        "bytes",
        "rate",
        "epoch",
        "why",
    )
    rows_shown = [
        (
            line.id,
            line.minidvodb_id,
            line.name,
            line.host,
            line.path,
            line.state,
            line.step,
            line.fault_name or line.fault or "",
            line.dtime,
            line.bytes,
            round(line.rate_bytes_s) if line.rate_bytes_s else None,
            line.epoch,
            line.fault_text,
        )
        for line in lines
    ]
    show(headings, rows_shown, as_json=as_json)


@click.command("revert")
@_selects
@click.option("--all", "everything", is_flag=True)
@click.option("--replace", is_flag=True, help="What has the name over there may be set aside.")
@click.option("--clear-staging", is_flag=True, help="Throw away what was sent so far.")
@click.option("--dry-run", is_flag=True)
def revert_command(everything: bool, replace: bool, clear_staging: bool, dry_run: bool, **options: Any) -> None:
    """Let the next run take up faulted, lost and corrupt copies again (the old -revertminidvodbcopy)."""
    ledger = Ledger.open()
    done = actions.revert(
        ledger, _selection(options, everything=everything), who=run_name(), replace=replace, dry_run=dry_run
    )
    for line in done.copies:
        if clear_staging and not dry_run:
            actions.clear_staging(ledger, line.id, who=run_name(), reach=reach)
        click.echo(f"copy {line.id}, {_named(line)}: {'would be ' if dry_run else ''}reverted")
    for line, reason in done.left:
        click.echo(f"copy {line.id}, {_named(line)}: left, {reason}", err=True)
    if not done.copies and not done.left:
        click.echo("no copy that fits has a fault, or is lost, corrupt or retired: nothing was changed", err=True)


@click.command("update")
@_selects
@click.option("--all", "everything", is_flag=True)
@click.option("--set-fault", type=int)
@click.option("--set-dtime", type=float)
@click.option("--set-path")
@click.option("--set-host")
@click.option("--set-state")
@click.option("--set-priority", type=int)
def update_command(everything: bool, **options: Any) -> None:
    """Set columns of copies by hand; --set-fault 0 clears a fault (the old -updateminidvodbcopy)."""
    which = _selection(options, everything=everything)
    values = {name.removeprefix("set_"): value for name, value in options.items()}
    changed = actions.update(Ledger.open(), which, who=run_name(), **values)
    for line in changed:
        click.echo(f"copy {line.id}: {line.state}, fault {line.fault}, {one_line(f'{line.host}:{line.path}')}")
    if not changed:
        click.echo("no copy fits: nothing was changed", err=True)


@click.command("run")
@click.option("--group")
@click.option("--host")
@click.option("--copy", "copy_id", type=int)
@click.option("--limit", type=int, default=load.DEFAULT_LIMIT)
def run_command(group: str | None, host: str | None, copy_id: int | None, limit: int) -> None:
    """Queue, load and carry out copies one after another, without Airflow."""
    ledger = Ledger.open()
    if copy_id is None:
        queue.queue_wanted(ledger, who=run_name(), group=group, host=host)
    failed = 0
    for one in load.choose(ledger, group=group, host=host, copy_id=copy_id, limit=limit):
        try:
            copy = carry_out(ledger, one.id, who=run_name(), reach=reach)
            click.echo(f"copy {copy.id}, {one_line(copy.subject)}: {copy.state}")
        except Fault as fault:
            failed += 1
            click.echo(f"custody: {one_line(str(fault))}", err=True)
    if failed:
        sys.exit(1)


@click.command("audit")
@click.option("--host")
@click.option("--copy", "copy_id", type=int)
@click.option(
    "--older-than-days",
    type=click.FloatRange(min=0),
    help="Only copies that were not read for so long; default: 30, and 0 where --host is given.",
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--glance", is_flag=True, help="Only look whether anything was touched since; reads no file.")
def audit_command(
    host: str | None, copy_id: int | None, older_than_days: float | None, limit: int, glance: bool
) -> None:
    """Read full copies over there again and compare them with their manifests."""
    ledger = Ledger.open()
    if glance:
        _glance(ledger, host, copy_id, limit)
        return
    if copy_id is not None:
        found = [audit.audit(ledger, copy_id, who=run_name(), reach=reach)]
        faults: list[Fault] = []
    else:
        if host:
            destination.find(ledger, host)
        days = older_than_days if older_than_days is not None else 0.0 if host else 30.0
        older = timedelta(days=days)
        found, faults = audit.audit_due(ledger, who=run_name(), reach=reach, older_than=older, limit=limit, host=host)
        if not found and not faults:
            click.echo(
                f"nothing to read: no full copy on a host that is on was left unread for {days:g} days", err=True
            )
    for one in found:
        click.echo(one_line(f"copy {one.copy_id}, {one.subject}: {one.state} {one.complaint}".rstrip()))
    for fault in faults:
        click.echo(f"custody: {one_line(str(fault))}", err=True)
    if faults or any(one.complaint for one in found):
        sys.exit(1)


def _named(line: Line) -> str:
    return one_line(f"{line.name} on {line.host}")


def _glance(ledger: Ledger, host: str | None, copy_id: int | None, limit: int) -> None:
    which = Selection(copy_ids=[copy_id] if copy_id else [], host=host, state="full")
    touched = 0
    for line in actions.select(ledger, which, limit=limit):
        complaint = audit.glance(ledger, line.id, reach=reach)
        touched += bool(complaint)
        following = f". Next: custody minidvodb audit --copy {line.id}" if complaint else ""
        click.echo(f"copy {line.id}, {_named(line)}: {complaint or 'untouched since it was proven'}{following}")
    if touched:
        sys.exit(1)


@click.command("retire")
@click.argument("copy_id", type=int)
@click.option("--copies", type=click.IntRange(min=1), default=2, help="So many others must be read equal now.")
@click.option("--dry-run", is_flag=True)
def retire_command(copy_id: int, copies: int, dry_run: bool) -> None:
    """Delete a published copy, if enough others are found equal in this very call."""
    verdict = retire.retire(Ledger.open(), copy_id, who=run_name(), reach=reach, copies_needed=copies, dry_run=dry_run)
    click.echo(
        f"copy {copy_id}: {'would be deleted' if dry_run and verdict.allowed else verdict if dry_run else 'deleted'}"
    )


COMMANDS = (
    queue_command,
    list_command,
    revert_command,
    update_command,
    run_command,
    audit_command,
    retire_command,
)
