"""Bundles: config, logs and reports of a crawl in one tar.gz, stored as an item of its own and proven there.

Where a configuration names ``bundle_from``, the end of a crawl (FINISH_DRAIN, and nothing left) makes the bundle, sends
it to every destination and puts its copies and proofs on record, as of any WARC. The bundle itself stays on the disk.
"""

from __future__ import annotations

import gzip
import io
import os
import socket
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import sqlalchemy as sa

from custody import gate
from custody.digests import Fixity, Match, read_file, reading
from custody.drain.artifacts import files_below
from custody.drain.config import DrainConfig
from custody.drain.names import check_identifier, is_portable
from custody.drain.series import ROOM
from custody.drain.targets import Item, Outgoing, Settling, Target
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place, place_key
from custody.ledger.tables import copy as copy_table
from custody.ledger.tables import file as file_table
from custody.publish import fsync_directory, rename_noclobber

BUNDLED = ("config", "logs", "recover", "reports", "tombstones")
BUNDLE_ENDING = "-bundle.tar.gz"
DIRECTORY = "bundles"


def bundle(roots: Sequence[Path], into: Path, *, crawl: str, host: str) -> Path:
    """Pack config, logs, recover files, reports and tombstones of a crawl into one tar.gz, and return its path.

    Everything below a directory of one of these names is taken, and every ``NAME.tombstone``. With several ``roots``
    (a crawl on several disks) the members of each stand below its number. The same files make the same bytes; the name
    holds the time (UTC) of the youngest. The file appears whole or not at all, and over nothing else.

    Faults: CONFIG where nothing is to be bundled, DATA where a file changes meanwhile, CONFLICT where a bundle of this
    name has other bytes.
    """
    members = _members(roots)
    name = _name(members, crawl, host)
    target = into / name
    with os_errors_as_faults(str(target)):
        into.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=into, prefix=f".{name[:100]}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                _write_bundle(stream, members)
                stream.flush()
                os.fsync(stream.fileno())
            _publish_bundle(Path(temporary), target)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return target


def _members(roots: Sequence[Path]) -> dict[str, Path]:
    """What goes into a bundle, by its name there."""
    members: dict[str, Path] = {}
    for number, root in enumerate(roots):
        prefix = f"{number}/" if len(roots) > 1 else ""
        members |= {f"{prefix}{path.relative_to(root)}": path for path in files_below(root) if _is_bundled(path, root)}
    if not members:
        named = ", ".join(str(root) for root in roots) or "no directory"
        reason = f"holds nothing to bundle: no file below {', '.join(BUNDLED)}, and no tombstone"
        raise Fault(FaultKind.CONFIG, named, reason, next_command="check the job directory")
    return members


def _name(members: Mapping[str, Path], crawl: str, host: str) -> str:
    youngest = max(path.lstat().st_mtime for path in members.values())
    name = f"{crawl}-{host}-{datetime.fromtimestamp(int(youngest), UTC):%Y%m%d%H%M%S}{BUNDLE_ENDING}"
    if not is_portable(name):
        raise Fault(FaultKind.CONFIG, f"bundle {name!r}", "is no portable file name; change crawl or host")
    return name


def _publish_bundle(temporary: Path, target: Path) -> None:
    if os.path.lexists(target):
        if read_file(temporary).fixity.compare(read_file(target).fixity) is Match.EQUAL:
            return
        raise Fault(FaultKind.CONFLICT, str(target), "is there with other bytes", next_command="move it away")
    temporary.chmod(0o644)
    rename_noclobber(temporary, target)
    fsync_directory(target.parent)


def _write_bundle(stream: BinaryIO, members: Mapping[str, Path]) -> None:
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, path in sorted(members.items()):
            with reading(path) as descriptor:
                found = os.fstat(descriptor)
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime, entry.mode = found.st_size, int(found.st_mtime), 0o644
                with io.FileIO(os.dup(descriptor)) as content:
                    archive.addfile(entry, content)


def _is_bundled(path: Path, root: Path) -> bool:
    folders = path.relative_to(root).parts[:-1]
    return path.name.endswith(".tombstone") or any(part in BUNDLED for part in folders)


@dataclass(frozen=True)
class StoredBundle:
    """A bundle, and where its proven copy is."""

    path: Path
    place: str
    fixity: Fixity


def store_bundle(path: Path, target: Target, *, metadata: Mapping[str, str | list[str]] | None = None) -> StoredBundle:
    """Send a bundle to a target as an item of its own, and prove it there; the local file stays.

    The item is named after the bundle. Harmless where it is stored already. Faults: as of the target, THROTTLED while
    it is still storing it, and DATA where what is stored there is not the bundle.
    """
    fields = {"mediatype": "data", **(metadata or {}), "title": path.name}
    found = read_file(path)
    item = Item(path.name.removesuffix(".tar.gz"), fields, found.fixity.size_bytes)
    check_identifier(item.identifier)
    place = target.place(item.identifier, path.name)
    there = _look(target, item, path.name)
    if there is None and isinstance(target, Settling):
        target.settle(item.identifier)  # an earlier attempt may have sent it
        there = _look(target, item, path.name)
    verdict = gate.may_overwrite(found.fixity, there)
    if not verdict.allowed:
        raise Fault(FaultKind.CONFLICT, place, str(verdict), next_command="move it away there")
    if there is None:
        target.create(item, f"{found.fixity.digests['md5']}  {path.name}\n".encode())
        receipt = target.put(item, Outgoing(path, path.name, found.fixity, found.state))
        if found.fixity.compare(receipt.read) is not Match.EQUAL:
            raise Fault(FaultKind.DATA, str(path), "changed on disk while it was sent", next_command="check the disk")
        if isinstance(target, Settling):
            target.settle(item.identifier)
        there = _look(target, item, path.name)
    proof = gate.may_record_proof(found.fixity, there)
    if not proof.allowed:
        kind = FaultKind.DATA if there else FaultKind.TRANSIENT
        raise Fault(kind, place, str(proof), next_command="look at it there, then run again")
    return StoredBundle(path, place, found.fixity)


def _look(target: Target, item: Item, name: str) -> Fixity | None:
    """What is stored; of a keeper that states no digest, as it is read back."""
    there = target.look(item.identifier, [name])[name]
    return target.read_back(item.identifier, name) if there and not there.digests else there


def record_bundle(ledger: Ledger, stored: StoredBundle, *, who: str) -> None:
    """Put a bundle on record: the file here, its copy there, and what proves it."""
    with ledger.begin() as connection:
        file_id = ledger.record_file(connection, stored.path.name, stored.fixity)
        ledger.record_copy(connection, file_id, disk_place(stored.path.absolute()), CopyState.PRESENT)
        copy_id = ledger.record_copy(connection, file_id, stored.place, CopyState.PROVEN)
        ledger.record_proof(connection, copy_id, "listing", stored.fixity, who)
        detail = {"place": stored.place, "proven": gate.describe(stored.fixity)}
        ledger.record_event(connection, who=who, room=ROOM, what="bundle", subject=stored.path.name, detail=detail)


def bundle_crawl(ledger: Ledger, config: DrainConfig, targets: Sequence[Target], *, who: str) -> list[StoredBundle]:
    """Bundle what ``bundle_from`` names, store it at every target, and put it on record; what was done is left.

    Returns what was stored now. Faults: as of :func:`bundle` and :func:`store_bundle`.
    """
    host = socket.gethostname().partition(".")[0]
    name = _name(_members(config.bundle_from), config.crawljob, host)
    item = name.removesuffix(".tar.gz")
    waiting = [target for target in targets if not _is_proven(ledger, name, target.place(item, name))]
    if not waiting:
        return []
    path = bundle(config.bundle_from, config.xfer_dir / DIRECTORY, crawl=config.crawljob, host=host)
    done = []
    for target in waiting:
        stored = store_bundle(path, target, metadata=_describe(config, host))
        record_bundle(ledger, stored, who=who)
        done.append(stored)
    return done


def _is_proven(ledger: Ledger, name: str, place: str) -> bool:
    query = (
        sa.select(copy_table.c.id)
        .join(file_table, file_table.c.id == copy_table.c.file_id)
        .where(
            file_table.c.name == name,
            copy_table.c.place_key == place_key(place),
            copy_table.c.state == CopyState.PROVEN,
        )
    )
    with ledger.read() as connection:
        return connection.scalar(query.limit(1)) is not None


def _describe(config: DrainConfig, host: str) -> dict[str, str | list[str]]:
    fields: dict[str, str | list[str]] = {
        "collection": list(config.collections),
        "description": f"Config, logs and reports of the crawl {config.crawljob} on {host}.",
        "subject": "crawldata",
        "creator": config.creator,
        "sponsor": config.sponsor,
        "contributor": config.contributor,
        "operator": config.operator,
        "scanningcenter": config.scanningcenter,
        "crawljob": config.crawljob,
    }
    return {name: value for name, value in fields.items() if value}
