"""Hostile cases: what strangers write, disks that are full or gone, directories that are one by another path."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitarchive_samples import sample
from bitarchive_site import FILES, Site
from custody.bitarchive import catalogue, mend, preserve
from custody.bitarchive.batch import accounts, handout, plan, work
from custody.bitarchive.batch.judge import clean
from custody.bitarchive.batch.plan import Request
from custody.bitarchive.batch.spec import resolve
from custody.bitarchive.matching import matching
from custody.bitarchive.names import MAX_NAME_BYTES
from custody.bitarchive.nodes import attic_name
from custody.bitarchive.states import BatchState, FileState
from custody.bitarchive.upload import upload
from custody.faults import Fault, FaultKind

ENDLESS = "(a+)+b"


def test_a_pattern_that_never_ends_is_ended_and_said() -> None:
    name = "a" * 40 + ".warc"
    start = time.monotonic()
    with pytest.raises(Fault, match="takes more than 1 s for 1 names") as caught:
        matching(ENDLESS, [name], timeout_s=1)
    assert caught.value.kind is FaultKind.CONFIG
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("regexp", "expected"),
    [
        (".*", ["a-1.warc", "b.arc.gz"]),
        (r"a-1\.warc", ["a-1.warc"]),
        ("a.*", ["a-1.warc"]),
        (r"[ab]\W.*", ["a-1.warc", "b.arc.gz"]),
        ("(?i)A-1.*|none", ["a-1.warc"]),
        ("a", []),
        ("", []),
    ],
)
def test_patterns_mean_whole_names_wherever_they_are_tried(regexp: str, expected: list[str]) -> None:
    assert matching(regexp, ["a-1.warc", "b.arc.gz"]) == expected


def test_an_archive_without_files_is_said_to_have_none(site: Site) -> None:
    for path in site.root.glob("*/filedir/*"):
        path.unlink()
    site.archive.name = "empty"
    found = site.run("FileListJob")
    assert (found.state, found.output) == (BatchState.NONE, None)
    assert found.summary == "Processed 0 files with 0 failures; 0 of 0 files of the replica match"


STRANGE = """
import os
from custody.bitarchive.jobs import FileBatchJob
from custody.bitarchive.jobs.contract import Problem

class Strange(FileBatchJob):
    def process_file(self, file, out):
        for number in range(500):
            file.problems.append(Problem(10**30, number, "zero \\0 " + "x" * 100_000))
        file.records_done = 10**40
        raise ValueError("zero \\0, no text " + os.fsdecode(b"\\xff"))
"""


def test_what_a_job_says_of_itself_fits_into_any_ledger(site: Site) -> None:
    found = site.run(site.job(STRANGE), regexp="a.*")
    (line,) = accounts.lines(site.archive, found.batch.id)
    assert (line.state, line.records) == (FileState.FAILED, -1)
    assert line.message == "zero \\0, no text \\udcff"
    assert len(str(line.detail)) < 6_000_000
    assert {damage["offset_bytes"] for damage in line.detail["damages"]} == {-1}
    assert "\0" not in accounts.describe_errors(site.archive, found.batch.id)
    assert clean("\udcff\0x", 2) == "\\udcff\\0"


def test_a_node_that_goes_half_way_makes_its_files_unreachable_and_not_failed(site: Site) -> None:
    site.reconfigure(workers=1)
    gone = site.root / "one" / "filedir"
    job = site.job("#!/bin/sh\nsleep 1\n", "slow.sh")
    made = plan.create(site.archive, resolve(job), Request(regexp="[ac].*"), key="gone", who="test")

    def take_away() -> None:
        while not list((plan.directory_of(site.archive, made.id) / "parts").glob("*.tmp")):
            time.sleep(0.05)
        gone.rename(site.root / "unmounted")

    thread = threading.Thread(target=take_away)
    thread.start()
    counts = work.run_bucket(site.archive, made.id, 0)
    thread.join()
    assert counts == {FileState.UNREACHABLE: 2}
    (site.root / "unmounted").rename(gone)
    assert site.go_on(made.id).state is BatchState.COMPLETE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    path = tmp_path / "small"
    path.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_work_dir_stops_the_batch_and_blames_no_file(site: Site, small_disk: Path) -> None:
    job = site.job("#!/bin/sh\nhead -c 3000000 /dev/zero\n", "much.sh")
    site.reconfigure(work_dir=str(small_disk), workers=1)
    made = plan.create(site.archive, resolve(job), Request(), key="full", who="test")
    with pytest.raises(Fault) as caught:
        work.run_bucket(site.archive, made.id, 0)
    assert caught.value.kind is FaultKind.CAPACITY and "free space" in str(caught.value)
    assert accounts.account(site.archive, made.id).counts == {FileState.EXPECTED: 4}
    assert not list((small_disk / "batches" / str(made.id) / "parts").iterdir())


def test_two_batches_to_one_output_leave_the_first_one(site: Site, tmp_path: Path) -> None:
    first, second = site.run("FileListJob", key="1"), site.run("ChecksumJob", key="2")
    target = tmp_path / "out"
    assert handout.publish_output(first, target) == target
    assert handout.publish_output(first, target) == target
    with pytest.raises(Fault) as caught:
        handout.publish_output(second, target)
    assert caught.value.kind is FaultKind.CONFLICT
    assert target.read_text().split() == list(FILES)
    assert second.output and second.output.exists()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for other in (tmp_path / "link", tmp_path):
        with pytest.raises(Fault):
            handout.publish_output(first, other)
    handout.publish_text("errors\n", tmp_path / "err")
    with pytest.raises(Fault):
        handout.publish_text("other\n", tmp_path / "err")
    assert not list(tmp_path.glob(".custody-*"))


def test_what_a_killed_run_left_of_a_bucket_goes_whatever_the_clock_says(site: Site) -> None:
    made = plan.create(site.archive, resolve("FileListJob"), Request(), key="left", who="test")
    parts = plan.directory_of(site.archive, made.id) / "parts"
    parts.mkdir()
    buckets = {
        line.name: bucket.number
        for bucket in plan.buckets_to_run(site.archive, made.id)
        for line in accounts.lines(site.archive, made.id)
        if line.node == bucket.node
    }
    ours, theirs = parts / "000000000.7.tmp", parts / "000000001.7.tmp"
    for path in (ours, theirs):
        path.write_bytes(b"left")
    work.run_bucket(site.archive, made.id, buckets[FILES[0]])
    assert not ours.exists() and theirs.exists()


@pytest.mark.parametrize("how", ["link", "link above", "file by file"])
def test_two_replicas_in_one_directory_are_no_two_copies(site: Site, tmp_path: Path, how: str) -> None:
    far = site.root / "far"
    shutil.rmtree(far)
    if how == "link above":
        far.symlink_to(site.root / "one")
    else:
        far.mkdir()
        (far / "filedir").symlink_to(site.root / "one" / "filedir") if how == "link" else (far / "filedir").mkdir()
    new = sample(tmp_path / "z-9.warc.gz").path
    if how == "file by file":
        (far / "filedir" / new.name).symlink_to(site.root / "one" / "filedir" / new.name)
        (done,) = upload(site.archive, [new], who="test")
        assert not done.deleted and "TWO" in done.reason
    else:
        with pytest.raises(Fault, match=r"filedir of node TWO/far: is the same directory as that of ONE/one"):
            upload(site.archive, [new], who="test")
    assert new.exists()


def test_a_file_with_the_longest_name_is_taken_out_and_replaced(site: Site, tmp_path: Path) -> None:
    name = "n" * (MAX_NAME_BYTES - 8) + ".warc.gz"
    assert len(attic_name(name)) == MAX_NAME_BYTES
    path = sample(tmp_path / name).path
    content = path.read_bytes()
    (done,) = upload(site.archive, [path], who="test")
    assert done.deleted, done.reason
    (there,) = (site.root / "far" / "filedir").glob("n*")
    there.write_bytes(b"changed")
    replica = site.archive.config.replica("TWO")
    for one in site.archive.config.replicas:
        preserve.find_changed(site.archive, one, who="test", names=[name])
    wrong = preserve.find_changed(site.archive, replica, who="test", names=[name]).wrong[name]
    aside = mend.correct(site.archive, replica, name, wrong, approved_by="ada", who="test")
    assert there.read_bytes() == content
    assert (site.root / "far" / "atticdir" / aside).read_bytes() == b"changed"
    catalogue.adopt(site.archive, replica, who="test")
