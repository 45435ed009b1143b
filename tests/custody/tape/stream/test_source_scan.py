"""The source and the scan, here and over ssh: they see the same, and say what they could not read."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from custody.faults import Fault, FaultKind
from custody.host import Host, LocalHost, SshHost, SshTarget
from custody.tape.members import Member, MemberKind
from custody.tape.stream.drift import compare
from custody.tape.stream.parse import MemberParser
from custody.tape.stream.read import read_tape_file
from custody.tape.stream.scan import Scan
from custody.tape.stream.source import TarSource, classify_tar, tar_argv
from custody.tape.stream.write import write_tape_file
from services.ssh import SshServer


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.service)])
def host(request: pytest.FixtureRequest) -> Host:
    """This machine, and the same machine over ssh."""
    if request.param == "local":
        return LocalHost()
    sshd: SshServer = request.getfixturevalue("sshd")
    return SshHost(SshTarget(sshd.host, sshd.host_key, user=sshd.user, port=sshd.port, key_file=sshd.key_file))


def archive(host: Host, target: Path | bytes, excluded: Iterable[bytes] = ()) -> list[Member]:
    """Make the stream and parse it."""
    found: list[Member] = []
    with TarSource(host, os.fsencode(target), list(excluded)) as source, MemberParser(found.append) as parser:
        while piece := source.stream.read1(1 << 20):  # type: ignore[attr-defined]
            parser.feed(piece)
        source.ended()
        parser.finish()
    return found


def test_a_scan_sees_what_the_archive_will_hold(host: Host, shared_tree: Path) -> None:
    scanned = list(Scan(host, os.fsencode(shared_tree)))
    archived = archive(host, shared_tree)
    drift = compare(scanned, archived)
    assert list(drift.lines()) == []
    assert not drift
    assert {member.name for member in scanned} == {member.name for member in archived}
    by_name = {member.name.rpartition(b"/")[2]: member for member in scanned}
    assert by_name[b"sparse"].is_sparse
    assert by_name[b"plain"].mtime_s == -2
    assert sum(member.kind is MemberKind.HARDLINK for member in scanned) == 2
    if os.geteuid() == 0:
        assert by_name[b"block"].device == (259, 70000)


def test_from_the_source_to_tape_and_back(host: Host, shared_tree: Path, tmp_path: Path, memory_drive: Any) -> None:
    target, drive = os.fsencode(shared_tree), memory_drive()
    with TarSource(host, target) as source:
        written = write_tape_file(
            drive,
            source.stream,
            spool_path=tmp_path / "manifest",
            head=[(".custody/target.json", b"{}")],
            block_bytes=1 << 16,
            buffer_bytes=1 << 20,
            source_ended=source.ended,
        )
    found: list[Member] = []
    read = read_tape_file(drive, found.append, limit_bytes=written.size_bytes, manifest_path=tmp_path / "read")
    assert read.is_complete
    assert read.manifest is not None
    assert found[:-1] == list(read.manifest)
    assert list(compare(Scan(host, target), found).lines()) == []


def test_a_target_that_is_gone_is_no_tape_file(host: Host, tmp_path: Path, memory_drive: Any) -> None:
    drive = memory_drive()
    with (
        pytest.raises(Fault, match="check the path"),
        TarSource(host, os.fsencode(tmp_path) + b"/gone") as source,
    ):
        write_tape_file(drive, source.stream, spool_path=tmp_path / "manifest", head=[], source_ended=source.ended)
    assert drive.marks == 0


def test_sockets_are_in_neither(host: Host, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path is short
        try:
            bound.bind("socket")
        finally:
            os.chdir(here)
        scanned, archived = list(Scan(host, os.fsencode(tmp_path))), archive(host, tmp_path)
    assert len(scanned) == len(archived) == 1
    assert not compare(scanned, archived)


def test_md5_on_request(host: Host, shared_tree: Path) -> None:
    scanned = list(Scan(host, os.fsencode(shared_tree), algorithm="md5"))
    assert {tuple(member.digests) for member in scanned if member.kind is MemberKind.FILE} == {("md5",)}
    assert not compare(scanned, archive(host, shared_tree))


def test_excluded_children_are_names_not_patterns(host: Host, tmp_path: Path) -> None:
    names = [b"c[1]", b"c1", b"*", b"a*", b"ab", b"back\\slash", b"back\\\\slash", b"new\nline", b"\xff"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).mkdir()
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b"/file")).write_bytes(name)
    top = os.fsencode(tmp_path)
    for excluded in (names[::2], names[1::2]):
        left = set(names) - set(excluded)
        scanned = {member.name for member in Scan(host, top, [top + b"/" + name + b"/" for name in excluded])}
        archived = {member.name for member in archive(host, tmp_path, [top + b"/" + name for name in excluded])}
        bare = top.lstrip(b"/")
        assert scanned == archived
        assert scanned == {bare} | {bare + b"/" + name + tail for name in left for tail in (b"", b"/file")}


def test_each_inode_is_read_once(host: Host, tmp_path: Path) -> None:
    (tmp_path / "first").write_bytes(b"content")
    for number in range(5):
        os.link(tmp_path / "first", tmp_path / f"link {number}")
    scan = Scan(host, os.fsencode(tmp_path))
    found = list(scan)
    files = [member for member in found if member.kind is MemberKind.FILE]
    assert len(files) == 1
    assert {member.link for member in found if member.kind is MemberKind.HARDLINK} == {files[0].name}
    assert not compare(found, archive(host, tmp_path))


@pytest.mark.parametrize("name", [b"two words", b"-rf", b"new\nline", b"\xff", b"$(id)", b"*", b"a'b\"c"])
def test_targets_may_be_called_anything(host: Host, tmp_path: Path, name: bytes) -> None:
    target = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(target)
    with open(target + b"/file", "wb") as stream:
        stream.write(b"x")
    scanned = list(Scan(host, target + b"/"))
    archived = archive(host, target)
    assert not compare(scanned, archived)
    assert [member.name for member in archived] == [target[1:], target[1:] + b"/file"]


def test_the_environment_does_not_lead_tar_astray(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "t"
    target.mkdir()
    (target / "file").write_bytes(b"x")
    trap = tmp_path / "a drive"
    monkeypatch.setenv("TAPE", str(trap))
    monkeypatch.setenv("TAR_OPTIONS", f"--exclude=file --format=v7 --index-file={trap}")
    assert len(archive(host, target)) == 2
    assert not trap.exists()


def test_a_target_that_is_missing_is_a_matter_of_its_path(host: Host, tmp_path: Path) -> None:
    for name in (b"missing", "größe\n".encode()):
        target = os.fsencode(tmp_path) + b"/" + name
        with pytest.raises(Fault, match="check the path") as caught:
            archive(host, target)
        assert caught.value.kind is FaultKind.CONFIG
        with pytest.raises(Fault, match="check the path") as caught:
            list(Scan(host, target))
        assert caught.value.kind is FaultKind.CONFIG


@pytest.mark.parametrize("target", [b"relative", b"/", b"//", b"/a/../..", b"", b"/a\0b"])
def test_what_is_no_target_is_refused(target: bytes) -> None:
    with pytest.raises(Fault) as caught:
        tar_argv(target)
    assert caught.value.kind is FaultKind.CONFIG


def test_a_file_that_grows_while_it_is_archived_is_source_drift(tmp_path: Path) -> None:
    target = tmp_path / "t"
    target.mkdir()
    (target / "grows").write_bytes(bytes(8 << 20))
    with (
        pytest.raises(Fault, match=r"changed while it was archived: /.*grows") as caught,
        TarSource(LocalHost(), os.fsencode(target)) as source,
    ):
        source.stream.read(4096)
        with (target / "grows").open("ab") as stream:
            stream.write(b"more")
        os.truncate(target / "grows", 5 << 20)
        while source.stream.read(1 << 20):
            pass
    assert caught.value.kind is FaultKind.DATA


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """As a user without rights: root reads everything."""
    target = tmp_path / "t"
    target.mkdir()
    for name in ("open", "closed\n1", "closed 2"):
        (target / name).write_bytes(b"x")
    (target / "closed\n1").chmod(0)
    (target / "closed 2").chmod(0)
    directory = tmp_path
    while directory != Path("/"):
        directory.chmod(directory.stat().st_mode | 0o055) if directory.stat().st_uid == 0 else None
        directory = directory.parent

    class Nobody(LocalHost):
        def stream(self, argv):  # type: ignore[no-untyped-def]
            return super().stream(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", *argv])

    with pytest.raises(Fault, match=r"closed(\\n1| 2): Cannot open: Permission denied \(and 1 more\)") as caught:
        archive(Nobody(), target)
    assert caught.value.kind is FaultKind.CONFIG
    scan = Scan(Nobody(), os.fsencode(target))
    found: list[Member] = []
    with pytest.raises(Fault, match="could not be read") as caught:
        found.extend(scan)
    assert caught.value.kind is FaultKind.DATA
    assert {problem.name.rpartition(b"/")[2] for problem in scan.problems} == {b"closed\n1", b"closed 2"}


def test_a_file_that_changes_while_it_is_scanned_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that makes digests is stood in for by one that writes to the file first."""
    target, programs = tmp_path / "t", tmp_path / "bin"
    target.mkdir()
    programs.mkdir()
    (target / "changes").write_bytes(b"x")
    (target / "stays").write_bytes(b"x")
    (target / "linked").write_bytes(b"x")
    os.link(target / "linked", target / "linked too")
    script = programs / "sha256sum"
    script.write_text(
        f'#!/bin/sh\necho more >>"{target}/changes"; echo more >>"{target}/linked"\nexec /usr/bin/sha256sum "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    scan = Scan(LocalHost(), os.fsencode(target))
    with pytest.raises(Fault, match="changed while it was read"):
        for member in scan:
            changed = member.name.endswith((b"changes", b"linked", b"linked too")) and member.kind is MemberKind.FILE
            assert not (changed and member.digests)
    assert len(scan.problems) == 2


def test_a_broken_connection_keeps_its_kind() -> None:
    broken = Fault(FaultKind.DATA, "host: env", "ended with status 255: Connection reset by peer")
    assert classify_tar(broken, "host", b"/t").kind is FaultKind.TRANSIENT
    killed = Fault(FaultKind.DATA, "env", "ended with status -9: without a word")
    assert classify_tar(killed, "host", b"/t").kind is FaultKind.TRANSIENT
    refused = Fault(FaultKind.AUTH, "host", "refuses our key")
    assert classify_tar(refused, "host", b"/t") is refused
    missing = Fault(FaultKind.DATA, "host: env", "ended with status 127: env: 'tar': No such file or directory")
    assert classify_tar(missing, "host", b"/t").kind is FaultKind.CONFIG


def test_leaving_early_ends_the_program(host: Host, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(30 << 20))
    with pytest.raises(RuntimeError, match="enough"), TarSource(host, os.fsencode(tmp_path)) as source:
        source.stream.read(1)
        raise RuntimeError("enough")
    listed = subprocess.run(["ps", "-eo", "args"], stdout=subprocess.PIPE, check=True).stdout
    assert not [line for line in listed.splitlines() if line.startswith(b"tar ") and os.fsencode(tmp_path)[1:] in line]


# -- drift ----------------------------------------------------------------------------------------------------------

FILE = Member(b"t/file", MemberKind.FILE, 3, 0o644, 1, 1, 100, digests={"sha256": "aa"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size_bytes": 4, "digests": {"sha256": "bb"}}, "size 3 -> 4 bytes"),
        ({"digests": {"sha256": "bb"}}, "content sha256 aa -> bb"),
        ({"digests": {"md5": "bb"}}, "content unverified: no digest in common"),
        ({"digests": {}}, "content unverified: no digest in common"),
        ({"mode": 0o600}, "mode 0644 -> 0600"),
        ({"uid": 2}, "owner 1:1 -> 2:1"),
        ({"mtime_s": 99}, "mtime 1970-01-01T00:01:40Z -> 1970-01-01T00:01:39Z"),
        ({"kind": MemberKind.FIFO}, "kind file -> fifo"),
    ],
)
def test_every_difference_has_its_reason(change: dict[str, object], reason: str) -> None:
    drift = compare([FILE], [replace(FILE, **change)])
    assert drift.changed == {b"t/file": [reason]}
    assert drift
    assert not compare([FILE], [FILE])


def test_links_and_devices_are_compared() -> None:
    link = Member(b"l", MemberKind.SYMLINK, link=b"a\n")
    assert compare([link], [replace(link, link=b"b")]).changed == {b"l": ["link a\\n -> b"]}
    device = Member(b"d", MemberKind.BLOCK, device=(8, 1))
    assert compare([device], [replace(device, device=(8, 2))]).changed == {b"d": ["device (8, 1) -> (8, 2)"]}


def test_new_and_missing_are_told_and_ours_left_out() -> None:
    ours = Member(b".custody/target.json", MemberKind.FILE)
    drift = compare([FILE, replace(FILE, name=b"gone")], [ours, FILE, replace(FILE, name=b"new")])
    assert (drift.new, drift.missing, drift.changed) == ([b"new"], [b"gone"], {})
    assert list(drift.lines()) == ["new: new", "missing: gone"]
    assert compare([FILE], [FILE, FILE]).new == [FILE.name]  # twice


def test_hard_links_are_compared_by_what_they_lead_to() -> None:
    other = replace(FILE, name=b"t/other", kind=MemberKind.HARDLINK, size_bytes=0, link=b"t/file", digests={})
    turned = [replace(FILE, name=b"t/other"), replace(other, name=b"t/file", link=b"t/other")]
    assert not compare([FILE, other], turned)
    apart = compare([FILE, other], [FILE, replace(FILE, name=b"t/other")])
    assert apart.changed == {b"t/other": ["hard links"]}
    joined = compare([FILE, replace(FILE, name=b"t/other")], [FILE, other])
    assert "hard links" in joined.changed[b"t/other"]
    damaged = compare([FILE, other], [replace(FILE, digests={"sha256": "bb"}), other])
    assert set(damaged.changed) == {b"t/file", b"t/other"}


def test_what_the_source_says_is_what_tarfile_reads(shared_tree: Path) -> None:
    with TarSource(LocalHost(), os.fsencode(shared_tree)) as source:
        content = source.stream.read()
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        assert len(opened.getnames()) == len(archive(LocalHost(), shared_tree))
    assert len(content) % (1 << 20) == 0
