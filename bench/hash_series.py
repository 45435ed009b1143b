"""Hashing one series: md5sum against our one read that makes all digests."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from bench.measure import Contender, Goal, Result, compare, scratch, write_random

HERE = Path(__file__).parent


def hash_series(*, rounds: int, scale: float) -> Result:
    """8 files of 128 MB in memory."""
    size_bytes = max(1_000_000, int(128_000_000 * scale))
    md5sum = shutil.which("md5sum") or "md5sum"
    with scratch(8 * size_bytes) as home:
        for number in range(8):
            write_random(home / f"WIDE-{number:05d}.warc.gz", size_bytes)
        files = [str(path) for path in sorted(home.iterdir())]
        _check(md5sum, home, files)

        def ours(algorithms: str, threads: int) -> Contender:
            argv = [sys.executable, str(HERE / "our_hash.py"), algorithms, str(threads), str(home)]
            named = algorithms.replace(",", " and ")
            return Contender(f"ours, {named}, {threads} thread{'s' * (threads > 1)}", lambda: argv)

        contenders = [
            Contender("md5sum", lambda: [md5sum, *files]),
            ours("md5", 1),
            ours("md5", 2),
            ours("md5,sha256", 1),
            ours("md5,sha256", 2),
        ]
        goals = [
            Goal("ours, md5, 1 thread", "cpu", at_most=1.0),
            Goal("ours, md5, 2 threads", "speed", at_least=1.6),
        ]
        job = f"8 files of {size_bytes / 1e6:g} MB in {home.parent}"
        result = compare("hash_series", job, contenders, rounds=rounds, goals=goals)
    result.notes.append("ours counts the start of Python and of the package, once for the series")
    return result


def _check(md5sum: str, home: Path, files: list[str]) -> None:
    """Both say the same."""
    theirs = [line.split()[0] for line in subprocess.check_output([md5sum, *files], text=True).splitlines()]
    if theirs != [hashlib.md5(Path(name).read_bytes()).hexdigest() for name in files]:
        raise RuntimeError("md5sum and hashlib disagree")
