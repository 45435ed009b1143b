"""``custody tape tapes|status|unassigned|backup_info|tape_detail|where_is|dump_manifest|history``: questions."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import click

from custody.cli.tape_group import Exit, Site, gigabytes, path_bytes, table_of, verb
from custody.tape import find, report, unfinished
from custody.tape.catalog import Backup, Tape
from custody.tape.manifests import checksum_line, dump_manifests, restore_commands
from custody.tape.names import escape
from custody.tape.records import members_of, without_ours
from custody.tape.report import Sum, TapeStatus
from custody.tape.running import running
from custody.tape.states import BackupState
from custody.units import format_size

_SHOWN_STATES = [state for state in BackupState if state is not BackupState.RELEASED]


@click.command(hidden=True)
@verb
def overview(site: Site) -> None:
    """What is shown where no verb is given: the active tape, or all of them."""
    if any(line.tape.is_online for line in report.tapes(site.ledger)):
        _show_status(site, None)
        return
    click.echo("No tape is active.")
    _show_tapes(site, verbose=False)


@click.command("tapes")
@click.option("-v", "--verbose", is_flag=True, help="Also what was written, where the tapes are, their barcodes.")
@click.option("--json", "as_json", is_flag=True)
@verb
def tapes_(site: Site, verbose: bool, as_json: bool) -> None:
    """List the tapes."""
    if as_json:
        click.echo(json.dumps([_tape_json(line) for line in report.tapes(site.ledger)], indent=1))
        return
    _show_tapes(site, verbose=verbose)


def _show_tapes(site: Site, *, verbose: bool) -> None:
    _show_unassigned(site)
    rows: list[list[object]] = [["Name", "ON", "SerialNo", "ID", "Status"]]
    if verbose:
        rows[0] += ["WroteGB", "Pool", "Barcode", "Location", "Slot", "Why"]
    for line in report.tapes(site.ledger):
        tape = line.tape
        row: list[object] = [tape.name, "*" if tape.is_online else "", tape.serial or "-", tape.id, tape.state]
        if verbose:
            more = [tape.pool, tape.barcode or "-", tape.location or "-", tape.slot or "-", tape.reason]
            row += [gigabytes(line.written.size_bytes), *more]
        rows.append(row)
    for text in table_of(rows):
        click.echo(text)


def _show_unassigned(site: Site) -> None:
    for pool, waiting in report.unassigned(site.ledger, report.pools_in_use(site.ledger)).items():
        click.echo(f"{waiting.targets} unassigned targets, {_size(waiting)} (pool {pool})")


def _size(total: Sum) -> str:
    return f"{gigabytes(total.size_bytes)} GB" + (f" and {total.unknown} of unknown size" if total.unknown else "")


@click.command("status")
@click.argument("tape", required=False)
@click.option("--json", "as_json", is_flag=True)
@verb
def status_(site: Site, tape: str | None, as_json: bool) -> None:
    """Show how much is confirmed, recorded and assigned on TAPE, or on the one that is active, and its layout."""
    if as_json:
        found = report.status(site.ledger, tape)
        layout = [{"first": one.first, "last": one.last, "state": one.state} for one in found.layout]
        click.echo(json.dumps(_tape_json(found) | {"layout": layout}, indent=1))
        return
    _show_status(site, tape)


def _show_status(site: Site, name: str | None) -> None:
    found = report.status(site.ledger, name)
    tape = found.tape
    why = f": {tape.reason}" if tape.reason else ""
    click.echo(f"Tape {tape.called} is {tape.state}{why}{', active' if tape.is_online else ''}")
    rows: list[list[object]] = [["State", "Targets", "GB"]]
    for state in (BackupState.CONFIRMED, BackupState.RECORDED, BackupState.ASSIGNED, *_SHOWN_STATES):
        if state in {row[0] for row in rows}:
            continue
        part = found.sums.get(state, Sum())
        if part.targets or state in {BackupState.CONFIRMED, BackupState.RECORDED, BackupState.ASSIGNED}:
            rows.append([state, part.targets, _size(part).replace(" GB", "", 1)])
    rows.append(["total", found.total.targets, _size(found.total).replace(" GB", "", 1)])
    for text in table_of(rows):
        click.echo(text)
    if tape.remaining_bytes is not None:
        click.echo(f"room: {gigabytes(tape.remaining_bytes)} of {gigabytes(tape.capacity_bytes or 0)} GB")
    _show_unassigned(site)
    click.echo("layout:")
    for interval in found.layout:
        click.echo(f"  {interval}")
    _show_running(site)
    for todo in unfinished.list_unfinished(site.ledger):
        click.echo(f"{todo.subject}: {todo.what}. Next: {todo.next_command}")


def _show_running(site: Site) -> None:
    for job in running(site.ledger):
        rate = f", {format_size(job.rate_bytes_s)}/s" if job.rate_bytes_s else ""
        left = f", {_hours(job.eta)} left" if job.eta else ""
        whole = f", {_hours(job.tape_eta)} for all that is assigned" if job.tape_eta else ""
        done = f" {format_size(job.bytes_done)}" + (f" of {format_size(job.bytes_total)}" if job.bytes_total else "")
        click.echo(f"running: {job.what} {job.target}{done}{rate}{left}{whole} ({job.holder})")


def _hours(span: timedelta) -> str:
    return str(timedelta(seconds=int(span.total_seconds())))


def _tape_json(line: TapeStatus) -> dict[str, object]:
    tape = line.tape
    keys = ("id", "name", "state", "is_online", "uuid", "label", "serial", "barcode", "pool", "location", "slot")
    facts: dict[str, object] = {key: getattr(tape, key) for key in keys}
    sums = {state: {"targets": part.targets, "size_bytes": part.size_bytes} for state, part in line.sums.items()}
    return facts | {"reason": tape.reason, "written_bytes": tape.written_bytes, "states": sums}


@click.command("unassigned")
@verb
def unassigned_(site: Site) -> None:
    """Count the scanned targets that no tape has, and their size; name those that were never scanned."""
    _show_unassigned(site)
    for name in report.unscanned(site.ledger):
        click.echo(f"not scanned: {name}")


@click.command("backup_info")
@click.argument("file_number", type=click.IntRange(min=0))
@click.argument("tape", required=False)
@verb
def backup_info_(site: Site, file_number: int, tape: str | None) -> Exit:
    """Tell what lies in tape file FILE_NUMBER of TAPE, or of the one that is active."""
    found_tape, backup = report.backup_info(site.ledger, file_number, tape)
    if backup is None:
        click.echo(f"custody: tape {found_tape.name} has no file {file_number} in the catalogue", err=True)
        return Exit.TROUBLE
    facts = {
        "tape": found_tape.called,
        "file number": backup.file_number,
        "state": backup.state,
        "target": f"{backup.target.source}:{backup.target.name}",
        "target id": backup.target.id,
        "GB": gigabytes(backup.content_bytes or backup.target.size_bytes or 0),
        "members": backup.members,
        "tape bytes": backup.tape_bytes,
        "recorded": _time(backup.recorded_at),
        "confirmed": _time(backup.confirmed_at),
        "fault": backup.fault_text,
    }
    for text in table_of([[key + ":", value] for key, value in facts.items() if value is not None]):
        click.echo(text)
    click.echo(restore_commands(backup, found_tape.block_bytes))
    return Exit.DONE


def _time(when: datetime | None) -> str | None:
    return None if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"


@click.command("tape_detail")
@click.argument("tape", required=False)
@click.argument("file_number", required=False, type=click.IntRange(min=0))
@click.option("-v", "--verbose", is_flag=True, help="Every member too: what is no comment is for md5sum -c.")
@click.option("--digest", type=click.Choice(["md5", "sha1", "sha256"]), default="md5", show_default=True)
@verb
def tape_detail_(site: Site, tape: str | None, file_number: int | None, verbose: bool, digest: str) -> None:
    """List what the catalogue says is on TAPE, or on the one that is active, by file number.

    With -v names are as in the archives: `cd / && md5sum -c LIST` compares what is still there.
    """
    if tape is not None and tape.isdecimal() and file_number is None and not _is_tape(site, tape):
        file_number, tape = int(tape), None
    found, backups = report.tape_detail(site.ledger, tape, file_number)
    click.echo(f"# Tape name={found.name} serial={found.serial or ''}")
    click.echo("#FNum Status Size_GB Target_name")
    for backup in backups:
        size = gigabytes(backup.content_bytes or backup.target.size_bytes or 0)
        click.echo(f"{'#' if verbose else ' '}{backup.file_number} {backup.state} {size} {backup.target.name}")
        if verbose:
            _show_members(site, backup, digest)


def _is_tape(site: Site, name: str) -> bool:
    return any(line.tape.name == name for line in report.tapes(site.ledger))


def _show_members(site: Site, backup: Backup, algorithm: str) -> None:
    with site.ledger.read() as connection:
        for member in without_ours(members_of(connection, backup.target.id, backup.id)):
            if digest := member.digests.get(algorithm):
                click.echo(checksum_line(digest, member.name), nl=False)
            else:
                link = f" -> {escape(member.link)}" if member.link else ""
                click.echo(f"# {member.kind} {escape(member.name)}{link}")


@click.command("where_is")
@click.argument("what")
@click.option("--json", "as_json", is_flag=True)
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@verb
def where_is_(site: Site, what: str, as_json: bool, limit: int) -> Exit:
    """Find WHAT: a path, the end of one, a glob, or a digest (md5:..., sha256:..., or its digits alone)."""
    found = find.where_is(site.ledger, path_bytes(what), limit=limit)
    if as_json:
        click.echo(json.dumps([_found_json(one) for one in found], indent=1))
    elif found:
        rows: list[list[object]] = [["Tape", "FNum", "Offset", "Status", "Size", "Digest", "Location", "Name"]]
        rows += [
            [
                one.tape_name or "-",
                "-" if one.file_number is None else one.file_number,
                one.member.offset_bytes if one.member.offset_bytes >= 0 else "-",
                one.state,
                one.content.size_bytes if one.content.size_bytes >= 0 else "unknown",
                _digest(one),
                " ".join(word for word in (one.location, one.slot) if word) or "-",
                one.path + (f" -> {escape(one.member.link)}" if one.member.link else ""),
            ]
            for one in found
        ]
        for text in table_of(rows):
            click.echo(text)
    if not found:
        click.echo(f"custody: {escape(path_bytes(what))}: nothing of this name or digest is on record", err=True)
        return Exit.TROUBLE
    if len(found) == limit:
        click.echo(f"custody: only the first {limit} are shown; --limit shows more", err=True)
    return Exit.DONE


def _digest(one: find.Found) -> str:
    digests = one.content.digests
    return next((f"{name}:{digests[name]}" for name in ("sha256", "sha1", "md5") if digests.get(name)), "-")


def _found_json(one: find.Found) -> dict[str, object]:
    return {
        "path": one.path,
        "kind": one.member.kind,
        "size_bytes": one.content.size_bytes if one.content.size_bytes >= 0 else None,
        "link": escape(one.member.link),
        **dict(one.content.digests),
        "target": one.target,
        "source": one.source,
        "tape": one.tape_name,
        "tape_state": one.tape_state,
        "file_number": one.file_number,
        "offset_bytes": one.member.offset_bytes if one.member.offset_bytes >= 0 else None,
        "state": one.state,
        "confirmed_at": one.confirmed_at.isoformat() if one.confirmed_at else None,
        "location": one.location,
        "slot": one.slot,
    }


@click.command("dump_manifest")
@click.argument("output_dir", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.argument("tape", required=False)
@verb
def dump_manifest(site: Site, output_dir: Path, tape: str | None) -> None:
    """Write what is on each tape (or on TAPE) into OUTPUT_DIR: checksum lists, and JSON lines."""
    for path in dump_manifests(site.ledger, output_dir, tape):
        click.echo(path)


@click.command()
@click.argument("tape", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@verb
def history(site: Site, tape: str | None, limit: int) -> None:
    """Show who did what with TAPE, or with the one that is active, and every go at one of its files."""
    found: Tape = report.status(site.ledger, tape).tape
    for event in reversed(report.audit(site.ledger, found.name, limit=limit)):
        detail = json.dumps(dict(event.detail), ensure_ascii=False) if event.detail else ""
        result = "" if event.result == "done" else f" ({event.result})"
        click.echo(f"{event.happened_at:%Y-%m-%d %H:%M:%S} {event.who}: {event.what}{result} {detail}".rstrip())
    for attempt in reversed(report.attempts(site.ledger, found.name, limit=limit)):
        rate = f", {format_size(attempt.rate_bytes_s)}/s" if attempt.rate_bytes_s else ""
        fault = f": {attempt.fault_text}" if attempt.fault_text else ""
        click.echo(
            f"{attempt.started_at:%Y-%m-%d %H:%M:%S} {attempt.who}: {attempt.kind} of file {attempt.file_number} "
            f"({attempt.target or 'the tape'}): {attempt.result}{rate}{fault}"
        )


COMMANDS = (overview, tapes_, status_, unassigned_, backup_info_, tape_detail_, where_is_, dump_manifest, history)
