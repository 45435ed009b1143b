"""What the comparisons of bitarchive run of ours: ``index N FILE...``, ``iterate FILE``, ``merge FILE...``, lookups."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path


def index(processes: int, files: list[str]) -> None:
    """Index files as the caches do, one after the other or several at a time, and write the merged lines."""
    from custody.bitarchive.index.merge import merge as merge_parts
    from custody.bitarchive.index.workers import Workers, side_by_side

    with tempfile.TemporaryDirectory(dir=Path(files[0]).parent) as directory, Workers(processes) as workers:

        def write(name: str) -> Path:
            path = Path(name)
            with workers.turn() as write_part:
                return write_part(path, path.name, Path(directory) / path.name).path

        parts = [part for part in side_by_side(write, files, processes) if isinstance(part, Path)]
        merge_parts(parts, sys.stdout.buffer)


def iterate(name: str) -> None:
    """Count records through our iterator."""
    from custody.bitarchive.records.warc import iterate_warc

    print(sum(1 for _ in iterate_warc(Path(name))))


def iterate_fastwarc(name: str) -> None:
    """Count records with FastWARC itself."""
    from fastwarc.warc import ArchiveIterator

    with open(name, "rb") as stream:
        print(sum(1 for _ in ArchiveIterator(stream, parse_http=False)))


def merge(files: list[str]) -> None:
    """Merge sorted files to standard output."""
    from custody.bitarchive.index.merge import merge as merge_parts

    merge_parts([Path(name) for name in files], sys.stdout.buffer)


def lookup(name: str, count: int) -> None:
    """Print the microseconds of one warm lookup."""
    from custody.bitarchive.index.lookup import Lookup

    with Lookup(Path(name)) as found:
        urls = [f"http://host{number % 1000}.example/{number}" for number in range(0, count, max(1, count // 5000))]
        for url in urls:
            found.find(url)
        start = time.perf_counter()
        hits = sum(bool(found.find(url)) for url in urls)
        spent = time.perf_counter() - start
    if hits != len(urls):
        raise SystemExit(f"{hits} of {len(urls)} found")
    print(f"{spent / len(urls) * 1e6:.1f}")


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    if verb == "index":
        index(int(words[0]), words[1:])
    elif verb == "lookup":
        lookup(words[0], int(words[1]))
    elif verb == "merge":
        merge(words)
    else:
        {"iterate": iterate, "fastwarc": iterate_fastwarc}[verb](words[0])
