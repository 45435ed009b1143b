"""One copy's way: queued, checked, sent, verified, published; and found done when it is asked for again."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from custody.faults import Fault
from custody.ledger import Ledger
from custody.minidvodb import report, view
from custody.minidvodb.actions import Selection, revert
from custody.minidvodb.audit import audit_due
from custody.minidvodb.records import CopyState
from minidvodb_rig import STEPS, WHO, Rig, make_rig, tree_of, visible


@pytest.mark.parametrize("mover", ["rsync", "stream"])
@pytest.mark.parametrize("digest", ["xxh128", "sha256"])
def test_a_database_arrives_whole(rig: Rig, mover: str, digest: str) -> None:
    source = rig.make()
    rig.host(mover=mover, digest=digest)
    (copy_id,) = rig.queue()
    copy = rig.do(copy_id)
    assert copy.state is CopyState.FULL
    assert visible(rig.remote) == ["ThreePi.1"]
    assert tree_of(rig.remote / "ThreePi.1") == tree_of(source)
    assert os.listdir(rig.remote / ".incoming") == []
    assert copy.row["mover"] == mover
    assert copy.row["fault"] == 0
    assert copy.row["dtime"] > 0
    assert copy.row["verified_at"]


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_a_directory_of_this_machine_takes_copies_too(local_rig: Rig, mover: str) -> None:
    source = local_rig.make()
    local_rig.host(mover=mover)
    (copy_id,) = local_rig.queue()
    assert local_rig.do(copy_id).state is CopyState.FULL
    assert tree_of(local_rig.remote / "ThreePi.1") == tree_of(source)


def test_every_step_again_does_nothing(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    for name, step in STEPS.items():
        step(local_rig.ledger, copy_id, who=WHO, reach=local_rig.reach)
        again = step(local_rig.ledger, copy_id, who=WHO, reach=local_rig.reach)
        assert len(local_rig.events(name)) == 1
    assert again.state is CopyState.FULL
    assert local_rig.queue() == [copy_id]
    assert local_rig.pending() == []


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_odd_names_arrive_as_they_are(rig: Rig, mover: str) -> None:
    source = rig.make("a name\nwith 'all' $(that) \\#012 is -odd")
    for name in (
        b"-rf",
        b"two\nlines",
        b" blank ",
        b"\xff\xfe.dat",
        b"\\#012",
        b"%41",
        b"~",
        b"'\"`$(x)`;&|",
        b"x" * 240,
    ):
        with open(os.fsencode(source) + b"/n0000/" + name, "wb") as stream:
            stream.write(name)
    os.mkdir(os.fsencode(source) + b"/s0000/" + b"d" * 120)
    with open(os.fsencode(source) + b"/s0000/" + b"d" * 120 + b"/" + b"e" * 120, "wb") as stream:
        stream.write(b"long")
    (source / "n0000/inner").symlink_to("0000.cpt")
    (source / "n0000/far").symlink_to("../" + "./" * 60 + "s0000")
    (source / "old").write_bytes(b"old")
    os.utime(source / "old", ns=(-1_500_000_000, -1_500_000_000))
    (source / "n0000/0000.cpt").chmod(0o400)
    (source / "n0730").chmod(0o555)
    rig.host(mover=mover)
    (copy_id,) = rig.queue()
    assert rig.do(copy_id).state is CopyState.FULL
    assert tree_of(rig.remote / source.name) == tree_of(source)


def test_a_copy_goes_its_way_on_every_database(any_ledger: Ledger, tmp_path: Path) -> None:
    rig = make_rig(tmp_path, any_ledger, None)
    rig.make("ThreePi.1")
    rig.make("ThreePi.2", seed=2)
    rig.host()
    first, second = rig.queue()
    assert rig.do(first).state is CopyState.FULL
    (rig.remote / "ThreePi.2").mkdir()
    (rig.remote / "ThreePi.2/theirs").touch()
    with pytest.raises(Fault):
        rig.do(second)
    (cell,) = report.cells(any_ledger)
    assert (cell.full, cell.faulted, cell.new, cell.unproven) == (1, 1, 0, 0)
    assert cell.bytes_full == rig.load(first).row["bytes"]
    assert cell.eta_s is None or cell.eta_s >= 0
    assert [one.text for one in report.alerts(any_ledger)] == ["1 copy waits for a person (VERIFY, new)"]
    revert(any_ledger, Selection(fault="VERIFY"), who=WHO, replace=True)
    assert rig.pending() == [second]
    assert rig.do(second).state is CopyState.FULL
    found, faults = audit_due(any_ledger, who=WHO, reach=rig.reach, older_than=timedelta(0), limit=10)
    assert ([one.state for one in found], faults) == (["full", "full"], [])
    assert view.read(any_ledger, second).events[0].what == "audited"
    assert {line.state for line in any_ledger.where_is("ThreePi.2")} == {"present", "proven"}
