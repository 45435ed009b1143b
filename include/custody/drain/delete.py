"""Delete: let go of a local file, once the gate has been asked with the facts of this moment.

File by file: what the ledger has as proof, what the target states now, what lies on the disk now. Intent, deletion and
record are three separate durable writes in this order, so that a crash between any two is understood afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody import gate
from custody.digests import FileState, Fixity, Match, read_file
from custody.drain import markers, trash
from custody.drain.config import ProofKind
from custody.drain.series import ROOM, Series, SeriesFile, SeriesState, is_on_hold
from custody.drain.step import Work, series_step
from custody.drain.witness import witness
from custody.faults import Fault, FaultKind
from custody.gate import DeleteFacts, ProvenCopy
from custody.ledger import CopyState
from custody.ledger.store import disk_place, now, place_key
from custody.ledger.tables import copy as copy_table
from custody.ledger.tables import event, proof
from custody.publish import fsync_directory


@series_step("delete", needs=SeriesState.PROVEN, makes=SeriesState.CLEAN)
def delete_proven(work: Work) -> None:
    """Delete every file the gate lets go; a fault names those it keeps. See the module."""
    series = work.series
    copies = _copies(work)
    _wait_for_grace(series, [copy for found in copies.values() for copy in found])
    kept = []
    for member in series.files:
        if _is_gone(work, member):
            continue
        verdict = gate.may_delete(_facts(work, member, copies[member]))
        if verdict.allowed:
            _delete(work, member)
        else:
            kept.append(f"{member.name}: {verdict}")
    fsync_directory(series.directory)
    if kept:
        raise _kept_fault(work, kept, copies)
    _close_log(series)
    work.detail |= {"files": len(series.files), "size_bytes": series.size_bytes}


def _wait_for_grace(series: Series, copies: Sequence[ProvenCopy]) -> None:
    """A proof must have stood for the configured time; until then the task waits without a worker slot."""
    grace = timedelta(seconds=series.config.grace_s)
    until = max((copy.proven_at + grace for copy in copies if copy.proven_at), default=now())
    if until > now():
        raise Fault(FaultKind.THROTTLED, series.item, f"its proof is younger than {grace}", until=until)


def _close_log(series: Series) -> None:
    """CLEAN.open becomes CLEAN; after a crash it is that already, and where others deleted it never was there."""
    log, closed = series.directory / markers.CLEAN_OPEN, series.directory / markers.CLEAN
    if not closed.exists():
        markers.append(log, "")
    if log.exists():
        log.replace(closed)


def _facts(work: Work, member: SeriesFile, copies: Sequence[ProvenCopy]) -> DeleteFacts:
    """What is known now; where the file is read again, that comes first, for it may take minutes."""
    series = work.series
    path, config = series.path(member), series.config
    assert member.fixity is not None
    found = read_file(path).fixity if config.rehash_before_delete else None
    return DeleteFacts(
        recorded=member.fixity,
        recorded_state=member.state,
        found_state=FileState.of_path(path),
        found=found,
        rehash=config.rehash_before_delete,
        copies=copies,
        copies_needed=len(config.destinations),
        asked_at=now(),
        grace=timedelta(seconds=config.grace_s),
        on_hold=is_on_hold(work.ledger, series.id),
        draining=markers.is_draining(config.job_dir),
    )


def _copies(work: Work) -> dict[SeriesFile, list[ProvenCopy]]:
    """For every file its copies at all targets: the youngest proof on record, and what the target states now.

    Faults: CONFIG where a target turns out to be the disk that is drained, or another target.
    """
    series = work.series
    copies: dict[SeriesFile, list[ProvenCopy]] = {member: [] for member in series.files}
    with witness(work) as seen:
        for target, destination in zip(work.targets, series.config.destinations, strict=True):
            listed = target.look(series.item, [*(member.name for member in series.files), *seen.names(target)])
            seen.demand_other(target, listed)
            for member, found in copies.items():
                stated = listed[member.name]
                if stated and not stated.digests and destination.proof is ProofKind.READBACK:
                    stated = target.read_back(series.item, member.name, work.advance)  # a listing without digests
                found.append(_proven_copy(work, member, target.place(series.item, member.name), stated))
    return copies


def _proven_copy(work: Work, member: SeriesFile, place: str, stated: Fixity | None) -> ProvenCopy:
    with work.ledger.read() as connection:
        row = connection.execute(
            sa.select(proof.c.compared, proof.c.proven_at)
            .join(copy_table, copy_table.c.id == proof.c.copy_id)
            .where(
                copy_table.c.file_id == member.file_id,
                copy_table.c.place_key == place_key(place),
                copy_table.c.state == CopyState.PROVEN,
            )
            .order_by(proof.c.id.desc())
            .limit(1)
        ).one_or_none()
    if row is None:
        return ProvenCopy(place, None, None, stated)
    return ProvenCopy(place, Fixity(row.compared["size_bytes"], row.compared["digests"]), row.proven_at, stated)


def _delete(work: Work, member: SeriesFile) -> None:
    series = work.series
    path = series.path(member)
    with work.transaction() as connection:
        work.event(connection, "deleting", member.name, detail={"path": str(path)})
        _log_intent(series, path)
    with work.transaction() as connection:  # while it lasts nobody can take the lease over
        if series.config.undo_s:
            trash.put_aside(path, series.private)
        else:
            path.unlink()
        _release(work, connection, member)


def _log_intent(series: Series, path: Path) -> None:
    """For those who look at the directory. On a full disk it waits for the room that the deletion makes."""
    try:
        markers.append(series.directory / markers.CLEAN_OPEN, f"rm {path}\n")
    except Fault as fault:
        if fault.kind is not FaultKind.CAPACITY:
            raise


def _release(work: Work, connection: Connection, member: SeriesFile) -> None:
    path = work.series.path(member)
    assert member.file_id is not None
    work.ledger.record_copy(connection, member.file_id, disk_place(path), CopyState.RELEASED)
    aside = work.series.private / trash.DIRECTORY / member.name
    if aside.exists():
        work.ledger.record_copy(connection, member.file_id, disk_place(aside), CopyState.PRESENT)
    work.event(connection, "deleted", member.name, detail={"path": str(path), "size_bytes": member.state.size_bytes})


def _is_gone(work: Work, member: SeriesFile) -> bool:
    """Whether the file was deleted already: by us before a crash (then the record is completed), or by somebody."""
    path = work.series.path(member)
    if os.path.lexists(path):
        return False
    if _is_released(work, member):
        return True
    with work.transaction() as connection:
        if _was_intended(work, member, path):
            _release(work, connection, member)
        else:
            assert member.file_id is not None
            work.ledger.record_copy(connection, member.file_id, disk_place(path), CopyState.LOST)
            work.event(connection, "missing", member.name, result=FaultKind.DATA, detail={"path": str(path)})
    return True


def _is_released(work: Work, member: SeriesFile) -> bool:
    """Whether the record of the deletion is complete."""
    key = place_key(disk_place(work.series.path(member)))
    query = sa.select(copy_table.c.state).where(copy_table.c.file_id == member.file_id, copy_table.c.place_key == key)
    with work.ledger.read() as connection:
        return connection.scalar(query) == CopyState.RELEASED


def _was_intended(work: Work, member: SeriesFile, path: Path) -> bool:
    """By the notes beside the data, which outlive a lost ledger; by the ledger, where there was no room for them."""
    logs = [work.series.directory / name for name in (markers.CLEAN_OPEN, markers.CLEAN)]
    if any(f"rm {path}" in log.read_text("utf-8").splitlines() for log in logs if log.exists()):
        return True
    query = sa.select(event.c.detail).where(
        event.c.room == ROOM, event.c.subject == member.name, event.c.what == "deleting"
    )
    with work.ledger.read() as connection:
        return any(detail.get("path") == str(path) for detail in connection.scalars(query))


def _kept_fault(work: Work, kept: list[str], copies: Mapping[SeriesFile, list[ProvenCopy]]) -> Fault:
    series = work.series
    reason = f"{len(kept)} of {len(series.files)} files are kept: {'; '.join(kept[:3])}"
    if is_on_hold(work.ledger, series.id):
        release = f"custody drain release {series.id}"
        return Fault(FaultKind.NEEDS_HUMAN, series.item, reason, next_command=release)
    if not markers.is_draining(series.config.job_dir):
        switch = f"touch {series.config.job_dir / markers.DRAINME}"
        return Fault(FaultKind.CANCELLED, series.item, reason, next_command=switch)
    again = f"{series.next_command} (it sends and proves again what is not stored)"
    if not all(_stands(member, copy) for member, found in copies.items() for copy in found):
        return Fault(FaultKind.DATA, series.item, reason, next_command=again)
    check = f"compare them with `md5sum -c {markers.MANIFEST}` in {series.directory}, then {series.next_command}"
    return Fault(FaultKind.NEEDS_HUMAN, series.item, reason, next_command=check)


def _stands(member: SeriesFile, copy: ProvenCopy) -> bool:
    if member.fixity is None or copy.now is None:
        return False
    return member.fixity.compare(copy.now) is Match.EQUAL
