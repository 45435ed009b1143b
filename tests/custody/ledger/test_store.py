"""The shared tables mean the same on SQLite, PostgreSQL and MariaDB."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from custody.digests import Fixity
from custody.faults import Fault, FaultKind
from custody.ledger import CopyState, Ledger, run_name, store
from custody.ledger.store import disk_place, identity_of, place_key
from custody.ledger.tables import copy, event, file, proof

FIXITY = Fixity(10, {"md5": "a" * 32, "sha256": "b" * 64})
OTHER = Fixity(10, {"md5": "c" * 32, "sha256": "d" * 64})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The time the ledger writes down; a test changes the only element."""
    times = [datetime(2026, 11, 22, 1, 2, 3, 456789, tzinfo=UTC)]
    monkeypatch.setattr(store, "now", lambda: times[0])
    return times


def _count(ledger: Ledger, table: sa.Table) -> int:
    with ledger.read() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def test_a_file_is_recorded_once(any_ledger: Ledger, clock: list[datetime]) -> None:
    with any_ledger.begin() as connection:
        number = any_ledger.record_file(connection, "a.warc.gz", FIXITY)
        assert any_ledger.record_file(connection, "a.warc.gz", FIXITY) == number
    clock[0] += timedelta(hours=1)
    with any_ledger.begin() as connection:
        assert any_ledger.record_file(connection, "a.warc.gz", FIXITY) == number
        row = connection.execute(sa.select(file)).one()
    assert (row.name, row.size_bytes, row.md5, row.sha1, row.sha256) == ("a.warc.gz", 10, "a" * 32, None, "b" * 64)
    assert row.identity == "sha256:" + "b" * 64
    assert row.first_seen == clock[0] - timedelta(hours=1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.warc.gz", "A.warc.gz"),
        ("stra\u00dfe", "strasse"),
        ("\u00e9", "e\u0301"),
        ("e", "\u00e9"),
        ("a", "a "),
        ("\U0001f4fc", "\U0001f4fd"),
        ("%", "_"),
    ],
)
def test_names_that_differ_in_any_byte_are_two_files(any_ledger: Ledger, first: str, second: str) -> None:
    with any_ledger.begin() as connection:
        assert any_ledger.record_file(connection, first, FIXITY) != any_ledger.record_file(connection, second, FIXITY)
    for name in {first, second} - {"%"}:
        with any_ledger.begin() as connection:
            number = any_ledger.record_file(connection, name, FIXITY)
            any_ledger.record_copy(connection, number, "s3://b/k", CopyState.SENT)
        assert [line.name for line in any_ledger.where_is(name)] == [name]


def test_files_of_one_name_are_told_apart_by_their_digest(any_ledger: Ledger) -> None:
    with any_ledger.begin() as connection:
        numbers = {any_ledger.record_file(connection, "a.warc.gz", fixity) for fixity in (FIXITY, OTHER)}
    assert len(numbers) == 2


def test_a_large_file_and_a_long_name_fit(any_ledger: Ledger) -> None:
    name = "\U0001f4fc" * 512
    with any_ledger.begin() as connection:
        number = any_ledger.record_file(connection, name, Fixity(1 << 50, FIXITY.digests))
        any_ledger.record_copy(connection, number, "disk://host/" + "x" * 5000, CopyState.PRESENT)
    found = any_ledger.where_is(name)
    assert [(line.size_bytes, len(line.place)) for line in found] == [(1 << 50, 5012)]


@pytest.mark.parametrize("digests", [{}, {"md5": ""}])
def test_no_file_goes_on_record_by_its_size_alone(ledger_sqlite: Ledger, digests: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="never by size alone"), ledger_sqlite.begin() as connection:
        ledger_sqlite.record_file(connection, "a.warc.gz", Fixity(10, digests))


def test_the_strongest_digest_is_the_identity() -> None:
    assert identity_of(Fixity(1, {"md5": "m", "sha1": "s"})) == "sha1:s"
    assert identity_of(Fixity(1, {"xxh128": "x", "md5": "m"})) == "md5:m"
    assert identity_of(Fixity(1, {"sha256": "", "md5": "m"})) == "md5:m"


def test_a_copy_moves_from_state_to_state_and_stays_one(any_ledger: Ledger, clock: list[datetime]) -> None:
    start = clock[0]
    with any_ledger.begin() as connection:
        number = any_ledger.record_file(connection, "a.warc.gz", FIXITY)
        first = any_ledger.record_copy(connection, number, "s3://b/k", CopyState.PRESENT)
    clock[0] = start + timedelta(hours=1)
    with any_ledger.begin() as connection:
        assert any_ledger.record_copy(connection, number, "s3://b/k", CopyState.PRESENT) == first
    assert any_ledger.where_is("a.warc.gz")[0].since == start, "nothing happened, so it is so since then"
    with any_ledger.begin() as connection:
        assert any_ledger.record_copy(connection, number, "s3://b/k", CopyState.SENT) == first
        assert any_ledger.record_copy(connection, number, "s3://b/K", CopyState.SENT) != first
    line = any_ledger.where_is("a.warc.gz")[0]
    assert (line.state, line.since) == (CopyState.SENT, clock[0])
    assert _count(any_ledger, copy) == 2


def test_a_proof_makes_a_copy_proven(any_ledger: Ledger, clock: list[datetime]) -> None:
    start = clock[0]
    with any_ledger.begin() as connection:
        number = any_ledger.record_file(connection, "a.warc.gz", FIXITY)
        there = any_ledger.record_copy(connection, number, "s3://b/k", CopyState.SENT)
        any_ledger.record_proof(connection, there, "listing", FIXITY, "run 1")
    clock[0] = start + timedelta(hours=1)
    with any_ledger.begin() as connection:
        any_ledger.record_proof(connection, there, "readback", FIXITY, "run 2")
    (line,) = any_ledger.where_is("a.warc.gz")
    assert line == store.Whereabouts(
        "a.warc.gz",
        10,
        "sha256:" + "b" * 64,
        "s3://b/k",
        CopyState.PROVEN,
        start,
        "readback",
        start + timedelta(hours=1),
    )
    with any_ledger.read() as connection:
        rows = connection.execute(sa.select(proof).order_by(proof.c.id)).all()
    assert [(row.kind, row.run) for row in rows] == [("listing", "run 1"), ("readback", "run 2")]
    assert rows[0].compared == {"size_bytes": 10, "digests": dict(FIXITY.digests)}


def test_the_audit_only_grows(any_ledger: Ledger, clock: list[datetime]) -> None:
    for _ in range(2):
        with any_ledger.begin() as connection:
            any_ledger.record_event(
                connection, who="ops", room="drain", what="sent", subject="a.warc.gz", detail={"größe": 10, "ok": None}
            )
    with any_ledger.read() as connection:
        rows = connection.execute(sa.select(event)).all()
    assert len({row.id for row in rows}) == 2
    assert {(row.who, row.room, row.what, row.subject, row.result) for row in rows} == {
        ("ops", "drain", "sent", "a.warc.gz", "done")
    }
    assert all(row.detail == {"größe": 10, "ok": None} and row.happened_at == clock[0] for row in rows)


def test_times_come_back_aware_and_with_microseconds(any_ledger: Ledger, clock: list[datetime]) -> None:
    clock[0] = datetime(2026, 11, 22, 1, 30, 0, 1, tzinfo=timezone(timedelta(hours=2)))
    with any_ledger.begin() as connection:
        any_ledger.record_event(connection, who="ops", room="drain", what="sent", subject="a")
    with any_ledger.read() as connection:
        (found,) = connection.scalars(sa.select(event.c.happened_at)).all()
    assert found == clock[0]
    assert found.isoformat() == "2026-11-21T23:30:00.000001+00:00"


def test_a_time_without_a_zone_is_refused(ledger_sqlite: Ledger, clock: list[datetime]) -> None:
    clock[0] = datetime(2026, 11, 22)
    with pytest.raises(sa.exc.StatementError, match="aware times only"), ledger_sqlite.begin() as connection:
        ledger_sqlite.record_event(connection, who="ops", room="drain", what="sent", subject="a")


def _put(ledger: Ledger, *names: str) -> None:
    with ledger.begin() as connection:
        for name in names:
            number = ledger.record_file(connection, name, FIXITY)
            ledger.record_copy(connection, number, f"s3://b/{name}", CopyState.SENT)


def test_where_is_answers_for_every_copy_released_ones_too(any_ledger: Ledger) -> None:
    with any_ledger.begin() as connection:
        number = any_ledger.record_file(connection, "a.warc.gz", FIXITY)
        for place, state in (("disk://h/a", CopyState.RELEASED), ("s3://b/a", CopyState.LOST)):
            any_ledger.record_copy(connection, number, place, state)
    assert [(line.place, line.state, line.proof, line.proven_at) for line in any_ledger.where_is("a.warc.gz")] == [
        ("disk://h/a", CopyState.RELEASED, None, None),
        ("s3://b/a", CopyState.LOST, None, None),
    ]
    assert any_ledger.where_is("b.warc.gz") == []


def test_a_percent_sign_stands_for_any_characters_and_nothing_else_does(any_ledger: Ledger) -> None:
    _put(any_ledger, "crawl_1.warc.gz", "crawl-1.warc.gz", "CRAWL_1.warc.gz", "crawl_2.cdx", "back\\slash")
    assert [line.name for line in any_ledger.where_is("crawl_%")] == ["crawl_1.warc.gz", "crawl_2.cdx"]
    assert [line.name for line in any_ledger.where_is("%.cdx")] == ["crawl_2.cdx"]
    assert [line.name for line in any_ledger.where_is("back\\%")] == ["back\\slash"]
    assert [line.name for line in any_ledger.where_is("crawl_1.warc.gz")] == ["crawl_1.warc.gz"]


def test_a_transaction_that_fails_leaves_nothing(any_ledger: Ledger) -> None:
    with pytest.raises(KeyError), any_ledger.begin() as connection:
        any_ledger.record_file(connection, "a.warc.gz", FIXITY)
        raise KeyError
    assert _count(any_ledger, file) == 0


def test_two_runs_that_record_the_same_end_with_one(any_ledger: Ledger) -> None:
    """Whoever comes second either finds the row or is told to run again."""
    start = threading.Barrier(4)
    faults: list[Fault] = []

    def record() -> None:
        start.wait()
        for index in range(5):
            try:
                _put(any_ledger, f"{index}.warc.gz")
            except Fault as fault:
                faults.append(fault)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (_count(any_ledger, file), _count(any_ledger, copy)) == (5, 5)
    assert {fault.kind for fault in faults} <= {FaultKind.CONFLICT, FaultKind.TRANSIENT}


def test_a_writer_waits_for_another_one_and_loses_nothing(any_ledger: Ledger) -> None:
    with any_ledger.begin() as connection:
        any_ledger.record_event(connection, who="0", room="drain", what="counted", subject="x", detail={"n": 0})

    def count_up() -> None:
        for _ in range(10):
            with any_ledger.begin() as connection:
                detail = connection.execute(sa.select(event.c.detail).with_for_update()).scalar_one()
                connection.execute(sa.update(event).values(detail={"n": detail["n"] + 1}))

    threads = [threading.Thread(target=count_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with any_ledger.read() as connection:
        assert connection.scalar(sa.select(event.c.detail)) == {"n": 30}


def test_a_copy_of_no_file_is_refused(any_ledger: Ledger) -> None:
    with pytest.raises(Fault) as caught, any_ledger.begin() as connection:
        any_ledger.record_copy(connection, 4711, "s3://b/k", CopyState.SENT)
    assert caught.value.kind is FaultKind.CONFLICT


def test_a_place_whose_name_is_not_utf8_has_a_key() -> None:
    odd = Path(os.fsdecode(b"/jobs/\xff"))
    assert place_key(disk_place(odd)) != place_key(disk_place(Path("/jobs/\\xff")))
    assert len(place_key(disk_place(odd))) == 64


def test_a_sqlite_ledger_is_safe_against_a_power_cut(ledger_sqlite: Ledger) -> None:
    with ledger_sqlite.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_forked_child_has_connections_of_its_own(ledger_sqlite: Ledger) -> None:
    engine = ledger_sqlite.engine
    child = os.fork()
    if child == 0:
        try:
            os._exit(7 if Ledger(ledger_sqlite.url).engine is engine else 0)
        finally:
            os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert Ledger(ledger_sqlite.url).engine is engine


def test_who_acts_is_named() -> None:
    user, _, host = run_name().partition("@")
    assert user
    assert host == os.uname().nodename
