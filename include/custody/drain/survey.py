"""Survey: look at a crawl disk, which files may be packed, and why the others may not.

Nothing is touched here. A file is a candidate when its name is of the configured kind, it is a regular file, no program
has it open for writing, and it has rested long enough. That it is still the same is looked at again when it is packed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from custody.digests import FileState
from custody.drain import markers
from custody.drain.config import DrainConfig
from custody.drain.names import IN_PROGRESS, WarcName, ending_filter, is_portable, naming
from custody.drain.packing import Candidate
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.host import DiskUsage, LocalHost

IS_OPEN = "is in progress by its name"
OWN_NAMES = {markers.DRAINME, markers.FINISH_DRAIN, "PACKED.open", "quarantine"}

YOUNG = "was written to a moment ago"
BUSY = "a program has it open for writing"
FUTURE = "has a time in the future: the clock was set back? Where nothing writes to it any more, touch it"
_CLOCK_SLACK_S = 3600  # the clocks of two machines


@dataclass(frozen=True)
class Leftover:
    """Something in the job directory that is not packed, and why."""

    name: str
    reason: str
    size_bytes: int

    @property
    def only_waits(self) -> bool:
        """Whether a later look will find it a candidate, with nobody doing anything."""
        return self.reason in {YOUNG, BUSY}


@dataclass(frozen=True)
class Survey:
    """What lies in a job directory."""

    candidates: tuple[Candidate, ...] = ()
    leftovers: tuple[Leftover, ...] = ()

    @property
    def size_bytes(self) -> int:
        """All candidates together."""
        return sum(candidate.size_bytes for candidate in self.candidates)


@dataclass(frozen=True)
class DiskCheck:
    """Whether a disk can be drained now."""

    draining: bool
    finishing: bool
    usage: DiskUsage


def check_disk(config: DrainConfig) -> DiskCheck:
    """Look whether the directories are there and on one file system, and whether draining is switched on.

    Faults: CONFIG, naming the directory.
    """
    for key, directory in (("job_dir", config.job_dir), ("xfer_dir", config.xfer_dir)):
        if not directory.is_dir():
            reason = "is not a directory" if directory.exists() else "is not there: disk not mounted, or a wrong path"
            raise Fault(FaultKind.CONFIG, f"{key} {directory}", reason, next_command=f"ls -ld {directory}")
    if config.job_dir.stat().st_dev != config.xfer_dir.stat().st_dev:
        raise Fault(
            FaultKind.CONFIG,
            f"xfer_dir {config.xfer_dir}",
            f"is on another file system than job_dir {config.job_dir}: packing renames, it does not copy",
        )
    _refuse_beside_draintasker(config)
    return DiskCheck(
        draining=markers.is_draining(config.job_dir),
        finishing=markers.is_finishing(config.job_dir),
        usage=LocalHost().disk_usage(config.job_dir),
    )


def _refuse_beside_draintasker(config: DrainConfig) -> None:
    """Draintasker's pack lock holds a process number; while that process lives, the disk is its."""
    lock = config.job_dir / "PACKED.open"
    try:
        owner = lock.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return
    if owner.isdigit() and Path(f"/proc/{owner}").exists():
        reason = f"draintasker (process {owner}) is packing on this disk"
        raise Fault(FaultKind.NEEDS_HUMAN, str(lock), reason, next_command=f"end it: kill {owner}")


def survey(config: DrainConfig, *, now_s: float | None = None) -> Survey:
    """Look at every entry of the job directory once."""
    at = time.time() if now_s is None else now_s
    kind = naming(config.warc_naming)
    candidates: dict[Path, Candidate] = {}
    leftovers: list[Leftover] = []
    with os_errors_as_faults(str(config.job_dir)):
        entries = sorted(os.scandir(config.job_dir), key=lambda entry: entry.name)
        for entry in entries:
            if entry.name in OWN_NAMES:
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # renamed or deleted by the crawler while we looked
            warc = kind.parse(entry.name)
            if warc and config.suffix_re and not ending_filter(config.suffix_re).fullmatch(warc.suffix):
                warc = None
            reason = _why_not(entry.name, found, warc, at, config.stable_for_s)
            if reason == IS_OPEN and found.st_mtime < at - config.open_warn_s:
                reason = f"{IS_OPEN}, yet nothing was written to it for {_days(at - found.st_mtime)}: a dead crawler's?"
            if reason or warc is None:
                leftovers.append(Leftover(_printable(entry.name), reason or "", found.st_size))
            else:
                candidates[Path(entry.path)] = Candidate(warc, FileState.of(found))
    for path in open_for_writing(candidates):
        candidate = candidates.pop(path)
        leftovers.append(Leftover(path.name, BUSY, candidate.size_bytes))
    return Survey(tuple(candidates.values()), tuple(leftovers))


def _why_not(name: str, found: os.stat_result, warc: WarcName | None, now_s: float, stable_for_s: float) -> str | None:
    if name.endswith(IN_PROGRESS):
        return IS_OPEN
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if not is_portable(name):
        return "has a name that not every system carries unharmed: rename it"
    if warc is None:
        return "matches no name pattern of the configuration"
    if not found.st_size:
        return "is empty"
    if found.st_nlink > 1:
        return "has a second name (hard link)"
    if found.st_mtime > now_s + _CLOCK_SLACK_S:
        return FUTURE
    if found.st_mtime > now_s - stable_for_s:
        return YOUNG
    return None


def open_for_writing(paths: Iterable[Path]) -> set[Path]:
    """Which of these files some process of this machine has open for writing, as far as we may see."""
    wanted = {}
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            continue
        wanted[found.st_dev, found.st_ino] = path
    writers = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/[0-9]*") if wanted else ():
        try:
            found = descriptor.stat()
            held = wanted.get((found.st_dev, found.st_ino))
            if held and _opened_to_write(descriptor):
                writers.add(held)
        except OSError:
            continue  # ended meanwhile, or another user's
    return writers


def _opened_to_write(descriptor: Path) -> bool:
    info = (descriptor.parents[1] / "fdinfo" / descriptor.name).read_text()
    flags = next(line.split()[1] for line in info.splitlines() if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} hours"


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
