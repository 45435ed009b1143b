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
import yaml

from bitarchive_samples import sample
from bitarchive_site import FILES, Site
from custody.bitarchive import catalogue, mend, preserve
from custody.bitarchive.batch import accounts, finish, handout, plan, sandbox, work
from custody.bitarchive.batch.judge import clean
from custody.bitarchive.batch.plan import Request
from custody.bitarchive.batch.spec import resolve
from custody.bitarchive.matching import matching
from custody.bitarchive.names import MAX_NAME_BYTES
from custody.bitarchive.nodes import attic_name
from custody.bitarchive.sources import set_aside
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
    assert found.summary.endswith("; replica ONE has no files on record. Next: custody bitarchive adopt empty ONE")


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


@pytest.mark.parametrize("step", ["a file", "post_process"])
def test_a_job_that_is_ended_from_outside_says_nothing_of_the_files(site: Site, step: str) -> None:
    slow = "import time; time.sleep(60)"
    text = f"""
from custody.bitarchive.jobs import FileBatchJob
class Slow(FileBatchJob):
    def process_file(self, file, out):
        {slow if step == "a file" else "pass"}
    def post_process(self, source, out):
        {slow}
"""
    made = plan.create(site.archive, resolve(site.job(text)), Request(regexp="a.*"), key="slow", who="test")

    def end() -> None:
        while not sandbox._running or (step == "post_process" and not done):
            time.sleep(0.02)
        time.sleep(0.3)
        sandbox.end_all()

    done: list[int] = []
    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(Fault) as caught:
        work.run_bucket(site.archive, made.id, 0)
        done.append(1)
        finish.collect(site.archive, made.id, who="test")
    thread.join()
    assert caught.value.kind is FaultKind.CANCELLED
    (line,) = accounts.lines(site.archive, made.id)
    assert line.state is (FileState.EXPECTED if step == "a file" else FileState.DONE)
    assert not list(plan.directory_of(site.archive, made.id).glob("output*"))
    assert plan.load(site.archive, made.id).state is BatchState.RUNNING


@pytest.mark.parametrize("way", ["itself", "link", "mount", "not adopted"])
def test_a_replica_s_own_copy_is_never_uploaded_and_deleted(site: Site, tmp_path: Path, way: str) -> None:
    filedir = site.root / "one" / "filedir"
    other = tmp_path / "other"
    name = FILES[0]
    if way == "link":
        other.symlink_to(filedir)
    elif way == "mount":
        other.mkdir()
        done = subprocess.run(["mount", "--bind", str(filedir), str(other)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("only root may bind a directory")
    else:
        other = filedir
        name = name if way == "itself" else sample(filedir / "new.warc.gz").path.name
    try:
        with pytest.raises(Fault, match=r"is the own copy of replica ONE; nothing was sent, and nothing is deleted"):
            upload(site.archive, [other / name], who="test")
        assert (filedir / name).exists()
    finally:
        if way == "mount":
            subprocess.run(["umount", str(other)], check=True)


def test_a_copy_of_another_archive_is_not_taken_away_from_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other" / "filedir"
    path = sample(other / "their-1.warc.gz").path
    nodes = [{"name": "theirs", "directory": str(other.parent)}]
    config = {"replicas": [{"id": "A", "name": "a", "nodes": nodes}], "use_replica": "A", "work_dir": str(tmp_path)}
    (tmp_path / "config" / "bitarchive").mkdir(parents=True)
    (tmp_path / "config" / "bitarchive" / "theirs.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "config" / "bitarchive" / "broken.yml").write_text("replicas: 7")
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    with pytest.raises(Fault, match="is the own copy of replica A of archive theirs; nothing was sent"):
        upload(site.archive, [path], who="test")
    assert path.exists()


def test_a_copy_that_goes_with_the_local_name_is_no_copy(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.bitarchive.sources._own_directories", lambda _archive: [])  # as by a mount of NFS
    name = FILES[0]
    path = site.path(name)
    (done,) = upload(site.archive, [path], who="test")
    assert not done.deleted and "replica ONE lost it when it was renamed" in done.reason
    assert path.exists()
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []


def test_a_run_that_died_with_the_file_set_aside_is_taken_up(site: Site, tmp_path: Path) -> None:
    path = sample(tmp_path / "z-9.warc.gz").path
    content = path.read_bytes()
    aside = set_aside(path)
    assert not path.exists() and aside.read_bytes() == content
    (done,) = upload(site.archive, [path], who="test")
    assert done.deleted and not path.exists() and not aside.exists()
    aside.write_bytes(content)
    path.write_bytes(b"other")
    with pytest.raises(Fault, match="and so is"):
        upload(site.archive, [path], who="test")
    assert path.read_bytes() == b"other" and aside.read_bytes() == content


def test_what_is_asked_wrongly_is_said_before_anything_runs(site: Site, tmp_path: Path) -> None:
    two = "from custody.bitarchive.jobs import FileBatchJob\nclass A(FileBatchJob): ...\nclass B(FileBatchJob): ...\n"
    cases = (
        (two, None, "has several jobs: A, B. Next: -N B"),
        (two, "C", "has no class C; it has A, B"),
        ("class A(:", None, "is no Python"),
    )
    for text, name, said in cases:
        with pytest.raises(Fault) as caught:
            resolve(site.job(text), name)
        assert said in str(caught.value) and caught.value.kind is FaultKind.CONFIG
    assert resolve(site.job(two), "B").job.class_name == "B"
    (tmp_path / "out").touch()
    for target in (tmp_path / "none" / "out", tmp_path / "out"):
        with pytest.raises(Fault):
            handout.check_target(target)
    handout.check_target(tmp_path / "other")


def test_a_message_names_a_path_that_is_there(site: Site) -> None:
    name = "e-5.warc"
    path = site.root / "one" / "filedir" / name
    path.write_bytes(b"no WARC, whatever its name says")
    catalogue.adopt(site.archive, site.archive.config.replica("ONE"), who="test")
    found = site.run("Mimetypes", regexp="e.*")
    (line,) = accounts.lines(site.archive, found.batch.id)
    assert str(path) in line.message and "/archive/" + name not in line.message
