"""A small crawl disk with everything a drain needs around it: for the tests of its steps, here and under attack."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import sqlalchemy as sa
from botocore.config import Config

from custody.drain import markers
from custody.drain.config import DrainConfig, parse
from custody.drain.delete import delete_proven
from custody.drain.manifest import manifest
from custody.drain.pack import pack
from custody.drain.plan import Planned, plan_series
from custody.drain.prove import prove
from custody.drain.series import Series, SeriesState, load, take_up
from custody.drain.step import Step
from custody.drain.targets import Target
from custody.drain.targets.s3 import S3Target
from custody.drain.upload import create_item, upload
from custody.ledger import Ledger, tables
from custody_demo.sample_warc import write_warc
from empty_ledger import new_ledger

WHO = "tests"
STEPS: dict[str, Step] = {
    "pack": pack,
    "manifest": manifest,
    "create_item": create_item,
    "upload": upload,
    "prove": prove,
    "delete": delete_proven,
}
STARTED = datetime(2026, 3, 1, 11, 4, 9, tzinfo=UTC)
WARCINFO = {"software": "sample-crawler/1", "format": "WARC File Format 1.0"}


_making_a_client = threading.Lock()  # a session of boto3 is for one thread at a time; its clients are for all


@dataclass(frozen=True)
class Store:
    """Where an S3 server is, how to log in, and the folder in which its objects lie as files (if it has one)."""

    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str
    folder: Path | None = None

    def client(self, *, endpoint_url: str | None = None, secret_key: str | None = None) -> Any:
        """A boto3 client that does not repeat what failed."""
        options = Config(
            s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10
        )
        with _making_a_client:
            return self._session(secret_key).client(
                "s3", endpoint_url=endpoint_url or self.endpoint_url, config=options
            )

    def target(self, *, endpoint_url: str | None = None, secret_key: str | None = None) -> S3Target:
        """What the steps send to."""
        client = self.client(endpoint_url=endpoint_url, secret_key=secret_key)
        return S3Target(client, self._session(secret_key).get_credentials(), self.bucket)

    def _session(self, secret_key: str | None) -> boto3.session.Session:
        return _session(self.access_key, self.secret_key if secret_key is None else secret_key)

    def objects(self) -> dict[str, tuple[str, int]]:
        """md5 and size of every stored object by key: of the plain file where there is one, else read by S3."""
        if self.folder:
            return {str(path.relative_to(self.folder)): fixity(path) for path in files_below(self.folder)}
        client, found = self.client(), {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for entry in page.get("Contents", ()):
                body = client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read()
                found[entry["Key"]] = (hashlib.md5(body).hexdigest(), len(body))
        return found


@dataclass
class Site:
    """A job directory, a transfer directory, a ledger and (where needed) a store.

    ``originals`` keeps md5 and size of every file that was written, by its name.
    """

    root: Path
    url: str
    values: dict[str, Any]
    store: Store | None = None
    originals: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def job_dir(self) -> Path:
        return self.root / "job"

    @property
    def xfer_dir(self) -> Path:
        return self.root / "xfer"

    @property
    def config(self) -> DrainConfig:
        return parse(self.values, "the test")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.url)

    @property
    def target(self) -> S3Target:
        assert self.store is not None
        return self.store.target()

    def write(
        self,
        serial: int = 0,
        *,
        name: str | None = None,
        content: bytes | None = None,
        size_bytes: int = 3000,
        age_s: float = 600,
        host: str = "crawler07.example.org",
    ) -> Path:
        """Put a finished WARC (or any bytes) on the disk, as a crawler would have left it."""
        path = self.job_dir / (name or warc_name(serial, host=host))
        if content is None:
            dice = random.Random(path.name)
            write_warc(path, dice=dice, size_bytes=size_bytes, started=STARTED, warcinfo=WARCINFO, compress_level=1)
        else:
            path.write_bytes(content)
        then = time.time() - age_s
        os.utime(path, (then, then))
        self.originals[path.name] = fixity(path)
        return path

    def plan(self, *, dry_run: bool = False) -> Planned:
        return plan_series(self.ledger, "wide", self.config, who=WHO, dry_run=dry_run)

    def one_series(self) -> int:
        """Plan, and expect one series in all."""
        (number,) = self.plan().series_ids
        return number

    def do(self, number: int, *steps: str, target: Target | None = None) -> Series:
        """Do steps on a series; the target is the store's unless another one is given."""
        if target is None and self.store is not None:
            target = self.target
        series = self.load(number)
        for step in steps:
            series = STEPS[step](self.ledger, number, who=WHO, targets=() if target is None else (target,))
        return series

    def do_until(self, number: int, last: str, *, target: Target | None = None) -> Series:
        """Do every step up to and with ``last``; those that are done are found done."""
        names = list(STEPS)
        return self.do(number, *names[: names.index(last) + 1], target=target)

    def load(self, number: int) -> Series:
        return load(self.ledger, number)

    def take_up(self, number: int) -> None:
        """What the next run does before it works."""
        take_up(self.ledger, [number], self.config)

    def events(self, what: str | None = None) -> list[Any]:
        query = sa.select(tables.event).order_by(tables.event.c.id)
        if what:
            query = query.where(tables.event.c.what == what)
        with self.ledger.read() as connection:
            return list(connection.execute(query))

    def row_counts(self) -> dict[str, int]:
        """How many rows every table of the ledger has."""
        with self.ledger.read() as connection:
            return {
                table.name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
                for table in tables.metadata.sorted_tables
            }

    def copies(self) -> dict[str, str]:
        """The state of every copy on record, by place."""
        with self.ledger.read() as connection:
            return {row.place: row.state for row in connection.execute(sa.select(tables.copy))}

    def proofs(self) -> set[tuple[str, int]]:
        """md5 and size of everything that was ever proven."""
        with self.ledger.read() as connection:
            found = connection.scalars(sa.select(tables.proof.c.compared))
            return {(row["digests"].get("md5", ""), row["size_bytes"]) for row in found}

    def on_disk(self) -> list[tuple[str, int]]:
        """md5 and size of every file below both directories that is none of our own notes."""
        own = {markers.DRAINME, markers.FINISH_DRAIN}
        names = set(self.originals)
        found = []
        for directory in (self.job_dir, self.xfer_dir):
            for path in files_below(directory):
                is_note = path.parent.name == markers.PRIVATE or path.name.endswith((".tombstone", ".reason.json"))
                if is_note or path.name in own or not (path.name in names or ".warc" in path.name):
                    continue
                found.append(fixity(path))
        return found


class Lost(AssertionError):
    """A file is neither on the disk nor proven elsewhere."""


def check_nothing_lost(site: Site) -> None:
    """The invariant: every file is on the disk once, or stored with equal md5 and a proof of just that on record."""
    on_disk = site.on_disk()
    stored = set(site.store.objects().values()) if site.store else set()
    proofs = site.proofs()
    for name, known in site.originals.items():
        places = on_disk.count(known)
        if places == 1:
            continue
        if places > 1:
            raise Lost(f"{name} lies on the disk {places} times")
        if known not in proofs:
            raise Lost(f"{name} was let go without a proof of its md5 and size")
        if known not in stored:
            raise Lost(f"{name} was let go and is not stored")


def check_is_clean(site: Site, numbers: Sequence[int]) -> None:
    """The end of the straight path: all stored and proven, nothing left on the disk, the record says so."""
    check_nothing_lost(site)
    for number in numbers:
        series = site.load(number)
        assert series.state is SeriesState.CLEAN, (series.state, series.fault_text)
        assert series.fault is None
        lines = {
            line.split("  ", 1)[1]: line.split("  ", 1)[0]
            for line in (series.directory / markers.MANIFEST).read_text().splitlines()
        }
        assert lines == {member.name: member.fixity.digests["md5"] for member in series.files if member.fixity}
        assert (series.directory / markers.CLEAN).is_file()
        assert not (series.directory / markers.CLEAN_OPEN).exists()
        for member in series.files:
            assert not series.path(member).exists()
            assert site.copies()[site.target.place(series.item, member.name)] == "proven"


def warc_name(
    serial: int,
    *,
    prefix: str = "WIDE",
    stamp: str = "20260301110409387",
    pid: int = 14123,
    host: str = "crawler07.example.org",
    port: int = 8443,
    suffix: str = ".warc.gz",
) -> str:
    """A name as Heritrix 3 gives it."""
    return f"{prefix}-{stamp}-{serial:05d}-{pid}~{host}~{port}{suffix}"


def fixity(path: Path) -> tuple[str, int]:
    """md5 and size of a file."""
    content = path.read_bytes()
    return hashlib.md5(content).hexdigest(), len(content)


def files_below(directory: Path) -> list[Path]:
    """Every regular file below a directory."""
    return sorted(path for path in directory.rglob("*") if stat.S_ISREG(path.lstat().st_mode))


def tree(directory: Path) -> dict[str, tuple[object, ...]]:
    """All that can be told of a tree: kind, times, owner, content of everything in it."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [directory, *directory.rglob("*")]:
        state = path.lstat()
        content = fixity(path) if stat.S_ISREG(state.st_mode) else None
        found[str(path.relative_to(directory))] = (state.st_mode, state.st_mtime_ns, state.st_ino, content)
    return found


@functools.cache
def _session(access_key: str, secret_key: str) -> boto3.session.Session:
    """One for each login: what S3 is to boto3 takes it a fifth of a second to read."""
    return boto3.session.Session(access_key, secret_key, region_name="us-east-1")


def make_site(root: Path, store: Store | None = None, **values: Any) -> Site:
    """An empty site in ``root``; ``values`` change its configuration."""
    for name in ("job", "xfer"):
        (root / name).mkdir()
    (root / "job" / markers.DRAINME).touch()
    new_ledger(f"sqlite:///{root}/ledger.sqlite").close()
    settings = {
        "crawljob": "wide",
        "job_dir": str(root / "job"),
        "xfer_dir": str(root / "xfer"),
        "max_size": "1MB",
        "WARC_naming": 2,
        "target": "s3",
        "bucket": store.bucket if store else "archive",
        "stable_for_s": 0,
        "max_wait_s": 0,
    }
    return Site(root, f"sqlite:///{root}/ledger.sqlite", settings | values, store)
