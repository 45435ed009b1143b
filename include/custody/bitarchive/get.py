"""Files, records and metadata out of the archive: what is there at once, and what is not with a reason at once."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from custody import gate
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.catalogue import Held
from custody.bitarchive.config import Replica, replica_for_files
from custody.bitarchive.names import check_name, is_arc
from custody.bitarchive.nodes import ALGORITHMS, ArchiveNode, LocalNode
from custody.bitarchive.records import Damage, Damaged, Record, read_records
from custody.bitarchive.records.starts import nearest_starts, starts_record_at
from custody.digests import Hasher
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import fsync_directory, rename_noclobber

_METADATA = re.compile(r"(?P<words>.*)-metadata-[0-9]+\.w?arc(\.gz)?", re.IGNORECASE)
_FIRST_FETCH_BYTES = 1 << 20


def locate(archive: Archive, name: str, replica_name: str | None = None) -> tuple[Held, ArchiveNode, Replica]:
    """Where a file is. Faults: CONFIG where the archive has no such file, or the replica should not have it."""
    check_name(name)
    replica = replica_for_files(archive.config, replica_name)
    held = next(catalogue.held_by(archive, replica, names=[name]), None)
    if held is None:
        known = catalogue.find(archive, name)
        where = f"replica {replica.id} does not have it" if known else "the archive has no such file"
        raise Fault(FaultKind.CONFIG, name, where, next_command=f"custody where-is {name}")
    return held, archive.node(replica, held.node), replica


@contextmanager
def open_file(
    archive: Archive, name: str, replica: str | None = None, start: int = 0
) -> Iterator[tuple[IO[bytes], int]]:
    """A stream of a file from an offset on, and its whole size. Faults: as :func:`locate`; DATA where it is gone."""
    _, node, _ = locate(archive, name, replica)
    size = node.size_of(name)
    if size is None:
        command = f"custody bitarchive check missing {archive.name}"
        raise Fault(FaultKind.DATA, node.place(name), "is not there, and should be", next_command=command)
    if not 0 <= start <= size:
        raise Fault(FaultKind.CONFIG, name, f"has {size} bytes; {start} is outside")
    with node.open(name, start) as stream:
        yield stream, size


def get_file(archive: Archive, name: str, target: Path, replica: str | None = None) -> Path:
    """Fetch a whole file and compare it with the catalogue; nothing is overwritten.

    Faults: as :func:`open_file`; CONFLICT where something is at ``target``, DATA where the bytes are not as on record.
    """
    held, node, chosen = locate(archive, name, replica)
    if target.is_dir():
        target /= name
    if target.exists() or target.is_symlink():
        raise Fault(FaultKind.CONFLICT, str(target), "is there already; nothing is overwritten")
    temporary = target.with_name(f".custody-{uuid.uuid4().hex}.tmp")
    hasher = Hasher(ALGORITHMS)
    try:
        with os_errors_as_faults(str(target)), temporary.open("xb") as out, open_file(archive, name, replica) as opened:
            while block := opened[0].read(1 << 20):
                hasher.update(block)
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        verdict = gate.may_record_proof(held.fixity, hasher.fixity())
        if not verdict.allowed:
            others = [one.id for one in archive.config.replicas if one.nodes and one.id != chosen.id]
            command = f"custody bitarchive check changed {archive.name} {chosen.id}"
            if others:
                command = f"custody bitarchive get-file {archive.name} {name} -B {others[0]}; {command}"
            raise Fault(FaultKind.DATA, node.place(name), str(verdict), next_command=command)
        rename_noclobber(temporary, target)
        with os_errors_as_faults(str(target)):
            fsync_directory(target.absolute().parent)
    finally:
        temporary.unlink(missing_ok=True)
    return target


@contextmanager
def open_record(archive: Archive, name: str, offset: int, replica: str | None = None) -> Iterator[Record]:
    """The record that begins at an offset, its content a stream.

    Faults, four that can be told apart: CONFIG "no such file", "past the end", "no record begins there" (with the
    nearest that do), and DATA where the record that begins there is corrupt.
    """
    _, node, _ = locate(archive, name, replica)
    size = node.size_of(name)
    if size is None:
        command = f"custody bitarchive check missing {archive.name}"
        raise Fault(FaultKind.DATA, node.place(name), "is not there, and should be", next_command=command)
    if not 0 <= offset < size:
        raise Fault(FaultKind.CONFIG, f"{name}, offset {offset}", f"is past the end: the file has {size} bytes")
    if isinstance(node, LocalNode):
        with _record_at(node.path(name), name, offset) as record:
            yield record
        return
    with _fetched(node, name, offset, size) as path, _record_at(path, name, 0, shown_offset=offset) as record:
        yield record


@contextmanager
def _record_at(path: Path, name: str, offset: int, *, shown_offset: int | None = None) -> Iterator[Record]:
    where = f"{name}, offset {offset if shown_offset is None else shown_offset}"
    if not starts_record_at(path, offset, arc=is_arc(name)):
        near = ", ".join(map(str, nearest_starts(path, offset, arc=is_arc(name)))) if shown_offset is None else ""
        hint = f"; the nearest that do: {near}" if near else ""
        raise Fault(FaultKind.CONFIG, where, f"no record begins there{hint}")
    _require_whole(path, name, offset, where)
    with closing(cast("Generator[Record | Damage]", read_records(path, name=name, start_bytes=offset))) as items:
        item = next(items)
        assert isinstance(item, Record)
        yield item


def _require_whole(path: Path, name: str, offset: int, where: str) -> None:
    """Read the record once to its end: nobody is handed half of one."""
    for number, item in enumerate(read_records(path, name=name, start_bytes=offset)):
        if isinstance(item, Damage) and item.offset_bytes == offset and item.length_bytes:
            raise Fault(FaultKind.DATA, where, f"the record is corrupt: {item.reason}")
        if number:
            return
        if isinstance(item, Record):
            try:
                while item.content.read(1 << 20):
                    pass
            except Damaged as damage:
                raise Fault(FaultKind.DATA, where, f"the record is corrupt: {damage}") from damage


@contextmanager
def _fetched(node: ArchiveNode, name: str, offset: int, size: int) -> Iterator[Path]:
    """The bytes from an offset on, of another machine, as many as the record there has."""
    with tempfile.TemporaryDirectory(prefix="custody-record-") as directory:
        path = Path(directory) / name
        wanted = _FIRST_FETCH_BYTES
        while True:
            with node.open(name, offset) as stream, path.open("wb") as out:
                left = wanted
                while left and (block := stream.read(min(left, 1 << 20))):
                    out.write(block)
                    left -= len(block)
            whole = offset + wanted >= size
            if whole or _reads_whole(path, name):
                yield path
                return
            wanted *= 16


def _reads_whole(path: Path, name: str) -> bool:
    try:
        _require_whole(path, name, 0, name)
    except Fault:
        return False
    return True


@dataclass(frozen=True)
class MetadataFile:
    """A metadata file of a job."""

    name: str
    job_id: int


def job_of(name: str) -> int | None:
    """The job a metadata file belongs to: the first number among the words before ``-metadata-N``; None for others.

    ``12-metadata-1.arc``, ``12-7-metadata-1.warc.gz`` and ``dk-12-7-metadata-1.warc`` are of job 12.
    """
    found = _METADATA.fullmatch(name)
    if not found:
        return None
    return next((int(word) for word in found["words"].split("-") if word.isascii() and word.isdigit()), None)


def metadata_files(archive: Archive, job_id: int, replica: str | None = None) -> list[str]:
    """The metadata files of exactly this job, by name. Faults: CONFIG where there is none."""
    chosen = replica_for_files(archive.config, replica)
    names = [held.name for held in catalogue.held_by(archive, chosen) if job_of(held.name) == job_id]
    if not names:
        raise Fault(FaultKind.CONFIG, f"job {job_id}", f"No metadata found for job {job_id} in replica {chosen.id}")
    return names


def get_metadata(archive: Archive, job_id: int, replica: str | None = None) -> Iterator[bytes]:
    """All metadata files of a job, one after the other. Faults: as :func:`metadata_files` and :func:`open_file`."""
    for name in metadata_files(archive, job_id, replica):
        with open_file(archive, name, replica) as (stream, _):
            while block := stream.read(1 << 20):
                yield block
