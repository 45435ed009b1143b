"""A series goes to a second machine over real ssh by real rsync, in both directions, and through what can go wrong."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from custody.digests import FileState, Fixity, read_file
from custody.drain.series import SeriesState
from custody.drain.targets import Item, Outgoing, Target, rsync
from custody.drain.targets.pace import Pacing
from custody.drain.targets.thumper import PullFrom, ThumperTarget
from custody.drain.upload import upload
from custody.faults import Fault, FaultKind
from custody.host import Completed, SshHost, SshTarget
from drain_site import STEPS, WHO, Site, check_nothing_lost, make_site
from services.need import need
from services.ssh import SshServer

pytestmark = pytest.mark.service

ITEM = Item("WIDE-20260301110409-crawler07")
ODD = 'the disk\'s "second" $(half) & more'


def _ssh_target(sshd: SshServer) -> SshTarget:
    need("rsync")
    return SshTarget(sshd.host, sshd.host_key, user=sshd.user, port=sshd.port, key_file=sshd.key_file)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """The directory on the second machine; its name holds what a shell would stumble over."""
    directory = tmp_path / ODD
    directory.mkdir()
    return directory


@pytest.fixture
def push(sshd: SshServer, remote: Path) -> ThumperTarget:
    return ThumperTarget(SshHost(_ssh_target(sshd)), remote, port=sshd.port)


@pytest.fixture
def pull(sshd: SshServer, remote: Path) -> ThumperTarget:
    back = PullFrom.parse(
        f"{sshd.user}@{sshd.host}:{sshd.port}", key_file=str(sshd.key_file), known_hosts=str(sshd.known_hosts)
    )
    return ThumperTarget(SshHost(_ssh_target(sshd)), remote, port=sshd.port, pull_from=back)


@pytest.fixture(params=["push", "pull"])
def target(request: pytest.FixtureRequest) -> ThumperTarget:
    found: ThumperTarget = request.getfixturevalue(request.param)
    return found


def _outgoing(path: Path, content: bytes) -> Outgoing:
    path.write_bytes(content)
    return Outgoing(path, path.name, read_file(path).fixity, FileState.of_path(path))


def _site(root: Path, remote: Path, **values: object) -> Site:
    root.mkdir()
    return make_site(root, target="thumper", bucket=None, remote_dir=str(remote), **values)


def _finished(site: Site, number: int, *targets: Target, last: str = "delete") -> SeriesState:
    for name, step in STEPS.items():
        step(site.ledger, number, who=WHO, targets=targets)
        if name == last:
            break
    return site.load(number).state


def test_a_series_goes_the_whole_way(tmp_path: Path, remote: Path, target: ThumperTarget) -> None:
    site = _site(tmp_path / "site", remote)
    sources = [site.write(serial) for serial in range(5)]
    number = site.one_series()
    assert _finished(site, number, target) is SeriesState.CLEAN
    item = site.load(number).item
    assert sorted(os.listdir(remote / item)) == sorted(["MANIFEST.txt", *(path.name for path in sources)])
    for path in sources:
        assert not path.exists()
        stored = remote / item / path.name
        assert (hashlib.md5(stored.read_bytes()).hexdigest(), stored.stat().st_size) == site.originals[path.name]
        assert site.copies()[target.place(item, path.name)] == "proven"
    checked = subprocess.run(["md5sum", "-c", "--quiet", "MANIFEST.txt"], cwd=remote / item, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_a_file_keeps_its_time_and_the_receipt_says_what_was_read(
    tmp_path: Path, remote: Path, target: ThumperTarget
) -> None:
    outgoing = _outgoing(tmp_path / "a b's.warc.gz", os.urandom(300_000))
    target.create(ITEM, b"")
    told: list[int] = []
    receipt = target.put(ITEM, outgoing, told.append)
    assert receipt.read == Fixity(300_000, {"md5": outgoing.fixity.digests["md5"]})
    assert receipt.stated == Fixity(300_000)
    assert sum(told) == 300_000
    stored = remote / ITEM.identifier / outgoing.name
    assert stored.stat().st_mtime_ns == outgoing.state.mtime_ns
    assert receipt.url.endswith("a%20b%27s.warc.gz")
    assert target.look(ITEM.identifier, [outgoing.name, "other.warc"]) == {
        outgoing.name: receipt.read,
        "other.warc": None,
    }
    assert target.read_back(ITEM.identifier, outgoing.name) == outgoing.fixity


def test_create_may_be_repeated_and_replaces_the_manifest(remote: Path, push: ThumperTarget) -> None:
    push.create(ITEM, b"first\n")
    push.create(ITEM, b"second\n")
    assert os.listdir(remote / ITEM.identifier) == ["MANIFEST.txt"]
    assert (remote / ITEM.identifier / "MANIFEST.txt").read_bytes() == b"second\n"


def test_look_at_an_item_that_is_not_there(push: ThumperTarget) -> None:
    assert push.look("no-such-item", ["a.warc"]) == {"a.warc": None}


def test_a_directory_that_is_not_mounted_is_not_made(sshd: SshServer, tmp_path: Path) -> None:
    target = ThumperTarget(SshHost(_ssh_target(sshd)), tmp_path / "gone")
    for call in (lambda: target.create(ITEM, b""), lambda: target.look(ITEM.identifier, ["a.warc"])):
        with pytest.raises(Fault) as fault:
            call()
        assert fault.value.kind is FaultKind.CONFIG
        assert "mount" in str(fault.value)
    assert not (tmp_path / "gone").exists()


def test_other_bytes_under_the_name_are_never_written_over(tmp_path: Path, remote: Path, target: ThumperTarget) -> None:
    outgoing = _outgoing(tmp_path / "a.warc", b"ours" * 5000)
    target.create(ITEM, b"")
    (remote / ITEM.identifier / "a.warc").write_bytes(b"theirs")
    with pytest.raises(Fault) as fault:
        target.put(ITEM, outgoing)
    assert fault.value.kind is FaultKind.NEEDS_HUMAN
    assert (remote / ITEM.identifier / "a.warc").read_bytes() == b"theirs"


@pytest.mark.parametrize("kind", ["symlink", "directory"])
def test_what_is_no_regular_file_is_for_a_person(remote: Path, push: ThumperTarget, kind: str) -> None:
    push.create(ITEM, b"")
    place = remote / ITEM.identifier / "a.warc"
    place.mkdir() if kind == "directory" else place.symlink_to("MANIFEST.txt")
    with pytest.raises(Fault) as fault:
        push.look(ITEM.identifier, ["a.warc"])
    assert fault.value.kind is FaultKind.NEEDS_HUMAN


def test_rotten_bytes_are_not_sent(tmp_path: Path, remote: Path, push: ThumperTarget) -> None:
    outgoing = _outgoing(tmp_path / "a.warc", b"good" * 5000)
    content = bytearray(outgoing.path.read_bytes())
    content[77] ^= 1
    outgoing.path.write_bytes(content)
    os.utime(outgoing.path, ns=(outgoing.state.mtime_ns, outgoing.state.mtime_ns))
    push.create(ITEM, b"")
    with pytest.raises(Fault) as fault:
        push.put(ITEM, outgoing)
    assert fault.value.kind is FaultKind.DATA
    assert os.listdir(remote / ITEM.identifier) == ["MANIFEST.txt"]


def test_many_names_are_looked_at_by_one_command(remote: Path, push: ThumperTarget) -> None:
    push.create(ITEM, b"")
    names = [f"{'W' * 180}-{serial:05d}.warc.gz" for serial in range(2000)]
    for name in names[::2]:
        (remote / ITEM.identifier / name).write_bytes(name.encode())
    commands: list[object] = []
    run = push._host.run

    def counted(*args: object, **kwargs: object) -> Completed:
        commands.append(args)
        return run(*args, **kwargs)  # type: ignore[arg-type]

    push._host.run = counted  # type: ignore[method-assign, assignment]
    found = push.look(ITEM.identifier, names)
    assert len(commands) == 1
    assert [name for name in names if found[name]] == names[::2]
    assert found[names[0]] == Fixity(len(names[0]), {"md5": hashlib.md5(names[0].encode()).hexdigest()})


def _rsyncs_below(directory: Path) -> list[int]:
    """Our rsync that sends, known by its source path."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.path.basename(argv[0]) == b"rsync" and any(os.fsencode(directory) in word for word in argv):
                found.append(int(entry.name))
    return found


def test_a_killed_rsync_is_resumed(
    tmp_path: Path, remote: Path, sshd: SshServer, push: ThumperTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(8 << 20)
    outgoing = _outgoing(tmp_path / "a.warc", content)
    push.create(ITEM, b"")
    slow = ThumperTarget(SshHost(_ssh_target(sshd)), remote, port=sshd.port, pacing=Pacing(6000 << 10), connections=2)
    seen = threading.Event()
    done = 0

    def count(bytes_done: int) -> None:
        nonlocal done
        done += bytes_done
        if done > 2 << 20:
            seen.set()

    def kill() -> None:
        assert seen.wait(30)
        for pid in _rsyncs_below(outgoing.path):
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(Fault) as fault:
        slow.put(ITEM, outgoing, count)
    killer.join()
    assert fault.value.kind is FaultKind.TRANSIENT
    partial = remote / ITEM.identifier / rsync.PARTIAL_DIR
    deadline = time.monotonic() + 20
    while not (partial.is_dir() and os.listdir(partial)) and time.monotonic() < deadline:
        time.sleep(0.1)
    kept = next(partial.iterdir()).stat().st_size
    assert kept >= 1 << 20
    assert push.look(ITEM.identifier, ["a.warc"]) == {"a.warc": None}

    travelled: list[rsync.Sent] = []
    demand = rsync.demand_success

    def note(*args: object) -> rsync.Sent:
        travelled.append(demand(*args))  # type: ignore[arg-type]
        return travelled[-1]

    monkeypatch.setattr(rsync, "demand_success", note)
    push.put(ITEM, outgoing)
    assert (remote / ITEM.identifier / "a.warc").read_bytes() == content
    assert 0 < travelled[0].literal_bytes <= len(content) - kept + (1 << 18)
    assert sorted(os.listdir(remote / ITEM.identifier)) == ["MANIFEST.txt", "a.warc"]


def test_a_crash_between_sending_and_renaming_ends_the_same(tmp_path: Path, remote: Path, push: ThumperTarget) -> None:
    outgoing = _outgoing(tmp_path / "a.warc", b"page" * 5000)
    push.create(ITEM, b"")
    push.put(ITEM, outgoing)
    item = remote / ITEM.identifier
    os.link(item / "a.warc", item / ".a.warc.incoming")  # as after a kill between ln and rm
    (item / rsync.PARTIAL_DIR).mkdir()
    (item / "..a.warc.incoming.Ab3dEf").write_bytes(b"left by a kill")
    push.finish(ITEM, [])
    assert sorted(os.listdir(item)) == ["MANIFEST.txt", "a.warc"]
    (item / "a.warc").rename(item / ".a.warc.incoming")  # as after a kill before ln
    broken = bytearray((item / ".a.warc.incoming").read_bytes())
    broken[9] ^= 1
    (item / ".a.warc.incoming").write_bytes(broken)
    os.utime(item / ".a.warc.incoming", ns=(outgoing.state.mtime_ns, outgoing.state.mtime_ns))
    push.put(ITEM, outgoing)
    assert push.look(ITEM.identifier, ["a.warc"])["a.warc"] == Fixity(20000, {"md5": outgoing.fixity.digests["md5"]})
    assert sorted(os.listdir(item)) == ["MANIFEST.txt", "a.warc"]


def test_a_stalled_transfer_is_given_up_on_both_sides(
    tmp_path: Path, remote: Path, sshd: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.drain.targets.thumper._patience_s", lambda *given: 4.0)
    target = ThumperTarget(SshHost(_ssh_target(sshd)), remote, port=sshd.port, pacing=Pacing(100 << 10))
    target.create(ITEM, b"")
    outgoing = _outgoing(tmp_path / "a.warc", os.urandom(4 << 20))
    started = time.monotonic()
    with pytest.raises(Fault) as fault:
        target.put(ITEM, outgoing)
    assert fault.value.kind is FaultKind.TRANSIENT
    assert time.monotonic() - started < 20
    assert not _rsyncs_below(outgoing.path)
    deadline = time.monotonic() + 10
    while (left := _receivers(remote)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def _receivers(directory: Path) -> list[int]:
    """Every rsync that works in a directory, over there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, cwd = (entry / "comm").read_text().strip(), (entry / "cwd").readlink()
            except OSError:
                continue
            if name == "rsync" and cwd.is_relative_to(directory):
                found.append(int(entry.name))
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB with a hostile name."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    directory = tmp_path / f"small {ODD}"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_full_disk_over_there(tmp_path: Path, sshd: SshServer, small_disk: Path, way: str) -> None:
    back = None
    if way == "pull":
        back = PullFrom(sshd.host, sshd.user, sshd.port, str(sshd.key_file), str(sshd.known_hosts))
    target = ThumperTarget(SshHost(_ssh_target(sshd)), small_disk, port=sshd.port, pull_from=back)
    site = _site(tmp_path / "site", small_disk, max_size="100MB", verify_gzip=False)
    path = site.write(1)
    big = site.write(2, content=path.read_bytes() * (6 * (1 << 20) // path.stat().st_size))
    number = site.one_series()
    _finished(site, number, target, last="create_item")
    with pytest.raises(Fault) as fault:
        upload(site.ledger, number, who=WHO, targets=(target,))
    assert fault.value.kind is FaultKind.CAPACITY
    check_nothing_lost(site)
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    assert _finished(site, number, target) is SeriesState.CLEAN
    assert (small_disk / site.load(number).item / big.name).stat().st_size == site.originals[big.name][1]


def _flip(path: Path) -> None:
    """One bit, with size and time as they were."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("proof", ["listing", "readback"])
def test_an_altered_file_over_there_is_not_proven(
    tmp_path: Path, remote: Path, push: ThumperTarget, proof: str
) -> None:
    site = _site(tmp_path / "site", remote, proof=proof)
    paths = [site.write(serial) for serial in range(3)]
    number = site.one_series()
    _finished(site, number, push, last="upload")
    _flip(remote / site.load(number).item / paths[1].name)
    with pytest.raises(Fault, match=r"1 of 3 files are not proven") as fault:
        _finished(site, number, push, last="prove")
    assert fault.value.kind is FaultKind.DATA
    assert paths[1].name in str(fault.value)
    assert not site.proofs()
    assert all(site.load(number).path(member).exists() for member in site.load(number).files)


def test_a_file_altered_after_its_proof_keeps_the_local_one(tmp_path: Path, remote: Path, push: ThumperTarget) -> None:
    site = _site(tmp_path / "site", remote)
    paths = [site.write(serial) for serial in range(3)]
    number = site.one_series()
    _finished(site, number, push, last="prove")
    series = site.load(number)
    _flip(remote / series.item / paths[2].name)
    with pytest.raises(Fault, match=r"1 of 3 files are kept"):
        _finished(site, number, push)
    assert [member.name for member in series.files if series.path(member).exists()] == [paths[2].name]


def test_two_destinations_and_deletion_waits_for_both(site: Site, remote: Path, push: ThumperTarget) -> None:
    site.values["also"] = [{"target": "thumper", "remote_dir": str(remote)}]
    paths = [site.write(serial) for serial in range(3)]
    number = site.one_series()
    both = (site.target, push)
    _finished(site, number, *both, last="upload")
    item = site.load(number).item
    stored = remote / item / paths[0].name
    stored.rename(remote / "aside")
    with pytest.raises(Fault, match="not proven"):
        _finished(site, number, *both, last="prove")
    assert site.load(number).state is SeriesState.UPLOADED
    (remote / "aside").rename(stored)
    _finished(site, number, *both, last="prove")
    assert len([place for place, state in site.copies().items() if state == "proven"]) >= 6
    shutil.rmtree(remote / item)  # proven, and then the second machine loses it
    with pytest.raises(Fault, match="3 of 3 files are kept"):
        _finished(site, number, *both)
    series = site.load(number)
    assert all(series.path(member).exists() for member in series.files)
    assert series.state is SeriesState.PROVEN
    site.take_up(number)
    assert _finished(site, number, *both) is SeriesState.CLEAN
    assert sorted(os.listdir(remote / item)) == sorted(["MANIFEST.txt", *(path.name for path in paths)])


def test_a_wrong_key_and_a_dead_port_and_a_wrong_host_key(sshd: SshServer, remote: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    ours = _ssh_target(sshd)
    other_key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    outgoing = _outgoing(tmp_path / "a.warc", b"page" * 500)
    for broken, kind in (
        (replace(ours, key_file=tmp_path / "other"), FaultKind.AUTH),
        (replace(ours, host_key=other_key), FaultKind.AUTH),
        (replace(ours, port=1), FaultKind.TRANSIENT),
    ):
        target = ThumperTarget(SshHost(broken), remote)
        for call in (lambda t=target: t.create(ITEM, b""), lambda t=target: t.put(ITEM, outgoing)):
            with pytest.raises(Fault) as fault:
                call()
            assert fault.value.kind is kind, str(fault.value)
            assert "kill" not in str(fault.value)


def test_a_login_back_that_is_refused(sshd: SshServer, remote: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    back = PullFrom(sshd.host, sshd.user, sshd.port, str(tmp_path / "other"), str(sshd.known_hosts))
    target = ThumperTarget(SshHost(_ssh_target(sshd)), remote, pull_from=back)
    target.create(ITEM, b"")
    with pytest.raises(Fault, match="as seen from") as fault:
        target.put(ITEM, _outgoing(tmp_path / "a.warc", b"page"))
    assert fault.value.kind is FaultKind.AUTH


@pytest.mark.parametrize(
    ("returncode", "stderr", "kind"),
    [
        (11, 'rsync: [receiver] write failed on "/d/a": No space left on device (28)\n', FaultKind.CAPACITY),
        (12, "rsync: connection unexpectedly closed (9 bytes received so far)\n", FaultKind.TRANSIENT),
        (23, 'rsync: [receiver] mkstemp "/d/.a" failed: Permission denied (13)\n', FaultKind.CONFIG),
        (23, 'rsync: [sender] read errors mapping "/d/a": Input/output error (5)\n', FaultKind.DATA),
        (24, 'file has vanished: "/d/a"\n', FaultKind.DATA),
        (30, "rsync error: timeout in data send/receive (code 30)\n", FaultKind.TRANSIENT),
        (255, "user@host: Permission denied (publickey).\n", FaultKind.AUTH),
        (127, "sh: 1: exec: rsync: not found\n", FaultKind.CONFIG),
        (1, "rsync: --frobnicate: unknown option\n", FaultKind.CONFIG),
        (99, "", FaultKind.TRANSIENT),
    ],
)
def test_what_the_end_of_rsync_means(returncode: int, stderr: str, kind: FaultKind) -> None:
    fault = rsync.classify(returncode, stderr.encode(), "ssh://host/d/a", "host")
    assert fault.kind is kind
    assert re.match(r"(ssh://host/d/a|host): ", str(fault))
    assert "\n" not in str(fault)


@pytest.mark.parametrize("words", [["a b"], ["it's"], ['say "so"'], ["-o", "User Known='x' \"y\""], [""]])
def test_words_reach_the_remote_shell_program_whole(words: list[str], tmp_path: Path) -> None:
    need("rsync")
    seen = tmp_path / "seen"
    script = tmp_path / "fake ssh"
    script.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >{shlex.quote(str(seen))}\nexit 1\n')
    script.chmod(0o755)
    argv = ["rsync", "--rsh", rsync.remote_shell([str(script), *words]), "--", str(script), "host:/tmp/x"]
    subprocess.run(argv, capture_output=True)
    assert seen.read_bytes().decode().split("\0")[: len(words)] == words


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [("a@b:2222", "b", "a", 2222), ("b", "b", None, 22), ("a@[::1]:23", "::1", "a", 23), ("[::1]", "::1", None, 22)],
)
def test_pull_from_is_read(text: str, host: str, user: str | None, port: int) -> None:
    assert PullFrom.parse(text) == PullFrom(host, user, port)


@pytest.mark.parametrize("text", ["", "@b", "-oX@b", "a@-b", "a@b:x", "a@:22"])
def test_pull_from_that_is_none(text: str) -> None:
    with pytest.raises(Fault):
        PullFrom.parse(text)
