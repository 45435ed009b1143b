"""Old runs: none goes before younger ones are proven, and what only an old one holds stays."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from custody.faults import Fault
from custody.host import LocalHost
from custody.wiki_dump import claim, finish, retention, runs
from custody.wiki_dump.access import from_files
from custody.wiki_dump.runs import Options
from custody.wiki_dump.status import RunState
from custody.wiki_dump.whole import dump
from custody.wiki_dump.work import Work, working
from wiki_farm import FarmSite

DATES = ("20260501", "20260601", "20260701")
SMALL = "[misc]\nskipjobs=metahistory7zdump,articlesmultistreamdump,metacurrentdump\n[cleanup]\nkeep=1\n"


@pytest.fixture
def one(farm: FarmSite) -> FarmSite:
    farm.add_wiki("aawiki", pages=2, revisions=1)
    farm.lists(["aawiki"])
    farm.configure(SMALL)
    return farm


def run_one(farm: FarmSite, date: str, **options: Any) -> RunState:
    return dump(farm.ledger, farm.name, farm.config, who="t", wiki="aawiki", date=date, options=Options(**options))[1]


def dates(farm: FarmSite) -> list[str]:
    return sorted(path.name for path in farm.public("aawiki").glob("2026*"))


def log(farm: FarmSite, date: str) -> str:
    return (farm.private("aawiki", date) / "dumplog.txt").read_text()


def test_what_only_an_old_run_holds_is_kept(one: FarmSite) -> None:
    run_one(one, DATES[0])
    one.configure(SMALL.replace("metacurrentdump", "metacurrentdump,metahistorybz2dump"))
    assert run_one(one, DATES[1]) is RunState.DONE  # complete as it was asked for, but without the history
    assert dates(one) == list(DATES[:2])
    assert f"{DATES[0]} stays: no younger proven one holds metahistorybz2dump" in log(one, DATES[1])
    one.configure(SMALL)
    run_one(one, DATES[2])
    assert dates(one) == [DATES[2]]


@pytest.mark.parametrize("harm", ["gone", "cut", "link", "not on record"])
def test_a_run_that_is_not_proven_now_lets_no_other_go(one: FarmSite, harm: str) -> None:
    """With two kept, the second one is harmed after it was dumped: the first one stays."""
    one.configure(SMALL.replace("keep=1", "keep=2"))
    run_one(one, DATES[0])
    run_one(one, DATES[1])
    victim = one.public("aawiki", DATES[1]) / f"aawiki-{DATES[1]}-page.sql.gz"
    if harm == "gone":
        victim.unlink()
    elif harm == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif harm == "link":
        shutil.copy(victim, one.home / "elsewhere")
        victim.unlink()
        victim.symlink_to(one.home / "elsewhere")
    else:
        one.ledger.close()
        one.ledger = type(one.ledger).upgrade(f"sqlite:///{one.home}/another.sqlite")
    run_one(one, DATES[2])
    assert dates(one) == list(DATES)
    assert f"{DATES[0]} stays: 1 younger ones are proven, and 2 are kept" in log(one, DATES[2]).replace(
        "0 younger", "1 younger" if harm == "not on record" else "0 younger"
    )


def test_a_kill_in_the_middle_of_letting_go_is_finished_by_the_next_run(
    one: FarmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.configure(SMALL, private_tables=True)
    run_one(one, DATES[0])
    hide = retention._hide

    def strike(directory: Path) -> None:
        if directory.parent == one.private("aawiki"):
            raise KeyboardInterrupt
        hide(directory)

    with monkeypatch.context() as patch:
        patch.setattr(retention, "_hide", strike)
        with pytest.raises(KeyboardInterrupt):
            run_one(one, DATES[1])
    assert dates(one) == [DATES[1]] and one.private("aawiki", DATES[0]).exists()
    assert {line.state for line in one.ledger.where_is(f"aawiki-{DATES[0]}-user.sql.gz")} == {"proven"}
    for link in (one.public("aawiki") / "latest").iterdir():
        assert link.exists()
    run_one(one, DATES[1])
    assert not list(one.home.rglob(f"*{DATES[0]}*"))
    for name in ("user", "page"):
        assert {line.state for line in one.ledger.where_is(f"aawiki-{DATES[0]}-{name}.sql.gz")} == {"released"}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a directory immutable: as root")
def test_what_cannot_be_removed_stays_on_record_and_the_new_dump_is_complete(one: FarmSite) -> None:
    run_one(one, DATES[0])
    victim = one.public("aawiki", DATES[0])
    if LocalHost().run(("chattr", "+i", str(victim))).returncode:
        pytest.skip("this file system knows no immutable files")
    try:
        assert run_one(one, DATES[1]) is RunState.DONE
        assert dates(one) == list(DATES[:2]) and f"{DATES[0]} could not be let go" in log(one, DATES[1])
        assert {line.state for line in one.ledger.where_is(f"aawiki-{DATES[0]}-page.sql.gz")} == {"proven"}
    finally:
        LocalHost().run(("chattr", "-i", str(victim)))


def test_a_date_that_was_dumped_again_is_not_let_go_with_what_is_left_of_its_first_run(one: FarmSite) -> None:
    run_one(one, DATES[0])
    aside = one.public("aawiki") / f".letting-go-{DATES[0]}"
    shutil.copytree(one.public("aawiki", DATES[0]), aside)
    (one.public("aawiki") / ".letting-go-of ideas").mkdir()
    run = claim.claim(one.ledger, one.name, one.config, owner="t", wiki="aawiki", date=DATES[1])
    with working(one.ledger, run.id, owner="t", access=from_files(one.config, run.settings)) as work:
        assert isinstance(work, Work) and retention.let_go(work) == []
    finish.give_back(one.ledger, run.id, owner="t")
    assert not aside.exists() and one.public("aawiki", DATES[0]).is_dir()
    assert {line.state for line in one.ledger.where_is(f"aawiki-{DATES[0]}-page.sql.gz")} == {"proven"}


def test_a_closed_wiki_is_dumped_again_when_something_changed(one: FarmSite) -> None:
    one.configure(SMALL, closed_once=True)
    one.lists(["aawiki"], closed=["aawiki"])
    run_one(one, DATES[0])
    known = runs.select(one.ledger)[0].snapshot
    assert (known["last_revision"], known["last_log"]) == ("2", "2")
    database = one.database("aawiki")
    columns = "log_type, log_action, log_timestamp, log_actor, log_namespace, log_title, log_comment_id, log_params"
    for change, back in (
        (
            f"INSERT INTO logging (log_id, {columns}) SELECT 3, {columns} FROM logging WHERE log_id = 2",
            "DELETE FROM logging WHERE log_id = 3",
        ),
        ("UPDATE revision SET rev_id = 99 WHERE rev_id = 2", "UPDATE revision SET rev_id = 2 WHERE rev_id = 99"),
    ):
        with pytest.raises(Fault, match="no wiki is waiting"):
            claim.claim(one.ledger, one.name, one.config, owner="x", date=DATES[2])
        database.execute(change)
        run = claim.claim(one.ledger, one.name, one.config, owner="y", date=DATES[2])
        finish.give_back(one.ledger, run.id, owner="y")
        shutil.rmtree(one.public("aawiki", DATES[2]))
        database.execute(back)
    path = one.home / "db/aawiki.sqlite"
    path.rename(path.with_suffix(".away"))  # nobody can tell: the run will say what is wrong
    assert claim.claim(one.ledger, one.name, one.config, owner="z", date=DATES[2]).wiki.name == "aawiki"


def test_json_of_a_run_that_is_let_go_is_no_trap(one: FarmSite) -> None:
    """A run whose lists are no lists is kept, not guessed about."""
    directory = one.public("aawiki", DATES[0])
    directory.mkdir(parents=True)
    (directory / "dumpruninfo.txt").write_bytes(b"\xff\xfename:articlesdump; status:done; updated:x\n\x00")
    (directory / "status.html").write_text(json.dumps("Dump complete"))
    run_one(one, DATES[1])
    assert dates(one) == [DATES[1]]  # a younger proven one holds all that it names
