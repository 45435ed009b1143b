"""Tape: one pass with every digest against two passes, for large files and small ones; and reading back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.measure import Contender, Goal, Result, compare, scratch, write_random

HERE = Path(__file__).parent
LARGE_BYTES, LARGE_FILES = 256_000_000, 8
SMALL_BYTES, SMALL_FILES = 20_000, 20_000
BUFFER_MB = 268
SLOWEST_STREAM_MB_S = 177
"""Below it an LTO-7 or LTO-8 drive stops and starts."""

# A target is larger than the memory: what one pass has read is not there for the next. So the files are put out of the
# cache before every run and between passes, and the time that takes is not counted.
_FUNCTIONS = """set -o pipefail
now() { echo "${EPOCHREALTIME/./}"; }
pass() { local began=$(now); "$@" >/dev/null; took=$((${took:-0} + $(now) - began)); }
evict() { "$2" "$3" evict "$1"; }
list_sizes() { find "$1" -type f -print0 | xargs -0 du; }
sum_all() { find "$1" -type f -print0 | xargs -0 md5sum; }
write_all() { tar -c -b 2048 -f - -C / -- "${1#/}" | dd bs=1M of=/dev/null status=none; }
"""
_TELL = """
printf '%d.%06d\\n' $((took / 1000000)) $((took % 1000000))"""
TWO_PASSES = _FUNCTIONS + 'pass sum_all "$1"; evict "$@"; pass write_all "$1"' + _TELL
TAPEOP = _FUNCTIONS + 'pass list_sizes "$1"; pass sum_all "$1"; evict "$@"; pass write_all "$1"' + _TELL
CONFIRM = """dd if="$1" bs=1M status=none | tar -f - -x --to-command='md5sum' >/dev/null"""
OURS = str(HERE / "tape_ours.py")


@contextmanager
def _on_disk(needed_bytes: int) -> Iterator[Path]:
    """A directory on a disk, where there is one with room."""
    parent = Path("/var/tmp")
    if shutil.disk_usage(parent).free < 2 * needed_bytes:
        raise RuntimeError(f"{parent} has no room for {needed_bytes} bytes")
    path = Path(tempfile.mkdtemp(prefix="custody-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _evict(directory: Path) -> None:
    subprocess.run([sys.executable, OURS, "evict", str(directory)], check=True)


def _cold(argv: Sequence[str], directory: Path) -> Callable[[], Sequence[str]]:
    def prepare() -> Sequence[str]:
        _evict(directory)
        return argv

    return prepare


def _passes(name: str, script: str, home: Path) -> Contender:
    argv = ["bash", "-c", script, "bench", str(home), sys.executable, OURS]
    return Contender(name, _cold(argv, home), tells_seconds=True)


def _ours(name: str, verb: str, home: Path) -> Contender:
    return Contender(name, _cold([sys.executable, OURS, verb, str(home)], home))


def _fill_large(home: Path, scale: float) -> int:
    size_bytes = max(1_000_000, int(LARGE_BYTES * scale))
    for number in range(LARGE_FILES):
        write_random(home / f"plate-{number:05d}.fits", size_bytes)
    return size_bytes * LARGE_FILES


def _fill_small(home: Path, count: int) -> None:
    for number in range(count):
        directory = home / f"{number // 500:05d}"
        if not number % 500:
            directory.mkdir()
        (directory / f"{number:08d}.dat").write_bytes(os.urandom(SMALL_BYTES))


def _note_rate(result: Result, contender: str, size_bytes: int) -> None:
    line = next(line for line in result.lines if line.contender == contender)
    rate = size_bytes / line.wall_s / 1e6
    verdict = "keeps a tape streaming" if rate >= SLOWEST_STREAM_MB_S else "**WARNING**: does not keep a tape streaming"
    result.notes.append(f"{contender}: {rate:.0f} MB/s, start included; {verdict} ({SLOWEST_STREAM_MB_S} MB/s)")


def tape_archive(*, rounds: int, scale: float) -> Result:
    """8 files of 256 MB from a local disk to a drive that forgets."""
    with _on_disk(int(LARGE_BYTES * scale) * LARGE_FILES) as home:
        size_bytes = _fill_large(home, scale)
        ours = "ours, md5 and sha256, one pass"
        contenders = [
            _passes("md5sum, then tar | dd", TWO_PASSES, home),
            _ours("Python tarfile, md5", "tarfile", home),
            _ours(ours, "archive", home),
        ]
        goals = [Goal(ours, "speed", at_least=1.5), Goal(ours, "rss_mb", at_most=BUFFER_MB + 100)]
        job = f"{LARGE_FILES} files of {size_bytes / LARGE_FILES / 1e6:g} MB on a disk, cold, to a null drive"
        result = compare("tape_archive", job, contenders, rounds=rounds, goals=goals)
    tarfile, mine = result.lines[1], result.lines[2]
    against = tarfile.wall_s / mine.wall_s
    result.goals.append((f"{ours}: >= 1.7x speed of tarfile", round(against, 3), against >= 1.7 * 0.85))
    _note_rate(result, ours, size_bytes)
    return result


def tape_archive_small(*, rounds: int, scale: float) -> Result:
    """20,000 files of 20 kB."""
    count = max(500, int(SMALL_FILES * scale))
    with _on_disk(count * SMALL_BYTES * 2) as home:
        _fill_small(home, count)
        ours = "ours, md5 and sha256, one pass"
        contenders = [
            _passes("find, du, md5sum, then tar | dd", TAPEOP, home),
            _ours("Python tarfile, md5", "tarfile", home),
            _ours(ours, "archive", home),
        ]
        goals = [Goal(ours, "speed", at_least=2.0), Goal(ours, "rss_mb", at_most=BUFFER_MB + 100)]
        job = f"{count} files of {SMALL_BYTES / 1e3:g} kB on a disk, cold, to a null drive"
        result = compare("tape_archive_small", job, contenders, rounds=rounds, goals=goals)
    _note_rate(result, ours, count * SMALL_BYTES)
    return result


def _confirm(name: str, job: str, home: Path, *, rounds: int, at_least: float) -> Result:
    tape_file = home / "tape file"
    subprocess.run(["tar", "-c", "-b", "2048", "-f", str(tape_file), "-C", str(home), "source"], check=True)
    ours = "ours, md5 and sha256"
    contenders = [
        Contender("dd | tar --to-command=md5sum", lambda: ["bash", "-c", CONFIRM, "bench", str(tape_file)]),
        Contender(ours, lambda: [sys.executable, OURS, "confirm", str(tape_file)]),
    ]
    result = compare(name, job, contenders, rounds=rounds, goals=[Goal(ours, "speed", at_least=at_least)])
    _note_rate(result, ours, tape_file.stat().st_size)
    return result


def tape_confirm(*, rounds: int, scale: float) -> Result:
    """8 files of 256 MB, read back from a tape file on a local disk."""
    with scratch(2 * int(LARGE_BYTES * scale) * LARGE_FILES) as home:
        (home / "source").mkdir()
        size_bytes = _fill_large(home / "source", scale)
        job = f"a tape file of {LARGE_FILES} files of {size_bytes / LARGE_FILES / 1e6:g} MB in {home.parent}"
        return _confirm("tape_confirm", job, home, rounds=rounds, at_least=1.0)


def tape_confirm_small(*, rounds: int, scale: float) -> Result:
    """20,000 files of 20 kB, read back."""
    count = max(500, int(SMALL_FILES * scale))
    with scratch(count * SMALL_BYTES * 4) as home:
        (home / "source").mkdir()
        _fill_small(home / "source", count)
        job = f"a tape file of {count} files of {SMALL_BYTES / 1e3:g} kB in {home.parent}"
        return _confirm("tape_confirm_small", job, home, rounds=rounds, at_least=40.0)
