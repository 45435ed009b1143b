"""One owner at a time, whatever happens to the owners."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from custody import lease
from custody.faults import Fault, FaultKind
from custody.lease import Lease, beat, check, give_back, hold, process_identity, take
from custody.ledger import Ledger
from custody.ledger.tables import lease as table

TTL = timedelta(seconds=90)
ELSEWHERE = "crawler7/0000-boot/4026531836/11/222"


def _refused(call: Callable[[], object]) -> Fault:
    with pytest.raises(Fault) as caught:
        call()
    return caught.value


def _may_write(ledger: Ledger, held: Lease) -> bool:
    """What a holder does before it writes; the row lock ends with the transaction."""
    with ledger.begin() as connection:
        try:
            check(connection, held)
        except Fault as fault:
            assert fault.kind is FaultKind.CONFLICT
            assert held.name in str(fault)
            return False
    return True


# -- every order of events ------------------------------------------------------------------------------------------


class Owners(RuleBasedStateMachine):
    """Several holders, some of whom die, and a clock that only the machine moves."""

    leases = Bundle("leases")
    ledger: Ledger
    names = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.clock = datetime(2026, 11, 22, tzinfo=UTC)
        self.name = f"thing-{next(self.names)}"
        self.given: list[Lease] = []
        self.free_from = self.clock  # when the next one may have it
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(lease, "now", lambda: self.clock)

    def teardown(self) -> None:
        self._patch.undo()

    @rule(seconds=st.sampled_from([0.000001, 1, 30, 89, 90, 91, 400]))
    def time_passes(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    @rule(target=leases, number=st.integers(1, 3), ttl_s=st.sampled_from([1, 90, 300]), dies=st.booleans())
    def somebody_wants_it(self, number: int, ttl_s: int, dies: bool) -> object:
        ttl = timedelta(seconds=ttl_s)
        holder = f"{lease._here()}/999999{number}/7" if dies else f"{ELSEWHERE}{number}"
        if self.free_from > self.clock:
            fault = _refused(lambda: take(self.ledger, self.name, holder=holder, ttl=ttl))
            assert fault.kind is FaultKind.CONFLICT
            assert self.given[-1].holder in str(fault)
            return multiple()
        got = take(self.ledger, self.name, holder=holder, ttl=ttl)
        assert got.token == len(self.given) + 1, "tokens only grow"
        assert got.expires_at == self.clock + ttl
        self.given.append(got)
        self.free_from = self.clock if dies else got.expires_at
        return got

    @rule(held=leases, ttl_s=st.sampled_from([1, 90]))
    def somebody_beats(self, held: Lease, ttl_s: int) -> None:
        ttl = timedelta(seconds=ttl_s)
        if held.token != len(self.given):
            assert _refused(lambda: beat(self.ledger, held, ttl=ttl)).kind is FaultKind.CONFLICT
            return
        longer = beat(self.ledger, held, {"files": held.token}, ttl=ttl)
        assert (longer.token, longer.expires_at) == (held.token, self.clock + ttl)
        if held.holder.startswith(ELSEWHERE):
            self.free_from = longer.expires_at

    @rule(held=leases)
    def somebody_gives_it_back(self, held: Lease) -> None:
        give_back(self.ledger, held)
        if held.token == len(self.given):
            self.free_from = self.clock

    @invariant()
    def at_most_the_last_one_may_write(self) -> None:
        assert [held.token for held in self.given if _may_write(self.ledger, held)] == [
            held.token for held in self.given[-1:]
        ]


def test_at_most_one_holder_may_write_whatever_happens(ledger_sqlite: Ledger) -> None:
    class OwnersHere(Owners):
        ledger = ledger_sqlite

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        OwnersHere, settings=settings(max_examples=40, stateful_step_count=20)
    )


# -- one thing after another ----------------------------------------------------------------------------------------


def test_a_lost_holder_writes_nothing(ledger_sqlite: Ledger) -> None:
    lost = take(ledger_sqlite, "series-1", holder=ELSEWHERE, ttl=timedelta(seconds=-1))
    take(ledger_sqlite, "series-1")
    with pytest.raises(Fault, match=f"series-1: was taken over from {ELSEWHERE}"), ledger_sqlite.begin() as connection:
        ledger_sqlite.record_event(connection, who="lost", room="drain", what="sent", subject="series-1")
        check(connection, lost)
    with ledger_sqlite.read() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM event")) == 0


def test_a_lease_nobody_ever_took_lets_nobody_write(ledger_sqlite: Ledger) -> None:
    made_up = Lease("series-9", 1, ELSEWHERE, datetime.now(UTC))
    assert not _may_write(ledger_sqlite, made_up)
    assert _refused(lambda: beat(ledger_sqlite, made_up)).kind is FaultKind.CONFLICT
    give_back(ledger_sqlite, made_up)


def test_giving_back_what_was_lost_does_not_free_it(ledger_sqlite: Ledger) -> None:
    lost = take(ledger_sqlite, "series-1", holder=ELSEWHERE, ttl=timedelta(seconds=-1))
    take(ledger_sqlite, "series-1", holder=ELSEWHERE)
    give_back(ledger_sqlite, lost)
    assert _refused(lambda: take(ledger_sqlite, "series-1")).kind is FaultKind.CONFLICT


def test_leases_of_different_names_do_not_meet(ledger_sqlite: Ledger) -> None:
    assert take(ledger_sqlite, "series-1").token == take(ledger_sqlite, "Series-1").token == 1


def test_the_one_who_waits_is_told_for_whom_and_until_when(ledger_sqlite: Ledger) -> None:
    held = take(ledger_sqlite, "series-1", holder=ELSEWHERE)
    fault = _refused(lambda: take(ledger_sqlite, "series-1"))
    assert str(fault).startswith(f"series-1: is held by {ELSEWHERE} until {held.expires_at:%Y-%m-%d %H:%M:%S} UTC")
    assert fault.next_command


# -- kept alive by a thread -----------------------------------------------------------------------------------------


def _row(ledger: Ledger, name: str) -> sa.Row[tuple[object, ...]]:
    with ledger.read() as connection:
        return connection.execute(sa.select(table).where(table.c.name == name)).one()


def _wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def test_a_held_lease_outlives_its_ttl_and_shows_progress(ledger_sqlite: Ledger) -> None:
    with hold(ledger_sqlite, "series-1", holder=ELSEWHERE, ttl=timedelta(seconds=0.3)) as held:
        held.progress["files"] = 7
        first_end = held.lease.expires_at
        _wait_until(lambda: _row(ledger_sqlite, "series-1").expires_at > first_end + timedelta(seconds=0.2))
        assert _row(ledger_sqlite, "series-1").progress == {"files": 7}
        assert _refused(lambda: take(ledger_sqlite, "series-1")).kind is FaultKind.CONFLICT
        with ledger_sqlite.begin() as connection:
            held.check(connection)
    assert take(ledger_sqlite, "series-1").token == 2, "free at once after the block"
    assert _row(ledger_sqlite, "series-1").progress == {}, "the next owner starts from nothing"


def test_a_lease_is_given_back_when_the_work_fails(ledger_sqlite: Ledger) -> None:
    with pytest.raises(KeyError), hold(ledger_sqlite, "series-1", holder=ELSEWHERE):
        raise KeyError
    take(ledger_sqlite, "series-1")


def test_the_holder_learns_that_it_lost(ledger_sqlite: Ledger) -> None:
    with hold(ledger_sqlite, "series-1", holder=ELSEWHERE, ttl=timedelta(seconds=0.3)) as held:
        give_back(ledger_sqlite, held.lease)  # stands for a pause longer than the lease
        taken = take(ledger_sqlite, "series-1", holder=ELSEWHERE + "2")
        with ledger_sqlite.begin() as connection:
            assert _refused(lambda: held.check(connection)).kind is FaultKind.CONFLICT
        _wait_until(lambda: held.lost is not None)
        assert _refused(held.check).kind is FaultKind.CONFLICT
    assert _may_write(ledger_sqlite, taken)
    assert _refused(lambda: take(ledger_sqlite, "series-1")).kind is FaultKind.CONFLICT


# -- real processes -------------------------------------------------------------------------------------------------


@contextmanager
def _another_process(work: Callable[[], object]) -> Iterator[int]:
    """A forked process that does some work, says so, and then sleeps until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            os.write(writer, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        said = os.read(reader, 1)
        assert said == b"!", "the other process failed"
        yield child
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_living_process_keeps_its_lease_and_a_killed_one_loses_it_at_once(ledger_sqlite: Ledger) -> None:
    url = ledger_sqlite.url
    with _another_process(lambda: take(Ledger.open(url), "series-1", ttl=timedelta(hours=1))) as child:
        fault = _refused(lambda: take(ledger_sqlite, "series-1"))
        assert f"/{child}/" in str(fault)
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead, and still in the process table
        assert take(ledger_sqlite, "series-1").token == 2


def test_a_stopped_process_is_not_a_dead_one(ledger_sqlite: Ledger) -> None:
    url = ledger_sqlite.url
    with _another_process(lambda: take(Ledger.open(url), "series-1")) as child:
        os.kill(child, signal.SIGSTOP)
        os.waitid(os.P_PID, child, os.WSTOPPED)
        assert _refused(lambda: take(ledger_sqlite, "series-1")).kind is FaultKind.CONFLICT


def test_a_process_number_used_again_is_not_the_old_holder(ledger_sqlite: Ledger) -> None:
    where, _, started = process_identity().rpartition("/")
    take(ledger_sqlite, "series-1", holder=f"{where}/{int(started) - 1}")
    assert take(ledger_sqlite, "series-1").token == 2


@pytest.mark.parametrize("part", [0, 1, 2], ids=["host", "boot", "pid namespace"])
def test_of_processes_elsewhere_nothing_is_concluded(ledger_sqlite: Ledger, part: int) -> None:
    parts = f"{lease._here()}/999999/1".split("/")
    parts[part] += "0"
    take(ledger_sqlite, "series-1", holder="/".join(parts))
    assert _refused(lambda: take(ledger_sqlite, "series-1")).kind is FaultKind.CONFLICT


@pytest.mark.parametrize("holder", ["manual__2026-11-22", "ops", "a/b/c", "", "host/x/y/notanumber/9"])
def test_a_holder_of_any_form_is_kept_until_it_expires(ledger_sqlite: Ledger, holder: str) -> None:
    take(ledger_sqlite, "series-1", holder=holder or ELSEWHERE)
    assert _refused(lambda: take(ledger_sqlite, "series-1")).kind is FaultKind.CONFLICT


def test_an_identity_is_that_of_a_living_process() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        identity = f"{lease._here()}/{process.pid}/{lease._start_time(process.pid)}"
        assert not lease._is_dead_here(identity)
        process.kill()
    assert lease._is_dead_here(identity)
    assert not lease._is_dead_here(process_identity())


# -- on every database ----------------------------------------------------------------------------------------------


def _want_at_once(ledger: Ledger, count: int) -> tuple[list[Lease], list[Fault]]:
    got: list[Lease] = []
    faults: list[Fault] = []
    start = threading.Barrier(count)

    def want(number: int) -> None:
        start.wait()
        try:
            got.append(take(ledger, "series-1", holder=f"{ELSEWHERE}{number}"))
        except Fault as fault:
            faults.append(fault)

    threads = [threading.Thread(target=want, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got, faults


def test_of_many_who_want_it_at_once_one_gets_it(any_ledger: Ledger) -> None:
    for token in (1, 2, 3):  # a row to make, then a row to change
        got, faults = _want_at_once(any_ledger, 6)
        assert [held.token for held in got] == [token]
        assert len(faults) == 5
        assert {fault.kind for fault in faults} <= {FaultKind.CONFLICT, FaultKind.TRANSIENT}
        give_back(any_ledger, got[0])


def test_a_takeover_waits_for_a_write_that_has_been_checked(any_ledger: Ledger, tmp_path: Path) -> None:
    """Between check() and commit nobody else may become the owner."""
    held = take(any_ledger, "series-1", holder=ELSEWHERE, ttl=timedelta(seconds=-1))
    order: list[str] = []
    checked = threading.Event()

    def take_over() -> None:
        checked.wait()
        take(any_ledger, "series-1")
        order.append("taken over")

    thread = threading.Thread(target=take_over)
    thread.start()
    with any_ledger.begin() as connection:
        check(connection, held)
        checked.set()
        time.sleep(0.3)
        any_ledger.record_event(connection, who="w", room="drain", what="sent", subject="series-1")
        order.append("written")
    thread.join()
    assert order == ["written", "taken over"]
