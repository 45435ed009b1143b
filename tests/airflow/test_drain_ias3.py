"""The DAG drain with target ias3, run as a whole in this process against the stand-in for archive.org."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from custody.drain import report
from custody.ledger.tables import event
from custody_demo.sample_disk import Fate
from services.ias3 import ACCESS_KEY, SECRET_KEY, Archive

pytestmark = [pytest.mark.airflow, pytest.mark.service]


@pytest.fixture
def ias3_site(drain_site: Any, ias3_server: Archive, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The drain site with archive.org as its target."""
    monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_IAS3", ias3_server.airflow_connection())
    drain_site.configure(
        target="ias3",
        connection="custody_ias3",
        bucket=None,
        collections="web/wide/wide00012",
        title_prefix="Wide Crawldata",
        operator="archivist@example.org",
    )
    return drain_site


def drained(site: Any) -> set[tuple[str, str]]:
    return {(file.name, file.md5) for file in site.disk.of(Fate.DRAINED)}


def stored(archive: Archive) -> set[tuple[str, str]]:
    return {(key.rpartition("/")[2], md5) for key, (md5, _) in archive.stored().items() if key.endswith(".warc.gz")}


def without_secret(text: str) -> bool:
    return SECRET_KEY not in text


def test_a_disk_is_drained_into_the_archive(
    airflow_db: None, ias3_site: Any, ias3_server: Archive, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ias3_site.run({"config": "wide"})
    assert run.state == "success"
    assert stored(ias3_server) == drained(ias3_site)
    assert not {path.name for path in ias3_site.disk.root.rglob("*.warc.gz")} & {name for name, _ in drained(ias3_site)}
    items = {request.path.split("/")[1] for request in ias3_server.seen("PUT")}
    assert sorted(task.item for task in ias3_server.tasks if task.cmd == "derive.php") == sorted(items)
    printed = capfd.readouterr()
    assert without_secret(printed.out + printed.err)
    for instance in run.get_task_instances():
        assert without_secret(str(instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index)))
    for path in ias3_site.disk.root.parent.rglob("*"):
        if path.is_file():
            assert SECRET_KEY.encode() not in path.read_bytes(), path


def test_a_wrong_secret_fails_at_once_and_is_not_printed(
    airflow_db: None,
    ias3_site: Any,
    ias3_server: Archive,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    secret = "Wr0ngSecretThatMustNotBeSeen"
    monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_IAS3", ias3_server.airflow_connection(secret))
    run = ias3_site.run({"config": "wide"})
    assert run.state == "failed"
    assert {line.fault_kind for line in report.list_series(ias3_site.ledger)} == {"auth"}
    printed = capfd.readouterr()
    assert "check login and password of the Airflow connection" in printed.out
    assert secret not in printed.out + printed.err


def test_a_failed_task_of_the_archive_deletes_nothing_and_the_next_run_finishes(
    airflow_db: None, ias3_site: Any, ias3_server: Archive, capfd: pytest.CaptureFixture[str]
) -> None:
    ias3_server.fault("failed_task")
    run = ias3_site.run({"config": "wide"})
    assert run.state == "failed"
    assert ias3_site.states(run)["series.prove"] == {"failed"}
    assert "of the archive's tasks failed" in capfd.readouterr().out
    kept = {hashlib.md5(path.read_bytes()).hexdigest() for path in ias3_site.disk.root.rglob("*.warc.gz")}
    assert {md5 for _, md5 in drained(ias3_site)} <= kept
    with ias3_site.ledger.read() as connection:
        assert not connection.scalar(sa.select(sa.func.count()).where(event.c.what == "deleted"))
    ias3_server.heal()
    assert ias3_site.run({"config": "wide"}).state == "success"
    assert stored(ias3_server) == drained(ias3_site)


def test_pending_work_of_the_archive_defers_the_proof(
    airflow_db: None, ias3_site: Any, ias3_server: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    from custody.drain.targets import ias3_client

    monkeypatch.setattr(ias3_client.Manners, "__init__", _quick(ias3_client.Manners.__init__))
    ias3_server.ingest_after_polls = 1
    run = ias3_site.run({"config": "wide"})
    assert run.state == "success"
    assert stored(ias3_server) == drained(ias3_site)


def _quick(make: Any) -> Any:
    def init(self: Any, **values: Any) -> None:
        make(self, **{**values, "shortest_wait_s": 1.0})

    return init


@pytest.mark.parametrize(
    ("connection", "said"),
    [
        ('{"conn_type": "http", "login": "only"}', "needs login and password"),
        ('{"conn_type": "http", "login": "a", "password": "b", "extra": {"content_md5": "rot13"}}', "neither base64"),
    ],
)
def test_an_unfit_connection_is_named(
    airflow_db: None,
    ias3_site: Any,
    monkeypatch: pytest.MonkeyPatch,
    connection: str,
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_IAS3", connection)
    assert ias3_site.run({"config": "wide"}).state == "failed"
    assert said in capfd.readouterr().out


def test_both_keys_are_masked(ias3_site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from airflow.sdk.log import redact

    from custody.drain import config
    from custody_airflow.hooks.drain import targets_of

    (target,) = targets_of(config.load("wide"))
    assert SECRET_KEY not in repr(vars(target))
    assert redact(f"{ACCESS_KEY} {SECRET_KEY}") == "*** ***"
