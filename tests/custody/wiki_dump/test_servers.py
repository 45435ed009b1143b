"""Scheduling: so many runs on a database server and no more, the oldest dump first, a broken wiki stops no farm."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger.tables import lease as lease_table
from custody.wiki_dump import choose, claim, farm_config, finish, runs, servers
from custody.wiki_dump.access import Access, from_files
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.settings import Settings
from custody.wiki_dump.work import Heartbeat, working
from wiki_farm import FarmSite

NAMES = ["aawiki", "bbwiki", "ccwiki", "ddwiki"]
TTL = timedelta(seconds=60)


def by_name(farm: FarmConfig, settings: Settings) -> Access:
    """A server for each connection of the farm's sections."""
    return Access(host=farm.connection or "common")


def take(farm: FarmSite, wiki: str | None = None, owner: str = "one", **kwargs: Any) -> runs.Run:
    return claim.claim(farm.ledger, farm.name, farm.config, owner=owner, wiki=wiki, **kwargs)


@pytest.fixture
def four(farm: FarmSite) -> FarmSite:
    for name in NAMES:
        farm.add_wiki(name, pages=1, revisions=1)
    farm.lists(NAMES)
    farm.configure(runs_per_server=2)
    return farm


def held(farm: FarmSite) -> dict[str, str]:
    with farm.ledger.read() as connection:
        rows = connection.execute(sa.select(lease_table).where(lease_table.c.name.startswith("wiki_dump/server/")))
        return {row.name: row.holder for row in rows if row.expires_at > datetime.now(UTC)}


def test_a_server_has_so_many_runs_and_the_next_one_waits_for_one_to_end(four: FarmSite) -> None:
    first, _ = take(four, owner="one"), take(four, "ccwiki", owner="two")
    assert take(four, owner="one").id == first.id  # who asks again takes no second slot
    for wiki in (None, "bbwiki"):
        with pytest.raises(Fault) as caught:
            take(four, wiki, owner="three")
        assert caught.value.kind is FaultKind.THROTTLED and "has 2 runs already" in str(caught.value)
        assert caught.value.until is not None and caught.value.until > datetime.now(UTC)
    assert not list((four.home / "private").glob("bbwiki/lock*"))  # it waits without anything in its hands
    finish.give_back(four.ledger, first.id, owner="one")
    assert take(four, owner="three").wiki.name == "bbwiki"
    assert set(held(four).values()) == {"run two", "run three"} and len(held(four)) == 2


def test_of_many_at_once_no_more_than_so_many_win(four: FarmSite) -> None:
    won, lost = [], []

    def race(number: int) -> None:
        try:
            servers.hold(four.ledger, "db1:3306", 3, owner=f"run {number}", ttl=TTL)
            won.append(number)
        except Fault as fault:
            lost.append(fault.kind)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 3 and lost == [FaultKind.THROTTLED] * 5
    servers.give_back(four.ledger, f"run {won[0]}")
    servers.hold(four.ledger, "db1:3306", 3, owner="late", ttl=TTL)
    long = "x" * 300
    servers.hold(four.ledger, long, 1, owner="late", ttl=TTL)
    with pytest.raises(Fault, match="has 1 runs already"):
        servers.hold(four.ledger, long, 1, owner="later", ttl=TTL)


def test_a_full_server_holds_up_no_wiki_of_another_one(four: FarmSite) -> None:
    (four.home / "s1.dblist").write_text("\ufeffaawiki\r\nbbwiki\r\n", "utf-8")  # as an editor elsewhere leaves it
    sections = {"s1": {"connection": "s1", "dblist": "../../s1.dblist"}}
    four.configure(runs_per_server=1, sections=sections, sqlite_dir=None)
    assert take(four, owner="one", reach=by_name).wiki.name == "aawiki"
    second = take(four, owner="two", reach=by_name)
    assert (second.wiki.name, second.farm.connection, second.farm.sections) == ("ccwiki", None, {})
    assert {name.split("/")[2] for name in held(four)} == {"s1:3306", "common:3306"}
    with pytest.raises(Fault, match="has 1 runs already"):
        take(four, owner="three", reach=by_name)
    sections["s2"] = {"connection": "s2", "dblist": "../../s1.dblist"}
    four.configure(sections=sections, sqlite_dir=None)
    with pytest.raises(Fault, match="is in the lists of sections s1 and s2"):
        take(four, "bbwiki", owner="four", reach=by_name)
    (four.home / "s1.dblist").unlink()
    with pytest.raises(Fault, match=r"s1\.dblist: cannot be read"):
        take(four, "bbwiki", owner="four", reach=by_name)


def test_a_slot_lives_as_long_as_its_run_and_is_taken_up_again(four: FarmSite) -> None:
    four.configure(runs_per_server=1, lease_s=30)
    run = take(four, owner="one")
    access = from_files(four.config, run.settings)
    (name,) = held(four)
    with four.ledger.begin() as connection:
        connection.execute(sa.update(lease_table).values(expires_at=datetime.now(UTC) + timedelta(seconds=2)))
    heartbeat = Heartbeat(four.ledger, run, server=access.server, touch_s=0.05)
    heartbeat.start()
    time.sleep(2.1)
    assert held(four) == {name: "run one"}
    heartbeat.stop()
    with four.ledger.begin() as connection:  # nothing of it worked for long, and another run came
        connection.execute(sa.update(lease_table).values(expires_at=datetime.now(UTC) - timedelta(seconds=2)))
    servers.hold(four.ledger, access.server, 1, owner="two", ttl=TTL)
    with pytest.raises(Fault) as caught, working(four.ledger, run.id, owner="one", access=access):
        pass
    assert caught.value.kind is FaultKind.THROTTLED
    servers.give_back(four.ledger, "two")
    with working(four.ledger, run.id, owner="one", access=access):
        assert held(four) == {name: "run one"}
    finish.give_back(four.ledger, run.id, owner="one")
    assert not held(four)


def test_the_older_the_last_dump_the_more_urgent(four: FarmSite) -> None:
    pasts = [
        choose.Past(choose.NEVER, "", 0.0, "never"),
        choose.Past(choose.FAILED, "20260601", 0.0, "failed"),
        choose.Past(choose.FAILED, "20260731", 0.0, "just failed"),
        choose.Past(choose.GOOD, "20250101", 0.0, "old"),
        choose.Past(choose.GOOD, "20260720", 0.0, "young"),
        choose.Past(choose.GOOD, "20270101", 0.0, "of a clock that was wrong"),
    ]
    found = [choose.urgency(past, "20260801") for past in pasts]
    assert found == sorted(found, reverse=True) and found[0] == 100 and found[-1] == 0
    assert found[2] > found[3] and found[4] == 12


def test_a_wiki_that_fails_time_after_time_lets_the_others_go_first(four: FarmSite) -> None:
    four.lists(NAMES[:2])
    good = four.public("bbwiki", "20260101")
    good.mkdir(parents=True)
    (good / "status.html").write_text("<li>bbwiki: Dump complete</li>")
    for number in range(choose.MAX_FAILURES):
        run = take(four, owner=f"run {number}")
        assert run.wiki.name == "aawiki"
        finish.give_back(four.ledger, run.id, owner=f"run {number}")
    assert take(four, owner="x").wiki.name == "bbwiki"
    assert take(four, owner="y").wiki.name == "aawiki"  # its turn comes all the same


def test_a_dump_dated_in_the_future_keeps_no_wiki_from_being_dumped(four: FarmSite) -> None:
    """A clock that was wrong once, and is right again."""
    four.lists(["aawiki"])
    day = datetime.now(UTC) + timedelta(days=400)
    directory = four.public("aawiki", f"{day:%Y%m%d}")
    directory.mkdir(parents=True)
    (directory / "status.html").write_text("<li>aawiki: Dump complete</li>")
    assert take(four).wiki.name == "aawiki"


def test_a_claim_that_fails_half_way_leaves_neither_lock_nor_lease_nor_slot(
    four: FarmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(*_: object, **__: object) -> int:
        raise Fault(FaultKind.TRANSIENT, "ledger", "is gone at this moment")

    with monkeypatch.context() as patch:
        patch.setattr("custody.wiki_dump.runs.add", strike)
        with pytest.raises(Fault, match="gone at this moment"):
            take(four, "aawiki")
    assert not held(four) and not list(Path(four.home).rglob("lock_*"))
    assert take(four, "aawiki", owner="two").wiki.name == "aawiki"


def test_a_server_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    assert Access(host="DB1").server == Access(host="db1").server == "db1:3306"
    assert Access(host="db1", port=3307).server != Access(host="db1").server
    assert Access(sqlite_dir=tmp_path).server == Access(sqlite_dir=tmp_path / "." / ".." / tmp_path.name).server


def test_sections_lie_beside_the_farm_s_file(four: FarmSite) -> None:
    found = farm_config.parse(
        {"conf": "x", "sections": {"s1": {"connection": "c", "dblist": "s1.dblist"}}}, "x", base=Path("/srv")
    )
    assert found.sections["s1"].dblist == Path("/srv/s1.dblist")
    for wrong in ({"connection": "c"}, {"connection": "c", "dblist": "x", "host": "y"}):
        with pytest.raises(Fault, match=r"sections\.s1"):
            farm_config.parse({"conf": "x", "sections": {"s1": wrong}}, "x")
