"""What is to be restored: found in the catalogue, and for each target the tape that serves best."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.tape import tables
from custody.tape.catalog import Backup, Tape, list_backups, tape_by_id
from custody.tape.find import find, patterns_of
from custody.tape.manifests import restore_commands
from custody.tape.members import MemberKind
from custody.tape.names import escape, unescape
from custody.tape.records import OWN_DIRECTORY
from custody.tape.states import BackupState, TapeState

_ROWS_A_QUERY = 1000


@dataclass(frozen=True)
class Selection:
    """What is wanted of one tape file: all of it, or members by name and directories with all below them."""

    backup: Backup
    is_whole: bool = False
    names: frozenset[bytes] = frozenset()
    trees: tuple[bytes, ...] = ()

    def wants(self, name: bytes) -> bool:
        """Whether a member of this name, as in the archive, is wanted."""
        if self.is_whole:
            return not name.startswith(OWN_DIRECTORY)
        return name in self.names or any(name == tree or name.startswith(tree + b"/") for tree in self.trees)

    @property
    def where(self) -> str:
        """For a person."""
        return f"tape {self.backup.tape_name}, file {self.backup.file_number}"


@dataclass(frozen=True)
class TapePlan:
    """What is wanted of one tape, by file number: it is read forward only."""

    tape: Tape
    selections: tuple[Selection, ...]


@dataclass
class _Wanted:
    is_whole: bool = False
    names: set[bytes] = field(default_factory=set)
    trees: set[bytes] = field(default_factory=set)

    def without(self, other: _Wanted) -> _Wanted:
        if other.is_whole:
            return _Wanted()
        return _Wanted(self.is_whole, self.names - other.names, self.trees - other.trees)

    def __bool__(self) -> bool:
        return self.is_whole or bool(self.names or self.trees)


def plan(ledger: Ledger, patterns: Sequence[bytes], *, tape: str | None = None) -> list[TapePlan]:
    """Find what every pattern means (see :func:`~custody.tape.find.patterns_of`) and choose a tape for each target.

    A confirmed copy comes before a recorded one, one on the tape that is online before others, and one on a suspect
    tape last; with ``tape``, only what that tape holds, whatever its state. The path of a directory above targets
    means all of them. Tapes come sorted by name.

    Faults: CONFIG naming the pattern that no tape holds, NEEDS_HUMAN where only a tape that is not relied on has it.
    """
    chosen: dict[int, _Wanted] = {}
    with ledger.read() as connection:
        for pattern in patterns:
            by_target = _find(connection, pattern)
            backups = [one for target_id in by_target for one in on_tapes(connection, target_id)]
            tapes = {one.tape_id: tape_by_id(connection, one.tape_id) for one in backups}
            taken = _choose(by_target, backups, tapes, tape)
            if not taken:
                raise _not_there(pattern, backups, tape)
            for backup_id, wanted in taken.items():
                known = chosen.setdefault(backup_id, _Wanted())
                known.is_whole |= wanted.is_whole
                known.names |= wanted.names
                known.trees |= wanted.trees
        return _sorted(connection, chosen)


def _sorted(connection: Connection, chosen: Mapping[int, _Wanted]) -> list[TapePlan]:
    by_tape: dict[int, list[Selection]] = {}
    ids = sorted(chosen)
    for start in range(0, len(ids), _ROWS_A_QUERY):
        for backup in list_backups(connection, tables.backup.c.id.in_(ids[start : start + _ROWS_A_QUERY])):
            wanted = chosen[backup.id]
            selection = Selection(backup, wanted.is_whole, frozenset(wanted.names), tuple(sorted(wanted.trees)))
            by_tape.setdefault(backup.tape_id, []).append(selection)
    plans = [
        TapePlan(tape_by_id(connection, tape_id), tuple(sorted(found, key=lambda one: one.backup.file_number or 0)))
        for tape_id, found in by_tape.items()
    ]
    return sorted(plans, key=lambda one: one.tape.name)


def on_tapes(connection: Connection, target_id: int) -> list[Backup]:
    """Every backup of a target that has a file number, whatever its state."""
    table = tables.backup
    return list_backups(connection, table.c.target_id == target_id, table.c.file_number.is_not(None))


def elsewhere(ledger: Ledger, tape_plan: TapePlan) -> list[str]:
    """Other tapes that have a copy of all that is planned of one, by name: where to turn when that tape is no good."""
    found: set[str] | None = None
    with ledger.read() as connection:
        for selection in tape_plan.selections:
            copies = on_tapes(connection, selection.backup.target.id)
            names = {one.tape_name for one in copies if _is_usable(one, tape_by_id(connection, one.tape_id), None)}
            found = names if found is None else found & names
    return sorted((found or set()) - {tape_plan.tape.name})


def _find(connection: Connection, text: bytes) -> dict[int, dict[int | None, _Wanted]]:
    """By target, then by backup (None: any of the target's), what a pattern means."""
    found: dict[int, dict[int | None, _Wanted]] = {}
    for target_id in _whole_targets(connection, text):
        found[target_id] = {None: _Wanted(is_whole=True)}
    if found and b"*" not in text:
        return found
    for pattern in patterns_of(text):
        for one in find(connection, pattern, only_tapes=True):
            if one.target_id in found and None in found[one.target_id]:
                continue
            wanted = found.setdefault(one.target_id, {}).setdefault(one.backup_id, _Wanted())
            is_tree = one.member.kind is MemberKind.DIRECTORY
            (wanted.trees if is_tree else wanted.names).add(one.member.name)
        if found:
            break
    return found


def _whole_targets(connection: Connection, text: bytes) -> Iterator[int]:
    """Targets that are named, or lie below the directory that is named."""
    if not text.startswith(b"/"):
        return
    path = text.rstrip(b"/") or b"/"
    table = tables.target
    exact = list(connection.scalars(sa.select(table.c.id).where(table.c.name == escape(path))))
    if exact:
        yield from exact
        return
    above = escape(path).rstrip("/") + "/"
    yield from connection.scalars(sa.select(table.c.id).where(table.c.name.startswith(above, autoescape=True)))
    if b"*" in path or b"?" in path or b"[" in path:
        for row in connection.execute(sa.select(table.c.id, table.c.name)):
            if fnmatch.fnmatchcase(unescape(row.name), path):
                yield row.id


def _choose(
    by_target: Mapping[int, Mapping[int | None, _Wanted]],
    backups: Iterable[Backup],
    tapes: Mapping[int, Tape],
    only: str | None,
) -> dict[int, _Wanted]:
    taken: dict[int, _Wanted] = {}
    covered: dict[int, _Wanted] = {}
    usable = [one for one in backups if _is_usable(one, tapes[one.tape_id], only)]
    for backup in sorted(usable, key=lambda one: _rank(one, tapes[one.tape_id])):
        of_target = by_target[backup.target.id]
        wanted = of_target.get(backup.id) or of_target.get(None) or _Wanted()
        done = covered.setdefault(backup.target.id, _Wanted())
        rest = wanted.without(done)
        if rest:
            taken[backup.id] = rest
            done.is_whole |= rest.is_whole
            done.names |= rest.names
            done.trees |= rest.trees
    return taken


def _is_usable(backup: Backup, tape: Tape, only: str | None) -> bool:
    if only is not None:
        return tape.name == only and backup.state is not BackupState.WRITING
    return backup.state.is_on_tape and tape.state is not TapeState.RETIRED


def _rank(backup: Backup, tape: Tape) -> tuple[object, ...]:
    is_confirmed = backup.state is BackupState.CONFIRMED
    return (tape.state is TapeState.SUSPECT, not is_confirmed, not tape.is_online, tape.name, backup.file_number)


def _not_there(pattern: bytes, backups: Sequence[Backup], only: str | None) -> Fault:
    shown = escape(pattern)
    if not backups:
        reason = "is on no tape"
        return Fault(FaultKind.CONFIG, shown, reason, next_command=f"custody tape where_is {quoted(pattern)}")
    there = sorted({f"tape {one.tape_name} ({one.state})" for one in backups})
    if only is not None:
        reason = f"is not on tape {only}; it is on {', '.join(there)}"
        return Fault(FaultKind.CONFIG, shown, reason, next_command=f"--tape {backups[0].tape_name}")
    return Fault(
        FaultKind.NEEDS_HUMAN,
        shown,
        f"is only on {', '.join(there)}, which does not count any more",
        next_command=f"custody tape restore --tape {backups[0].tape_name} {quoted(pattern)}",
    )


def commands(ledger: Ledger, tape_plan: TapePlan, device: str = "/dev/nst0") -> Iterator[str]:
    """What a person types to get the same without Custody, below the directory they are in."""
    for selection in tape_plan.selections:
        plain = restore_commands(selection.backup, tape_plan.tape.block_bytes, device)
        if selection.is_whole:
            yield plain
            continue
        names = sorted({*selection.names, *selection.trees, *firsts_needed(ledger, selection).values()})
        words = " ".join(quoted(name) for name in names)
        copy = f"dd if={device} bs={tape_plan.tape.block_bytes} | tar -x -f - --no-unquote -- {words}"
        yield "\n".join([*plain.splitlines()[:-1], copy])


def quoted(name: bytes) -> str:
    """A name as a shell takes it, whatever its bytes."""
    text = name.decode("utf-8", "replace")
    if text.isprintable() and text.encode() == name:
        return shlex.quote(text)
    signs = (chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\{byte:03o}" for byte in name)
    return "$'" + "".join(signs) + "'"


def firsts_needed(ledger: Ledger, selection: Selection) -> dict[bytes, bytes]:
    """Hard links that are wanted without the name that has their content: by name, that first name."""
    if selection.is_whole:
        return {}
    table = tables.member
    with ledger.read() as connection:
        rows = connection.execute(
            sa.select(table.c.name, table.c.link).where(
                table.c.backup_id == selection.backup.id, table.c.kind == MemberKind.HARDLINK
            )
        )
        links = {unescape(row.name): unescape(row.link) for row in rows}
    return {name: first for name, first in links.items() if selection.wants(name) and not selection.wants(first)}
