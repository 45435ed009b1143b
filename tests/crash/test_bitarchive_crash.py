"""Upload, correction and index survive a kill at every system call: no bytes are lost, no part is taken for whole."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from bitarchive_samples import sample
from bitarchive_site import Site, make_site, site_at
from crash.harness import DeletedWithoutProof, enumerate_crash_points
from custody.bitarchive import mend, preserve, upload
from custody.bitarchive.index.build import Indexes
from custody.bitarchive.index.names import Kind
from custody.bitarchive.states import ChecksumStatus
from custody.ledger import Ledger

pytestmark = pytest.mark.crash

POINTS = 14  # of a step, spread over the whole of it
NAME = "5-new.warc.gz"


@dataclass(frozen=True)
class Prepared:
    """An archive, and a file that is on its way into it, or in it and spoilt."""

    root: Path
    url: str
    source: Path
    sha256: str
    wrong_md5: str = ""

    @property
    def site(self) -> Site:
        """The archive; opened anew, as a process that comes after would."""
        return site_at(self.root, Ledger.open(self.url))

    @property
    def copies(self) -> list[Path]:
        """Where the file lies with its own bytes, the source among them."""
        places = [self.source, *self.root.glob(f"*/filedir/{NAME}")]
        return [path for path in places if path.exists() and sha256_of(path) == self.sha256]


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def site_in(directory: Path, empty: Path) -> Prepared:
    database = directory / "ledger.sqlite"
    shutil.copyfile(empty, database)
    url = f"sqlite:///{database}"
    make_site(directory / "archive", Ledger.open(url))
    source = sample(directory / "incoming" / NAME).path
    return Prepared(directory / "archive", url, source, sha256_of(source))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty ledger, made once."""
    path = tmp_path / "empty.sqlite"
    ledger = Ledger.upgrade(f"sqlite:///{path}")
    with ledger.read() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    return path


def test_every_crash_point_of_an_upload(empty: Path) -> None:
    def run(prepared: Prepared) -> None:
        (done,) = upload.upload(prepared.site.archive, [prepared.source], who="test")
        assert done.deleted, done.reason

    def invariant(prepared: Prepared) -> None:
        if not prepared.source.exists() and len(prepared.copies) < 2:
            raise DeletedWithoutProof(f"{NAME}: only {len(prepared.copies)} copies are left")

    def the_rest(prepared: Prepared) -> None:
        invariant(prepared)
        run(prepared)
        assert not prepared.source.exists()
        assert len(prepared.copies) == 2

    report = enumerate_crash_points(
        partial(site_in, empty=empty),
        run,
        the_rest,
        check_after_kill=invariant,
        at_most=POINTS,
        name="bitarchive upload",
    )
    assert report.losses == ()
    assert report.unproven_deletions == 0
    assert report.killed > 0


def test_every_crash_point_of_a_correction(empty: Path) -> None:
    def prepare(directory: Path) -> Prepared:
        made = site_in(directory, empty)
        upload.upload(made.site.archive, [made.source], who="test")
        for replica in made.site.archive.config.replicas:
            preserve.find_changed(made.site.archive, replica, who="test", names=[NAME])
        spoilt = made.root / "far" / "filedir" / NAME
        spoilt.write_bytes(b"x" * spoilt.stat().st_size)
        return replace(made, wrong_md5=hashlib.md5(spoilt.read_bytes()).hexdigest())

    def run(prepared: Prepared) -> None:
        replica = prepared.site.archive.config.replica("TWO")
        missing = preserve.find_missing(prepared.site.archive, replica, who="test").missing
        if NAME in missing:  # a death after the attic: it is mended as missing
            assert mend.upload_missing(prepared.site.archive, replica, [NAME], who="test") == {NAME: ""}
        found = preserve.find_changed(prepared.site.archive, replica, who="test")
        if found.statuses[NAME] is ChecksumStatus.CORRUPT:
            mend.correct(prepared.site.archive, replica, NAME, prepared.wrong_md5, approved_by="Ada", who="test")

    def invariant(prepared: Prepared) -> None:
        spoilt = [*prepared.root.glob(f"far/*dir/{NAME}*")]
        wrong = [path for path in spoilt if hashlib.md5(path.read_bytes()).hexdigest() == prepared.wrong_md5]
        if not wrong or not prepared.copies:
            raise DeletedWithoutProof(f"{NAME}: {len(wrong)} changed and {len(prepared.copies)} good files are left")

    def the_rest(prepared: Prepared) -> None:
        invariant(prepared)
        run(prepared)
        assert len(prepared.copies) == 2
        invariant(prepared)

    report = enumerate_crash_points(
        prepare, run, the_rest, check_after_kill=invariant, at_most=POINTS, name="bitarchive correct"
    )
    assert report.losses == ()
    assert report.unproven_deletions == 0
    assert report.killed > 0


def test_every_crash_point_of_an_index(empty: Path) -> None:
    expected: list[str] = []

    def run(prepared: Prepared) -> None:
        Indexes(prepared.site.archive).get(Kind.FULL, [1, 2])

    def invariant(prepared: Prepared) -> None:
        """What is a hit is whole."""
        cache = Indexes(prepared.site.archive).cache
        for item in cache.items():
            assert sha256_of(item.path) == item.sha256

    def the_rest(prepared: Prepared) -> None:
        invariant(prepared)
        run(prepared)
        item = Indexes(prepared.site.archive).cache.look_up(Kind.FULL, [1, 2])
        assert item is not None
        expected.append(item.sha256)
        assert set(expected) == {item.sha256}

    report = enumerate_crash_points(
        partial(site_in, empty=empty),
        run,
        the_rest,
        check_after_kill=invariant,
        at_most=POINTS,
        name="bitarchive index",
    )
    assert report.losses == ()
    assert report.killed > 0
