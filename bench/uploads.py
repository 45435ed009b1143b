"""Uploading one series: draintasker's way (openssl md5, then one curl for each file) against ours, to one server."""

from __future__ import annotations

import hashlib
import shutil
import sys
import uuid
from pathlib import Path

from bench.measure import Contender, Goal, Result, compare, scratch, write_random
from bench.server import Server, serve

BUCKET = "archive"
HERE = Path(__file__).parent


def upload_big(*, rounds: int, scale: float) -> Result:
    """8 files of 256 MB."""
    size_bytes = int(256_000_000 * scale)
    goals = [
        Goal("ours, 2 connections", "cpu", at_most=1.0),
        Goal("ours, 2 connections", "speed", at_least=1.6),
        Goal("ours, 2 connections", "rss_mb", at_most=80),
    ]
    return _uploads("upload_big", 8, size_bytes, rounds, goals)


def upload_small(*, rounds: int, scale: float) -> Result:
    """2000 files of 256 kB."""
    goals = [Goal("ours, 2 connections", "speed", at_least=4.0)]
    return _uploads("upload_small", max(20, int(2000 * scale)), 256_000, rounds, goals)


def _uploads(name: str, count: int, size_bytes: int, rounds: int, goals: list[Goal]) -> Result:
    with scratch(2 * count * size_bytes) as home:
        source = home / "series"
        source.mkdir()
        lines = []
        for number in range(count):
            path = source / f"WIDE-{number:05d}.warc.gz"
            write_random(path, size_bytes)
            with path.open("rb") as stream:
                lines.append(f"{hashlib.file_digest(stream, 'md5').hexdigest()}  {path.name}\n")
        (source / "MANIFEST").write_text("".join(lines))
        (home / "store" / BUCKET).mkdir(parents=True)
        with serve(home / "store") as server:
            contenders = [_theirs(server, source), _ours(server, source, 1), _ours(server, source, 2)]
            job = f"{count} files of {size_bytes / 1e6:g} MB to one rclone server in {home.parent}"
            return compare(name, job, contenders, rounds=rounds, goals=goals)


def _theirs(server: Server, source: Path) -> Contender:
    def prepare() -> list[str]:
        item = f"theirs-{uuid.uuid4().hex[:8]}"
        files = [str(path) for path in sorted(source.glob("*.warc.gz"))]
        return ["bash", str(HERE / "draintasker_upload.sh"), f"{server.endpoint_url}/{BUCKET}/{item}", *files]

    return Contender("openssl md5, then curl each", prepare, lambda: _tidy(server, source))


def _ours(server: Server, source: Path, connections: int) -> Contender:
    def prepare() -> list[str]:
        arguments = [server.endpoint_url, BUCKET, f"ours-{uuid.uuid4().hex[:8]}", str(connections), str(source)]
        return [sys.executable, str(HERE / "our_upload.py"), *arguments]

    return Contender(f"ours, {connections} connection{'s' * (connections > 1)}", prepare, lambda: _tidy(server, source))


def _tidy(server: Server, source: Path) -> None:
    """Check that all arrived, and make room."""
    names = {path.name for path in source.glob("*.warc.gz")}
    for item in (server.folder / BUCKET).iterdir():
        missing = names - {path.name for path in item.iterdir()}
        shutil.rmtree(item)
        if missing:
            raise RuntimeError(f"{len(missing)} files did not arrive in {item.name}")
