"""Indexes of jobs, made from the archive: one pass over a job's files, merged for sets of jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.catalogue import Held
from custody.bitarchive.config import Replica, replica_for_files
from custody.bitarchive.get import job_of
from custody.bitarchive.index.cache import Cache, Covered, Item
from custody.bitarchive.index.dedup import dedup_of
from custody.bitarchive.index.merge import MAX_OPEN_FILES, merge
from custody.bitarchive.index.names import Kind
from custody.bitarchive.index.parquet import find_python, write_parquet
from custody.bitarchive.index.raw import read_raw, tar_of
from custody.bitarchive.index.workers import Part, Workers, cores, side_by_side
from custody.bitarchive.nodes import LocalNode
from custody.faults import Fault, FaultKind

_CONTENT = re.compile(r"(?P<words>.*?)\.w?arc(\.gz)?", re.IGNORECASE)


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
    """The indexes of an archive.

    :param processes: how many files are indexed at a time; None: as configured, else one for each core.
    """

    def __init__(self, archive: Archive, replica: str | None = None, *, processes: int | None = None) -> None:
        self._archive = archive
        self._replica: Replica = replica_for_files(archive.config, replica)
        self._processes = processes or archive.config.index_processes or cores()
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
        Faults: DATA where jobs are missing and that is not allowed, or none is left; CONFIG for two jobs of a kind that
        is of one, or where there is nothing to write Parquet with.
        """
        wanted = sorted(set(job_ids))
        if kind.is_of_one_job and len(wanted) != 1:
            raise Fault(FaultKind.CONFIG, f"index {kind}", f"is of one job, and {len(wanted)} were named")
        if kind is Kind.PARQUET:
            find_python(self._archive)  # before hours of work
        files = self.jobs()
        part = kind if kind.is_of_one_job else kind.made_of
        items, missing = self._of_jobs(part, wanted, files)
        if missing and (not allow_partial or not items):
            listed = "; ".join(f"job {job}: {reason}" for job, reason in list(missing.items())[:10])
            hint = None if not items else "allow a partial index, which goes by its own name"
            raise Fault(FaultKind.DATA, f"index of {len(wanted)} jobs", f"no data: {listed}", next_command=hint)
        if kind.is_of_one_job:
            (item,) = items.values()
            return Covered(item)
        return Covered(self._of_set(kind, items), tuple(missing))

    def _of_jobs(
        self, kind: Kind, jobs: Sequence[int], files: Mapping[int, JobFiles]
    ) -> tuple[dict[int, Item], dict[int, str]]:
        """The item of each job, and why there is none of the others; several jobs and files at a time."""
        nothing = JobFiles((), ())
        to_index = sum(len(files.get(job, nothing).content) for job in jobs if not self.cache.look_up(kind, [job]))
        with Workers(max(1, min(self._processes, to_index)) if kind is Kind.CDXJ else 1) as workers:

            def of_job(job: int) -> Item:
                return self._of_job(kind, job, files.get(job, nothing), workers)

            answers = dict(zip(jobs, side_by_side(of_job, jobs, workers.processes), strict=True))
        for answer in answers.values():
            if isinstance(answer, Fault) and answer.kind in {FaultKind.CAPACITY, FaultKind.CANCELLED}:
                raise answer  # it says nothing of the job
        items = {job: answer for job, answer in answers.items() if isinstance(answer, Item)}
        return items, {job: answer.reason for job, answer in answers.items() if isinstance(answer, Fault)}

    def _of_set(self, kind: Kind, items: Mapping[int, Item]) -> Item:
        if kind is Kind.PARQUET:
            return self._parquet(items)
        inputs = {item.path.name: item.sha256 for item in items.values()}
        parts = [item.path for item in items.values()]

        def fill(out: BinaryIO) -> Mapping[str, str]:
            with self.cache.scratch() as directory:
                made = [dedup_of(path, directory) for path in parts] if kind is Kind.DEDUP else parts
                merge_many(made, out, directory)
            return inputs

        return self.cache.get(kind, list(items), fill, inputs=inputs)

    def _parquet(self, items: Mapping[int, Item]) -> Item:
        """The full index of the same jobs, as Parquet."""
        python = find_python(self._archive)
        full = self._of_set(Kind.FULL, items)
        inputs = {full.path.name: full.sha256}

        def fill(out: BinaryIO) -> Mapping[str, str]:
            write_parquet(python, full.path, out)
            return inputs

        return self.cache.get(Kind.PARQUET, list(items), fill, inputs=inputs)

    def _of_job(self, kind: Kind, job: int, files: JobFiles, workers: Workers) -> Item:
        held = files.content if kind is Kind.CDXJ else files.metadata
        if not held:
            what = "content" if kind is Kind.CDXJ else "metadata"
            raise Fault(FaultKind.DATA, f"job {job}", f"has no {what} files in replica {self._replica.id}")
        inputs = {one.name: one.fixity.digests["sha256"] for one in held}
        if kind is Kind.CDXJ:
            return self.cache.get(kind, [job], lambda out: self._fill_cdxj(held, workers, out), inputs=inputs)
        found = self.cache.look_up(kind, [job])
        if found is None or dict(found.inputs) != inputs:
            self._fetch_raw(job, held, inputs)
        item = self.cache.look_up(kind, [job])
        if item is None:
            raise Fault(FaultKind.DATA, f"job {job}", f"its metadata files hold no {kind}")
        return item

    def _fill_cdxj(self, held: Sequence[Held], workers: Workers, out: BinaryIO) -> Mapping[str, str]:
        with self.cache.scratch() as directory:

            def index(one: tuple[int, Held]) -> Part:
                number, file = one
                with workers.turn() as write_part, self._path_of(file) as path:
                    part = write_part(path, file.name, directory / f"{number}.cdxj")
                if part.damages:
                    first = part.damages[0]
                    reason = f"{file.name} is damaged at offset {first.offset_bytes}: {first.reason}"
                    raise Fault(FaultKind.DATA, file.name, reason)
                return part

            parts = []
            for answer in side_by_side(index, list(enumerate(held)), workers.processes):
                if isinstance(answer, Fault):
                    raise answer
                parts.append(answer.path)
            merge_many(parts, out, directory)
        return {one.name: one.fixity.digests["sha256"] for one in held}

    def _fetch_raw(self, job: int, held: Sequence[Held], inputs: Mapping[str, str]) -> None:
        """One pass over the metadata files of a job fills all caches that are made from them."""

        def files() -> Iterator[tuple[str, Path]]:
            for one in held:
                with self._path_of(one) as path:
                    yield one.name, path

        raw = read_raw(files())
        contents: tuple[tuple[Kind, Iterable[bytes]], ...] = (
            (Kind.CRAWL_LOG, (line + b"\n" for line in raw.crawl_log) if raw.crawl_log else ()),
            (Kind.CDX_DATA, (line + b"\n" for line in raw.cdx) if raw.cdx else ()),
            (Kind.REPORTS, tar_of(raw.reports) if raw.reports else ()),
        )
        for kind, content in contents:
            if content:  # nothing is no hit

                def fill(out: BinaryIO, content: Iterable[bytes] = content) -> Mapping[str, str]:
                    out.writelines(content)
                    return inputs

                self.cache.get(kind, [job], fill, inputs=inputs)

    @contextmanager
    def _path_of(self, held: Held) -> Iterator[Path]:
        """The file on this machine: where it lies, or fetched for as long as it is needed. Faults: DATA where gone."""
        node = self._archive.node(self._replica, held.node)
        size = node.size_of(held.name)
        if size != held.fixity.size_bytes:
            reason = "is not there, and should be" if size is None else f"has {size} bytes, not those on record"
            command = f"custody bitarchive check missing {self._archive.name} {self._replica.id}"
            raise Fault(FaultKind.DATA, node.place(held.name), f"{held.name} {reason}", next_command=command)
        if isinstance(node, LocalNode):
            yield node.path(held.name)
            return
        with self.cache.scratch() as directory:
            path = directory / held.name
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
