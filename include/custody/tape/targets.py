"""Import: directories become targets, and their source is scanned."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.host import Host
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.tape import tables
from custody.tape.catalog import Target, record, target_key, target_of
from custody.tape.config import TapeConfig
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape
from custody.tape.records import OWN_DIRECTORY, put_members
from custody.tape.states import BackupState
from custody.tape.stream.scan import Scan
from custody.tape.stream.spool import ManifestSpool

_KEYS_A_QUERY = 1000


@dataclass
class Imported:
    """What an import did: every target of the list is in one of the three, faults by target beside them."""

    new: list[Target] = field(default_factory=list)
    known: list[Target] = field(default_factory=list)
    to_scan: list[Target] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)


def read_list(content: bytes, where: str) -> list[bytes]:
    """The paths of an import file: one a line, or separated by NUL as ``find -print0`` does. Normalised, each once.

    Faults: CONFIG, naming the line, where a path is not absolute.
    """
    separator = b"\0" if b"\0" in content else b"\n"
    paths: dict[bytes, None] = {}
    for number, line in enumerate(content.split(separator), 1):
        if separator == b"\n":
            line = line.rstrip(b"\r")
        if not line:
            continue
        if not line.startswith(b"/"):
            reason = f"line {number}: {escape(line)} is no absolute path"
            raise Fault(FaultKind.CONFIG, where, reason, next_command="write the whole path, from / on")
        paths[posixpath.normpath(b"/" + line.lstrip(b"/"))] = None
    if not paths:
        raise Fault(FaultKind.CONFIG, where, "names no target")
    if b"/" in paths:
        raise Fault(FaultKind.CONFIG, where, "names /, which is no target", next_command="name directories below it")
    if any((path + b"/").startswith(b"/" + OWN_DIRECTORY) for path in paths):
        raise Fault(FaultKind.CONFIG, where, "names /.custody, which is the name of Custody's own notes on a tape")
    return list(paths)


def import_targets(
    ledger: Ledger, config: TapeConfig, host: Host, paths: Sequence[bytes], *, who: str, rescan: bool = False
) -> Imported:
    """Put targets on record; a second time makes no new rows. Says which of them are to be scanned.

    :param rescan: scan again what was scanned before (``--retry``), unless a tape holds it already.
    """
    done = Imported()
    with ledger.begin() as connection:
        for path in paths:
            name = escape(path)
            key = target_key(host.name, name)
            known = _find(connection, key)
            if known is None:
                values = {"source": host.name, "name": name, "name_key": key, "excludes": [], "imported_at": now()}
                connection.execute(sa.insert(tables.target).values(values))
                record(ledger, connection, who, "imported", name, source=host.name)
                known = _find(connection, key)
                assert known is not None
                done.new.append(known)
            else:
                done.known.append(known)
        for target in done.new + done.known:
            if target.scanned_at is None or (rescan and not _is_on_tape(connection, target.id)):
                done.to_scan.append(target)
    return done


def _find(connection: Connection, key: str) -> Target | None:
    row = connection.execute(sa.select(tables.target).where(tables.target.c.name_key == key)).one_or_none()
    return None if row is None else target_of(row)


def load_targets(ledger: Ledger, target_ids: Iterable[int]) -> list[Target]:
    """Targets by their numbers, in that order."""
    wanted = list(target_ids)
    found: dict[int, Target] = {}
    with ledger.read() as connection:
        for start in range(0, len(wanted), _KEYS_A_QUERY):
            some = wanted[start : start + _KEYS_A_QUERY]
            for row in connection.execute(sa.select(tables.target).where(tables.target.c.id.in_(some))):
                found[row.id] = target_of(row)
    return [found[target_id] for target_id in wanted if target_id in found]


def forget_targets(ledger: Ledger, names: Sequence[str], *, who: str) -> int:
    """Take targets off the record, with what their scan found; returns how many rows it were.

    Faults: CONFIG, naming the target, for one that nobody knows, or that a tape has, had or is meant to have: the
    record of a copy is never forgotten. Nothing is changed then.
    """
    target, backup, member = tables.target, tables.backup, tables.member
    with ledger.begin() as connection:
        count = 0
        for name in dict.fromkeys(names):
            rows = connection.execute(sa.select(target.c.id, target.c.source).where(target.c.name == name)).all()
            if not rows:
                raise Fault(FaultKind.CONFIG, name, "is no target", next_command="custody tape unassigned")
            for row in rows:
                where = backup.c.target_id == row.id
                tape = connection.scalar(
                    sa.select(tables.tape.c.name).join(backup, backup.c.tape_id == tables.tape.c.id).where(where)
                )
                if tape is not None:
                    reason = f"is on the record of tape {tape}: that is never forgotten"
                    raise Fault(FaultKind.CONFIG, name, reason, next_command=f"custody tape tape_detail {tape}")
                connection.execute(sa.delete(member).where(member.c.target_id == row.id))
                connection.execute(sa.delete(target).where(target.c.id == row.id))
                record(ledger, connection, who, "forgotten", name, source=row.source)
                count += 1
    return count


def _is_on_tape(connection: Connection, target_id: int) -> bool:
    on_tape = [state for state in BackupState if state.is_on_tape]
    table = tables.backup
    found = sa.select(table.c.id).where(table.c.target_id == target_id, table.c.state.in_(on_tape)).limit(1)
    return connection.scalar(found) is not None


def scan_target(
    ledger: Ledger,
    config: TapeConfig,
    host: Host,
    target: Target,
    *,
    who: str,
    progress: Callable[[int], None] | None = None,
) -> Target:
    """Read a target's source once, and keep what was found: with it the archive is compared before it counts.

    Without ``config.scan`` the target counts as scanned and nothing is read. Faults: CONFIG where it is no directory
    or not there, DATA where it changes meanwhile, and those of the host.
    """
    excludes = _children(ledger, target)
    values: dict[str, Any] = {"scanned_at": now(), "excludes": [escape(path) for path in excludes]}
    with tempfile.TemporaryDirectory(prefix="custody-scan-") as directory:
        # what may take hours is spooled: no transaction stays open while a source is being read
        spool = None
        if config.scan:
            spool = ManifestSpool.create(Path(directory) / "members")
            algorithm = "sha256" if "sha256" in config.digests else "md5"
            values["size_bytes"] = 0
            with spool:
                for member in Scan(host, target.path, excludes, algorithm=algorithm):
                    _require_no_link(target, member)
                    values["size_bytes"] += member.size_bytes
                    if progress:
                        progress(member.size_bytes)
                    spool.add(member)
        with ledger.begin() as connection:
            if spool is not None:
                values["members"] = put_members(connection, target.id, None, spool)
            connection.execute(sa.update(tables.target).where(tables.target.c.id == target.id).values(values))
            record(ledger, connection, who, "scanned", target.name, size_bytes=values.get("size_bytes"))
            return target_of(connection.execute(sa.select(tables.target).where(tables.target.c.id == target.id)).one())


def _require_no_link(target: Target, member: Member) -> None:
    if member.kind is MemberKind.SYMLINK and member.name == target.path.lstrip(b"/"):
        reason = f"is a symbolic link to {escape(member.link)}: the link would go to tape, not what it leads to"
        raise Fault(FaultKind.CONFIG, target.name, reason, next_command="import the path it leads to")


def _children(ledger: Ledger, target: Target) -> list[bytes]:
    """Targets below this one: they go to tape by themselves."""
    table = tables.target
    with ledger.read() as connection:
        names = connection.execute(
            sa.select(table).where(
                table.c.source == target.source, table.c.name.startswith(target.name + "/", autoescape=True)
            )
        )
        return sorted(target_of(row).path for row in names)
