"""Publishing survives a kill at every system call, and a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.harness import DeletedWithoutProof, enumerate_crash_points
from custody import publish
from custody.digests import FileState
from custody.faults import Fault, FaultKind
from custody.publish import PlannedRename, RenamePlan, rename_noclobber, write_atomic
from services.need import need

pytestmark = pytest.mark.crash

WRITE_ATOMIC = 5  # ftruncate, write, fsync, rename, fsync of the directory: exact, so that no flush is forgotten
OLD, NEW = b"old\n" * 1000, b"new and longer\n" * 100_000


def _write_old(directory: Path) -> Path:
    path = directory / "manifest.json"
    write_atomic(path, OLD)
    return path


def _write_new(path: Path) -> None:
    write_atomic(path, NEW)


def _is_old_or_new(path: Path) -> None:
    assert path.read_bytes() in {OLD, NEW}


def _is_new_and_alone(path: Path) -> None:
    assert path.read_bytes() == NEW
    assert os.listdir(path.parent) == [path.name]


def test_a_file_is_old_or_new_at_every_crash_point() -> None:
    report = enumerate_crash_points(
        _write_old, _write_new, _is_new_and_alone, check_after_kill=_is_old_or_new, name="write_atomic"
    )
    assert report.losses == ()
    assert report.killed == report.points == report.total == WRITE_ATOMIC


@dataclass(frozen=True)
class Files:
    """Some files to be moved: content by name, from where to where, and where the plan lies."""

    source: Path
    target: Path
    plan: Path
    contents: dict[str, bytes]


CONTENTS = {
    "a.warc.gz": b"a" * 70_000,
    "a.warc.gz.md5": b"",
    "blank and\nnewline.warc.gz": b"b" * 5000,
    os.fsdecode(b"not-utf8-\xff\xfe.warc.gz"): b"c" * 5000,
}


def _make_files(directory: Path) -> Files:
    files = Files(directory / "jobs", directory / "xfer" / "item", directory / "PLAN", CONTENTS)
    files.source.mkdir()
    files.target.mkdir(parents=True)
    for name, content in files.contents.items():
        (files.source / name).write_bytes(content)
    return files


def _move_files(files: Files) -> None:
    """What a room does: take up the plan that lies there, or make one; carry it out; remove it."""
    plan = RenamePlan.load(files.plan)
    if plan is None:
        names = sorted(set(files.contents) & set(os.listdir(files.source)))
        plan = RenamePlan(
            files.plan,
            [
                PlannedRename(files.source / name, files.target / name, FileState.of_path(files.source / name))
                for name in names
            ],
        )
        plan.record()
    plan.carry_out()
    files.plan.unlink()


def _no_file_is_lost(files: Files) -> None:
    for name, content in files.contents.items():
        ends = [end / name for end in (files.source, files.target) if (end / name).exists()]
        if not ends:
            raise DeletedWithoutProof(name)
        assert [end.read_bytes() for end in ends] == [content] * len(ends)
        assert len({end.stat().st_ino for end in ends}) == 1, f"{name} is there twice"


def _all_are_at_their_targets(files: Files) -> None:
    assert os.listdir(files.source) == []
    assert {path.name: path.read_bytes() for path in files.target.iterdir()} == files.contents
    assert all(path.stat().st_nlink == 1 for path in files.target.iterdir())
    assert not files.plan.exists()


def test_every_file_of_a_plan_is_there_once_at_every_crash_point() -> None:
    report = enumerate_crash_points(
        _make_files, _move_files, _all_are_at_their_targets, check_after_kill=_no_file_is_lost, name="rename plan"
    )
    assert report.losses == ()
    assert (
        report.killed == report.points == report.total == WRITE_ATOMIC + len(CONTENTS) + 2 + 1
    )  # two directories, the plan's end


class _OldFileSystem:
    """A C library on a file system that cannot rename without clobbering (NFS, some FUSE)."""

    def renameat2(self, *_arguments: object) -> int:
        import ctypes

        ctypes.set_errno(errno.EINVAL)
        return -1


def test_a_plan_survives_by_link_and_unlink_where_the_file_system_cannot_do_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publish, "_libc", _OldFileSystem())
    report = enumerate_crash_points(
        _make_files,
        _move_files,
        _all_are_at_their_targets,
        check_after_kill=_no_file_is_lost,
        name="rename plan by links",
    )
    assert report.losses == ()
    assert report.killed == report.points == report.total == WRITE_ATOMIC + 2 * len(CONTENTS) + 2 + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        [need("mount"), "-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "custody-test", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a small file system here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run([need("umount"), str(disk)], check=True)


def test_a_full_disk_keeps_the_old_content(small_disk: Path) -> None:
    path = small_disk / "manifest.json"
    write_atomic(path, OLD)
    with pytest.raises(Fault, match=r"manifest\.json: No space left on device\. Next: free space") as caught:
        write_atomic(path, b"x" * 2_000_000)
    assert caught.value.kind is FaultKind.CAPACITY
    assert path.read_bytes() == OLD
    assert os.listdir(small_disk) == ["manifest.json"], "the part that fitted must not fill the disk"
    write_atomic(path, NEW[:100_000])
    assert path.read_bytes() == NEW[:100_000]


def test_a_disk_without_inodes_keeps_the_old_content(small_disk: Path) -> None:
    path = small_disk / "manifest.json"
    write_atomic(path, OLD)
    count = 0
    with pytest.raises(OSError, match="No space left") as full:
        while True:
            (small_disk / f"small-{count}").touch()
            count += 1
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(Fault) as caught:
        write_atomic(path, NEW[:10])
    assert caught.value.kind is FaultKind.CAPACITY
    assert path.read_bytes() == OLD


def test_nothing_moves_between_file_systems(small_disk: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.warc.gz"
    source.write_bytes(b"a")
    with pytest.raises(Fault, match="put both directories on one file system") as caught:
        rename_noclobber(source, small_disk / "a.warc.gz")
    assert caught.value.kind is FaultKind.CONFIG
    assert source.read_bytes() == b"a"
    assert os.listdir(small_disk) == []
