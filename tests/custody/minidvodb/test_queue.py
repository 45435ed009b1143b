"""What is queued, once, for whom; what goes next; and the switches that stop it."""

from __future__ import annotations

import multiprocessing
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from custody.configs import Shelf
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.ledger.tables import lease as leases
from custody.minidvodb import catalogue, destination, load, queue, switches, tables
from custody.minidvodb import config as configuration
from custody.minidvodb.actions import select
from custody.minidvodb.switches import Stage
from minidvodb_rig import WHO, Rig, visible

HOSTS = ("ipp022", "ipp055", "ipp060")
GROUPS = ("ThreePi", "MD01", "LAP")


def know(ledger: Ledger, number: int, *, group: str = "ThreePi", state: str = "merged", fault: int | None = 0) -> int:
    name = f"{group}.{number}"
    run = catalogue.add(ledger, group, f"/data/{name}", who=WHO, state=state, fault=fault or 0)
    if fault is None:
        with ledger.begin() as connection:
            which = tables.processed.c.minidvodb_id == run.minidvodb_id
            connection.execute(sa.delete(tables.processed).where(which))
    return run.minidvodb_id


def ask(ledger: Ledger, group: str = "ThreePi", host: str = "ipp022", **settings: Any) -> None:
    destination.put(ledger, host, who=WHO, settings=settings)
    switches.want(ledger, group, host, f"/data/{host}/{group}", who=WHO)


def copies(ledger: Ledger) -> list[tuple[int, str]]:
    return [(line.minidvodb_id, line.host) for line in select(ledger)]


def test_the_rule_and_why_not(any_ledger: Ledger) -> None:
    good = know(any_ledger, 1)
    others = {
        know(any_ledger, 2, state="waiting"): "its state is waiting, not merged",
        know(any_ledger, 3, fault=5): "its merge ended with fault 5",
        know(any_ledger, 4, fault=None): "it was never processed",
    }
    know(any_ledger, 5, group="MD01")
    ask(any_ledger)
    told = {one.minidvodb_id: one.reason for one in queue.explain(any_ledger)}
    assert told == {good: None, **others}
    assert copies(any_ledger) == []
    (made,) = queue.queue_wanted(any_ledger, who=WHO)
    assert (made.queued, made.already) == (1, 0)
    assert copies(any_ledger) == [(good, "ipp022")]
    (again,) = queue.queue_wanted(any_ledger, who=WHO)
    assert (again.queued, again.already) == (0, 1)
    assert "queued before as copy" in str(queue.explain(any_ledger)[0].reason)
    destination.switch_off(any_ledger, "ipp022", who=WHO)
    know(any_ledger, 6)
    assert queue.queue_wanted(any_ledger, who=WHO) == []
    assert queue.explain(any_ledger)[-1].reason == "host ipp022 is switched off"


def _queue_at_once(url: str, barrier: Any, answers: Any) -> None:
    ledger = Ledger(url)
    barrier.wait()
    try:
        answers.put(sum(one.queued for one in queue.queue_wanted(ledger, who=WHO)))
    except Fault as fault:
        answers.put(str(fault))


def test_two_at_once_make_one_row_each(any_ledger: Ledger) -> None:
    for number in range(50):
        know(any_ledger, number)
    ask(any_ledger)
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_queue_at_once, args=(any_ledger.url, barrier, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(found) == 50, found
    assert len(set(copies(any_ledger))) == len(copies(any_ledger)) == 50


def test_the_database_itself_refuses_a_second_row(any_ledger: Ledger) -> None:
    know(any_ledger, 1)
    ask(any_ledger)
    queue.queue_wanted(any_ledger, who=WHO)
    with any_ledger.read() as connection:
        row = dict(connection.execute(sa.select(tables.copy)).mappings().one())
    del row["minidvodbcopy_id"]
    with pytest.raises(Fault) as raised, any_ledger.begin() as connection:
        connection.execute(sa.insert(tables.copy).values(**row))
    assert raised.value.kind is FaultKind.CONFLICT


def test_every_group_and_host_gets_its_turn(any_ledger: Ledger) -> None:
    for group in GROUPS:
        for number in range(20):
            know(any_ledger, number, group=group)
        for host in HOSTS:
            ask(any_ledger, group, host)
    queue.queue_wanted(any_ledger, who=WHO)
    assert len(copies(any_ledger)) == 180
    chosen = load.choose(any_ledger, limit=18)
    served = [(one.group, one.host) for one in chosen]
    assert {pair: served.count(pair) for pair in served} == {(group, host): 2 for group in GROUPS for host in HOSTS}


def test_the_urgent_one_overtakes_and_the_oldest_goes_first(ledger: Ledger) -> None:
    for number in range(4):
        know(ledger, number)
    ask(ledger)
    queue.queue_wanted(ledger, who=WHO)
    first = [one.id for one in load.choose(ledger)]
    assert first == sorted(first)
    know(ledger, 9, group="MD01")
    ask(ledger, "MD01", "ipp055")
    queue.queue_wanted(ledger, who=WHO, group="MD01", priority=1)
    assert load.choose(ledger)[0].group == "MD01"
    assert [one.priority for one in load.choose(ledger)] == [1, 3, 3, 3, 3]


def test_a_faulted_copy_keeps_no_other_waiting(ledger: Ledger) -> None:
    for number in range(3):
        know(ledger, number)
    ask(ledger)
    queue.queue_wanted(ledger, who=WHO)
    waiting, permanent, free = (one.id for one in load.choose(ledger))
    table = tables.copy
    with ledger.begin() as connection:
        later = now().replace(year=now().year + 1)
        for number, until in ((waiting, later), (permanent, None)):
            which = table.c.minidvodbcopy_id == number
            connection.execute(sa.update(table).where(which).values(fault=32, not_before=until))
    assert [one.id for one in load.choose(ledger)] == [free]
    with ledger.begin() as connection:
        earlier = now().replace(year=now().year - 1)
        which = table.c.minidvodbcopy_id == waiting
        connection.execute(sa.update(table).where(which).values(not_before=earlier))
    assert [one.id for one in load.choose(ledger)] == [waiting, free]


def test_what_another_run_is_at_is_left_to_it_but_not_what_was_killed(local_rig: Rig) -> None:
    from custody import lease
    from custody.minidvodb.records import lease_of

    copy_id = local_rig.one()
    local_rig.do(copy_id, "preflight")
    assert local_rig.pending() == []  # the task after it is about to begin
    local_rig.set(copy_id, epoch=now() - load.IN_HAND)
    assert local_rig.pending() == [copy_id]
    local_rig.set(copy_id, epoch=now())
    held = lease.take(local_rig.ledger, lease_of(copy_id))
    assert local_rig.pending() == []
    lease.give_back(local_rig.ledger, held)  # as if it had run out: the step never ended
    assert local_rig.pending() == [copy_id]


def test_a_run_for_a_machine_takes_its_databases_only(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, host in (("a", "ipp004"), ("b", "ipp005"), ("c", None)):
        catalogue.add(ledger, "ThreePi", f"/data/{name}", who=WHO, host=host)
    ask(ledger)
    queue.queue_wanted(ledger, who=WHO)
    example = Shelf("minidvodb").directory / "example-ipp004.yml"
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path))
    folder = tmp_path / "minidvodb"
    folder.mkdir()
    (folder / "one.yml").write_bytes(example.read_bytes())
    machine = configuration.load("one").machine
    assert [one.name for one in load.choose(ledger, machine=machine)] == ["a"]
    for text, told in (("machine: x\nqueeu: y\n", "queeu"), ("[]", "is no list"), ("machine: [", "is no YAML")):
        (folder / "bad.yml").write_text(text)
        with pytest.raises(Fault, match=told):
            configuration.load("bad")
    for name in ("../one", "none"):
        with pytest.raises(Fault):
            configuration.load(name)


def test_switches_and_intent_survive_a_restart(any_ledger: Ledger) -> None:
    know(any_ledger, 1)
    ask(any_ledger)
    queue.queue_wanted(any_ledger, who=WHO)
    for stage in Stage:
        switches.turn(any_ledger, stage, False, who=WHO)
    again = Ledger(any_ledger.url)
    assert set(switches.positions(again).values()) == {False}
    assert [(one.group, one.host) for one in switches.list_wanted(again)] == [("ThreePi", "ipp022")]
    for call in (lambda: queue.queue_wanted(again, who=WHO), lambda: load.choose(again)):
        with pytest.raises(Fault) as raised:
            call()
        assert raised.value.kind is FaultKind.CANCELLED
        assert "custody minidvodb on" in str(raised.value)
    switches.turn(again, Stage.LOAD, True, who=WHO)
    assert len(load.choose(again)) == 1


def test_a_host_that_is_switched_off_stops_what_has_not_begun(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id, "preflight", "transfer")
    destination.switch_off(local_rig.ledger, "ipp022", who=WHO)
    with pytest.raises(Fault) as raised:
        local_rig.do(copy_id, "verify")
    assert raised.value.kind is FaultKind.CANCELLED
    assert local_rig.load(copy_id).row["fault"] == 0
    assert local_rig.pending() == []
    destination.put(local_rig.ledger, "ipp022", who=WHO)
    assert local_rig.do(copy_id).state == "full"


def test_taking_a_pair_off_the_list_touches_no_row_and_no_data(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id)
    switches.unwant(local_rig.ledger, "ipp022", "ThreePi", who=WHO)
    assert local_rig.load(copy_id).state == "full"
    assert visible(local_rig.remote) == ["ThreePi.1"]
    assert switches.list_wanted(local_rig.ledger) == []
    with pytest.raises(Fault, match="HOST GROUP"):
        switches.unwant(local_rig.ledger, "ipp022", "ThreePi", who=WHO)


def test_copies_run_only_in_their_hours(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][(now().weekday() + 3) % 7]
    destination.put(local_rig.ledger, "ipp022", who=WHO, settings={"window": f"{day} 10:00-11:00"})
    assert local_rig.pending() == []
    with pytest.raises(Fault) as raised:
        local_rig.do(copy_id)
    assert raised.value.kind is FaultKind.CANCELLED
    destination.put(local_rig.ledger, "ipp022", who=WHO, settings={"window": None})
    assert local_rig.pending() == [copy_id]


def test_a_host_takes_so_many_at_a_time(local_rig: Rig) -> None:
    from custody import lease

    copy_id = local_rig.one(max_running=2)
    local_rig.do(copy_id, "preflight")
    place = local_rig.load(copy_id).destination
    with lease.hold(local_rig.ledger, f"minidvodb turn {place.id} 0"):
        with lease.hold(local_rig.ledger, f"minidvodb turn {place.id} 1"):
            with pytest.raises(Fault) as raised:
                local_rig.do(copy_id, "transfer")
            assert raised.value.kind is FaultKind.THROTTLED
            assert raised.value.until and 20 < (raised.value.until - now()).total_seconds() < 31
            with local_rig.ledger.begin() as connection:
                which = leases.c.name.like("minidvodb turn %")
                connection.execute(sa.update(leases).where(which).values(taken_at=now() - timedelta(hours=5)))
            with pytest.raises(Fault) as raised:
                local_rig.do(copy_id, "transfer")
            assert (
                raised.value.until and 400 < (raised.value.until - now()).total_seconds() < load.IN_HAND.total_seconds()
            )
            assert local_rig.load(copy_id).row["fault"] == 0
            local_rig.set(copy_id, epoch=now() - 2 * load.IN_HAND)
            with pytest.raises(Fault, match="under way"):
                local_rig.do(copy_id, "transfer")
            assert local_rig.pending() == []  # it waits in this run, and no other takes it up
        assert local_rig.do(copy_id).state == "full"


def test_two_names_for_one_disk_are_refused(local_rig: Rig, tmp_path: Path) -> None:
    local_rig.make()
    local_rig.host("ipp022", shared_disk=False)
    other = tmp_path / "other"
    other.mkdir()
    local_rig.host("ipp0222", path=other, shared_disk=False)
    first, second = local_rig.queue()
    assert local_rig.do(first).state == "full"
    with pytest.raises(Fault) as raised:
        local_rig.do(second)
    assert "is the same disk of the same machine as ipp022" in str(raised.value)
    assert visible(other) == []


def test_a_directory_that_moved_to_another_disk_is_refused(local_rig: Rig, short_dir: Path) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id, "preflight")
    local_rig.set(copy_id, step="queued", minidvodb_rsync_path=str(short_dir))
    if short_dir.stat().st_dev == local_rig.remote.stat().st_dev:
        pytest.skip("there is one disk only here")
    with pytest.raises(Fault, match="is on another disk than before"):
        local_rig.do(copy_id)
    destination.forget_identity(local_rig.ledger, "ipp022", who=WHO)
    assert local_rig.do(copy_id).state == "full"


def test_two_databases_of_one_name_never_share_a_place(local_rig: Rig) -> None:
    local_rig.make()
    catalogue.add(local_rig.ledger, "ThreePi", str(local_rig.home / "else/ThreePi.1"), who=WHO)
    local_rig.host()
    first, second = local_rig.queue()
    assert local_rig.do(first).state == "full"
    with pytest.raises(Fault, match="same name and the same place"):
        local_rig.do(second)


@pytest.mark.parametrize("bad", ["", "a b", "-x", "a/b", "a\n", "x" * 200])
def test_what_is_no_host_is_refused(ledger: Ledger, bad: str) -> None:
    with pytest.raises(Fault):
        destination.put(ledger, bad, who=WHO)


@pytest.mark.parametrize(
    "values",
    [{"max_used_pct": 101}, {"max_used_pct": "x"}, {"windwo": "x"}, {"window": "Mo 1-2"}, {"max_running": 0}],
)
def test_a_bad_limit_is_refused_with_its_name(ledger: Ledger, values: dict[str, Any]) -> None:
    with pytest.raises(Fault, match=next(iter(values))):
        destination.put(ledger, "ipp022", who=WHO, settings=values)


@pytest.mark.slow
def test_the_queue_rule_is_quick_over_a_hundred_thousand(ledger: Ledger) -> None:
    runs = [
        {
            "minidvodb_id": n,
            "minidvodb_name": f"T.{n}",
            "minidvodb_group": "T",
            "minidvodb_path": "/d",
            "state": "merged",
        }
        for n in range(1, 100_001)
    ]
    with ledger.begin() as connection:
        connection.execute(sa.insert(tables.run), runs)
        connection.execute(sa.insert(tables.processed), [{"minidvodb_id": n, "fault": 0} for n in range(1, 100_001)])
    ask(ledger, "T")
    began = time.process_time()
    (made,) = queue.queue_wanted(ledger, who=WHO)
    first = time.process_time() - began
    began = time.process_time()
    (again,) = queue.queue_wanted(ledger, who=WHO)
    second = time.process_time() - began
    assert (made.queued, again.already) == (100_000, 100_000)
    assert max(first, second) < 2.0, (first, second)
