"""A copy survives a kill at every system call, here and over there: what is visible is the whole database or none."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.harness import ALL_POINTS, enumerate_crash_points
from custody.faults import Fault
from custody.ledger import Ledger
from custody.minidvodb.records import CopyState, load
from custody.minidvodb.run import carry_out
from custody_demo.minidvodb_sample import Shape
from empty_ledger import new_ledger
from minidvodb_rig import WHO, make_rig, tree_of, visible

pytestmark = pytest.mark.crash

POINTS = 14  # of a step, spread over the whole of it


@dataclass(frozen=True)
class Prepared:
    """A queued copy: where its ledger, its source and its destination are."""

    url: str
    source: Path
    remote: Path


def whole_or_nothing(prepared: Prepared) -> None:
    """What a reader over there sees, after any kill."""
    seen = visible(prepared.remote)
    assert seen in ([], [prepared.source.name]), seen
    if seen:
        assert tree_of(prepared.remote / prepared.source.name) == tree_of(prepared.source)


def full_and_equal(prepared: Prepared) -> None:
    whole_or_nothing(prepared)
    assert visible(prepared.remote) == [prepared.source.name]
    assert list((prepared.remote / ".incoming").iterdir()) == []
    ledger = Ledger.open(prepared.url)
    assert load(ledger, 1).state is CopyState.FULL
    assert {str(line.state) for line in ledger.where_is("%") if line.place.startswith("ssh:")} == {"proven"}


@pytest.mark.timeout(0 if ALL_POINTS else 600)
@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_every_crash_point_of_a_copy(mover: str, tmp_path: Path) -> None:
    def prepare(directory: Path) -> Prepared:
        url = f"sqlite:///{directory}/ledger.sqlite"
        rig = make_rig(directory, new_ledger(url), None)
        source = rig.make(shape=Shape(1, 40))
        rig.host(mover=mover)
        rig.queue()
        return Prepared(url, source, rig.remote)

    def copy(prepared: Prepared) -> None:
        """Where a program of ours is killed instead of us, its failure is a fault, and the next run goes on."""
        with suppress(Fault):  # whether the next run did is looked at in the end
            carry_out(Ledger.open(prepared.url), 1, who=WHO)

    new_ledger(f"sqlite:///{tmp_path}/warm.sqlite").close()  # all is imported before the first child is forked
    report = enumerate_crash_points(
        prepare, copy, full_and_equal, check_after_kill=whole_or_nothing, at_most=POINTS, name=f"minidvodb {mover}"
    )
    assert not report.losses, report.losses
    assert report.killed > 0
