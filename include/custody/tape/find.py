"""Where is it: members of tapes and targets by path, name, glob or digest."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.tape import tables
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape, unescape
from custody.tape.records import base_name, member_of, name_key
from custody.tape.states import BackupState, TapeState

_DIGEST = re.compile(rb"(?:(md5|sha1|sha256):)?([0-9a-fA-F]+)")
_LENGTHS = {32: "md5", 40: "sha1", 64: "sha256"}
_GLOB = re.compile(rb"[*?[]")
_ON_TAPE = [state for state in BackupState if state.is_on_tape]
_PAGE_ROWS = 20_000
_IDS_A_QUERY = 500
IMPORTED = "imported"
"""The state of a target that no tape has and none is meant for."""


@dataclass(frozen=True)
class Pattern:
    """What is looked for.

    :param where: what the database is asked.
    :param accepts: what it cannot be asked: whether a name, as it is in the archive, is meant.
    """

    text: bytes
    where: sa.ColumnElement[bool]
    accepts: Callable[[bytes], bool]


@dataclass(frozen=True)
class Found:
    """One place of one member: on a tape, or at its source as scanned (``tape_name`` None or only assigned).

    :param state: a BackupState, or ``imported``.
    :param content: digests and size of what is behind a hard link too; ``size_bytes`` -1 where it is not known.
    """

    member: Member
    content: Member
    target_id: int
    target: str
    source: str
    backup_id: int | None
    state: str
    tape_id: int | None
    tape_name: str | None
    tape_state: TapeState | None
    file_number: int | None
    confirmed_at: datetime | None
    location: str
    slot: str

    @property
    def is_on_tape(self) -> bool:
        """Whether the catalogue says that a tape holds it."""
        return self.state in {BackupState.RECORDED, BackupState.CONFIRMED}

    @property
    def path(self) -> str:
        """Its absolute path, escaped."""
        return "/" + escape(self.member.name)


def patterns_of(text: bytes) -> Iterator[Pattern]:
    """What a person may have meant, the most exact first: a digest, a name, a glob, a name as we print it.

    A path with a leading slash is whole; other names match at the end of a path, from a slash on.
    """
    digest = _DIGEST.fullmatch(text)
    if digest and (algorithm := (digest[1] or b"").decode() or _LENGTHS.get(len(digest[2]), "")):
        value = digest[2].decode().lower()
        if len(value) != {name: length for length, name in _LENGTHS.items()}[algorithm]:
            raise Fault(FaultKind.CONFIG, escape(text), f"is no {algorithm} digest: it has {len(value)} digits")
        yield Pattern(text, tables.member.c[algorithm] == value, lambda name: True)
    name = text.rstrip(b"/") or text
    yield _of_name(name)
    if _GLOB.search(name):
        yield _of_glob(name)
    if b"\\" in name:
        try:
            written = unescape(name.decode("utf-8"))
        except ValueError:
            return
        if written != name:
            yield _of_name(written)


def _of_name(name: bytes) -> Pattern:
    if name.startswith(b"/"):
        whole = name.lstrip(b"/")
        return Pattern(name, tables.member.c.name_key == name_key(whole), lambda found: found == whole)
    tail = b"/" + name
    where = tables.member.c.base_key == name_key(base_name(name))
    return Pattern(name, where, lambda found: (b"/" + found).endswith(tail))


def _of_glob(name: bytes) -> Pattern:
    if not name.startswith(b"/"):
        whole = b"*/" + name
        return Pattern(name, sa.true(), lambda found: fnmatch.fnmatchcase(b"/" + found, whole))
    beginning = escape(_GLOB.split(name.lstrip(b"/"))[0])
    where = tables.member.c.name.startswith(beginning, autoescape=True)
    return Pattern(name, where, lambda found: fnmatch.fnmatchcase(b"/" + found, name))


def where_is(ledger: Ledger, text: bytes, *, limit: int = 1000) -> list[Found]:
    """Every place of what ``text`` means, tapes first: at most ``limit``. Empty where nobody knows it.

    Faults: CONFIG for a digest of a wrong length.
    """
    with ledger.read() as connection:
        for pattern in patterns_of(text):
            found = list(_limited(find(connection, pattern), limit))
            if found:
                return sorted(found, key=_order)
        return _unscanned(connection, text)


def _limited(found: Iterator[Found], limit: int) -> Iterator[Found]:
    for number, one in enumerate(found, 1):
        yield one
        if number >= limit:
            return


def _order(found: Found) -> tuple[Any, ...]:
    return (not found.is_on_tape, found.member.name, found.tape_name or "", found.file_number or 0)


def find(connection: Connection, pattern: Pattern, *, only_tapes: bool = False) -> Iterator[Found]:
    """Every place of what a pattern means, in the order of the rows, a page at a time.

    What a source held when it was scanned is told only where no tape has that target.
    """
    member = tables.member
    shown = member.c.backup_id.is_not(None) if only_tapes else sa.true()
    query = sa.select(member.c.id, member.c.name).where(pattern.where, shown).order_by(member.c.id).limit(_PAGE_ROWS)
    after = 0
    while True:  # names first: where a whole catalogue is looked through, few of them are meant
        page = connection.execute(query.where(member.c.id > after)).all()
        meant = [row.id for row in page if pattern.accepts(unescape(row.name))]
        for start in range(0, len(meant), _IDS_A_QUERY):
            for row in connection.execute(_places(meant[start : start + _IDS_A_QUERY])):
                yield _found(connection, row)
        if len(page) < _PAGE_ROWS:
            return
        after = page[-1].id


def _places(member_ids: Sequence[int]) -> sa.Select[Any]:
    """Members with their targets, and the backups and tapes that hold them or are meant to."""
    member, backup, tape, target = tables.member, tables.backup, tables.tape, tables.target
    other = backup.alias()
    lies_there = other.c.state.in_(_ON_TAPE) | (
        (other.c.state == BackupState.FAILED) & other.c.file_number.is_not(None)
    )
    is_held = sa.exists().where(other.c.target_id == member.c.target_id, lies_there)
    joined = sa.or_(
        backup.c.id == member.c.backup_id,
        sa.and_(
            member.c.backup_id.is_(None),
            backup.c.target_id == member.c.target_id,
            backup.c.state != BackupState.RELEASED,
        ),
    )
    return (
        sa.select(
            member,
            target.c.name.label("target_name"),
            target.c.source,
            backup.c.state,
            backup.c.file_number,
            backup.c.confirmed_at,
            tape.c.id.label("tape_id"),
            tape.c.name.label("tape_name"),
            tape.c.state.label("tape_state"),
            tape.c.location,
            tape.c.slot,
        )
        .join(target, target.c.id == member.c.target_id)
        .outerjoin(backup, joined)
        .outerjoin(tape, tape.c.id == backup.c.tape_id)
        .where(member.c.id.in_(member_ids), sa.or_(member.c.backup_id.is_not(None), ~is_held))
        .order_by(member.c.id, backup.c.id)
    )


def _found(connection: Connection, row: Row[Any]) -> Found:
    member = member_of(row)
    return Found(
        member=member,
        content=_content(connection, row, member) if member.kind is MemberKind.HARDLINK else member,
        target_id=row.target_id,
        target=row.target_name,
        source=row.source,
        backup_id=row.backup_id,
        state=row.state or IMPORTED,
        tape_id=row.tape_id,
        tape_name=row.tape_name,
        tape_state=TapeState(row.tape_state) if row.tape_state else None,
        file_number=row.file_number,
        confirmed_at=row.confirmed_at,
        location=row.location or "",
        slot=row.slot or "",
    )


def _content(connection: Connection, row: Row[Any], member: Member) -> Member:
    """The file that a hard link is another name of."""
    table = tables.member
    owner = table.c.backup_id.is_(None) if row.backup_id is None else table.c.backup_id == row.backup_id
    first = connection.execute(
        sa.select(table).where(
            table.c.name_key == name_key(member.link),
            table.c.target_id == row.target_id,
            owner,
            table.c.kind == MemberKind.FILE,
        )
    ).first()
    return member_of(first) if first is not None else member


def _unscanned(connection: Connection, text: bytes) -> list[Found]:
    """A target of this name of which no member is known."""
    target, backup, tape = tables.target, tables.backup, tables.tape
    rows = connection.execute(
        sa.select(target, backup, tape.c.name.label("tape_name"), tape.c.state.label("tape_state"))
        .add_columns(tape.c.id.label("the_tape"), tape.c.location, tape.c.slot)
        .select_from(target)
        .outerjoin(backup, sa.and_(backup.c.target_id == target.c.id, backup.c.state != BackupState.RELEASED))
        .outerjoin(tape, tape.c.id == backup.c.tape_id)
        .where(target.c.name == escape(text.rstrip(b"/")))
        .set_label_style(sa.LABEL_STYLE_DISAMBIGUATE_ONLY)
    ).all()
    found = []
    for row in rows:
        values = row._mapping
        path = unescape(values[target.c.name])
        member = Member(path.lstrip(b"/"), MemberKind.DIRECTORY)
        found.append(
            Found(
                member,
                member,
                values[target.c.id],
                values[target.c.name],
                values[target.c.source],
                values[backup.c.id],
                values[backup.c.state] or IMPORTED,
                row.the_tape,
                row.tape_name,
                TapeState(row.tape_state) if row.tape_state else None,
                values[backup.c.file_number],
                values[backup.c.confirmed_at],
                row.location or "",
                row.slot or "",
            )
        )
    return found
