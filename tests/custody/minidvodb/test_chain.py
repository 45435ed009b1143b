"""A host that has a database proven is the source for the next one, and nothing of the way is believed."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from custody import lease
from custody.faults import Fault
from custody.minidvodb import destination, tables
from custody.minidvodb.codes import FaultCode, code_of
from minidvodb_rig import WHO, Rig, tree_of, visible


@pytest.fixture
def places(local_rig: Rig) -> dict[str, Path]:
    return three_places(local_rig)


def three_places(rig: Rig) -> dict[str, Path]:
    """Three hosts; the first has the database already."""
    rig.make(seed=3)
    found = {}
    for name in ("ipp022", "ipp055", "ipp060"):
        found[name] = rig.home / name
        found[name].mkdir()
        rig.host(name, path=found[name])
    rig.do(rig.queue()[0])
    return found


def test_the_original_may_be_gone(rig: Rig) -> None:
    places = three_places(rig)
    before = tree_of(rig.home / "minis/ThreePi.1")
    (rig.home / "minis").rename(rig.home / "gone")
    _, second, third = rig.queue()
    copy = rig.do(second)
    assert (copy.state, copy.row["holder"], copy.row["mover"]) == ("full", "ipp022", "relay")
    assert tree_of(places["ipp055"] / "ThreePi.1") == before
    assert copy.row["sent_bytes"] >= copy.row["bytes"]
    with rig.ledger.read() as connection:
        turns = connection.execute(sa.select(tables.destination.c.id, tables.destination.c.name)).all()
    busy = next(row.id for row in turns if row.name == "ipp022")
    with lease.hold(rig.ledger, f"minidvodb turn {busy} 0"):
        assert rig.do(third).row["holder"] == "ipp055"  # which is idle
    assert tree_of(places["ipp060"] / "ThreePi.1") == before


def test_a_destination_may_ask_to_spare_the_original(local_rig: Rig, places: dict[str, Path]) -> None:
    destination.put(local_rig.ledger, "ipp055", who=WHO, settings={"fan_out": True})
    _, second, third = local_rig.queue()
    assert local_rig.do(second).row["holder"] == "ipp022"
    assert local_rig.do(third).row["holder"] is None
    assert tree_of(places["ipp055"] / "ThreePi.1") == tree_of(local_rig.home / "minis/ThreePi.1")


def test_a_holder_that_rotted_spreads_nothing(local_rig: Rig, places: dict[str, Path]) -> None:
    (local_rig.home / "minis").rename(local_rig.home / "gone")
    victim = places["ipp022"] / "ThreePi.1/n0000/0000.cpm"
    victim.write_bytes(victim.read_bytes()[::-1])
    _, second, _ = local_rig.queue()
    with pytest.raises(Fault) as raised:
        local_rig.do(second)
    assert code_of(raised.value) is FaultCode.VERIFY
    assert visible(places["ipp055"]) == []


def test_a_holder_that_was_touched_meanwhile_publishes_nothing(local_rig: Rig, places: dict[str, Path]) -> None:
    (local_rig.home / "minis").rename(local_rig.home / "gone")
    _, second, _ = local_rig.queue()
    local_rig.do(second, "preflight", "transfer", "verify")
    (places["ipp022"] / "ThreePi.1/stranger").touch()
    with pytest.raises(Fault) as raised:
        local_rig.do(second, "publish")
    assert code_of(raised.value) is FaultCode.SOURCE_CHANGED
    assert visible(places["ipp055"]) == []


def test_without_any_holder_it_is_said_where_the_original_is(local_rig: Rig, places: dict[str, Path]) -> None:
    (local_rig.home / "minis").rename(local_rig.home / "gone")
    destination.switch_off(local_rig.ledger, "ipp022", who=WHO)
    with local_rig.ledger.begin() as connection:
        connection.execute(sa.update(tables.run).values(minidvodb_host="ipp004"))
    _, second, _ = local_rig.queue()
    with pytest.raises(Fault, match="is on ipp004, not on this machine") as raised:
        local_rig.do(second)
    assert code_of(raised.value) is FaultCode.SOURCE_MISSING
