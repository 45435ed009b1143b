"""The ledger on SQLite survives a kill at every system call: a transaction is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from crash.harness import enumerate_crash_points
from custody.digests import Fixity
from custody.lease import hold
from custody.ledger import CopyState, Ledger
from custody.ledger.tables import copy, event, file, proof

pytestmark = pytest.mark.crash

FIXITY = Fixity(10, {"md5": "a" * 32})


def _a_url(directory: Path) -> str:
    return f"sqlite:///{directory / 'home' / 'ledger.sqlite'}"


def _is_whole(url: str) -> None:
    ledger = Ledger.open(url)
    with ledger.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    assert Ledger.open(ledger.url)
    ledger.close()


def test_making_the_ledger_survives_crash_points() -> None:
    report = enumerate_crash_points(_a_url, upgrade_and_close, _is_whole, name="ledger upgrade", at_most=60)
    assert report.losses == ()
    assert report.killed == report.points > 0


def upgrade_and_close(url: str) -> None:
    Ledger.upgrade(url).close()


def _an_empty_ledger(directory: Path) -> str:
    url = _a_url(directory)
    Ledger.upgrade(url).close()
    return url


def _record(url: str) -> None:
    ledger = Ledger.open(url)
    with hold(ledger, "series-1") as held, ledger.begin() as connection:
        held.check(connection)
        file_id = ledger.record_file(connection, "a.warc.gz", FIXITY)
        copy_id = ledger.record_copy(connection, file_id, "s3://item/a.warc.gz", CopyState.SENT)
        ledger.record_proof(connection, copy_id, "listing", FIXITY, "run")
        ledger.record_event(connection, who="run", room="drain", what="proved", subject="a.warc.gz")
    ledger.close()


def _all_or_nothing(url: str) -> None:
    ledger = Ledger.open(url)
    with ledger.read() as connection:
        counts = [
            connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in (file, copy, proof, event)
        ]
    assert counts in ([0, 0, 0, 0], [1, 1, 1, 1])
    ledger.close()


def _proven_once(url: str) -> None:
    ledger = Ledger.open(url)
    (line,) = ledger.where_is("a.warc.gz")
    assert (line.state, line.proof) == (CopyState.PROVEN, "listing")
    with ledger.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    ledger.close()


def test_what_is_recorded_together_is_there_together_at_every_crash_point() -> None:
    report = enumerate_crash_points(
        _an_empty_ledger, _record, _proven_once, check_after_kill=_all_or_nothing, name="ledger record", at_most=45
    )
    assert report.losses == ()
    assert report.killed == report.points > 0
