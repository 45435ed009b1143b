"""Indexes of WARC files: against cdxj-indexer and pywb, raw FastWARC, and sort -m."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.measure import Contender, Goal, Result, compare, scratch

WORDS = (  # noqa: SIM905
    "archive byte capture copy crawl digest disk file harvest index letter museum page proof record reel tape"
).split()
OURS = Path(__file__).with_name("bitarchive_ours.py")


def _program(name: str) -> str | None:
    """A program beside $CUSTODY_PYWB (pywb's own environment), or on PATH."""
    pywb = os.environ.get("CUSTODY_PYWB")
    return shutil.which(name, path=str(Path(pywb).parent) if pywb else None) or shutil.which(name)


def _ours(*words: str) -> list[str]:
    return [sys.executable, str(OURS), *words]


def _samples(home: Path, count: int, records: int) -> list[str]:
    """WARC files of many small pages, as a crawl of the web has: a response and its request for each."""
    files = []
    for number in range(count):
        path = home / f"{number}-sample.warc.gz"
        dice = random.Random(number)
        with path.open("wb") as out:
            for page in range(records // 2):
                for record in _page(dice, number, page):
                    out.write(gzip.compress(record, 1, mtime=0))
        files.append(str(path))
    return files


def _page(dice: random.Random, number: int, page: int) -> Iterator[bytes]:
    url = f"http://www.host{dice.randrange(500)}.example/path/{number}/{page}?b={page % 7}&a={page % 3}"
    body = " ".join(dice.choices(WORDS, k=dice.randint(200, 800))).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    digest = base64.b32encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()
    yield _record("response", url, head.encode() + body, f"WARC-Payload-Digest: sha1:{digest}\r\n")
    yield _record("request", url, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", "")


def _record(kind: str, url: str, content: bytes, more: str) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{uuid.uuid4()}>\r\n"
        f"WARC-Date: 2026-01-01T10:00:00Z\r\nWARC-Target-URI: {url}\r\n{more}"
        f"Content-Type: application/http; msgtype={kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def bitarchive_index(*, rounds: int, scale: float) -> Result:
    """CDXJ of one gzipped WARC."""
    records = max(1000, int(40_000 * scale))
    with scratch(records * 3000) as home:
        files = _samples(home, 1, records)
        contenders = []
        if program := _program("cdxj-indexer"):
            contenders.append(Contender("cdxj-indexer", lambda: [program, "-s", *files]))
        if pywb := _program("cdx-indexer"):
            contenders.append(Contender("pywb cdx-indexer", lambda: [pywb, "-j", "-s", *files]))
            _require_equal([pywb, "-j", "-s", *files], _ours("index", "1", *files))
        contenders.append(Contender("ours", lambda: _ours("index", "1", *files)))
        goals = [Goal("ours", "cpu", at_most=1 / 3)] if len(contenders) > 1 else []
        job = f"a gzipped WARC of {records} records in {home.parent}"
        result = compare("bitarchive_index", job, contenders, rounds=rounds, goals=goals)
    result.notes.append("output equal to pywb's, byte for byte" if pywb else "pywb and cdxj-indexer are not installed")
    return result


def bitarchive_index_two(*, rounds: int, scale: float) -> Result:
    """CDXJ of four WARCs with one process and with two."""
    records = max(1000, int(80_000 * scale))  # enough that the start of a process is not what is measured
    with scratch(records * 12_000) as home:
        files = _samples(home, 4, records)
        _require_equal(_ours("index", "1", *files), _ours("index", "2", *files))
        contenders = [
            Contender("one process", lambda: _ours("index", "1", *files)),
            Contender("two processes", lambda: _ours("index", "2", *files)),
        ]
        goals = [Goal("two processes", "speed", at_least=1.8)]
        job = f"4 gzipped WARCs of {records} records each in {home.parent}"
        return compare("bitarchive_index_two", job, contenders, rounds=rounds, goals=goals)


def bitarchive_iterate(*, rounds: int, scale: float) -> Result:
    """Every record of a gzipped WARC."""
    records = max(1000, int(80_000 * scale))
    with scratch(records * 3000) as home:
        (name,) = _samples(home, 1, records)
        contenders = [
            Contender("FastWARC", lambda: _ours("fastwarc", name)),
            Contender("ours", lambda: _ours("iterate", name)),
        ]
        goals = [Goal("ours", "cpu", at_most=1 / 0.95)]
        job = f"a gzipped WARC of {records} records in {home.parent}"
        return compare("bitarchive_iterate", job, contenders, rounds=rounds, goals=goals)


def bitarchive_merge(*, rounds: int, scale: float) -> Result:
    """20 sorted parts, 2 M lines; and what a lookup in the result takes."""
    lines = max(20_000, int(2_000_000 * scale))
    with scratch(lines * 700) as home:
        parts = _parts(home, lines)
        env = ["env", "LC_ALL=C", "sort", "-m"]
        contenders = [
            Contender("sort -m", lambda: [*env, *parts]),
            Contender("ours", lambda: _ours("merge", *parts)),
        ]
        _require_equal([*env, *parts], _ours("merge", *parts))
        goals = [Goal("ours", "cpu", at_most=1.2)]
        job = f"20 sorted parts of {lines} lines together in {home.parent}"
        result = compare("bitarchive_merge", job, contenders, rounds=rounds, goals=goals)
        merged = home / "merged"
        with merged.open("wb") as out:
            subprocess.run(_ours("merge", *parts), stdout=out, check=True)
        spent = subprocess.check_output(_ours("lookup", str(merged), str(lines)), text=True).strip()
        result.notes.append(f"a warm lookup of a URL in the merged index takes {spent} microseconds (goal: below 100)")
    return result


def _parts(home: Path, lines: int) -> list[str]:
    filler = '"mime": "text/html", "status": "200", "digest": "AAAABBBBCCCCDDDDEEEEFFFFGGGGHHHH", "length": "12345"'
    parts: list[list[str]] = [[] for _ in range(20)]
    for number in range(lines):
        host, path = number % 1000, number
        parts[number % 20].append(
            f'example,host{host})/{path} 20260101000000 {{"url": "http://host{host}.example/{path}", {filler}, '
            f'"offset": "{number}", "filename": "{number % 20}-1-20260101000000-00000-crawler.example.org.warc.gz"}}\n'
        )
    names = []
    for number, part in enumerate(parts):
        path_of = home / f"part-{number:02}"
        path_of.write_text("".join(sorted(part)))
        names.append(str(path_of))
    return names


def _require_equal(theirs: Sequence[str], ours: Sequence[str]) -> None:
    if subprocess.check_output(theirs, stderr=subprocess.DEVNULL) != subprocess.check_output(ours):
        raise RuntimeError(f"{' '.join(theirs[:4])}: another output than ours")
