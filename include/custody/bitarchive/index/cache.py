"""Caches of indexes: an item is whole, under its name, with a manifest; or it is not there.

An item is made by one process while others wait (``flock`` on ``NAME.working``, which stays: only the lock counts),
under a temporary name, flushed, renamed; its manifest is written last, and without one, or with one that does not fit,
an item is no hit. What could be made of a part of a set only goes by the part's own name.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from custody.bitarchive.index.names import Kind, job_name, set_name
from custody.digests import read_file
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import fsync_directory, write_atomic

TOOL = "custody-bitarchive 1"
MANIFEST, WORKING, PINNED = ".manifest", ".working", ".pinned"
SCRATCH = ".scratch-"
SCRATCH_AGE_S = 60
_NAME = re.compile(r"[A-Za-z0-9-]+-cache")

Fill = Callable[[BinaryIO], Mapping[str, str]]
"""Writes the content of an item; returns the names and sha256 of what it was made from."""


@dataclass(frozen=True)
class Item:
    """One item of a cache.

    :param job_ids: what it covers, in order.
    :param inputs: what it was made from: sha256 by name.
    """

    path: Path
    kind: Kind
    job_ids: tuple[int, ...]
    size_bytes: int
    sha256: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    used_at_s: float = 0.0
    pinned: bool = False


@dataclass(frozen=True)
class Covered:
    """An answer for a set of jobs.

    :param missing: the jobs of which there is no data; the item does not cover them, and is not named after them.
    """

    item: Item
    missing: tuple[int, ...] = ()


class Cache:
    """All caches below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, kind: Kind, job_ids: Sequence[int]) -> Path:
        """Where the item of these jobs lies."""
        name = job_name(kind, job_ids[0]) if kind.is_of_one_job else set_name(job_ids)
        return self.root / kind / name

    def look_up(self, kind: Kind, job_ids: Sequence[int]) -> Item | None:
        """The item, if it is there whole."""
        return _read(self.path(kind, job_ids), kind)

    def get(self, kind: Kind, job_ids: Sequence[int], fill: Fill, *, inputs: Mapping[str, str] | None = None) -> Item:
        """The item; made where it is not there. N processes that ask at once make it once.

        :param inputs: what it would be made from now: an item made from something else is made again.
        """
        path = self.path(kind, job_ids)
        if (item := self._fresh(path, kind, inputs)) is not None:
            return _used(item)
        with os_errors_as_faults(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if (item := self._fresh(path, kind, inputs)) is not None:  # whoever had the lock made it
                return _used(item)
            return self._make(path, kind, tuple(sorted(set(job_ids))), fill)

    def _fresh(self, path: Path, kind: Kind, inputs: Mapping[str, str] | None) -> Item | None:
        item = _read(path, kind)
        return item if item is not None and (inputs is None or dict(item.inputs) == dict(inputs)) else None

    def _make(self, path: Path, kind: Kind, job_ids: tuple[int, ...], fill: Fill) -> Item:
        temporary = path.with_name(f".{path.name}.tmp")
        with os_errors_as_faults(str(path)):
            path.with_name(path.name + MANIFEST).unlink(missing_ok=True)  # until the new one is whole there is no hit
            try:
                with temporary.open("wb") as out:
                    inputs = dict(fill(out))
                    out.flush()
                    os.fsync(out.fileno())
                fixity = read_file(temporary, ("sha256",)).fixity
                temporary.replace(path)
                fsync_directory(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
        manifest = {
            "kind": kind,
            "ids": list(job_ids),
            "inputs": inputs,
            "size_bytes": fixity.size_bytes,
            "sha256": fixity.digests["sha256"],
            "tool": TOOL,
        }
        write_atomic(path.with_name(path.name + MANIFEST), json.dumps(manifest, indent=1).encode() + b"\n")
        item = _read(path, kind)
        assert item is not None
        return item

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for what is needed meanwhile; those that killed processes left are removed first."""
        with os_errors_as_faults(str(self.root)):
            self.root.mkdir(parents=True, exist_ok=True)
            for left in self.root.glob(f"{SCRATCH}*"):
                _sweep(left)
            path = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=self.root))
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def items(self) -> Iterator[Item]:
        """Every whole item, by kind and name."""
        for kind in Kind:
            for path in sorted((self.root / kind).glob("*-cache")):
                if _NAME.fullmatch(path.name) and (item := _read(path, kind)):
                    yield item

    def strangers(self) -> Iterator[Path]:
        """What lies in the caches and is no whole item, lock or mark: left by a crash, or brought by somebody."""
        known = {item.path.name for item in self.items()}
        for kind in Kind:
            for path in sorted((self.root / kind).glob("*")):
                base = path.name.removesuffix(MANIFEST).removesuffix(PINNED)
                if base not in known and not path.name.endswith(WORKING):
                    yield path

    def verify(self) -> list[tuple[Item, str]]:
        """Read every item; returns those whose bytes are not those of their manifest. They are no hits from then on."""
        bad = []
        for item in self.items():
            found = read_file(item.path, ("sha256",)).fixity
            if found.digests["sha256"] != item.sha256:
                bad.append((item, f"sha256 is {found.digests['sha256']}, the manifest says {item.sha256}"))
                item.path.with_name(item.path.name + MANIFEST).unlink(missing_ok=True)
        return bad

    def pin(self, item: Item, *, pinned: bool) -> None:
        """Keep an item, whatever the limits say; or no longer."""
        mark = item.path.with_name(item.path.name + PINNED)
        with os_errors_as_faults(str(mark)):
            if pinned:
                mark.touch()
            else:
                mark.unlink(missing_ok=True)

    def collect(self, *, max_bytes: int | None = None, max_age_s: float | None = None) -> list[Item]:
        """Delete what was not used for longest until the limits are kept; pinned items stay. Returns what went.

        An item can always be made again: it is derived from the archive.
        """
        items = sorted(self.items(), key=lambda item: item.used_at_s)
        total = sum(item.size_bytes for item in items)
        gone = []
        for item in items:
            too_old = max_age_s is not None and time.time() - item.used_at_s > max_age_s
            too_much = max_bytes is not None and total > max_bytes
            if item.pinned or not (too_old or too_much):
                continue
            with _alone(item.path), os_errors_as_faults(str(item.path)):
                item.path.with_name(item.path.name + MANIFEST).unlink(missing_ok=True)
                item.path.unlink(missing_ok=True)
            total -= item.size_bytes
            gone.append(item)
        return gone

    def find(self, name: str) -> Item:
        """An item by ``KIND/NAME``. Faults: CONFIG where there is none."""
        for item in self.items():
            if name in {f"{item.kind}/{item.path.name}", str(item.path)}:
                return item
        raise Fault(FaultKind.CONFIG, f"cache item {name}", "is not there", next_command="custody bitarchive cache ls")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    working = path.with_name(path.name + WORKING)
    with os_errors_as_faults(str(working)):
        descriptor = os.open(working, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(left: Path) -> None:
    """Remove a scratch directory whose owner is gone: its lock can be had. One that was just made is left alone."""
    with suppress(OSError):
        descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if abs(time.time() - os.fstat(descriptor).st_mtime) > SCRATCH_AGE_S:
                shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(descriptor)


def _read(path: Path, kind: Kind) -> Item | None:
    manifest = path.with_name(path.name + MANIFEST)
    try:
        values: dict[str, Any] = json.loads(manifest.read_bytes())
        found = path.lstat()
        if values["kind"] != kind or found.st_size != values["size_bytes"]:
            return None
        return Item(
            path,
            kind,
            tuple(values["ids"]),
            values["size_bytes"],
            values["sha256"],
            values["inputs"],
            manifest.stat().st_mtime,
            path.with_name(path.name + PINNED).exists(),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _used(item: Item) -> Item:
    """Remember when it was used last, by the time of its manifest."""
    with suppress(OSError):  # a cache that may only be read is still a cache
        os.utime(item.path.with_name(item.path.name + MANIFEST))
    return item
