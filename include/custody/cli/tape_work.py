"""``custody tape import|assign|reassign|archive|confirm``: the work, in the order it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from custody.cli.tape_group import Exit, Interrupts, Meter, Site, number_or, path_bytes, verb
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.host import Host
from custody.tape import assign as assignment
from custody.tape import confirm as confirmation
from custody.tape.archive import archive_one
from custody.tape.catalog import Backup, find_tape
from custody.tape.names import escape
from custody.tape.outcome import Archived, Outcome
from custody.tape.recover import settle
from custody.tape.rehearse import rehearse_one
from custody.tape.session import Session, mounted
from custody.tape.source import source_of
from custody.tape.targets import Imported, forget_targets, import_targets, read_list, scan_target
from custody.units import format_size


@click.command("import")
@click.argument("filename", required=False)
@click.option("--target", "targets", multiple=True, metavar="PATH", help="A target; may be given again and again.")
@click.option("--retry", is_flag=True, help="Scan again what was scanned before, unless it is on a tape.")
@click.option("--no-scan", is_flag=True, help="Take the targets as they are; nothing is read, nothing compared.")
@click.option("-v", "--verbose", is_flag=True, help="A line for every target.")
@verb
def import_(
    site: Site, filename: str | None, targets: tuple[str, ...], retry: bool, no_scan: bool, verbose: bool
) -> Exit:
    """Put the directories named in FILENAME (one a line; - reads from standard input) on record, and scan them."""
    if filename is None and not targets:
        raise click.UsageError("FILENAME or --target PATH says what to import")
    if site.is_stop_asked:
        return _stop_file(site)
    paths = _paths(filename, targets)
    config = site.config.model_copy(update={"scan": False}) if no_scan else site.config
    host = source_of(config)
    site.agree(f"Import {len(paths)} targets from {host.name}, {escape(paths[0])} the first?")
    done = import_targets(site.ledger, config, host, paths, who=site.who, rescan=retry)
    click.echo(f"{len(done.new)} targets are new, {len(done.known)} were known, {len(done.to_scan)} are to be scanned")
    interrupts = Interrupts()
    with interrupts.held():
        for target in done.to_scan:
            try:
                found = scan_target(site.ledger, config, host, target, who=site.who, progress=_check(interrupts))
            except Fault as fault:
                if fault.kind in {FaultKind.CANCELLED, FaultKind.AUTH}:
                    raise
                done.faults[target.name] = fault
                click.echo(f"custody: {fault}", err=True)
                continue
            if verbose:
                size = "not scanned" if found.size_bytes is None else format_size(found.size_bytes)
                click.echo(f"{found.name}: {size}, {found.members or 0} members")
            if interrupts.is_pause_asked or site.is_stop_asked:
                return Exit.STOPPED
    return _imported(done)


@click.command()
@click.argument("targets", nargs=-1, required=True)
@verb
def forget(site: Site, targets: tuple[str, ...]) -> Exit:
    """Take TARGETS off the record that no tape has, or is meant to have; the directories stay as they are."""
    paths = _paths(None, targets)
    site.agree(f"Forget {len(paths)} targets, {escape(paths[0])} the first?")
    count = forget_targets(site.ledger, [escape(path) for path in paths], who=site.who)
    click.echo(f"{count} targets are off the record")
    return Exit.DONE


def _check(interrupts: Interrupts) -> Callable[[int], None]:
    def check(size_bytes: int) -> None:
        if interrupts.stop.is_set():
            raise Fault(FaultKind.CANCELLED, "scan", "was stopped")

    return check


def _imported(done: Imported) -> Exit:
    if not done.faults:
        return Exit.DONE
    click.echo(f"custody: {len(done.faults)} of {len(done.to_scan)} targets could not be scanned", err=True)
    return Exit.TROUBLE


def _paths(filename: str | None, targets: tuple[str, ...]) -> list[bytes]:
    paths: dict[bytes, None] = {}
    if filename == "-":
        paths |= dict.fromkeys(read_list(sys.stdin.buffer.read(), "standard input"))
    elif filename is not None:
        with os_errors_as_faults(filename):
            content = Path(filename).read_bytes()
        paths |= dict.fromkeys(read_list(content, filename))
    for target in targets:
        paths |= dict.fromkeys(read_list(path_bytes(target) + b"\0", "--target"))
    return list(paths)


@click.command()
@click.argument("tape", required=False)
@verb
def assign(site: Site, tape: str | None) -> Exit:
    """Give every target without a copy in its pool to TAPE, or to the one that is active."""
    planned = assignment.assign(site.ledger, tape, who=site.who, dry_run=True)
    if not planned.targets:
        click.echo("There is nothing to assign.")
        return Exit.NO_WORK
    site.agree(
        f"Assign {len(planned.targets)} targets ({format_size(planned.size_bytes)}) to tape {planned.tape.name}?"
    )
    done = assignment.assign(site.ledger, planned.tape.name, who=site.who)
    click.echo(f"{len(done.targets)} targets are assigned to tape {done.tape.name}")
    return Exit.DONE


@click.command()
@click.argument("tape", required=False)
@click.argument("targets", nargs=-1)
@verb
def reassign(site: Site, tape: str | None, targets: tuple[str, ...]) -> Exit:
    """Move targets that no tape holds yet to TAPE: those named, or all that wait for another tape."""
    given = b"".join(path_bytes(target) + b"\0" for target in targets)
    names = [escape(path) for path in read_list(given, "TARGETS")] if given else []
    planned = assignment.reassign(site.ledger, tape, names, who=site.who, dry_run=True)
    if not planned.targets:
        click.echo("There is nothing to reassign.")
        return Exit.NO_WORK
    site.agree(f"Move {len(planned.targets)} targets to tape {planned.tape.name}?")
    done = assignment.reassign(site.ledger, planned.tape.name, names, who=site.who)
    click.echo(f"{len(done.targets)} targets are assigned to tape {done.tape.name}")
    return Exit.DONE


@click.command()
@click.option("--repeat", is_flag=True, help="Go on until there is no work, the tape is full, or something is wrong.")
@click.option("--no-db-update", is_flag=True, help="Write it as a rehearsal: it stays assigned, and is written over.")
@verb
def archive(site: Site, repeat: bool, no_db_update: bool) -> Exit:
    """Write the next assigned target to the active tape."""
    if repeat and no_db_update:
        raise click.UsageError("--repeat goes on to the next target, and with --no-db-update there is none")
    if site.is_stop_asked:
        return _stop_file(site)
    with site.ledger.read() as connection:
        tape = find_tape(connection, None)
    host = source_of(site.config)
    interrupts = Interrupts()
    with interrupts.held(), mounted(site.ledger, site.config, tape, who=site.who, write=True) as session:
        for backup in settle(session):
            click.echo(f"{backup.target.name}: was whole on the tape after a crash, and is recorded")
        ended = _archive_next(session, host, interrupts, update=not no_db_update)
        if ended is Exit.NO_WORK:
            click.echo("There is nothing assigned to write.")
            return ended
        while repeat and ended is Exit.DONE and not interrupts.is_pause_asked and not site.is_stop_asked:
            ended = _archive_next(session, host, interrupts, update=True)
    if ended is Exit.NO_WORK:
        click.echo(f"All that was assigned to tape {tape.name} is written.")
        return Exit.DONE
    if ended is Exit.DONE and site.is_stop_asked:
        return _stop_file(site)
    return Exit.STOPPED if ended is Exit.DONE and interrupts.is_pause_asked else ended


def _stop_file(site: Site) -> Exit:
    click.echo(f"custody: {site.config.exit_file} is here: stopped as asked", err=True)
    return Exit.STOPPED


def _archive_next(session: Session, host: Host, interrupts: Interrupts, *, update: bool) -> Exit:
    began = time.monotonic()
    if interrupts.is_pause_asked:
        return Exit.STOPPED
    meter = Meter(session.held.progress)
    work = archive_one if update else rehearse_one
    try:
        done = work(session, host, stop=interrupts.stop, progress=meter.advance)
    finally:
        meter.clear()
    match done.outcome:
        case Outcome.NO_WORK:
            return Exit.NO_WORK
        case Outcome.STOPPED:
            click.echo("custody: stopped; the target will be written again", err=True)
            return Exit.STOPPED
        case Outcome.FULL:
            waiting = done.backup.target.name if done.backup else "the next target"
            line = f"tape {session.tape.name} is full; {waiting} waits for another one"
            click.echo(f"custody: {line}. Next: custody tape open_tape NAME; custody tape assign", err=True)
            return Exit.FULL
    if update:
        _tell(done, time.monotonic() - began)
    elif done.backup:
        click.echo(f"{done.backup.target.name}: written, and not put on record: it is still assigned")
    return Exit.DONE


def _tell(done: Archived, took_s: float) -> None:
    backup = done.backup
    assert backup is not None
    click.echo(
        f"{backup.target.name}: recorded as file {backup.file_number} of tape {backup.tape_name}, "
        f"{format_size(backup.tape_bytes or 0)} in {took_s:.0f} s, {format_size(done.rate_bytes_s)}/s, "
        f"{done.underruns} under-runs"
    )


def _which(context: click.Context, parameter: click.Parameter, text: str | None) -> int | str | None:
    return number_or(("next", "all"))(text)


@click.command()
@click.argument("which", required=False, metavar="[n|next|all]", callback=_which)
@click.option("--retry", is_flag=True, help="Also what was confirmed already, or found bad.")
@click.option("--no-db-update", is_flag=True, help="Read and compare; the catalogue stays as it is.")
@click.option("--repeat", is_flag=True, help="Go on until there is no work or something is wrong.")
@click.option("-v", "--verbose", is_flag=True, help="Every line of what is wrong, not the first twenty.")
@verb
def confirm(site: Site, which: int | str | None, retry: bool, no_db_update: bool, repeat: bool, verbose: bool) -> Exit:
    """Read a tape file back and compare every member with the catalogue: number n, the next one, or all."""
    if site.is_stop_asked:
        return _stop_file(site)
    number = which if isinstance(which, int) else None
    with site.ledger.read() as connection:
        tape = find_tape(connection, None)
        wanted = confirmation.to_confirm(connection, tape, number=number, retry=retry)
    if not wanted:
        click.echo("There is nothing to confirm.")
        return Exit.NO_WORK
    if not repeat and which != "all":
        wanted = wanted[:1]
    interrupts = Interrupts()
    bad = 0
    with interrupts.held(), mounted(site.ledger, site.config, tape, who=site.who) as session:
        for backup in wanted:
            if interrupts.is_pause_asked or site.is_stop_asked:
                return Exit.STOPPED
            done = _confirm_one(session, backup, interrupts, update=not no_db_update)
            if done.is_equal:
                members = backup.members or done.members
                click.echo(f"file {backup.file_number}: confirmed, {members} members: {backup.target.name}")
                continue
            bad += 1
            _tell_complaints(done, None if verbose else 20)
            if which != "all":
                break
    if bad:
        return Exit.TROUBLE
    return _stop_file(site) if site.is_stop_asked else Exit.DONE


def _confirm_one(session: Session, backup: Backup, interrupts: Interrupts, *, update: bool) -> confirmation.Confirmed:
    meter = Meter(session.held.progress)
    try:
        return confirmation.confirm_one(session, backup, update=update, stop=interrupts.stop, progress=meter.advance)
    finally:
        meter.clear()


def _tell_complaints(done: confirmation.Confirmed, limit: int | None) -> None:
    backup = done.backup
    click.echo(f"file {backup.file_number}: NOT as the catalogue has it: {backup.target.name}", err=True)
    for line in done.complaints[:limit]:
        click.echo(f"  {line}", err=True)
    if limit is not None and len(done.complaints) > limit:
        click.echo(f"  and {len(done.complaints) - limit} more; -v shows all", err=True)
    try:
        done.require()
    except Fault as fault:
        click.echo(f"custody: {fault}", err=True)


COMMANDS = (import_, forget, assign, reassign, archive, confirm)
