"""The files that are to be uploaded, and where they must not lie: a copy is never its own proof.

The local file is let go when every replica has it. Were it the replica's own copy, by a link, a mount or another name,
it would be gone everywhere. So its directory is compared with those of all nodes, and it is set aside under another
name before the replicas are asked for the last time: a replica that lost it with that has no copy of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from custody.bitarchive.archive import Archive
from custody.bitarchive.config import ArchiveConfig, Replica, config_names, load
from custody.bitarchive.names import check_name
from custody.bitarchive.nodes import ATTICDIR, FILEDIR, TEMPDIR, ArchiveNode, identity_of
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import fsync_directory, rename_noclobber


def check_sources(archive: Archive, paths: Sequence[Path]) -> None:
    """Look at all files before anything is sent. Faults: CONFIG for the first that cannot be."""
    seen: dict[str, Path] = {}
    own = dict(_own_directories(archive))
    for path in paths:
        check_name(path.name)
        if path.is_symlink() or not path.is_file():
            raise Fault(FaultKind.CONFIG, str(path), "is no file", next_command="check the path")
        if path.name in seen:
            raise Fault(FaultKind.CONFIG, str(path), f"has the same name as {seen[path.name]}")
        seen[path.name] = path
        for above in path.resolve().parents:
            if replica := own.get(identity_of(above)):
                reason = f"is the own copy of replica {replica}; nothing was sent, and nothing is deleted"
                command = f"custody bitarchive adopt {archive.name} {replica}"
                if " " in replica:  # another archive's: it may be uploaded from a copy
                    command = f"cp {path} to another directory, and upload that"
                raise Fault(FaultKind.CONFIG, str(path), reason, next_command=command)


def _own_directories(archive: Archive) -> Iterator[tuple[str, str]]:
    """What tells the directories of all nodes that answer from every other, and whose they are."""
    for name in config_names():
        try:
            config = load(name)
        except Fault:
            continue  # that archive is not this one's business
        yield from _local_directories(config, f"of archive {name}")
    yield from _local_directories(archive.config, "")
    for replica in archive.config.replicas:
        for node in archive.nodes(replica):
            try:
                yield node.identity(), replica.id
            except Fault:
                continue  # it does not answer; what has to be proven there will not be


def _local_directories(config: ArchiveConfig, whose: str) -> Iterator[tuple[str, str]]:
    for replica in config.replicas:
        for node in replica.nodes:
            for part in () if node.is_remote else (FILEDIR, TEMPDIR, ATTICDIR):
                with suppress(OSError):  # a disk that is not there
                    yield identity_of(node.directory / part), f"{replica.id} {whose}".strip()


def check_nodes(archive: Archive) -> None:
    """Look whether two nodes are one directory, by a link, a mount or another name: two replicas would be one copy.

    A node that does not answer is no matter here: nothing is let go while one is away. Faults: CONFIG.
    """
    seen: dict[str, str] = {}
    for replica in archive.config.replicas:
        for node in archive.nodes(replica):
            try:
                identity = node.identity()
            except Fault:
                continue
            own = f"{replica.id}/{node.name}"
            if (other := seen.setdefault(identity, own)) != own:
                reason = f"is the same directory as that of {other}, by another path: they would be one copy"
                command = "give it a disk of its own"
                raise Fault(FaultKind.CONFIG, f"filedir of node {own}", reason, next_command=command)


def roomiest(archive: Archive, replica: Replica, size_bytes: int) -> ArchiveNode:
    """The node with the most room, for a file of so many bytes. Faults: CAPACITY where none has enough."""
    least = archive.config.min_space_left + size_bytes
    rooms = [(node.free_bytes(), node) for node in archive.nodes(replica)]
    free, node = max(rooms, key=lambda room: room[0])
    if free < least:
        raise Fault(FaultKind.CAPACITY, f"replica {replica.id}", "no node has room", next_command="add a disk")
    return node


def aside_of(path: Path) -> Path:
    """What a file is called while the replicas are asked for the last time."""
    return path.with_name(f".custody-leaving-{hashlib.sha256(path.name.encode()).hexdigest()[:24]}")


def set_aside(path: Path) -> Path:
    """Give a file its other name. Faults: CONFLICT where something has that; OS errors keep their kind."""
    aside = aside_of(path)
    rename_noclobber(path, aside)
    with os_errors_as_faults(str(path)):
        fsync_directory(path.absolute().parent)
    return aside


def take_back(path: Path) -> None:
    """Give a file its own name back, if a run that ended set it aside. Faults: CONFLICT where both are there."""
    aside = aside_of(path)
    if aside.is_file() and not aside.is_symlink():
        if path.exists() or path.is_symlink():
            reason = f"is there, and so is {aside}, which an upload of this name set aside"
            raise Fault(FaultKind.CONFLICT, str(path), reason, next_command=f"cmp {path} {aside}")
        rename_noclobber(aside, path)
        with os_errors_as_faults(str(path)):
            fsync_directory(path.absolute().parent)
