"""What an operator does by hand, and the end of trying."""

from __future__ import annotations

import pytest

from custody import lease
from custody.drain import actions
from custody.drain.plan import describe, plan_series
from custody.drain.series import SeriesState, lease_of
from custody.faults import Fault, FaultKind
from custody.host import DiskUsage, LocalHost
from drain_site import WHO, Site, check_is_clean, check_nothing_lost


def test_hold_keeps_the_files_and_release_lets_them_go(site: Site) -> None:
    site.write()
    number = site.one_series()
    site.do_until(number, "prove")
    actions.hold(site.ledger, number, who="anna")
    with pytest.raises(Fault, match="it is on hold") as kept:
        site.do(number, "delete")
    assert kept.value.next_command == f"custody drain release {number}"
    actions.release(site.ledger, number, who="anna")
    site.do(number, "delete")
    check_is_clean(site, [number])
    assert [(event.what, event.who) for event in site.events() if event.who == "anna"] == [
        ("hold", "anna"),
        ("release", "anna"),
    ]


def test_nothing_is_tried_for_ever(site: Site) -> None:
    site.values["max_attempts"] = 3
    site.write()
    number = site.one_series()
    site.do_until(number, "create_item")
    assert site.store is not None
    unreachable = site.store.target(endpoint_url="http://127.0.0.1:1")
    kinds = []
    for _ in range(3):
        with pytest.raises(Fault) as fault:
            site.do(number, "upload", target=unreachable)
        kinds.append(fault.value.kind)
    assert kinds == [FaultKind.TRANSIENT, FaultKind.TRANSIENT, FaultKind.NEEDS_HUMAN]
    assert fault.value.next_command == f"custody drain retry {number}"
    assert site.plan().series_ids == []
    check_nothing_lost(site)

    actions.retry(site.ledger, number, who="anna")
    assert site.plan().series_ids == [number]
    site.do_until(number, "delete")
    check_is_clean(site, [number])


def test_an_advance_forgets_earlier_failures(site: Site) -> None:
    site.write()
    number = site.one_series()
    site.do_until(number, "create_item")
    assert site.store is not None
    with pytest.raises(Fault):
        site.do(number, "upload", target=site.store.target(endpoint_url="http://127.0.0.1:1"))
    assert site.load(number).attempts == 1
    assert site.do(number, "upload").attempts == 0


def test_there_is_nothing_to_retry_in_a_finished_series(site: Site) -> None:
    site.write()
    number = site.one_series()
    site.do_until(number, "delete")
    with pytest.raises(Fault, match="nothing to retry"):
        actions.retry(site.ledger, number, who="anna")


@pytest.mark.parametrize("step", ["pack", "manifest", "create_item", "upload", "prove", "delete"])
def test_the_switch_is_looked_at_before_every_step(site: Site, step: str) -> None:
    site.write()
    number = site.one_series()
    steps = ["pack", "manifest", "create_item", "upload", "prove", "delete"]
    if step != "pack":
        site.do_until(number, steps[steps.index(step) - 1])
    before = site.load(number)
    (site.job_dir / "DRAINME").unlink()
    with pytest.raises(Fault, match="not draining") as stopped:
        site.do(number, step)
    assert stopped.value.kind is FaultKind.CANCELLED
    assert site.load(number) == before


def test_two_plans_at_once_are_one(site: Site) -> None:
    site.write()
    with (
        lease.hold(site.ledger, "drain/plan/wide"),
        pytest.raises(Fault, match="drain/plan/wide: is held by") as refused,
    ):
        plan_series(site.ledger, "wide", site.config, who=WHO)
    assert refused.value.kind is FaultKind.CONFLICT


def test_an_item_is_named_after_the_files_that_are_left(site: Site) -> None:
    for serial in range(3):
        site.write(serial)
    last = site.job_dir / sorted(site.originals)[-1]
    last.write_bytes(last.read_bytes()[:-10])
    site.originals.pop(last.name)
    number = site.one_series()
    assert site.load(number).item.endswith("-00000-00002-crawler07")
    packed = site.do(number, "pack")
    assert packed.item.endswith("-00000-00001-crawler07")
    assert packed.directory.name == packed.item
    assert packed.state is SeriesState.PACKED
    site.do_until(number, "delete")
    check_is_clean(site, [number])


def test_under_pressure_a_disk_is_drained_without_waiting_for_full_items(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.values |= {"max_wait_s": None, "pressure_pct": 90}
    site.write()
    monkeypatch.setattr(LocalHost, "disk_usage", lambda self, path: DiskUsage(100, 11, 100, 100))
    assert site.plan().waiting == tuple(site.originals)
    monkeypatch.setattr(LocalHost, "disk_usage", lambda self, path: DiskUsage(100, 10, 100, 100))
    assert [planned.names for planned in site.plan().planned] == [tuple(site.originals)]


def test_a_series_in_another_run_s_hands_is_left_to_it(site: Site) -> None:
    site.write()
    number = site.one_series()
    with lease.hold(site.ledger, lease_of(number)) as held:
        planned = site.plan()
        assert planned.series_ids == []
        assert planned.busy == {lease_of(number): held.lease.holder}
        assert any("in another run's hands" in line for line in describe(planned))
    assert site.plan().series_ids == [number]
