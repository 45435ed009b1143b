"""Indexes of jobs, made from the archive: one pass over a job's files, merged for sets of jobs."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.catalogue import Held
from custody.bitarchive.config import Replica, replica_for_files
from custody.bitarchive.get import job_of
from custody.bitarchive.index.cache import Cache, Covered, Item
from custody.bitarchive.index.cdxj import index_file
from custody.bitarchive.index.merge import MAX_OPEN_FILES, merge
from custody.bitarchive.index.names import Kind
from custody.bitarchive.nodes import LocalNode
from custody.bitarchive.records import Damage, read_records
from custody.bitarchive.records.model import Content
from custody.faults import Fault, FaultKind

_CRAWL_LOG = re.compile(r"metadata://[^/]*/crawl/logs/crawl\.log.*")
_CDX = re.compile(r"metadata://[^/]*/crawl/index/cdx.*")
_CONTENT = re.compile(r"(?P<words>.*?)\.w?arc(\.gz)?", re.IGNORECASE)
MAX_RAW_BYTES = 2 << 30
_TEXT = re.compile(r"text/")


def content_job_of(name: str) -> int | None:
    """The job a content file belongs to: the first number among the words of its name; None for metadata files."""
    found = _CONTENT.fullmatch(name)
    if not found or job_of(name) is not None:
        return None
    return next((int(word) for word in found["words"].split("-") if word.isascii() and word.isdigit()), None)


@dataclass(frozen=True)
class JobFiles:
    """The files of one job in a replica."""

    metadata: tuple[Held, ...]
    content: tuple[Held, ...]


class Indexes:
    """The indexes of an archive."""

    def __init__(self, archive: Archive, replica: str | None = None) -> None:
        self._archive = archive
        self._replica: Replica = replica_for_files(archive.config, replica)
        self.cache = Cache(archive.config.caches)

    def jobs(self) -> dict[int, JobFiles]:
        """Every job with files in the replica, by its number."""
        metadata: dict[int, list[Held]] = {}
        content: dict[int, list[Held]] = {}
        for held in catalogue.held_by(self._archive, self._replica):
            if (job := job_of(held.name)) is not None:
                metadata.setdefault(job, []).append(held)
            elif (job := content_job_of(held.name)) is not None:
                content.setdefault(job, []).append(held)
        return {
            job: JobFiles(tuple(metadata.get(job, ())), tuple(content.get(job, ())))
            for job in sorted(metadata.keys() | content.keys())
        }

    def get(self, kind: Kind, job_ids: Iterable[int], *, allow_partial: bool = False) -> Covered:
        """The index of a set of jobs.

        Where there is no data of some, the answer covers the others, under their own name, if ``allow_partial``.
        Faults: DATA where jobs are missing and that is not allowed, or none is left.
        """
        wanted = sorted(set(job_ids))
        files = self.jobs()
        part = kind if kind.is_of_one_job else kind.made_of
        items: dict[int, Item] = {}
        missing: dict[int, str] = {}
        for job in wanted:
            try:
                items[job] = self._of_job(part, job, files.get(job, JobFiles((), ())))
            except Fault as fault:
                missing[job] = fault.reason
        if missing and (not allow_partial or not items):
            listed = "; ".join(f"job {job}: {reason}" for job, reason in list(missing.items())[:10])
            hint = None if not items else "allow a partial index, which goes by its own name"
            raise Fault(FaultKind.DATA, f"index of {len(wanted)} jobs", f"no data: {listed}", next_command=hint)
        if kind.is_of_one_job:
            (item,) = items.values()
            return Covered(item)
        return Covered(self._of_set(kind, items), tuple(missing))

    def _of_set(self, kind: Kind, items: Mapping[int, Item]) -> Item:
        inputs = {item.path.name: item.sha256 for item in items.values()}
        parts = [item.path for item in items.values()]

        def fill(out: BinaryIO) -> Mapping[str, str]:
            with ExitStack() as stack:
                if kind is Kind.DEDUP:
                    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self._scratch())))
                    merge_many([_dedup_of(path, directory) for path in parts], out, directory)
                else:
                    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self._scratch())))
                    merge_many(parts, out, directory)
            return inputs

        return self.cache.get(kind, list(items), fill, inputs=inputs)

    def _of_job(self, kind: Kind, job: int, files: JobFiles) -> Item:
        held = files.content if kind is Kind.CDXJ else files.metadata
        if not held:
            what = "content" if kind is Kind.CDXJ else "metadata"
            raise Fault(FaultKind.DATA, f"job {job}", f"has no {what} files in replica {self._replica.id}")
        inputs = {one.name: one.fixity.digests["sha256"] for one in held}
        if kind is Kind.CDXJ:
            return self.cache.get(kind, [job], lambda out: self._fill_cdxj(held, inputs, out), inputs=inputs)
        found = self.cache.look_up(kind, [job])
        if found is None or dict(found.inputs) != inputs:
            self._fetch_raw(job, held, inputs)
        item = self.cache.look_up(kind, [job])
        if item is None:
            raise Fault(FaultKind.DATA, f"job {job}", f"its metadata files hold no {kind}")
        return item

    def _fill_cdxj(self, held: Sequence[Held], inputs: Mapping[str, str], out: BinaryIO) -> Mapping[str, str]:
        with tempfile.TemporaryDirectory(dir=self._scratch()) as directory:
            parts = []
            for number, one in enumerate(held):
                with self._path_of(one) as path:
                    index = index_file(path, one.name)
                if index.damages:
                    first = index.damages[0]
                    reason = f"{one.name} is damaged at offset {first.offset_bytes}: {first.reason}"
                    raise Fault(FaultKind.DATA, one.name, reason)
                part = Path(directory) / f"{number}.cdxj"
                part.write_bytes(b"".join(line + b"\n" for line in index.lines))
                parts.append(part)
            merge_many(parts, out, Path(directory))
        return inputs

    def _fetch_raw(self, job: int, held: Sequence[Held], inputs: Mapping[str, str]) -> None:
        """One pass over the metadata files of a job fills both caches."""
        crawl_log: list[bytes] = []
        cdx: list[bytes] = []
        for one in held:
            with self._path_of(one) as path:
                for item in read_records(path, name=one.name):
                    if isinstance(item, Damage):
                        if item.length_bytes:
                            raise Fault(FaultKind.DATA, one.name, f"is damaged at offset {item.offset_bytes}")
                    elif _CRAWL_LOG.fullmatch(item.url):
                        crawl_log += _lines(_read_whole(one.name, item.content))
                    elif _CDX.fullmatch(item.url):
                        cdx += _lines(_read_whole(one.name, item.content))
        crawl_log.sort(key=_by_url)
        cdx.sort()
        for kind, lines in ((Kind.CRAWL_LOG, crawl_log), (Kind.CDX_DATA, cdx)):
            if lines:  # nothing is no hit

                def fill(out: BinaryIO, lines: list[bytes] = lines) -> Mapping[str, str]:
                    out.write(b"".join(line + b"\n" for line in lines))
                    return inputs

                self.cache.get(kind, [job], fill, inputs=inputs)

    def _scratch(self) -> Path:
        self.cache.root.mkdir(parents=True, exist_ok=True)
        return self.cache.root

    @contextmanager
    def _path_of(self, held: Held) -> Iterator[Path]:
        """The file on this machine: where it lies, or fetched for as long as it is needed."""
        node = self._archive.node(self._replica, held.node)
        if isinstance(node, LocalNode):
            yield node.path(held.name)
            return
        with tempfile.TemporaryDirectory(dir=self._scratch()) as directory:
            path = Path(directory) / held.name
            with node.open(held.name) as stream, path.open("wb") as out:
                while block := stream.read(1 << 20):
                    out.write(block)
            yield path


def merge_many(parts: Sequence[Path], out: BinaryIO, directory: Path) -> None:
    """Merge any number of parts, in rounds where they are more than may be open at once."""
    rounds = 0
    parts = list(parts)
    while len(parts) > MAX_OPEN_FILES:
        made = []
        for number in range(0, len(parts), MAX_OPEN_FILES):
            path = directory / f"round-{rounds}-{number}"
            with path.open("wb") as stream:
                merge(parts[number : number + MAX_OPEN_FILES], stream)
            made.append(path)
        parts, rounds = made, rounds + 1
    merge(parts, out)


def _dedup_of(path: Path, directory: Path) -> Path:
    """Lines ``digest url file,offset timestamp`` of a CDXJ, without text and revisits, sorted."""
    lines = []
    with path.open("rb") as source:
        for line in source:
            _, timestamp, text = line.split(b" ", 2)
            values = json.loads(text)
            mime, digest = values.get("mime", ""), values.get("digest")
            if not digest or mime == "warc/revisit" or _TEXT.match(mime):
                continue
            origin = f"{values['filename']},{values['offset']}"
            url = values["url"].replace(" ", "%20")
            lines.append(f"{digest} {url} {origin} {timestamp.decode()}".encode("utf-8", "surrogateescape"))
    lines.sort()
    made = directory / f"{path.name}.dedup"
    made.write_bytes(b"".join(line + b"\n" for line in lines))
    return made


def _read_whole(name: str, content: Content) -> bytes:
    """A log or CDX, which are sorted in memory; what inflates to more than any real one is refused."""
    parts, size = [], 0
    while block := content.read(1 << 20):
        parts.append(block)
        size += len(block)
        if size > MAX_RAW_BYTES:
            raise Fault(FaultKind.DATA, name, f"holds a record of more than {MAX_RAW_BYTES} bytes")
    return b"".join(parts)


def _lines(content: bytes) -> list[bytes]:
    return [line for line in content.replace(b"\r\n", b"\n").split(b"\n") if line]


def _by_url(line: bytes) -> tuple[bytes, bytes]:
    """As ``sort -k 4b``: from the fourth word on, then the whole line."""
    words = line.split(None, 3)
    return (words[3] if len(words) > 3 else b"", line)
