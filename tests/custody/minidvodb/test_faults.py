"""Every cause of a failure by its own name, found on a real sshd and on real small file systems."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from custody.faults import Fault, FaultKind
from custody.host import Completed, LocalHost, SshHost, SshTarget
from custody.minidvodb.codes import CopyFault, FaultCode, code_of
from custody.minidvodb.records import CopyState
from custody_demo.minidvodb_sample import BROKEN, Shape
from minidvodb_rig import Rig, target_of, tree_of, visible
from services.need import need
from services.ssh import SshServer


@contextmanager
def tmpfs(path: Path, *options: str) -> Iterator[Path]:
    """A small file system of the test's own; skips where it may not be mounted."""
    path.mkdir(exist_ok=True)
    argv = [need("mount"), "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"may not mount a tmpfs: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run([need("umount"), "-l", str(path)], check=True)


def fails(rig: Rig, copy_id: int, *steps: str) -> Fault:
    """The fault of a copy, which must be on record as raised; nothing may be visible over there."""
    with pytest.raises(Fault) as raised:
        rig.do(copy_id, *steps)
    row = rig.load(copy_id).row
    code = code_of(raised.value)
    assert (row["fault"], row["fault_name"]) == (code.number, code)
    assert row["fault_text"] == str(raised.value)
    assert row["state"] == "new"
    assert row["reserved_bytes"] == 0
    return raised.value


def over(rig: Rig, target: SshTarget) -> None:
    rig.reach = lambda known: SshHost(target)  # type: ignore[method-assign, assignment]


def test_a_refused_key(rig: Rig, tmp_path: Path) -> None:
    key = tmp_path / "other_key"
    subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    copy_id = rig.one()
    assert rig.sshd
    over(rig, replace(target_of(rig.sshd), key_file=key))
    fault = fails(rig, copy_id)
    assert code_of(fault) is FaultCode.AUTH
    assert fault.kind is FaultKind.AUTH
    assert rig.load(copy_id).row["not_before"] is None


def test_a_changed_host_key_is_not_a_refused_key(rig: Rig, tmp_path: Path) -> None:
    key = tmp_path / "host_key"
    subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    copy_id = rig.one()
    assert rig.sshd
    other = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    over(rig, replace(target_of(rig.sshd), host_key=other))
    fault = fails(rig, copy_id)
    assert code_of(fault) is FaultCode.HOSTKEY
    assert "host key" in str(fault)


def test_a_closed_port_is_tried_again(rig: Rig) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        copy_id = rig.one()
        assert rig.sshd
        over(rig, replace(target_of(rig.sshd), port=bound.getsockname()[1]))
        fault = fails(rig, copy_id)
    assert code_of(fault) is FaultCode.UNREACHABLE
    assert fault.kind is FaultKind.TRANSIENT
    row = rig.load(copy_id).row
    assert row["attempts"] == 1
    assert row["not_before"] is not None


def test_a_staging_directory_on_another_disk_is_refused(rig: Rig) -> None:
    """The rename that publishes would be a copy, file by file, before everybody's eyes."""
    copy_id = rig.one()
    with tmpfs(rig.remote / ".incoming", "size=8m"):
        fault = fails(rig, copy_id, "preflight")
    assert code_of(fault) is FaultCode.CONFIG
    assert "on another disk" in str(fault)
    assert rig.do(copy_id).state is CopyState.FULL


def test_a_missing_directory_is_never_made_up(rig: Rig) -> None:
    copy_id = rig.one()
    rig.remote.rmdir()
    fault = fails(rig, copy_id)
    assert code_of(fault) is FaultCode.DEST_MISSING
    assert "mount" in str(fault)
    assert not rig.remote.exists()


def test_a_read_only_file_system(rig: Rig, tmp_path: Path) -> None:
    copy_id = rig.one()
    with tmpfs(rig.remote, "size=4m", "ro"):
        fault = fails(rig, copy_id)
    assert code_of(fault) is FaultCode.DEST_READONLY
    assert fault.kind is FaultKind.CONFIG


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_a_file_system_that_becomes_read_only_meanwhile(rig: Rig, mover: str) -> None:
    copy_id = rig.one(mover=mover)
    with tmpfs(rig.remote, "size=4m"):
        rig.do(copy_id, "preflight")
        subprocess.run([need("mount"), "-o", "remount,ro", str(rig.remote)], check=True)
        assert code_of(fails(rig, copy_id, "transfer")) is FaultCode.DEST_READONLY


def test_a_disk_without_room_takes_nothing(local_rig: Rig) -> None:
    local_rig.make(shape=Shape(2, 10_000))  # 3.7 MB
    local_rig.host()
    (copy_id,) = local_rig.queue()
    with tmpfs(local_rig.remote, "size=3m"):
        fault = fails(local_rig, copy_id)
        assert code_of(fault) is FaultCode.NO_SPACE
        assert fault.kind is FaultKind.CAPACITY
        assert visible(local_rig.remote) == []
        assert os.listdir(local_rig.remote / ".incoming") == []


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_a_disk_that_fills_up_meanwhile_and_then_has_room_again(local_rig: Rig, mover: str) -> None:
    source = local_rig.make(shape=Shape(2, 10_000))
    local_rig.host(mover=mover)
    (copy_id,) = local_rig.queue()
    with tmpfs(local_rig.remote, "size=6m"):
        local_rig.do(copy_id, "preflight")
        ballast = local_rig.remote / "ballast"
        real = local_rig.reach

        def slowly(known: object) -> object:
            """Somebody fills the disk after our last look at it."""
            host = real(known)  # type: ignore[arg-type]
            run = host.run

            def run_then_fill(argv: object, **keys: object) -> object:
                done = run(argv, **keys)  # type: ignore[arg-type]
                if b"space=" in done.stdout and not ballast.exists():
                    ballast.write_bytes(bytes(4 << 20))
                return done

            host.run = run_then_fill  # type: ignore[method-assign, assignment]
            return host

        local_rig.reach = slowly  # type: ignore[method-assign, assignment]
        fault = fails(local_rig, copy_id, "transfer")
        assert code_of(fault) is FaultCode.NO_SPACE, fault
        assert visible(local_rig.remote) == ["ballast"]
        ballast.unlink()
        local_rig.reach = real  # type: ignore[method-assign]
        assert local_rig.do(copy_id).state is CopyState.FULL
        assert tree_of(local_rig.remote / source.name) == tree_of(source)


def test_no_inodes_is_not_no_space(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    with tmpfs(local_rig.remote, "size=8m", "nr_inodes=20"):
        fault = fails(local_rig, copy_id)
        assert code_of(fault) is FaultCode.NO_INODES
        for number in range(16):
            (local_rig.remote / str(number)).touch()
        assert code_of(fails(local_rig, copy_id)) is FaultCode.NO_INODES


def test_the_share_in_use_is_a_limit_that_may_be_reached(local_rig: Rig) -> None:
    copy_id = local_rig.one(max_used_pct=50)
    with tmpfs(local_rig.remote, "size=4m"):
        (local_rig.remote / "ballast").write_bytes(bytes(2 << 20))
        assert local_rig.do(copy_id, "preflight").step == "checked"  # 50 % or less
    local_rig.set(copy_id, step="queued")
    from custody.minidvodb.destination import forget_identity

    forget_identity(local_rig.ledger, "ipp022", who="test")
    with tmpfs(local_rig.remote, "size=4m"):
        (local_rig.remote / "ballast").write_bytes(bytes((2 << 20) + 4096))
        assert code_of(fails(local_rig, copy_id)) is FaultCode.NO_SPACE


def test_a_foreign_link_over_there_is_not_followed(local_rig: Rig, tmp_path: Path) -> None:
    copy_id = local_rig.one()
    outside = tmp_path / "outside"
    outside.mkdir()
    (local_rig.remote / ".incoming").symlink_to(outside)
    assert code_of(fails(local_rig, copy_id)) is FaultCode.CONFIG
    (local_rig.remote / ".incoming").unlink()
    (local_rig.remote / "ThreePi.1").symlink_to(outside)
    fault = fails(local_rig, copy_id)
    assert code_of(fault) is FaultCode.VERIFY
    assert fault.kind is FaultKind.NEEDS_HUMAN
    (local_rig.remote / "ThreePi.1").unlink()
    local_rig.do(copy_id, "preflight")
    (local_rig.remote / f".incoming/ThreePi.1.{copy_id}").symlink_to(outside)
    assert code_of(fails(local_rig, copy_id, "transfer")) is FaultCode.CONFIG
    assert os.listdir(outside) == []


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_links_inside_the_staging_directory_lead_nowhere(local_rig: Rig, tmp_path: Path, mover: str) -> None:
    source = local_rig.make()
    local_rig.host(mover=mover)
    (copy_id,) = local_rig.queue()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0000.cpt").write_text("theirs")
    local_rig.do(copy_id, "preflight")
    stage = local_rig.remote / f".incoming/ThreePi.1.{copy_id}"
    stage.mkdir()
    (stage / "n0000").symlink_to(outside)
    (stage / "SkyTable.fits").symlink_to(outside / "0000.cpt")
    assert local_rig.do(copy_id).state is CopyState.FULL
    assert os.listdir(outside) == ["0000.cpt"]
    assert (outside / "0000.cpt").read_text() == "theirs"
    assert tree_of(local_rig.remote / source.name) == tree_of(source)


def test_something_else_under_the_name_is_never_written_over(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    (local_rig.remote / "ThreePi.1").mkdir()
    (local_rig.remote / "ThreePi.1/theirs").write_text("theirs")
    fault = fails(local_rig, copy_id)
    assert fault.kind is FaultKind.NEEDS_HUMAN
    assert "--replace" in str(fault)
    assert (local_rig.remote / "ThreePi.1/theirs").read_text() == "theirs"


def test_the_database_itself_is_no_copy_of_it(rig: Rig) -> None:
    source = rig.make()
    rig.host(path=source.parent)
    (copy_id,) = rig.queue()
    fault = fails(rig, copy_id)
    assert code_of(fault) is FaultCode.CONFIG
    assert "is the database itself" in str(fault)
    rig.set(copy_id, minidvodb_rsync_path=str(source))
    rig.reach = lambda known: LocalHost()  # type: ignore[method-assign, assignment]
    assert "lies inside of the database" in str(fails(rig, copy_id))
    assert not (source / ".incoming").exists()


def test_a_login_that_talks_is_told(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id, "preflight", "transfer")
    host = LocalHost()
    real = host.run

    def run(argv: Any, **keys: Any) -> Completed:
        done = real(argv, **keys)
        return replace(done, stdout=b"Welcome!\n" + done.stdout)

    host.run = run  # type: ignore[method-assign, assignment]
    local_rig.reach = lambda known: host  # type: ignore[method-assign, assignment]
    assert "answers what nobody understands" in str(fails(local_rig, copy_id, "verify"))


def test_a_staged_directory_without_rights_is_taken_up_again(local_rig: Rig) -> None:
    source = local_rig.make()
    (source / "n0000").chmod(0o555)
    local_rig.host(mover="stream")
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight", "transfer")
    stage = local_rig.remote / f".incoming/ThreePi.1.{copy_id}"
    (stage / "n0000").chmod(0o755)
    (stage / "n0000/0000.cpm").unlink()
    (stage / "n0000").chmod(0o555)
    local_rig.set(copy_id, step="checked")
    assert local_rig.do(copy_id).state is CopyState.FULL
    assert tree_of(local_rig.remote / "ThreePi.1") == tree_of(source)


def test_a_missing_source(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    (local_rig.home / "minis").rename(local_rig.home / "gone")
    assert code_of(fails(local_rig, copy_id)) is FaultCode.SOURCE_MISSING


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_database_is_not_copied(local_rig: Rig, name: str) -> None:
    source = local_rig.make()
    BROKEN[name](source)
    local_rig.host()
    (copy_id,) = local_rig.queue()
    fault = fails(local_rig, copy_id)
    assert code_of(fault) is (FaultCode.SOURCE_LOCKED if name == "locked" else FaultCode.SOURCE_INVALID)
    assert visible(local_rig.remote) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../elsewhere"])
def test_a_link_that_leads_out_of_the_database_is_refused(local_rig: Rig, target: str) -> None:
    source = local_rig.make()
    (source / "n0000/out").symlink_to(target)
    local_rig.host()
    (copy_id,) = local_rig.queue()
    fault = fails(local_rig, copy_id)
    assert code_of(fault) is FaultCode.SOURCE_INVALID


def test_a_pipe_in_a_database_is_refused(local_rig: Rig) -> None:
    source = local_rig.make()
    os.mkfifo(source / "n0000/pipe")
    local_rig.host()
    (copy_id,) = local_rig.queue()
    assert code_of(fails(local_rig, copy_id)) is FaultCode.SOURCE_INVALID


def test_a_write_lock_of_a_process_is_seen(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    with open(local_rig.home / "minis/ThreePi.1/n0000/0000.cpm", "r+b") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        assert code_of(fails(local_rig, copy_id)) is FaultCode.SOURCE_LOCKED
    assert local_rig.do(copy_id).state is CopyState.FULL


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_a_source_that_is_written_to_meanwhile_is_not_published(local_rig: Rig, mover: str) -> None:
    source = local_rig.make()
    local_rig.host(mover=mover)
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight", "transfer", "verify")
    path = source / "n0000/0000.cpm"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    fault = fails(local_rig, copy_id, "publish")
    assert code_of(fault) is FaultCode.SOURCE_CHANGED
    assert visible(local_rig.remote) == []
    assert local_rig.load(copy_id).step == "queued"
    assert local_rig.do(copy_id).state is CopyState.FULL
    assert tree_of(local_rig.remote / source.name) == tree_of(source)
    assert path.stat().st_ino == before.st_ino


def test_a_writer_during_the_transfer_is_seen(rig: Rig) -> None:
    source = rig.make(shape=Shape(40, 4000))
    rig.host(mover="rsync", max_rate=10_000_000)
    (copy_id,) = rig.queue()
    rig.do(copy_id, "preflight")
    path = source / "n0000/0000.cpm"

    def write() -> None:
        deadline = time.monotonic() + 20
        while not any((rig.remote / ".incoming").glob("*/n0000/*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        path.write_bytes(path.read_bytes()[::-1])

    writer = threading.Thread(target=write)
    writer.start()
    fault = fails(rig, copy_id, "transfer")
    writer.join()
    assert code_of(fault) is FaultCode.SOURCE_CHANGED
    assert visible(rig.remote) == []


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_a_copy_that_stalls_is_ended_on_both_sides(rig: Rig, sshd: SshServer, mover: str, tmp_path: Path) -> None:
    rig.make(shape=Shape(40, 4000))
    rig.host(mover=mover, stall_s=2)
    (copy_id,) = rig.queue()
    rig.do(copy_id, "preflight")
    stopped: list[int] = []

    def stop() -> None:
        group = rig.remote / ".incoming" / f".ThreePi.1.{copy_id}.group"
        deadline = time.monotonic() + 20
        while not group.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        while not (words := group.read_text().split()):
            time.sleep(0.005)
        os.killpg(int(words[0]), 19)
        stopped.append(int(words[0]))

    stopper = threading.Thread(target=stop)
    stopper.start()
    fault = fails(rig, copy_id, "transfer")
    stopper.join()
    assert code_of(fault) is FaultCode.TIMEOUT
    deadline = time.monotonic() + 5
    while Path(f"/proc/{stopped[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{stopped[0]}").exists()
    assert visible(rig.remote) == []


@pytest.mark.slow
def test_a_copy_that_takes_too_long_is_ended(local_rig: Rig) -> None:
    local_rig.make(shape=Shape(40, 4000))
    local_rig.host(mover="stream", max_rate=1_000_000, base_timeout_s=0.5, min_rate=1_000_000_000)
    (copy_id,) = local_rig.queue()
    assert code_of(fails(local_rig, copy_id)) is FaultCode.TIMEOUT


def test_a_copy_that_is_done_but_not_recorded(local_rig: Rig) -> None:
    source = local_rig.make()
    local_rig.host()
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight", "transfer", "verify")
    real = local_rig.ledger.record_proof

    def refuse(*arguments: object, **keys: object) -> None:
        raise Fault(FaultKind.TRANSIENT, "ledger", "does not answer")

    local_rig.ledger.record_proof = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(CopyFault) as raised:
        local_rig.do(copy_id, "publish")
    assert raised.value.code is FaultCode.DB_UPDATE
    assert raised.value.code.number == 20
    local_rig.ledger.record_proof = real  # type: ignore[method-assign]
    assert tree_of(local_rig.remote / source.name) == tree_of(source)
    assert local_rig.do(copy_id, "publish").state is CopyState.FULL
    assert local_rig.events("publish")[-1].detail["found_published"] is True


def test_a_name_that_is_no_directory_is_refused() -> None:
    from custody.host import LocalHost
    from custody.minidvodb.far import Far

    for name in ("", ".", "..", "a/b", ".incoming", ".custody", "a\0b", "n" * 300):
        with pytest.raises(CopyFault):
            Far(LocalHost(), "/data", name, 1)
    for path in ("data", "/data/../etc", ""):
        with pytest.raises(CopyFault):
            Far(LocalHost(), path, "a", 1)


def test_every_cause_has_a_number_and_a_kind() -> None:
    assert len({code.number for code in FaultCode}) == len(FaultCode)
    for code in FaultCode:
        assert FaultCode.of_number(code.number) is code
        assert code.kind in FaultKind
    assert FaultCode.of_number(0) is None
