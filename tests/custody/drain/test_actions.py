"""What an operator does by hand, and the end of trying."""

from __future__ import annotations

import pytest

from custody import lease
from custody.drain import actions, adopt
from custody.drain.plan import describe, plan_series
from custody.drain.series import SeriesState, lease_of, load
from custody.faults import Fault, FaultKind
from custody.host import DiskUsage, LocalHost
from custody.ledger import CopyState, Ledger
from drain_site import WHO, Site, check_is_clean, check_nothing_lost, tree


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


def places(site: Site, number: int) -> list[str]:
    """Where the files of a series are stored, in their order."""
    series = site.load(number)
    return [site.target.place(series.item, member.name) for member in series.files]


def test_a_series_that_is_to_be_proven_again_is_kept_until_it_is(site: Site) -> None:
    site.write()
    number = site.one_series()
    site.do_until(number, "prove")
    actions.prove_again(site.ledger, number, who="anna")
    assert site.load(number).state is SeriesState.UPLOADED
    assert [site.copies()[place] for place in places(site, number)] == [CopyState.SENT]
    with pytest.raises(Fault, match="delete takes only what is proven"):
        site.do(number, "delete")
    check_nothing_lost(site)
    site.take_up(number)
    site.do_until(number, "delete")
    check_is_clean(site, [number])
    assert len([event for event in site.events("proved")]) == 2
    assert [event.who for event in site.events("prove again")] == ["anna"]


def test_nothing_is_proven_again_that_was_not_proven(site: Site) -> None:
    site.write()
    number = site.one_series()
    site.do_until(number, "manifest")
    with pytest.raises(Fault, match="is listed: nothing is proven yet"):
        actions.prove_again(site.ledger, number, who="anna")


def test_one_file_is_asked_for_sent_and_proven_anew(site: Site) -> None:
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    series = site.do_until(number, "prove")
    assert site.store is not None and site.store.folder is not None
    first, second = series.files
    (site.store.folder / series.item / first.name).unlink()
    actions.retry(site.ledger, number, who="anna", name=first.name)
    assert [site.copies()[place] for place in places(site, number)] == [CopyState.SENT, CopyState.PROVEN]
    (number,) = site.plan().series_ids
    site.do_until(number, "delete")
    check_is_clean(site, [number])
    assert [event.subject for event in site.events("sent")][2:] == [first.name, second.name]
    assert (
        site.load(number).directory.joinpath("TASK").read_text().count(second.name) == 1
    )  # it went over the line once


def test_a_file_that_is_not_in_the_series_is_named(site: Site) -> None:
    site.write()
    number = site.one_series()
    with pytest.raises(Fault, match=r"nothing\.warc\.gz: is no file of series 1"):
        actions.retry(site.ledger, number, who="anna", name="nothing.warc.gz")


@pytest.mark.parametrize("verb", ["retry", "prove_again", "close"])
def test_what_a_step_is_working_on_is_left_to_it(site: Site, verb: str) -> None:
    site.write()
    number = site.one_series()
    more = {"why": "tired"} if verb == "close" else {}
    with (
        lease.hold(site.ledger, lease_of(number)),
        pytest.raises(Fault, match="is held by") as refused,
    ):
        getattr(actions, verb)(site.ledger, number, who="anna", **more)
    assert refused.value.kind is FaultKind.CONFLICT


def test_a_packed_series_that_is_closed_keeps_its_files_and_is_nobody_s_work(site: Site) -> None:
    site.write()
    number = site.one_series()
    series = site.do_until(number, "manifest")
    closed = actions.close(site.ledger, number, why="the crawl was\nillegal", who="anna")
    assert closed.here == tuple(series.path(member) for member in series.files)
    assert (closed.stored, closed.nowhere) == ((), ())
    assert site.plan().series_ids == []
    assert site.do(number, "delete").state is SeriesState.CLOSED
    check_nothing_lost(site)
    assert (series.directory / "CLOSED").read_text().endswith("anna: the crawl was illegal\n")
    (event,) = site.events("close")
    assert (event.who, event.detail["why"], event.detail["was"]) == ("anna", "the crawl was\nillegal", "listed")
    with pytest.raises(Fault, match="there is nothing to close"):
        actions.close(site.ledger, number, why="again", who="anna")


def test_a_planned_series_that_is_closed_gives_its_files_back(site: Site) -> None:
    site.write()
    number = site.one_series()
    actions.close(site.ledger, number, why="wrong item", who="anna")
    (again,) = site.plan().series_ids
    assert again != number
    site.do_until(again, "delete")
    check_is_clean(site, [again])


def test_no_series_is_closed_over_a_loss_unless_it_is_known(site: Site) -> None:
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    series = site.do_until(number, "manifest")
    gone = series.path(series.files[0])
    gone.unlink()
    before = tree(site.root / "xfer"), site.load(number)
    with pytest.raises(Fault, match="1 of its files are neither here as they were nor proven elsewhere") as refused:
        actions.close(site.ledger, number, why="tired", who="anna")
    assert refused.value.kind is FaultKind.NEEDS_HUMAN
    assert (tree(site.root / "xfer"), site.load(number)) == before
    closed = actions.close(site.ledger, number, why="the disk ate it", who="anna", accept_loss=True)
    assert closed.nowhere == (gone.name,)
    states = {place.rpartition("/")[2]: state for place, state in site.copies().items()}
    assert states == {gone.name: CopyState.LOST, series.files[1].name: CopyState.PRESENT}


def test_a_series_whose_files_are_proven_elsewhere_may_be_closed_without_them(site: Site) -> None:
    site.write()
    number = site.one_series()
    series = site.do_until(number, "prove")
    series.path(series.files[0]).unlink()
    closed = actions.close(site.ledger, number, why="deleted by hand", who="anna")
    assert (closed.here, closed.stored, closed.nowhere) == ((), (series.files[0].name,), ())


def test_a_closed_series_stays_closed_when_the_ledger_is_lost(site: Site) -> None:
    site.write()
    number = site.one_series()
    site.do_until(number, "manifest")
    actions.close(site.ledger, number, why="no more", who="anna")
    anew = Ledger.upgrade(f"sqlite:///{site.root}/anew.sqlite")
    (found,) = adopt.adopt(anew, "wide", site.config, who=WHO)
    assert load(anew, found.series_id).state is SeriesState.CLOSED


def test_a_file_that_was_let_go_and_is_not_stored_any_more_is_named(site: Site) -> None:
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    series = site.do_until(number, "prove")
    series.path(series.files[0]).unlink()
    assert site.store is not None and site.store.folder is not None
    (site.store.folder / series.item / series.files[0].name).unlink()
    actions.retry(site.ledger, number, who="anna", name=series.files[0].name)
    site.take_up(number)
    with pytest.raises(Fault, match="is not here any more and is not stored at s3://") as stuck:
        site.do(number, "upload")
    assert stuck.value.next_command == f"custody where-is '{series.files[0].name}' (then put it back in its place)"
