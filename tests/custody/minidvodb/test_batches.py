"""Small databases for one host go together; each keeps its own fate."""

from __future__ import annotations

from pathlib import Path

import pytest

from custody import lease
from custody.faults import FaultKind
from custody.minidvodb import load
from custody.minidvodb.batches import (
    MAX_COPIES,
    SMALL_BYTES,
    Ready,
    Tried,
    is_small,
    make_batches,
    plan_batches,
    try_each,
)
from custody.minidvodb.records import CopyState, CopyStep, lease_of
from custody.minidvodb.run import STEPS
from minidvodb_rig import WHO, Rig, tree_of, visible

NEEDS = {
    "preflight": CopyStep.QUEUED,
    "transfer": CopyStep.CHECKED,
    "verify": CopyStep.SENT,
    "publish": CopyStep.VERIFIED,
}


def run(rig: Rig, copies: list[int]) -> dict[str, Tried]:
    return {
        name: try_each(step, NEEDS[name], rig.ledger, copies, who=WHO, reach=rig.reach) for name, step in STEPS.items()
    }


def test_small_ones_of_a_lane_go_together_and_large_ones_alone() -> None:
    here, there = ("ipp022", 3), ("ipp055", 3)
    ready = [Ready(1, here, True), Ready(2, there, True), Ready(3, here, False), Ready(4, here, True)]
    assert make_batches([*ready, Ready(5, ("ipp022", 1), True)]) == [[1, 4], [2], [3], [5]]
    many = make_batches(Ready(number, here, True) for number in range(2 * MAX_COPIES + 1))
    assert [len(batch) for batch in many] == [MAX_COPIES, MAX_COPIES, 1]
    assert [number for batch in many for number in batch] == list(range(2 * MAX_COPIES + 1))


def test_what_is_large_or_cannot_be_looked_at_is_not_small(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    assert is_small(tmp_path)
    with (tmp_path / "a/b/large").open("wb") as file:
        file.truncate(SMALL_BYTES + 1)
    assert not is_small(tmp_path)
    assert not is_small(tmp_path / "nowhere")
    assert not is_small(tmp_path / "a/b/large")


def test_one_that_fails_keeps_no_other_and_all_share_a_connection(rig: Rig, sshd_log: Path) -> None:
    sources = [rig.make(f"ThreePi.{number}", seed=number) for number in (1, 2, 3)]
    rig.host()
    rig.queue()
    (copies,) = plan_batches(rig.ledger, load.choose(rig.ledger))
    assert copies == [1, 2, 3]
    (rig.remote / "ThreePi.2").mkdir()
    (rig.remote / "ThreePi.2/theirs").touch()
    before = sshd_log.read_text().count("Accepted publickey")
    found = run(rig, copies)
    assert sshd_log.read_text().count("Accepted publickey") - before == len(STEPS)
    assert [one.id for one in found["publish"].through] == [1, 3]
    for source in (sources[0], sources[2]):
        assert tree_of(rig.remote / source.name) == tree_of(source)
    assert visible(rig.remote / "ThreePi.2") == ["theirs"]
    assert found["transfer"].fault(may_retry=True, is_last=False) is None  # the others go on
    assert [one.id for one in found["verify"].passed] == [2]
    left = found["publish"].fault(may_retry=False, is_last=True)
    assert left and left.kind is FaultKind.NEEDS_HUMAN
    assert "something else is there under its name" in str(left)
    assert "1 of the 3 copies" in str(left)


def test_what_time_mends_is_tried_again_and_what_others_hold_is_waited_for(local_rig: Rig) -> None:
    for number in (1, 2):
        local_rig.make(f"ThreePi.{number}")
    local_rig.host()
    copies = local_rig.queue()
    with lease.hold(local_rig.ledger, lease_of(2)):
        tried = run(local_rig, copies)["publish"]
        assert local_rig.load(1).state is CopyState.FULL
        fault = tried.fault(may_retry=False, is_last=True)
        assert fault and fault.kind is FaultKind.THROTTLED
    local_rig.make("ThreePi.3")
    copies = local_rig.queue()
    lock = local_rig.home / "minis/ThreePi.3/.Photo.dat.lck"
    lock.write_text("BUSY")
    tried = run(local_rig, copies)["preflight"]
    again = tried.fault(may_retry=True, is_last=False)
    assert again and again.kind is FaultKind.TRANSIENT
    assert tried.fault(may_retry=False, is_last=False) is None
    lock.unlink()
    assert not run(local_rig, copies)["publish"].faults
    assert all(local_rig.load(number).state is CopyState.FULL for number in copies)


@pytest.fixture
def sshd_log(rig: Rig) -> Path:
    """What sshd wrote."""
    assert rig.sshd
    return rig.sshd.key_file.parent / "log"
