"""The DAG drain, run as a whole in this process against a real S3 server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from custody.drain import report, tables
from custody.drain.config import load
from custody.drain.plan import plan_series
from custody.drain.series import load as load_series
from custody.ledger.tables import event, proof
from custody_demo.sample_disk import Fate

pytestmark = [pytest.mark.airflow, pytest.mark.service]

STEPS = ("pack", "manifest", "create_item", "upload", "prove", "delete")
ALL_GREEN = {f"series.{step}": {"success"} for step in STEPS}


def tree(root: Path) -> dict[str, str]:
    """Every file below a directory by its digest."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def warcs(root: Path) -> set[str]:
    return {path.name for path in root.rglob("*.warc.gz")}


def stored(site: Any) -> dict[str, str]:
    """Every object of the bucket, as the server's own folder shows it."""
    folder = site.store.folder / site.bucket
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.rglob("*.warc.gz")}


def rows(site: Any, table: sa.Table) -> int:
    """How many rows a table has; that somebody looked at the disk does not count."""
    query = sa.select(sa.func.count()).select_from(table)
    if table is event:
        query = query.where(event.c.what != "look")
    with site.ledger.read() as connection:
        return int(connection.scalar(query) or 0)


def test_a_disk_is_drained_and_a_second_run_does_nothing(airflow_db: None, drain_site: Any) -> None:
    run = drain_site.run({"config": "wide"})
    assert run.state == "success"
    assert drain_site.states(run).items() >= ALL_GREEN.items()
    drained = {file.name: file.md5 for file in drain_site.disk.of(Fate.DRAINED)}
    assert stored(drain_site) == drained
    assert not warcs(drain_site.disk.root) & set(drained)
    for fate in (Fate.OPEN, Fate.UNMATCHED):
        for file in drain_site.disk.of(fate):
            assert file.path.exists()
    for file in drain_site.disk.of(Fate.CUT):
        aside = drain_site.disk.job_dir / "quarantine" / file.name
        assert hashlib.md5(aside.read_bytes()).hexdigest() == file.md5
    before = tree(drain_site.disk.root), rows(drain_site, event), rows(drain_site, proof)

    again = drain_site.run({"config": "wide"})
    assert again.state == "success"
    assert (tree(drain_site.disk.root), rows(drain_site, event), rows(drain_site, proof)) == before


@pytest.mark.parametrize("by_hand", ["upload", "prove", "pack|manifest|create_item|upload|prove"])
def test_a_task_marked_as_success_by_hand_deletes_nothing(airflow_db: None, drain_site: Any, by_hand: str) -> None:
    before = {file.md5 for file in drain_site.disk.files}
    run = drain_site.run({"config": "wide"}, mark_success_pattern=rf"series\.({by_hand})$")
    assert run.state == "failed"
    assert drain_site.states(run)["series.delete"] <= {"failed", "upstream_failed"}
    now = {hashlib.md5(path.read_bytes()).hexdigest() for path in drain_site.disk.root.rglob("*.warc.gz*")}
    assert before <= now
    with drain_site.ledger.read() as connection:
        assert not connection.scalar(sa.select(sa.func.count()).where(event.c.what == "deleted"))
    assert any(
        "whatever the task before is marked as" in (line.fault or "") for line in report.list_series(drain_site.ledger)
    )

    assert drain_site.run({"config": "wide"}).state == "success"
    assert stored(drain_site) == {file.name: file.md5 for file in drain_site.disk.of(Fate.DRAINED)}


def test_without_drainme_nothing_is_touched(airflow_db: None, drain_site: Any) -> None:
    (drain_site.disk.job_dir / "DRAINME").unlink()
    before = tree(drain_site.disk.root)
    run = drain_site.run({"config": "wide"})
    assert run.state == "success"
    assert drain_site.states(run)["check_disk"] == {"skipped"}
    assert tree(drain_site.disk.root) == before
    assert rows(drain_site, tables.series) == 0


def test_a_dry_run_writes_nothing(airflow_db: None, drain_site: Any) -> None:
    before = tree(drain_site.disk.root)
    run = drain_site.run({"config": "wide", "dry_run": True})
    assert run.state == "success"
    assert tree(drain_site.disk.root) == before
    assert rows(drain_site, tables.series) == rows(drain_site, event) == 0


def test_an_unknown_key_is_refused_by_the_first_task(
    airflow_db: None, drain_site: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    run = drain_site.run({"config": "wide", "max_sise": "1GB"})
    assert run.state == "failed"
    assert drain_site.states(run)["choose"] == {"failed"}
    assert "--conf key 'max_sise': is not known; known are: " in capfd.readouterr().out


def test_a_wrong_secret_fails_at_once_keeps_everything_and_is_not_printed(
    airflow_db: None, drain_site: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "Wr0ngSecretThatMustNotBeSeen"
    monkeypatch.setenv(
        "AIRFLOW_CONN_CUSTODY_S3", drain_site.store.airflow_connection().replace(drain_site.store.secret_key, secret)
    )
    run = drain_site.run({"config": "wide"})
    assert run.state == "failed"
    printed = capfd.readouterr()
    assert "check bucket, endpoint and keys of the Airflow connection" in printed.out
    assert secret not in printed.out + printed.err
    assert {line.fault_kind for line in report.list_series(drain_site.ledger)} == {"auth"}
    kept = {hashlib.md5(path.read_bytes()).hexdigest() for path in drain_site.disk.root.rglob("*.warc.gz*")}
    assert {file.md5 for file in drain_site.disk.files} <= kept


def test_the_form_alone_can_be_a_configuration(airflow_db: None, drain_site: Any) -> None:
    conf = {
        "config": None,
        "crawljob": "wide",
        "job_dir": str(drain_site.disk.job_dir),
        "xfer_dir": str(drain_site.disk.xfer_dir),
        "max_size": "10MB",
        "target": "s3",
        "bucket": drain_site.bucket,
        "proof": "readback",
    }
    run = drain_site.run(conf)
    assert run.state == "success"
    with drain_site.ledger.read() as connection:
        assert set(connection.scalars(sa.select(proof.c.kind))) == {"readback"}


def test_xcom_carries_ids_and_counts(airflow_db: None, drain_site: Any) -> None:
    run = drain_site.run({"config": "wide"})
    for instance in run.get_task_instances():
        value = instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index)
        assert len(str(value)) < 10_000
        assert ".warc" not in str(value)


@pytest.mark.parametrize(
    ("batch_gib", "delete", "upload"),
    [(0, {"success", "upstream_failed"}, {"success", "upstream_failed"}), (10, {"failed"}, {"success"})],
)
def test_one_series_that_fails_keeps_no_other(
    airflow_db: None, drain_site: Any, batch_gib: int, delete: set[str], upload: set[str]
) -> None:
    drain_site.configure(batch_gib=batch_gib)
    stuck = put_in_the_way(drain_site)
    run = drain_site.run({"config": "wide"})
    assert run.state == "failed"
    assert drain_site.states(run)["series.delete"] == delete
    assert drain_site.states(run)["series.upload"] == upload
    found = sorted((line.state, line.fault_kind, line.item == stuck) for line in report.list_series(drain_site.ledger))
    assert found == [("clean", None, False), ("listed", "needs_human", True)]
    (fault,) = [line.fault for line in report.list_series(drain_site.ledger, stuck_only=True)]
    assert fault and "nothing was sent" in fault  # the cause, and not that later steps found it behind


def put_in_the_way(site: Any) -> str:
    """Have somebody else's bytes lie where the first series goes; returns its item."""
    planned = plan_series(site.ledger, "wide", load("wide"), who="test", dry_run=True)
    stuck = planned.planned[0].item
    foreign = f"{stuck}/{planned.planned[0].names[0]}"
    site.client.put_object(Bucket=site.bucket, Key=foreign, Body=b"somebody else's")
    return stuck


@pytest.mark.parametrize("by_hand", ["upload", "create_item|upload|prove"])
def test_in_a_batch_with_a_fault_marking_by_hand_deletes_nothing(
    airflow_db: None, drain_site: Any, by_hand: str
) -> None:
    put_in_the_way(drain_site)
    assert drain_site.run({"config": "wide"}, mark_success_pattern=r"series\.(upload|prove)$").state == "failed"
    run = drain_site.run({"config": "wide"}, mark_success_pattern=rf"series\.({by_hand})$")
    assert run.state == "failed"
    assert drain_site.states(run)["series.delete"] <= {"failed", "upstream_failed"}
    with drain_site.ledger.read() as connection:
        assert not connection.scalar(sa.select(sa.func.count()).where(event.c.what == "deleted"))
    kept = {hashlib.md5(path.read_bytes()).hexdigest() for path in drain_site.disk.root.rglob("*.warc.gz*")}
    assert {file.md5 for file in drain_site.disk.files} <= kept


def test_a_batch_shows_its_first_and_last_item(airflow_db: None, drain_site: Any) -> None:
    run = drain_site.run({"config": "wide"})
    lines = sorted(report.list_series(drain_site.ledger), key=lambda line: line.id)
    name = f"{lines[0].item} … {lines[1].item} (2 series)"
    shown = [task.rendered_map_index for task in run.get_task_instances() if task.task_id.startswith("series.")]
    assert shown == [name] * len(STEPS)
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        (told,) = [row.extra for row in session.scalars(sa.select(AssetEvent)) if row.source_run_id == run.run_id]
    assert (told["series"], told["items"]) == ([1, 2], [line.item for line in lines])


def test_an_audit_names_what_drifted_and_deletes_nothing(
    airflow_db: None, drain_site: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert drain_site.run({"config": "wide"}).state == "success"
    assert drain_site.run({"config": "wide", "action": "audit"}).state == "success"
    victim = sorted((drain_site.store.folder / drain_site.bucket).rglob("*.warc.gz"))[0]
    victim.unlink()
    before = tree(drain_site.disk.root)
    run = drain_site.run({"config": "wide", "action": "audit"})
    assert run.state == "failed"
    assert f"{victim.name}: is not stored any more. Next: custody where-is {victim.name}" in capfd.readouterr().out
    assert tree(drain_site.disk.root) == before


def test_a_drained_file_is_brought_back(airflow_db: None, drain_site: Any, tmp_path: Path) -> None:
    assert drain_site.run({"config": "wide"}).state == "success"
    file = drain_site.disk.of(Fate.DRAINED)[0]
    into = tmp_path / "restored"
    into.mkdir()
    run = drain_site.run({"config": "wide", "action": "restore", "file": file.name, "into": str(into)})
    assert run.state == "success"
    assert hashlib.md5((into / file.name).read_bytes()).hexdigest() == file.md5
    assert drain_site.states(run)["check_disk"] == {"skipped"}


def test_at_the_end_of_a_crawl_its_logs_are_stored_and_a_series_can_be_proven_anew(
    airflow_db: None, drain_site: Any
) -> None:
    crawl = drain_site.disk.root / "crawl"
    (crawl / "logs").mkdir(parents=True)
    (crawl / "logs" / "crawl.log").write_text("the crawl")
    drain_site.configure(bundle_from=[str(crawl)], clear_finish_drain=True)
    (drain_site.disk.job_dir / "FINISH_DRAIN").touch()
    run = drain_site.run({"config": "wide"})
    assert drain_site.states(run)["finish_crawl"] == {"success"}
    (bundle,) = (drain_site.store.folder / drain_site.bucket).rglob("*-bundle.tar.gz")
    assert {line.state for line in drain_site.ledger.where_is(bundle.name)} == {"present", "proven"}
    assert not (drain_site.disk.job_dir / "FINISH_DRAIN").exists()

    proofs = rows(drain_site, proof)
    assert drain_site.run({"config": "wide", "action": "audit", "series": 1}).state == "success"
    assert rows(drain_site, proof) == proofs + len(load_series(drain_site.ledger, 1).files)


def parsed(dag_id: str) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags[dag_id]


def test_the_monitor_starts_an_audit_of_all(airflow_db: None) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    assert parsed("drain_monitor").test(run_conf={"days": 7}).state == "success"
    with create_session() as session:
        query = sa.select(DagRun.conf).where(DagRun.dag_id == "drain").order_by(DagRun.id.desc()).limit(1)
        assert session.scalar(query) == {"config": "all", "action": "audit", "days": 7}


def test_somebody_is_told_of_a_failed_run_and_of_an_audit() -> None:
    told = {task.task_id for task in parsed("drain").tasks if task.on_failure_callback}
    assert told == {"report", "audit"}


def test_a_slip_in_the_configuration_drains_on_and_lets_nothing_go(
    airflow_db: None, drain_site: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert drain_site.run({"config": "wide", "days": 1, "action": "audit"}).state == "success"  # it is on record now
    good = drain_site.config_file.read_text()
    drain_site.config_file.write_text(good + "also: [{target: s4}]\n")
    run = drain_site.run({"config": "wide"})
    assert run.state == "failed"
    assert drain_site.states(run)["series.prove"] == {"success"}
    assert drain_site.states(run)["series.delete"] == {"failed"}
    drained = {file.name: file.md5 for file in drain_site.disk.of(Fate.DRAINED)}
    assert stored(drain_site) == drained
    assert set(drained) <= warcs(drain_site.disk.root)
    assert "nothing is deleted by the last good configuration. Next: custody drain check wide" in capfd.readouterr().out

    drain_site.config_file.write_text(good)
    assert drain_site.run({"config": "wide"}).state == "success"
    assert not warcs(drain_site.disk.root) & set(drained)
