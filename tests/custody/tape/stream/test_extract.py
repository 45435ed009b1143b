"""Restore: everything comes back as it was, and nothing gets out of the directory or over what is there."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from custody.faults import Fault, FaultKind
from custody.host import LocalHost
from custody.tape.stream.drift import compare
from custody.tape.stream.extract import Extracted, extract
from custody.tape.stream.scan import Scan
from custody.tape.stream.tree import Tree

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def into(tmp_path: Path) -> Path:
    directory = tmp_path / "into"
    directory.mkdir()
    return directory


def run(drive: Any, into: Path, **options: Any) -> Extracted:
    wanted = options.pop("wanted", lambda name: True)
    return extract(drive, wanted, into, limit_bytes=None, block_bytes=1 << 16, **options)


def make(*members: tuple[str, bytes, Any]) -> bytes:
    """An archive of members with name, type, and content or link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
            info.uid, info.gid = os.geteuid(), os.getegid()
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                archive.addfile(info)
    return out.getvalue()


FILE, LINK, HARD, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@NEEDS_ROOT
def test_everything_comes_back(tree: Path, tar: Any, memory_drive: Any, into: Path) -> None:
    content = tar(tree, "--format=gnu", "--sparse")
    result = run(memory_drive.holding(content), into)
    assert result.problems == []
    below = os.fsencode(into / str(tree).lstrip("/"))
    drop = len(os.fsencode(into))
    found = list(Scan(LocalHost(), below))
    moved = [
        dataclasses.replace(member, name=b"/".join([b"", member.name])[drop + 1 :], link=_moved(member, drop))
        for member in found
    ]
    drift = compare(list(Scan(LocalHost(), os.fsencode(tree))), moved)
    assert list(drift.lines()) == []
    sparse = Path(os.fsdecode(below)) / "sparse"
    assert sparse.stat().st_blocks * 512 < sparse.stat().st_size
    difference = subprocess.run(
        ["tar", "-d", "-f", "-", "-C", str(into)], input=content, capture_output=True, check=False
    )
    assert (difference.returncode, difference.stdout) == (0, b"")
    assert [name for _, _, names in os.walk(os.fsencode(into)) for name in names if name.startswith(b".custody")] == []


def _moved(member: Any, drop: int) -> bytes:
    return (b"/" + member.link)[drop + 1 :] if member.kind == "hardlink" else member.link


def test_only_what_is_wanted_comes(memory_drive: Any, into: Path) -> None:
    content = make(("a", DIR, ""), ("a/b", DIR, ""), ("a/b/c", FILE, b"c"), ("a/d", FILE, b"d"))
    result = run(memory_drive.holding(content), into, wanted=lambda name: name == b"a/b/c")
    assert result.restored == 1
    assert [str(path.relative_to(into)) for path in sorted(into.rglob("*"))] == ["a", "a/b", "a/b/c"]


@pytest.mark.parametrize(
    "members",
    [
        [("../out", FILE, b"x")],
        [("a/../../out", FILE, b"x")],
        [("away", LINK, ".."), ("away/out", FILE, b"x")],
        [("away", LINK, "OUTSIDE"), ("away/out", FILE, b"x")],
        [("away", LINK, "OUTSIDE/out"), ("away", FILE, b"x")],
        [("d/away", LINK, "OUTSIDE"), ("d/away/deep/out", DIR, "")],
        [("../out", DIR, "")],
        [("link", HARD, "../secret")],
        [("link", HARD, "OUTSIDE/secret")],
        [("away", LINK, "OUTSIDE"), ("link", HARD, "away/secret")],
        [("..", FILE, b"x")],
        [(".", FILE, b"x")],
    ],
    ids=str,
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_gets_out(
    tmp_path: Path, memory_drive: Any, into: Path, members: list[tuple[str, bytes, Any]], overwrite: bool
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (tmp_path / "secret").write_bytes(b"secret")
    placed = [
        (name, kind, link.replace("OUTSIDE", str(outside)) if isinstance(link, str) else link)
        for name, kind, link in members
    ]
    result = run(memory_drive.holding(make(*placed, ("good", FILE, b"good"))), into, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == ["into", "outside", "secret"]
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").stat().st_nlink == 1
    assert (tmp_path / "secret").stat().st_nlink == 1
    assert (into / "good").read_bytes() == b"good"
    if not (overwrite and members[-1][0] == "away"):
        assert result.problems


def test_absolute_names_come_below_the_directory(memory_drive: Any, into: Path) -> None:
    run(memory_drive.holding(make(("/etc/x", FILE, b"x"))), into)
    assert (into / "etc" / "x").read_bytes() == b"x"


def test_planted_links_are_not_followed(tmp_path: Path, memory_drive: Any, into: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (into / "file").symlink_to(victim)
    (into / "d").symlink_to(tmp_path)
    content = make(("file", FILE, b"new"), ("d/victim", FILE, b"new"))
    result = run(memory_drive.holding(content), into)
    assert {fault.kind for fault in result.problems} == {FaultKind.CONFLICT}
    result = run(memory_drive.holding(content), into, overwrite=True)
    assert victim.read_bytes() == b"precious"
    assert (into / "file").read_bytes() == b"new"
    assert not (into / "file").is_symlink()
    opened = Tree(into)
    temporary = os.fsdecode(opened.place((b"other",)).temporary)
    opened.close()
    os.link(victim, into / temporary)
    assert run(memory_drive.holding(make(("other", FILE, b"new"))), into).problems == []
    (into / "other").unlink()
    (into / temporary).symlink_to(victim)
    assert run(memory_drive.holding(make(("other", FILE, b"new"))), into).problems == []
    (into / "other").unlink()
    os.mkfifo(into / temporary)
    assert run(memory_drive.holding(make(("other", FILE, b"new"))), into).problems == []
    assert victim.read_bytes() == b"precious"


def test_what_is_there_is_not_overwritten_unless_asked(memory_drive: Any, into: Path) -> None:
    content = make(("file", FILE, b"from tape"), ("link", LINK, "a"), ("next", FILE, b"next"))
    (into / "file").write_bytes(b"mine")
    (into / "link").symlink_to("mine")
    result = run(memory_drive.holding(content), into)
    assert [fault.kind for fault in result.problems] == [FaultKind.CONFLICT] * 2
    assert str(into / "file") in str(result.problems[0])
    assert (into / "file").read_bytes() == b"mine"
    assert (into / "next").read_bytes() == b"next"
    result = run(memory_drive.holding(content), into, overwrite=True)
    assert result.problems == []
    assert (into / "file").read_bytes() == b"from tape"
    assert (into / "link").readlink() == Path("a")


def test_a_second_run_finds_everything_there(tree: Path, tar: Any, memory_drive: Any, into: Path) -> None:
    content = tar(tree, "--format=gnu", "--sparse")
    first = run(memory_drive.holding(content), into)
    second = run(memory_drive.holding(content), into)
    assert second.problems == []
    assert second.already_there + second.restored == first.restored
    assert second.size_bytes == 0
    third = run(memory_drive.holding(content), into, overwrite=True)
    assert third.problems == []


def test_a_file_with_other_bytes_than_the_catalogue_has_is_not_restored(memory_drive: Any, into: Path) -> None:
    content = make(("good", FILE, b"good"), ("bad", FILE, b"bad" * 100_000), ("last", FILE, b"last"))
    expected = {b"good": {"md5": "755f85c2723bb39381c7379a604160d8"}, b"bad": {"md5": "0" * 32}}
    result = run(memory_drive.holding(content), into, expected=expected.get)
    assert [fault.kind for fault in result.problems] == [FaultKind.DATA]
    assert "bad" in str(result.problems[0])
    assert sorted(os.listdir(into)) == ["good", "last"]
    assert (result.restored, result.unverified) == (2, 1)


def test_a_hard_link_needs_its_first_name(memory_drive: Any, into: Path) -> None:
    content = make(("a", FILE, b"a"), ("b", HARD, "a"), ("d/c", HARD, "a"))
    result = run(memory_drive.holding(content), into, wanted=lambda name: name != b"a")
    assert ["ask for both" in str(fault) for fault in result.problems] == [True, True]
    assert run(memory_drive.holding(content), into).problems == []
    assert (into / "a").stat().st_ino == (into / "b").stat().st_ino == (into / "d" / "c").stat().st_ino


@NEEDS_ROOT
def test_what_no_system_takes_is_a_problem_of_its_own(memory_drive: Any, into: Path) -> None:
    content = bytearray(make(("owner", FILE, b""), ("good", FILE, b"x")))
    content[108:116] = b"\x80\0\1" + bytes(5)  # a user id of 41 bits
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    name = "n" * 256
    result = run(memory_drive.holding(bytes(content)), into)
    assert len(result.problems) == 1
    assert (into / "good").exists()
    result = run(memory_drive.holding(make((name, FILE, b"x"), ("better", FILE, b"x"))), into)
    assert len(result.problems) == 1
    assert (into / "better").exists()
    assert sorted(os.listdir(into)) == ["better", "good"]


def test_damage_in_the_stream_leaves_nothing_unfinished(memory_drive: Any, into: Path) -> None:
    content = make(("good", FILE, b"good"), ("cut", FILE, bytes(500_000)))
    result = run(memory_drive.holding(content[:200_000]), into)
    assert result.read is not None and result.read.damage is not None
    assert os.listdir(into) == ["good"]


def test_a_stop_leaves_nothing_unfinished(memory_drive: Any, into: Path) -> None:
    stop = threading.Event()
    drive = memory_drive.holding(make(("large", FILE, bytes(5_000_000))))

    def stop_late(number: int) -> None:
        if number == 60:
            stop.set()

    drive.before_read = stop_late
    with pytest.raises(Fault) as caught:
        run(drive, into, stop=stop)
    assert caught.value.kind is FaultKind.CANCELLED
    assert os.listdir(into) == []


@NEEDS_ROOT
def test_a_full_disk_ends_it(memory_drive: Any, into: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(into)], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(Fault) as caught:
            run(memory_drive.holding(make(("small", FILE, b"x"), ("large", FILE, os.urandom(3_000_000)))), into)
        assert caught.value.kind is FaultKind.CAPACITY
        assert os.listdir(into) == ["small"]
    finally:
        subprocess.run(["umount", str(into)], check=True)


@NEEDS_ROOT
def test_set_id_bits_need_the_owner_they_were_given_by(memory_drive: Any, into: Path) -> None:
    content = make(("file", FILE, b"x")).replace(b"0000644\0", b"0004755\0", 1)
    header = bytearray(content[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    run(memory_drive.holding(bytes(header) + content[512:]), into)
    assert stat.S_IMODE((into / "file").stat().st_mode) == 0o4755


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_under_a_final_name(tmp_path: Path, into: Path) -> None:
    """Killed at its first flush of a file, it is run again and ends the same."""
    archive = tmp_path / "archive"
    archive.write_bytes(make(("a", FILE, b"a" * 200_000), ("b", FILE, b"b" * 200_000), ("c", HARD, "a")))
    script = tmp_path / "run.py"
    script.write_text(
        "import io, sys\n"
        "from pathlib import Path\n"
        "from custody.tape.drives.protocol import EndOfData\n"
        "from custody.tape.stream.extract import extract\n"
        "class Drive:\n"
        "    def __init__(self): self.stream = open(sys.argv[1], 'rb')\n"
        "    def read_block(self, buffer): return self.stream.readinto(buffer[:65536])\n"
        "result = extract(Drive(), lambda name: True, Path(sys.argv[2]), limit_bytes=None)\n"
        "assert not result.problems, result.problems\n"
    )
    argv = [sys.executable, str(script), str(archive), str(into)]
    env = {**os.environ, "PYTHONPATH": "include"}
    for call in ("fsync", "renameat2", "linkat"):
        for number in (1, 2):
            inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}"]
            subprocess.run([*inject, *argv], env=env, capture_output=True, check=False)
            for name in ("a", "b", "c"):
                if (into / name).exists():
                    assert (into / name).read_bytes() == (b"b" if name == "b" else b"a") * 200_000
    subprocess.run(argv, env=env, check=True)
    assert sorted(os.listdir(into)) == ["a", "b", "c"]
    assert (into / "a").stat().st_ino == (into / "c").stat().st_ino
