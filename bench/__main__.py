"""``bin/bench [NAME...]``: run the comparisons, print their tables, and write what is asked for."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.bitarchive import bitarchive_index, bitarchive_index_two, bitarchive_iterate, bitarchive_merge
from bench.hash_series import hash_series
from bench.measure import ROOT, Result
from bench.minidvodb import COMPARISONS as MINIDVODB
from bench.orchestration import orchestration
from bench.status import dag_parse, status_10000
from bench.tape import tape_archive, tape_archive_small, tape_confirm, tape_confirm_small
from bench.uploads import upload_big, upload_small
from bench.wiki import wiki_bz2, wiki_find, wiki_full, wiki_pack, wiki_stub
from rich import box
from rich.console import Console
from rich.table import Table

COMPARISONS: dict[str, Callable[..., Result]] = {
    "upload_big": upload_big,
    "upload_small": upload_small,
    "hash_series": hash_series,
    "status_10000": status_10000,
    "dag_parse": dag_parse,
    "orchestration": orchestration,
    **MINIDVODB,
    "bitarchive_index": bitarchive_index,
    "bitarchive_index_two": bitarchive_index_two,
    "bitarchive_iterate": bitarchive_iterate,
    "bitarchive_merge": bitarchive_merge,
    "tape_archive": tape_archive,
    "tape_archive_small": tape_archive_small,
    "tape_confirm": tape_confirm,
    "tape_confirm_small": tape_confirm_small,
    "wiki_full": wiki_full,
    "wiki_stub": wiki_stub,
    "wiki_pack": wiki_pack,
    "wiki_bz2": wiki_bz2,
    "wiki_find": wiki_find,
}
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
INTRODUCTION = """\
# Benchmarks

This page is written by `bin/bench --write` from `bench/results/*.json`; nothing in it is typed by hand.

Contenders take turns in one run, in random order. A ratio is the median of the rounds, with the smallest and largest
single round in brackets, against the first line of its table. *CPU* counts every process of the contender (not the
server it talks to); *speed* is by the clock and moves with whatever else the machine does: the load is given. Ratios
carry over to other machines better than seconds do; neither is a promise. A goal that is a ratio counts as met up to
15 % off; what was found stands beside it.

    bin/bench                       everything, as large as the goals are stated
    bin/bench upload_big --scale 0.1 --rounds 5
    bin/bench --write               and keep the results, and this page
"""


def main() -> int:
    """Run, print, write; 1 where a goal is missed and ``--strict`` was given."""
    parser = argparse.ArgumentParser(prog="bin/bench", description="Compare Custody with what it replaces.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(COMPARISONS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="0.1 makes every job ten times smaller")
    parser.add_argument("--write", action="store_true", help="keep the results in bench/results and docs/benchmarks.md")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in COMPARISONS]
    if unknown:
        parser.error(f"{unknown[0]}: no such comparison; there are: {', '.join(COMPARISONS)}")
    console = Console(width=120, highlight=False)
    missed = False
    for name in options.names or COMPARISONS:
        console.print(f"{name}: load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores ...")
        result = COMPARISONS[name](rounds=options.rounds, scale=options.scale)
        show(console, result)
        missed |= not all(met for _, _, met in result.goals)
        if options.write:
            console.print(f"written: {result.save().relative_to(ROOT)}\n")
    if options.write:
        PAGE.write_text(page(sorted(RESULTS.glob("*.json"))))
        console.print(f"written: {PAGE.relative_to(ROOT)}")
    return 1 if missed and options.strict else 0


def show(console: Console, result: Result) -> None:
    """Print one comparison."""
    table = Table(title=f"{result.name}: {result.job}, {result.rounds} rounds", box=box.SIMPLE_HEAD)
    for heading in ("", "seconds", "CPU-s", "peak MB", "speed x", "CPU x"):
        table.add_column(heading, justify="left" if not heading else "right")
    for line in result.lines:
        table.add_row(
            line.contender,
            f"{line.wall_s:.2f}",
            f"{line.cpu_s:.2f}",
            f"{line.peak_rss_mb:.0f}",
            str(line.speed),
            str(line.cpu),
        )
    console.print(table)
    for text, value, met in result.goals:
        console.print(f"  {'met   ' if met else 'MISSED'} {text} (found {value:g})", style="green" if met else "red")
    for note in result.notes:
        console.print(f"  {note}")
    console.print(f"  load {result.load_before} -> {result.load_after}\n")


def page(files: Sequence[Path]) -> str:
    """The page of all kept results."""
    parts = [INTRODUCTION]
    for path in files:
        result: dict[str, Any] = json.loads(path.read_text())
        parts.append(
            f"## {result['name']}\n\n{result['job']}; {result['rounds']} rounds, {result['at']}, {result['machine']}, "
            f"load {result['load_before']} to {result['load_after']}.\n"
        )
        rows = ["| | seconds | CPU-s | peak MB | speed x | CPU x |", "|---|---:|---:|---:|---:|---:|"]
        for line in result["lines"]:
            speed, cpu = (
                f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"
                for ratio in (line["speed"], line["cpu"])
            )
            cells = [line["contender"], f"{line['wall_s']:.2f}", f"{line['cpu_s']:.2f}", f"{line['peak_rss_mb']:.0f}"]
            rows.append(f"| {' | '.join([*cells, speed, cpu])} |")
        parts.append("\n".join(rows) + "\n")
        goals = [f"- {'met' if met else '**missed**'}: {text}, found {value:g}" for text, value, met in result["goals"]]
        notes = [f"- {note}" for note in result["notes"]]
        if goals or notes:
            parts.append("\n".join([*goals, *notes]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
