"""Files appear under their names whole or not at all, and nothing is ever overwritten."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from custody import publish
from custody.digests import FileState
from custody.faults import Fault, FaultKind
from custody.publish import PlannedRename, RenamePlan, rename_noclobber, write_atomic

OLD, NEW = b"old", b"new and longer"


def test_a_new_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", NEW)
    assert (tmp_path / "a.json").read_bytes() == NEW
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_mode_is_the_one_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "open", NEW)
        write_atomic(tmp_path / "closed", NEW, mode=0o600)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("open", "closed")] == [0o644, 0o600]


def test_who_reads_meanwhile_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, OLD)
    with path.open("rb") as reader:
        write_atomic(path, NEW)
        assert reader.read() == OLD
    assert path.read_bytes() == NEW


def test_what_a_killed_write_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".a.tmp").write_bytes(b"a part that is longer than what comes")
    write_atomic(tmp_path / "a", NEW)
    assert (tmp_path / "a").read_bytes() == NEW
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(OLD)
    (tmp_path / ".a.tmp").symlink_to("precious")
    with pytest.raises(Fault) as caught:
        write_atomic(tmp_path / "a", NEW)
    assert caught.value.kind is FaultKind.CONFIG
    assert (tmp_path / "precious").read_bytes() == OLD


@pytest.mark.parametrize(
    ("name", "kind"), [("missing/a", FaultKind.CONFIG), ("x" * 300, FaultKind.CONFIG), ("directory", FaultKind.CONFIG)]
)
def test_what_cannot_be_written_is_a_fault_about_the_file(tmp_path: Path, name: str, kind: FaultKind) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(Fault) as caught:
        write_atomic(tmp_path / name, NEW)
    assert caught.value.kind is kind
    assert str(tmp_path / name) in str(caught.value)
    assert os.listdir(tmp_path) == ["directory"]


def test_several_writers_of_one_file_never_show_a_part(tmp_path: Path) -> None:
    """Every task may run twice at once: each reader sees one of the two contents whole."""
    path = tmp_path / "manifest.json"
    contents = [letter * (1 << 20) for letter in (b"a", b"b")]
    write_atomic(path, contents[0])
    writers = []
    script = (
        "import sys; from pathlib import Path; from custody.publish import write_atomic\n"
        "for _ in range(40): write_atomic(Path(sys.argv[1]), sys.argv[2].encode() * (1 << 20))"
    )
    for letter in ("a", "b"):
        argv = [sys.executable, "-c", script, str(path), letter]
        env = {"PYTHONPATH": os.pathsep.join(sys.path)}
        writers.append(subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True))
    parts = set()
    while any(writer.poll() is None for writer in writers):
        seen = path.read_bytes()
        if seen not in contents:
            parts.add((len(seen), bytes(sorted(set(seen)))))
    said = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert parts == set()
    assert path.read_bytes() in contents


# -- renames --------------------------------------------------------------------------------------------------------


class _OldFileSystem:
    """A C library on a file system that cannot rename without clobbering."""

    def renameat2(self, *_arguments: object) -> int:
        import ctypes

        ctypes.set_errno(errno.EINVAL)
        return -1


@pytest.fixture(params=["renameat2", "link and unlink"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to rename."""
    if request.param != "renameat2":
        monkeypatch.setattr(publish, "_libc", _OldFileSystem())


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("name", ["a", "new\nline", os.fsdecode(b"\xff"), "-x"])
def test_a_rename_moves_the_same_file(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / name, tmp_path / "d" / name
    target.parent.mkdir()
    source.write_bytes(OLD)
    state = FileState.of_path(source)
    rename_noclobber(source, target)
    assert not source.exists()
    assert FileState.of_path(target) == state
    assert target.stat().st_nlink == 1


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("kind", ["file", "directory", "link", "broken link"])
def test_a_rename_never_clobbers(tmp_path: Path, kind: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(NEW)
    (tmp_path / "other").write_bytes(OLD)
    if kind == "file":
        target.write_bytes(OLD)
    elif kind == "directory":
        target.mkdir()
    else:
        target.symlink_to("other" if kind == "link" else "nothing")
    before = target.lstat()
    with pytest.raises(Fault, match="look at what is there") as caught:
        rename_noclobber(source, target)
    assert caught.value.kind is FaultKind.CONFLICT
    assert caught.value.subject == str(target)
    assert source.read_bytes() == NEW
    assert target.lstat() == before
    assert (tmp_path / "other").read_bytes() == OLD


@pytest.mark.usefixtures("either_way")
def test_a_missing_source_or_directory_is_a_config_fault(tmp_path: Path) -> None:
    with pytest.raises(Fault) as caught:
        rename_noclobber(tmp_path / "missing", tmp_path / "target")
    assert caught.value.kind is FaultKind.CONFIG
    (tmp_path / "a").write_bytes(OLD)
    with pytest.raises(Fault) as caught:
        rename_noclobber(tmp_path / "a", tmp_path / "missing" / "a")
    assert caught.value.kind is FaultKind.CONFIG
    assert (tmp_path / "a").read_bytes() == OLD


def test_of_many_renames_to_one_name_one_wins(tmp_path: Path) -> None:
    sources = [tmp_path / str(number) for number in range(8)]
    for source in sources:
        source.write_text(source.name)
    start = threading.Barrier(len(sources))
    faults = []

    def move(source: Path) -> None:
        start.wait()
        try:
            rename_noclobber(source, tmp_path / "target")
        except Fault as fault:
            faults.append(fault)

    threads = [threading.Thread(target=move, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [fault.kind for fault in faults] == [FaultKind.CONFLICT] * 7
    left = {source.name for source in sources if source.exists()}
    assert left | {(tmp_path / "target").read_text()} == {source.name for source in sources}


# -- plans ----------------------------------------------------------------------------------------------------------


def _plan(tmp_path: Path, *names: str) -> RenamePlan:
    source, target = tmp_path / "jobs", tmp_path / "item"
    source.mkdir(exist_ok=True)
    target.mkdir(exist_ok=True)
    renames = []
    for name in names:
        (source / name).write_text(f"content of {name}".encode("utf-8", "backslashreplace").decode())
        renames.append(PlannedRename(source / name, target / name, FileState.of_path(source / name)))
    return RenamePlan(tmp_path / "PLAN", renames, {"series": 7, "digests": {"md5": "aa"}})


def test_a_plan_read_back_is_the_plan(tmp_path: Path) -> None:
    plan = _plan(tmp_path, "a", "new\nline", os.fsdecode(b"\xff\xfe"))
    plan.record()
    read = RenamePlan.load(plan.path)
    assert read is not None
    assert (read.path, read.renames, read.facts) == (plan.path, plan.renames, plan.facts)
    assert RenamePlan.load(tmp_path / "no-plan") is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"{}", b'{"renames": [{}], "facts": {}}', b'{"renames": []}', b"\xff"]
)
def test_what_is_no_plan_is_a_data_fault(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "PLAN").write_bytes(content)
    with pytest.raises(Fault, match="PLAN: is no rename plan") as caught:
        RenamePlan.load(tmp_path / "PLAN")
    assert caught.value.kind is FaultKind.DATA


def test_a_plan_may_be_carried_out_again(tmp_path: Path) -> None:
    plan = _plan(tmp_path, "a", "b")
    plan.carry_out()
    before = {name: FileState.of_path(tmp_path / "item" / name) for name in ("a", "b")}
    plan.carry_out()
    assert {name: FileState.of_path(tmp_path / "item" / name) for name in ("a", "b")} == before
    assert os.listdir(tmp_path / "jobs") == []


@pytest.mark.usefixtures("either_way")
def test_a_plan_cut_between_link_and_unlink_is_finished(tmp_path: Path) -> None:
    plan = _plan(tmp_path, "a")
    os.link(tmp_path / "jobs" / "a", tmp_path / "item" / "a")
    plan.carry_out()
    assert os.listdir(tmp_path / "jobs") == []
    assert (tmp_path / "item" / "a").read_text() == "content of a"


def test_two_paths_to_one_directory_lose_nothing(tmp_path: Path) -> None:
    """A job directory and an item directory that are one by a symbolic link: the file is there, and stays."""
    plan = _plan(tmp_path, "a")
    (tmp_path / "alias").symlink_to("jobs")
    same = RenamePlan(
        plan.path, [PlannedRename(plan.renames[0].source, tmp_path / "alias" / "a", plan.renames[0].state)]
    )
    same.carry_out()
    assert (tmp_path / "jobs" / "a").read_text() == "content of a"


def test_a_file_that_is_in_the_way_is_left_and_the_others_move(tmp_path: Path) -> None:
    plan = _plan(tmp_path, "a", "b", "c")
    (tmp_path / "item" / "b").write_text("a stranger")
    with pytest.raises(Fault) as caught:
        plan.carry_out()
    assert caught.value.kind is FaultKind.CONFLICT
    assert caught.value.subject == str(tmp_path / "item" / "b")
    assert (tmp_path / "item" / "b").read_text() == "a stranger"
    assert os.listdir(tmp_path / "jobs") == ["b"], "what could be moved is moved, what could not is where it was"
    (tmp_path / "item" / "b").unlink()
    plan.carry_out()
    assert sorted(os.listdir(tmp_path / "item")) == ["a", "b", "c"]


@pytest.mark.parametrize("change", ["gone", "other content", "other file"])
def test_a_file_that_is_not_the_planned_one_does_not_move(tmp_path: Path, change: str) -> None:
    plan = _plan(tmp_path, "a")
    path = tmp_path / "jobs" / "a"
    if change == "other content":
        path.write_text("longer than it was before")
    else:
        path.unlink()
    if change == "other file":
        path.write_text("content of b")
        os.utime(path, ns=(1, plan.renames[0].state.mtime_ns + 1))
    with pytest.raises(Fault, match="is gone or changed since the plan") as caught:
        plan.carry_out()
    assert caught.value.kind is FaultKind.DATA
    assert caught.value.next_command
    assert os.listdir(tmp_path / "item") == []


def test_a_recorded_plan_is_json_for_people(tmp_path: Path) -> None:
    plan = _plan(tmp_path, "a")
    plan.record()
    content = json.loads(plan.path.read_text())
    assert content["facts"]["series"] == 7
    assert content["renames"][0]["target"] == str(tmp_path / "item" / "a")
