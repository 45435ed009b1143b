"""Restore: members of the mounted tape back into a directory, each proven before it gets its name."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import Ledger
from custody.tape import attempts, tables
from custody.tape.borrow import Borrowed
from custody.tape.catalog import Backup
from custody.tape.choose import Selection, TapePlan, commands, elsewhere, firsts_needed, on_tapes, plan, quoted
from custody.tape.names import escape, unescape
from custody.tape.records import member_of, name_key
from custody.tape.session import Session
from custody.tape.states import AttemptResult
from custody.tape.stream.extract import Extracted, extract

__all__ = [
    "Restored",
    "Selection",
    "TapePlan",
    "commands",
    "elsewhere",
    "escape",
    "plan",
    "quoted",
    "restore",
    "restore_one",
    "with_others",
]

Progress = Callable[[int], None]
_PAGE_ROWS = 1000
_NAMED = 100
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Restored:
    """What became of one selection. ``problems`` has a fault for everything that was not restored."""

    selection: Selection
    restored: int
    already_there: int
    size_bytes: int
    unverified: int
    problems: tuple[Fault, ...]

    def require(self) -> None:
        """Raise the first problem where there are any."""
        if self.problems:
            first = self.problems[0]
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise Fault(first.kind, first.subject, first.reason + more, next_command=first.next_command)


def restore(
    session: Session,
    tape_plan: TapePlan,
    into: Path,
    *,
    overwrite: bool = False,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> list[Restored]:
    """Restore what is planned of the mounted tape below the directory ``into``; see :func:`restore_one`."""
    return [
        restore_one(session, selection, into, overwrite=overwrite, stop=stop, progress=progress)
        for selection in tape_plan.selections
    ]


def restore_one(
    session: Session,
    selection: Selection,
    into: Path,
    *,
    overwrite: bool = False,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Restore from one tape file, each content compared with the catalogue before it gets its name.

    Nothing is written outside ``into``, which is made where it is missing; what is there stays, unless ``overwrite``.
    A hard link whose first name was not asked for comes with its content, without that name. What could not be
    restored is among the problems: DATA naming file, tape and file number where the tape gave other bytes.

    Faults: CAPACITY on a full disk, CANCELLED when ``stop`` is set, those of the drive but for read errors.
    """
    backup = selection.backup
    assert backup.file_number is not None
    with os_errors_as_faults(str(into)):
        into.mkdir(parents=True, exist_ok=True)
    report = session.held.progress
    report.update(restoring=backup.target.name, file_number=backup.file_number, bytes_total=backup.tape_bytes)
    report["bytes_done"] = 0

    def advance(count: int) -> None:
        report["bytes_done"] += count
        if progress:
            progress(count)

    with session.transaction() as connection:
        attempt = attempts.begin(connection, session, "restore", backup.file_number, backup)
    try:
        done = _extract(session, selection, into, overwrite, stop, advance)
    except Fault as fault:
        result = AttemptResult.ABORTED if fault.kind is FaultKind.CANCELLED else AttemptResult.FAILED
        with session.transaction() as connection:
            attempts.end(connection, attempt, result, fault_text=_storable(str(fault)))
            session.event(connection, "restored", backup.target.name, result=fault.kind, fault=_storable(str(fault)))
        raise
    result = AttemptResult.FAILED if done.problems else AttemptResult.DONE
    text = _storable("\n".join(str(fault) for fault in done.problems[:_NAMED])) or None
    with session.transaction() as connection:
        attempts.end(connection, attempt, result, fault_text=text, tape_bytes=report["bytes_done"])
        kind = done.problems[0].kind if done.problems else "done"
        counts = {"restored": done.restored, "already_there": done.already_there, "problems": len(done.problems)}
        session.event(connection, "restored", backup.target.name, result=kind, tape=session.tape.name, **counts)
    return done


def _storable(text: str) -> str:
    """A text for the ledger: the path restored into may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _extract(
    session: Session,
    selection: Selection,
    into: Path,
    overwrite: bool,
    stop: threading.Event | None,
    progress: Progress,
) -> Restored:
    backup = selection.backup
    borrowed = Borrowed(into, firsts_needed(session.ledger, selection))
    seen = _Seen(selection, borrowed.firsts)
    try:
        session.seek(backup.file_number or 0)
        found = extract(
            session.drive,
            seen.wants,
            into,
            limit_bytes=backup.tape_bytes,
            expected=Expected(session.ledger, backup),
            overwrite=overwrite,
            block_bytes=max(session.tape.block_bytes, _READ_BYTES),
            subject=selection.where,
            progress=progress,
            stop=stop,
        )
    except Fault as fault:
        if fault.kind is not FaultKind.DATA:
            raise
        found = Extracted(problems=[fault])  # a read error: the other files of the tape may be well
    finally:
        returned = borrowed.give_back()
    missing = [] if found.read is None else list(_missing(selection, found, seen))
    problems = [_explained(session.ledger, selection, fault, into) for fault in (*found.problems, *missing)]
    return Restored(
        selection, found.restored - returned, found.already_there, found.size_bytes, found.unverified, tuple(problems)
    )


def _missing(selection: Selection, found: Extracted, seen: _Seen) -> Iterator[Fault]:
    assert found.read is not None
    if found.read.damage:
        yield Fault(FaultKind.DATA, selection.where, found.read.damage.reason)
    for name in sorted(selection.names - seen.names):
        yield Fault(FaultKind.DATA, escape(name), "is in the catalogue and was not found")
    expected = selection.backup.members
    if selection.is_whole and expected is not None and seen.count < expected and not found.read.damage:
        reason = f"{seen.count} members were found where the catalogue has {expected}"
        yield Fault(FaultKind.DATA, selection.where, reason)


def _explained(ledger: Ledger, selection: Selection, fault: Fault, into: Path) -> Fault:
    """A problem with the place it comes from, and the other tape that has the target."""
    backup = selection.backup
    reason = fault.reason if fault.subject == selection.where else f"{selection.where}: {fault.reason}"
    if fault.kind is not FaultKind.DATA:
        return Fault(fault.kind, fault.subject, reason, next_command=fault.next_command)
    with ledger.read() as connection:
        others = [one for one in on_tapes(connection, backup.target.id) if one.tape_id != backup.tape_id]
        others = [one for one in others if one.state.is_on_tape]
    command = f"custody tape confirm {backup.file_number} --retry"
    if others:
        wanted = quoted(unescape(backup.target.name))
        command = f"custody tape restore --tape {others[0].tape_name} --into {shlex.quote(str(into))} {wanted}"
    return Fault(fault.kind, fault.subject, reason, next_command=command)


def with_others(ledger: Ledger, tape_plan: TapePlan, fault: Fault) -> Fault:
    """The fault of a tape that cannot be read, with the tapes that have all of the same."""
    others = elsewhere(ledger, tape_plan) if fault.kind in {FaultKind.DATA, FaultKind.NEEDS_HUMAN} else []
    if not others:
        return fault
    reason = f"{fault.reason}; all that is wanted of it lies on {', '.join(f'tape {name}' for name in others)} as well"
    first = f"{fault.next_command}, or " if fault.next_command else ""
    return Fault(fault.kind, fault.subject, reason, next_command=f"{first}restore it from tape {others[0]}")


class _Seen:
    """Which of the wanted members have passed. It is asked once or twice about each, one behind the other."""

    def __init__(self, selection: Selection, firsts: frozenset[bytes]) -> None:
        self.names: set[bytes] = set()
        self.count = 0
        self._selection = selection
        self._firsts = firsts
        self._last: bytes | None = None

    def wants(self, name: bytes) -> bool:
        """Whether it is wanted, be it only for its content."""
        if not self._selection.wants(name):
            return name in self._firsts
        if name != self._last:
            self._last = name
            self.count += 1
            if name in self._selection.names:
                self.names.add(name)
        return True


class Expected:
    """The digests that the catalogue has of a tape file's members, asked for in their order: a page is kept at a time.

    No transaction stays open while the tape is read.
    """

    def __init__(self, ledger: Ledger, backup: Backup) -> None:
        self._ledger = ledger
        self._backup = backup
        self._page: dict[bytes, Mapping[str, str]] = {}
        self._after = -1
        self._is_over = False

    def __call__(self, name: bytes) -> Mapping[str, str] | None:
        """Digests by algorithm; None where the catalogue has no such member."""
        while name not in self._page and not self._is_over:
            self._turn()
        return self._page[name] if name in self._page else self._look_up(name)

    def _turn(self) -> None:
        table = tables.member
        with self._ledger.read() as connection:
            rows = connection.execute(
                sa.select(table)
                .where(table.c.backup_id == self._backup.id, table.c.position > self._after)
                .order_by(table.c.position)
                .limit(_PAGE_ROWS)
            ).all()
        self._is_over = len(rows) < _PAGE_ROWS
        if rows:
            self._after = rows[-1].position
            self._page = {member.name: member.digests for member in map(member_of, rows)}

    def _look_up(self, name: bytes) -> Mapping[str, str] | None:
        table = tables.member
        where = (table.c.backup_id == self._backup.id, table.c.name_key == name_key(name))
        with self._ledger.read() as connection:
            row = connection.execute(sa.select(table).where(*where)).first()
        return None if row is None else member_of(row).digests
