"""What Airflow does first: the oldest dump, no more runs than a database server bears, and what waits for a dump."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import TaskDeferred

from custody.wiki_dump import claim, finish, servers
from custody.wiki_dump.access import from_files
from custody.wiki_dump.settings import Settings
from wiki_farm import FarmSite, make_farm

pytestmark = [pytest.mark.airflow]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FarmSite]:
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "farm/config"))
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path}/farm/ledger.sqlite")
    found = make_farm(tmp_path / "farm")
    found.add_wiki("aawiki", pages=2, revisions=1)
    found.lists(["aawiki"])
    yield found
    found.ledger.close()


def context(**params: object) -> Any:
    from custody_airflow.params.wiki_dump import PARAMS

    values = {name: param.value for name, param in PARAMS.items()}
    return {"params": {**values, **params}, "ti": SimpleNamespace(dag_id="wiki_dump", run_id="manual", map_index=-1)}


def dags() -> Any:
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"] + "/wiki_dump.py")
    assert not bag.import_errors, bag.import_errors
    return bag.dags


def test_runs_for_all_farms_are_as_urgent_as_their_oldest_dump(site: FarmSite) -> None:
    from custody_airflow.operators.wiki_dump import ListFarmsOperator
    from custody_airflow.queues import MAX_PRIORITY

    directory = site.home / "config/wiki_dump"
    for name in ("dumped", "failed", "broken"):
        text = (directory / "farm.yml").read_text().replace("wikidump.conf", f"{name}.conf")
        (directory / f"{name}.yml").write_text(text)
        conf = (site.home / "wikidump.conf").read_text().replace("/public", f"/public-{name}")
        (site.home / f"{name}.conf").write_text(conf if name != "broken" else "[wiki]\nnonsense=1\n")
    day = f"{datetime.now(UTC) - timedelta(days=9):%Y%m%d}"
    for name, words in (("dumped", "Dump complete"), ("failed", "dump aborted")):
        run = site.home / f"public-{name}/aawiki/{day}"
        run.mkdir(parents=True)
        (run / "status.html").write_text(f"<li>aawiki: {words}</li>")
    found = ListFarmsOperator(task_id="list").execute(context(config="all"))
    assert {one["config"]: one["priority"] for one in found} == {"broken": 0, "dumped": 9, "failed": 59, "farm": 100}
    assert all(0 <= one["priority"] <= MAX_PRIORITY for one in found)
    found = ListFarmsOperator(task_id="list").execute(context(config="all", priority=70))
    assert {one["config"]: one["priority"] for one in found}["dumped"] == 70  # a person asked for more
    weights = {str(task.weight_rule) for task in dags()["wiki_dump"].tasks}
    assert weights == {"absolute"}  # else the first tasks of the newest run would overtake all others


def test_a_claim_waits_without_a_worker_slot_while_its_server_is_full(site: FarmSite) -> None:
    from custody_airflow.operators.wiki_dump import ClaimWikiOperator

    site.configure(runs_per_server=1)
    server = from_files(site.config, Settings()).server
    servers.hold(site.ledger, server, 1, owner="another", ttl=timedelta(seconds=600))
    operator = ClaimWikiOperator(task_id="claim_wiki")
    for wiki in (None, "aawiki"):
        with pytest.raises(TaskDeferred) as caught:
            operator.execute(context(config="farm", wiki=wiki))
        assert caught.value.method_name == "resume"
        assert caught.value.trigger.moment > datetime.now(UTC) + timedelta(seconds=30)
    assert not list(site.home.rglob("lock_*"))
    servers.give_back(site.ledger, "another")
    run_id = operator.resume(context(config="farm"))
    assert [lock.name[:5] for lock in site.home.rglob("lock_*")] == ["lock_"]
    finish.give_back(site.ledger, run_id, owner="wiki_dump/manual")
    assert claim.claim(site.ledger, "farm", site.config, owner="next", wiki="aawiki").wiki.name == "aawiki"


def test_a_complete_dump_starts_a_dag_that_waits_for_its_asset(site: FarmSite) -> None:
    """What the scheduler asks before it makes a run of a DAG that waits for assets: is a row of it in the queue."""
    from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.sdk import DAG
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    from airflow.dag_processing.collection import update_dag_parsing_results_in_db  # isort: skip
    from airflow.serialization.serialized_objects import LazyDeserializedDAG  # isort: skip

    from custody_airflow.operators.wiki_dump import FINISHED_DUMP

    initdb()
    reader = DAG("reads_finished_dumps", schedule=[FINISHED_DUMP], start_date=datetime(2026, 1, 1, tzinfo=UTC))
    with create_session() as session:
        session.merge(DagBundleModel(name="test"))
        session.flush()
        reading = [LazyDeserializedDAG.from_dag(reader)]
        update_dag_parsing_results_in_db("test", None, reading, {}, 0.0, set(), session)
        session.execute(sa.update(DagModel).where(DagModel.dag_id == reader.dag_id).values(is_paused=False))
    skipped = "metahistory7zdump,articlesmultistreamdump,metacurrentdump,metahistorybz2dump,xmlpagelogsdump"
    site.configure(f"[misc]\nskipjobs={skipped}")
    done = dags()["wiki_dump"].test(run_conf={"config": "farm", "wiki": "aawiki"})
    assert done.state == "success"
    with create_session() as session:
        waiting = select_queue(session, reader.dag_id)
        assert len(waiting) == 1
        (told,) = [row.extra for row in session.scalars(sa.select(AssetEvent)) if row.source_run_id == done.run_id]
        assert session.get(AssetModel, waiting[0].asset_id).name == FINISHED_DUMP.name
        due, triggered = DagModel.dags_needing_dagruns(session)
        assert reader.dag_id in {model.dag_id for model in due} | set(triggered)
        session.execute(sa.delete(AssetDagRunQueue))
    assert (told["wiki"], told["state"]) == ("aawiki", "done")


def select_queue(session: Any, dag_id: str) -> list[Any]:
    from airflow.models.asset import AssetDagRunQueue

    return list(session.scalars(sa.select(AssetDagRunQueue).where(AssetDagRunQueue.target_dag_id == dag_id)))
