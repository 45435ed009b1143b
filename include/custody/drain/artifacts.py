"""The small change of a crawl: how many WARCs there are, and whether a copied job tree is whole.

draintasker's utilities under their old names, with the one thing they lacked: counts and sizes are for the eye, digests
decide. A copy is whole only where every byte of both sides was hashed and nothing is missing, different or strange.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from custody.digests import Fixity, Match, read_file
from custody.drain.names import SUFFIXES
from custody.drain.targets import rsync
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.host import SshHost

COPY_TIMEOUT_S = 7 * 86400.0
STALL_S = 600.0
_BY_SHA256 = ("sha256",)


@dataclass(frozen=True)
class Sum:
    """How many files, and how many bytes they have."""

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.files + other.files, self.size_bytes + other.size_bytes)


@dataclass(frozen=True)
class Place:
    """A directory here, or on another machine."""

    directory: PurePath
    host: SshHost | None = None

    def __str__(self) -> str:
        return f"{self.host.name}:{self.directory}" if self.host else str(self.directory)


@dataclass(frozen=True)
class Comparison:
    """A tree and its copy, told apart by digests. Paths are relative."""

    equal: int
    missing: tuple[str, ...]
    different: tuple[str, ...]
    strangers: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the copy holds every file of the source with equal digests, and nothing else."""
        return not (self.missing or self.different or self.strangers)


def addup(directory: Path) -> dict[str, Sum]:
    """Count the WARC and ARC files below a directory, by suffix. Faults: CONFIG where there is no such directory."""
    found: dict[str, Sum] = {}
    longest_first = sorted(SUFFIXES, key=len, reverse=True)
    for path in files_below(directory):
        suffix = next((ending for ending in longest_first if path.name.endswith(ending)), None)
        if suffix:
            found[suffix] = found.get(suffix, Sum()) + Sum(1, path.lstat().st_size)
    return dict(sorted(found.items()))


def check_crawldata(directory: Path) -> dict[str, Sum]:
    """Files and bytes directly in each directory of a tree, by its path relative to ``directory``; empty ones too."""
    found: dict[str, Sum] = {}
    for folder, _, names in _walk(directory):
        states = [(folder / name).lstat() for name in names]
        sizes = [state.st_size for state in states if stat.S_ISREG(state.st_mode)]
        found[str(folder.relative_to(directory))] = Sum(len(sizes), sum(sizes))
    return dict(sorted(found.items()))


def check_staged(source: Path, staged: Place) -> Comparison:
    """Hash (sha256) every regular file of a tree and of its copy, and compare.

    Faults: DATA for a file that cannot be read or changes meanwhile, CONFIG for a missing directory.
    """
    theirs = _digests_there(staged.host, staged.directory) if staged.host else _digests(Path(staged.directory))
    ours = _digests(source)
    shared = sorted(ours.keys() & theirs.keys())
    different = tuple(name for name in shared if ours[name].compare(theirs[name]) is not Match.EQUAL)
    return Comparison(
        equal=len(shared) - len(different),
        missing=tuple(sorted(ours.keys() - theirs.keys())),
        different=different,
        strangers=tuple(sorted(theirs.keys() - ours.keys())),
    )


def copy_crawldata(source: Path, staging: Place) -> Comparison:
    """Copy a job tree to a staging directory, here or over ssh, and prove the copy by digests of both sides.

    Structure, times, rights and symbolic links are kept. Nothing that is there is written over; an interrupted copy is
    gone on with. Files at the copy that the source does not have are left alone and named in the answer.

    Faults: CONFLICT where other bytes lie under a name, DATA where a file did not arrive, CAPACITY, AUTH, CONFIG.
    """
    _demand_directory(source)
    if staging.host is None:
        inside = Path(staging.directory).resolve().is_relative_to(source.resolve())
        if inside:
            raise Fault(FaultKind.CONFIG, str(staging), f"lies inside of {source}, which is to be copied")
    with os_errors_as_faults(str(staging)):
        _make_directory(staging)
    options = rsync.arguments(stall_s=STALL_S)
    options.remove("--ignore-times")
    options += ["--recursive", "--links", "--perms", "--ignore-existing"]
    target = f"{staging.directory}/"
    if staging.host:
        options += ["--rsh", rsync.remote_shell(staging.host.ssh_command())]
        target = rsync.remote_path(staging.host.name, target)
    argv = ["rsync", *options, "--", f"{source}/", target]
    done = rsync.run(argv, timeout_s=COPY_TIMEOUT_S, progress=None, end_remote=lambda group: None)
    rsync.demand_success(done, str(staging), staging.host.name if staging.host else "localhost")
    found = check_staged(source, staging)
    if found.different:
        few = ", ".join(found.different[:3])
        reason = f"{len(found.different)} files are there with other bytes: {few}"
        raise Fault(FaultKind.CONFLICT, str(staging), reason, next_command="compare them, and move one away")
    if found.missing:
        reason = f"{len(found.missing)} files did not arrive: {', '.join(found.missing[:3])}"
        raise Fault(
            FaultKind.DATA, str(staging), reason, next_command=f"custody drain copy-crawldata {source} {staging}"
        )
    return found


def _demand_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise Fault(FaultKind.CONFIG, str(directory), "is no directory", next_command="check the path")


def _walk(directory: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk that stops at the first error instead of passing over it, in a fixed order."""

    def refuse(error: OSError) -> None:
        raise error

    _demand_directory(directory)
    with os_errors_as_faults():
        for folder, folders, names in os.walk(directory, onerror=refuse):
            folders.sort()
            yield Path(folder), folders, sorted(names)


def files_below(directory: Path) -> Iterator[Path]:
    """Every regular file below a directory. Faults: CONFIG where there is none."""
    for folder, _, names in _walk(directory):
        for name in names:
            if stat.S_ISREG((folder / name).lstat().st_mode):
                yield folder / name


def _digests(directory: Path) -> dict[str, Fixity]:
    return {str(path.relative_to(directory)): read_file(path, _BY_SHA256).fixity for path in files_below(directory)}


_LIST = """
cd -- "$1" || exit 66
find . -type f -printf '@%s/%P\\0' && find . -type f -print0 | xargs -0 -r sha256sum -z --
"""


def _digests_there(host: SshHost, directory: PurePath) -> dict[str, Fixity]:
    argv = ["env", "LC_ALL=C", "sh", "-c", _LIST, "custody", str(directory)]
    done = host.run(argv, timeout_s=COPY_TIMEOUT_S)
    subject = f"{host.name}:{directory}"
    if done.returncode:
        raise rsync.classify(done.returncode, done.stderr, subject, host.name)
    sizes: dict[str, int] = {}
    digests: dict[str, str] = {}
    for record in os.fsdecode(done.stdout).split("\0")[:-1]:
        if record.startswith("@"):
            size, _, name = record[1:].partition("/")
            sizes[name] = int(size)
        else:
            digest, _, name = record.partition("  ")
            digests[name.removeprefix("./")] = digest
    if sizes.keys() != digests.keys():
        raise Fault(FaultKind.TRANSIENT, subject, "changed while it was being read", next_command="run again later")
    return {name: Fixity(size, {"sha256": digests[name]}) for name, size in sizes.items()}


def _make_directory(place: Place) -> None:
    if place.host is None:
        Path(place.directory).mkdir(parents=True, exist_ok=True)
        return
    done = place.host.run(["env", "LC_ALL=C", "mkdir", "-p", "--", str(PurePosixPath(place.directory))], timeout_s=60)
    if done.returncode:
        raise rsync.classify(done.returncode, done.stderr, str(place), place.host.name)
