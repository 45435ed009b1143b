"""Upload: make the item, then send every file that is not stored there already.

A file is read once more, while it is sent, and three digests must agree: the one it was packed with, the one of the
bytes that were read now, and the one the server says it received. The server's word is a receipt, not a proof.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from datetime import UTC, datetime

import sqlalchemy as sa

from custody import gate
from custody.digests import FileState, Fixity, Match
from custody.drain import markers
from custody.drain.metadata import describe_item
from custody.drain.series import Series, SeriesFile, SeriesState
from custody.drain.step import Work, series_step
from custody.drain.targets import Item, Outgoing, Receipt, Settling, Target
from custody.faults import Fault, FaultKind
from custody.ledger import CopyState
from custody.ledger.store import place_key
from custody.ledger.tables import copy as copy_table
from custody.publish import write_atomic


@series_step("create_item", needs=SeriesState.LISTED, makes=SeriesState.CREATED)
def create_item(work: Work) -> None:
    """Make the item at every target, unless other bytes lie there under its names."""
    series = work.series
    if len(work.targets) != len(series.config.destinations):
        reason = f"{len(work.targets)} targets were given for {len(series.config.destinations)} destinations"
        raise Fault(FaultKind.CONFIG, series.item, reason)
    item = describe_item(series)
    manifest = (series.directory / markers.MANIFEST).read_bytes()
    earlier = markers.earlier_manifests(series.directory)
    for target in work.targets:
        _refuse_foreign(work, target, target.look(series.item, [member.name for member in series.files]))
        target.create(item, manifest, earlier)
    write_atomic(series.directory / markers.BUCKET_OK, f"{series.item}\n".encode())


def _refuse_foreign(work: Work, target: Target, there: Mapping[str, Fixity | None]) -> None:
    """Nothing is sent over bytes of somebody else; a copy of ours that went bad may be replaced."""
    series = work.series
    ours = _on_record(work, target, set(CopyState))
    for member in series.files:
        verdict = gate.may_overwrite(_fixity(series, member), there[member.name])
        if not verdict.allowed and member.name not in ours:
            place = target.place(series.item, member.name)
            next_command = f"find out whose it is and move it away, then {series.next_command}"
            raise Fault(FaultKind.NEEDS_HUMAN, place, f"{verdict}; nothing was sent", next_command=next_command)


@series_step("upload", needs=SeriesState.CREATED, makes=SeriesState.UPLOADED)
def upload(work: Work) -> None:
    """Send to every target what is missing there, several files at a time; see the module."""
    series = work.series
    log = series.directory / markers.LAUNCH_OPEN
    work.held.check()
    markers.append(log, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {work.who} sends {series.item}\n")
    work.detail |= {"sent": 0, "was_there": 0}
    for target in work.targets:
        _send_missing(work, target)
    log.replace(series.directory / markers.LAUNCH)


def _send_missing(work: Work, target: Target) -> None:
    series = work.series
    there = target.look(series.item, [member.name for member in series.files])
    _refuse_foreign(work, target, there)
    missing = [member for member in series.files if not _is_stored(series, member, there[member.name])]
    sent = _on_record(work, target, {CopyState.SENT})
    if isinstance(target, Settling) and any(member.name in sent for member in missing):
        # The target took some of these and may still be storing them: sending them anew would double its work.
        target.settle(series.item)
        there = target.look(series.item, [member.name for member in series.files])
        missing = [member for member in missing if not _is_stored(series, member, there[member.name])]
    stored = [member for member in series.files if member not in missing]
    item = describe_item(series)
    with ThreadPoolExecutor(series.config.upload_connections, thread_name_prefix="upload") as pool:
        _wait_for_all([pool.submit(_send, work, target, item, member) for member in missing])
    for member in stored:
        _record_sent(work, target, member)
    work.detail["sent"] += len(missing)
    work.detail["was_there"] += len(stored)


def _on_record(work: Work, target: Target, states: Collection[CopyState]) -> set[str]:
    """Names of the files of which the ledger knows a copy there, in one of these states."""
    names = {place_key(target.place(work.series.item, member.name)): member.name for member in work.series.files}
    query = sa.select(copy_table.c.place_key).where(
        copy_table.c.place_key.in_(list(names)), copy_table.c.state.in_([str(state) for state in states])
    )
    with work.ledger.read() as connection:
        return {names[key] for key in connection.scalars(query)}


def _wait_for_all(sending: list[Future[None]]) -> None:
    """Let running files end; after the first fault start no other, and raise it.

    A fault of the data is one file's own: the others go on, and it is raised in the end.
    """
    of_data: list[Fault] = []
    try:
        for future in as_completed(sending):
            try:
                future.result()
            except Fault as fault:
                if fault.kind is not FaultKind.DATA:
                    raise
                of_data.append(fault)
    finally:
        for future in sending:
            future.cancel()
        wait(sending)
    if of_data:
        raise of_data[0]


def _is_stored(series: Series, member: SeriesFile, there: Fixity | None) -> bool:
    return there is not None and _fixity(series, member).compare(there) is Match.EQUAL


def _send(work: Work, target: Target, item: Item, member: SeriesFile) -> None:
    series = work.series
    work.held.check()
    path = series.path(member)
    expected = _fixity(series, member)
    if not os.path.lexists(path):
        reason = f"is not here any more and is not stored at {target.place(series.item, member.name)}"
        look = f"custody where-is {shlex.quote(member.name)}"
        raise Fault(FaultKind.DATA, str(path), reason, next_command=f"{look} (then put it back in its place)")
    if FileState.of_path(path) != member.state:
        reason = "is not the file that was packed; it was not sent"
        raise Fault(FaultKind.DATA, str(path), reason, next_command=_set_aside(series, member))
    receipt = target.put(item, Outgoing(path, member.name, expected, member.state), work.advance)
    _compare_three(path.name, expected, receipt)
    _record_sent(work, target, member, receipt)


def _set_aside(series: Series, member: SeriesFile) -> str:
    """What lets the others go on: nothing but a person can say what became of one."""
    return f"custody drain set-aside {series.id} {shlex.quote(member.name)} --because WHY (it goes to quarantine)"


def _compare_three(name: str, packed: Fixity, receipt: Receipt) -> None:
    """Packed = read now = stated by the server. Faults: DATA, saying which of the three is the odd one."""
    if packed.compare(receipt.read) is not Match.EQUAL:
        reason = f"its bytes changed on disk: packed {gate.describe(packed)}, read now {gate.describe(receipt.read)}"
        raise Fault(FaultKind.DATA, name, reason, next_command="check the disk; the file is kept")
    if receipt.stated.digests and packed.compare(receipt.stated) is not Match.EQUAL:
        reason = f"the server received {gate.describe(receipt.stated)}, we sent {gate.describe(packed)}"
        raise Fault(FaultKind.TRANSIENT, name, reason)


def _record_sent(work: Work, target: Target, member: SeriesFile, receipt: Receipt | None = None) -> None:
    series = work.series
    place = target.place(series.item, member.name)
    if receipt:
        facts = {
            "response_code": receipt.status,
            "size_upload_bytes": receipt.read.size_bytes,
            "total_time_seconds": f"{receipt.duration_s:.3f}",
            "etag": receipt.stated.digests.get("md5", "-"),
        }
    with work.transaction() as connection:
        assert member.file_id is not None
        if receipt:
            markers.append_task(series.directory, receipt.url, facts)
        work.ledger.record_copy(connection, member.file_id, place, CopyState.SENT)
        work.event(connection, "sent", member.name, detail={"place": place})


def _fixity(series: Series, member: SeriesFile) -> Fixity:
    if member.fixity is None:
        raise Fault(FaultKind.DATA, str(series.path(member)), "was never hashed", next_command=series.next_command)
    return member.fixity
