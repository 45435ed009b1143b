"""A worker killed at any moment: what is visible over there is the whole database or nothing; the next run ends it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.minidvodb.records import CopyState
from custody_demo.airflow_stack import PROJECT
from custody_demo.minidvodb_sample import Shape
from minidvodb_rig import STEPS, WHO, Rig, tree_of, visible

SHAPE = Shape(regions=40, detections=4000)  # 30 MB, 160 files
WORKER = """
import sys
from pathlib import Path
from custody.host import SshTarget
from custody.ledger import Ledger
from custody.minidvodb.ssh import SharedSshHost
from minidvodb_rig import STEPS
ledger = Ledger(sys.argv[1])
host, port, user, key, host_key = sys.argv[3:8]
target = SshTarget(host, host_key, user=user, port=int(port), key_file=Path(key))
reach = lambda known: SharedSshHost(target)
print("ready", flush=True)
for name, step in STEPS.items():
    step(ledger, int(sys.argv[2]), who="worker", reach=reach)
    print(name, flush=True)
"""


def start_worker(rig: Rig, copy_id: int) -> subprocess.Popen[bytes]:
    assert rig.sshd
    sshd = rig.sshd
    place = [sshd.host, str(sshd.port), sshd.user, str(sshd.key_file), sshd.host_key]
    env = {**os.environ, "PYTHONPATH": f"{PROJECT}/include:{PROJECT}/tests"}
    argv = [sys.executable, "-c", WORKER, rig.ledger.url, str(copy_id), *place]
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    return process


def finish(rig: Rig, copy_id: int) -> CopyState:
    for name in STEPS:
        for _ in range(3):
            try:
                STEPS[name](rig.ledger, copy_id, who=WHO, reach=rig.reach)
                break
            except Fault as fault:
                assert fault.kind is FaultKind.CONFLICT, fault
                time.sleep(0.2)
    return rig.load(copy_id).state


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_what_is_visible_is_whole_at_random_kills(rig: Rig, mover: str) -> None:
    dice = random.Random(mover)
    source = rig.make(shape=SHAPE)
    rig.host(mover=mover, max_rate=60_000_000)
    (copy_id,) = rig.queue()
    whole = tree_of(source)
    killed = 0
    for _ in range(5):
        worker = start_worker(rig, copy_id)
        try:
            worker.wait(dice.uniform(0.05, 2.2))
        except subprocess.TimeoutExpired:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            killed += 1
        worker.stdout.close()  # type: ignore[union-attr]
        if visible(rig.remote):
            assert tree_of(rig.remote / source.name) == whole
        if rig.load(copy_id).state is CopyState.FULL:
            assert tree_of(rig.remote / source.name) == whole
            break
    assert killed
    if rig.load(copy_id).state is not CopyState.FULL and rig.load(copy_id).step == "checked":
        assert rig.pending() == [copy_id]  # nobody works on it, and the next run takes it at once
    assert finish(rig, copy_id) is CopyState.FULL
    assert visible(rig.remote) == [source.name]
    assert tree_of(rig.remote / source.name) == whole


def test_a_crash_between_rename_and_record_is_repaired_without_sending(local_rig: Rig) -> None:
    source = local_rig.make()
    local_rig.host()
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight", "transfer", "verify")
    copy = local_rig.load(copy_id)
    far = local_rig.reach(copy.destination)
    stage = local_rig.remote / ".incoming" / f"{source.name}.{copy_id}"
    assert (
        far.run(["mv", "-T", str(stage), str(local_rig.remote / source.name)]).returncode == 0
    )  # and then the worker died
    before = (local_rig.remote / source.name / "n0000/0000.cpm").stat()
    assert local_rig.do(copy_id, "publish").state is CopyState.FULL
    after = (local_rig.remote / source.name / "n0000/0000.cpm").stat()
    assert (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)
    assert local_rig.events("publish")[-1].detail["found_published"] is True


def test_a_lost_ledger_row_finds_the_published_copy_and_sends_nothing(local_rig: Rig) -> None:
    source = local_rig.make()
    local_rig.host()
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id)
    local_rig.set(copy_id, state="new", step="queued", fingerprint=None, manifest_sha256=None)
    copy = local_rig.do(copy_id)
    assert copy.state is CopyState.FULL
    assert copy.row["sent_bytes"] == 0
    assert copy.row["mover"] == "none"
    assert tree_of(local_rig.remote / source.name) == tree_of(source)


@pytest.mark.slow
def test_the_program_of_a_killed_worker_is_ended_before_another_writes(local_rig: Rig, tmp_path: Path) -> None:
    """An orphan over there that still writes would spoil what was verified."""
    local_rig.make()
    local_rig.host()
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight")
    copy = local_rig.load(copy_id)
    from custody.minidvodb.far import Far

    far = Far(local_rig.reach(copy.destination), copy.path, copy.name, copy.id)
    far.open_staging()
    orphan = subprocess.Popen(
        far.writer(["sh", "-c", "while :; do date >>orphan; sleep 0.05; done"]), start_new_session=True
    )
    try:
        threading.Thread(target=orphan.wait, daemon=True).start()  # as init would
        deadline = time.monotonic() + 10
        while not (local_rig.remote / ".incoming" / far.stage / "orphan").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert local_rig.do(copy_id).state is CopyState.FULL
        assert orphan.wait(5) != 0
        assert not (local_rig.remote / copy.name / "orphan").exists()
    finally:
        if orphan.poll() is None:
            os.killpg(orphan.pid, signal.SIGKILL)
            orphan.wait()
