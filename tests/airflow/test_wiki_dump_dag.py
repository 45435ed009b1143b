"""The DAGs wiki_dump and wiki_dump_monitor, run as a whole in this process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.dag_processing.dagbag import DagBag

from custody.ledger.tables import lease
from custody.wiki_dump import claim, runs
from custody.wiki_dump.status import RunState
from wiki_farm import FarmSite, make_farm

pytestmark = [pytest.mark.airflow]


@pytest.fixture(scope="module")
def airflow_database() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, airflow_database: None) -> Iterator[FarmSite]:
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "farm/config"))
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path}/farm/ledger.sqlite")
    found = make_farm(tmp_path / "farm")
    found.add_wiki("aawiki")
    found.add_wiki("zh_min_nanwiki", pages=5, revisions=2)
    found.lists(["aawiki", "zh_min_nanwiki"])
    yield found
    found.ledger.close()


def run(dag_id: str = "wiki_dump", conf: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"] + "/wiki_dump.py")
    assert not bag.import_errors, bag.import_errors
    return bag.dags[dag_id].test(run_conf=conf or {}, **kwargs)


def states(done: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for instance in done.get_task_instances():
        found.setdefault(instance.task_id, set()).add(str(instance.state))
    return found


def dump_events(done: Any) -> list[Any]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        return [row.extra for row in session.scalars(sa.select(AssetEvent)) if row.source_run_id == done.run_id]


PARTS = "[chunks]\nchunksEnabled=1\npagesPerChunkHistory=5,5\ncheckpointTime=1\nrevsPerJob=20\n"


def test_the_next_wiki_is_dumped_in_parts_and_the_monitor_shows_it(site: FarmSite) -> None:
    site.configure(PARTS)
    done = run(conf={"config": "farm"})
    assert done.state == "success", states(done)
    assert states(done)["text.part"] == states(done)["verify.job"] == {"success"}
    assert states(done)["give_back"] == {"success"}
    found = runs.select(site.ledger)[0]
    assert (found.wiki.name, found.state) == ("aawiki", RunState.DONE)
    assert not list(site.home.rglob("lock_*"))
    for instance in done.get_task_instances():
        value = instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index)
        assert len(str(value)) < 10_000
    site.lists(["aawiki"])
    nothing = run(conf={"config": "farm"})
    assert nothing.state == "success" and states(nothing)["claim_wiki"] == states(nothing)["report"] == {"skipped"}
    assert run("wiki_dump_monitor", {"config": "farm"}).state == "success"
    page = (site.home / "public/index.html").read_text()
    assert page.count("Dump complete") == 1 and "Dump process is idle." in page
    assert set(json.loads((site.home / "public/index.json").read_bytes())["wikis"]) == {"aawiki"}


def test_a_failed_job_fails_the_run_gives_the_wiki_back_and_the_next_run_finishes(
    site: FarmSite, capfd: pytest.CaptureFixture[str]
) -> None:
    database = site.database("aawiki")
    database.execute("ALTER TABLE logging RENAME COLUMN log_params TO log_things")
    done = run(conf={"config": "farm", "wiki": "aawiki"})
    assert done.state == "failed"
    assert states(done)["verify.job"] == {"success"} and states(done)["give_back"] == {"success"}
    assert "Next: custody wiki status farm --stuck" in capfd.readouterr().out
    assert not list(site.home.rglob("lock_*"))
    date = runs.select(site.ledger)[0].date
    assert "Partial dump, 1 item failed" in (site.public("aawiki", date) / "status.html").read_text()
    database.execute("ALTER TABLE logging RENAME COLUMN log_things TO log_params")
    site.lists(["aawiki"])
    assert run(conf={"config": "farm"}).state == "success"  # it comes first, and only what failed is made
    assert {found.state for found in runs.select(site.ledger)} == {RunState.DONE}


def test_a_task_marked_as_success_by_hand_publishes_nothing(site: FarmSite) -> None:
    done = run(conf={"config": "farm", "wiki": "zh_min_nanwiki"}, mark_success_pattern=r"(text.part|make.stubs)$")
    assert done.state == "failed"
    date = runs.select(site.ledger)[0].date
    assert not list(site.public("zh_min_nanwiki", date).glob("*pages-articles*"))
    assert states(done)["give_back"] == {"success"}


def test_an_unknown_key_and_a_dry_run_touch_nothing(site: FarmSite, capfd: pytest.CaptureFixture[str]) -> None:
    done = run(conf={"config": "farm", "wikki": "aawiki"})
    assert done.state == "failed" and states(done)["choose"] == {"failed"}
    assert "--conf key 'wikki': is not known; known are: " in capfd.readouterr().out
    done = run(conf={"config": "farm", "dry_run": True})
    assert done.state == "success" and states(done)["claim_wiki"] == {"skipped"}
    assert "dry run: next would be aawiki" in capfd.readouterr().out
    assert not (site.home / "public").exists() and not runs.select(site.ledger)


def test_one_job_of_the_last_dump_by_the_form(site: FarmSite) -> None:
    asked = run(conf={"config": "farm", "wiki": "zh_min_nanwiki", "job": "tables,articlesdump"})
    assert asked.state == "success" and not dump_events(asked)  # done as asked, but no dump is complete
    found = runs.select(site.ledger)[0]
    with site.ledger.read() as connection:
        done = {job.name for job in runs.jobs_of(connection, found.id) if job.state == "done"}
    assert done == {"site_statstable", "categorytable", "pagetable", "redirecttable", "xmlstubsdump", "articlesdump"}
    conf = {"config": "farm", "wiki": "zh_min_nanwiki", "date": "last", "noop": True, "addnotice": "moved & mended"}
    assert run(conf=conf).state == "success"
    assert "moved &amp; mended" in (site.public("zh_min_nanwiki", found.date) / "index.html").read_text()


def test_the_monitor_aborts_what_a_dead_worker_left_and_the_sensor_sees_it(site: FarmSite) -> None:
    from custody_airflow.sensors.wiki_dump import StaleLockSensor

    left = claim.claim(site.ledger, "farm", site.config, owner="dead", wiki="aawiki")
    sensor = StaleLockSensor(task_id="stale", farm="farm")
    assert not sensor.poke({})
    with site.ledger.begin() as connection:
        connection.execute(sa.update(lease).values(expires_at=lease.c.taken_at))
    lock = left.places.lock(left.date)
    os.utime(lock, (time.time() - 5000, time.time() - 5000))
    assert sensor.poke({})
    assert run("wiki_dump_monitor").state == "success"
    assert not sensor.poke({}) and not lock.exists()
    assert runs.load(site.ledger, left.id).state is RunState.ABORTED


def test_a_plan_that_fails_fails_the_run_and_a_complete_dump_stays_complete(
    site: FarmSite, capfd: pytest.CaptureFixture[str]
) -> None:
    from custody.wiki_dump.whole import dump

    found, _ = dump(site.ledger, "farm", site.config, who="x", wiki="zh_min_nanwiki")
    page = site.public("zh_min_nanwiki", found.date) / "status.html"
    assert "Dump complete" in page.read_text()
    for job, words in (("nosuch", "job 'nosuch': is not known"), ("usertable", "job 'usertable': is not known")):
        done = run(conf={"config": "farm", "wiki": "zh_min_nanwiki", "job": job})
        assert done.state == "failed" and words in capfd.readouterr().out
        assert states(done)["publish"] <= {"skipped", "upstream_failed"} and "success" not in states(done)["report"]
        assert "Dump complete" in page.read_text() and not list(site.home.rglob("lock_*"))
        assert runs.load(site.ledger, found.id).state is RunState.DONE
