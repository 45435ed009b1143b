"""The files an operator looks for beside the data, in draintasker's formats to the byte.

They are exports and the ledger's second copy, never the reason for an action. ``.custody/`` holds what draintasker's
formats have no room for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custody.digests import FileState, Fixity
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import write_atomic

DRAINME = "DRAINME"
FINISH_DRAIN = "FINISH_DRAIN"
PACKED = "PACKED"
MANIFEST = "MANIFEST"
BUCKET_OK = "BUCKET_OK"
TASK = "TASK"
LAUNCH_OPEN = "LAUNCH.open"
LAUNCH = "LAUNCH"
TOMBSTONE = "TOMBSTONE"
SUCCESS = "SUCCESS"
CLEAN_OPEN = "CLEAN.open"
CLEAN = "CLEAN"
CLOSED = "CLOSED"
PRIVATE = ".custody"
PLAN_FILE = "plan.json"
MANIFEST_FILE = "manifest.json"
PROOFS_FILE = "proofs.json"


@dataclass(frozen=True)
class ManifestEntry:
    """One file of a manifest: its name in the item, where it came from, its digests and its state on disk."""

    name: str
    source: str
    fixity: Fixity
    state: FileState


def write_packed(directory: Path, item: str, count: int, size_bytes: int) -> None:
    """PACKED: ``item count bytes`` on one line."""
    write_atomic(directory / PACKED, f"{item} {count} {size_bytes}\n".encode())


def read_packed(directory: Path) -> tuple[str, int, int]:
    """Item, number of files and bytes of PACKED. Faults: DATA where it is not such a line."""
    path = directory / PACKED
    with os_errors_as_faults(str(path)):
        words = path.read_text("utf-8", "replace").split()
    if len(words) != 3 or not all(word.isascii() and word.isdigit() for word in words[1:]):
        raise Fault(FaultKind.DATA, str(path), "is not `item count bytes`")
    return words[0], int(words[1]), int(words[2])


def write_manifest(directory: Path, entries: Iterable[ManifestEntry]) -> None:
    """MANIFEST (``md5sum -c`` reads it), and before it ``.custody/manifest.json`` with everything known."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    content = [
        {
            "name": entry.name,
            "source": entry.source,
            "size_bytes": entry.state.size_bytes,
            "mtime_ns": entry.state.mtime_ns,
            "inode": entry.state.inode,
            **entry.fixity.digests,
        }
        for entry in ordered
    ]
    write_json(directory / PRIVATE / MANIFEST_FILE, content)
    write_atomic(directory / MANIFEST, manifest_text(ordered))


def earlier_manifests(directory: Path) -> list[bytes]:
    """What MANIFEST was before files were set aside: it may be what a target holds. Oldest first."""
    found = (directory / PRIVATE).glob(f"{MANIFEST}.[0-9]*")
    return [path.read_bytes() for path in sorted(found, key=lambda path: int(path.suffix[1:]))]


def manifest_text(entries: Iterable[ManifestEntry]) -> bytes:
    """The lines of MANIFEST: md5, two blanks, name; ``-`` where no md5 was made."""
    return "".join(f"{entry.fixity.digests.get('md5', '-')}  {entry.name}\n" for entry in entries).encode()


def write_json(path: Path, content: Any) -> None:
    """One of our own notes."""
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")


def append_task(directory: Path, url: str, facts: Mapping[str, object]) -> None:
    """TASK: one request, its URL and then indented what came of it."""
    lines = [url, *(f"  {name}: {value}" for name, value in facts.items())]
    append(directory / TASK, "\n".join(lines) + "\n")


def append(path: Path, text: str) -> None:
    """Add to a log so that it is on disk before we go on."""
    with os_errors_as_faults(str(path)), path.open("a", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def write_tombstones(directory: Path, urls: Mapping[str, str]) -> None:
    """NAME.tombstone for every proven file, then their sum TOMBSTONE, and SUCCESS last."""
    for name, url in urls.items():
        write_atomic(directory / f"{name}.tombstone", f"{url}\n".encode())
    write_atomic(directory / TOMBSTONE, "".join(f"{urls[name]}\n" for name in sorted(urls)).encode())
    task = directory / TASK
    write_atomic(directory / SUCCESS, task.read_bytes() if task.exists() else b"")


def is_draining(job_dir: Path) -> bool:
    """Whether the operator's switch is on."""
    return (job_dir / DRAINME).exists()


def is_finishing(job_dir: Path) -> bool:
    """Whether the operator has said that the crawl is over."""
    return (job_dir / FINISH_DRAIN).exists()
