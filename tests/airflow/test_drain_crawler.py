"""The DAG asks the crawler of a full disk to pause, and drains whatever the crawler says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from custody.ledger.tables import event
from custody_demo.sample_disk import Fate
from services.heritrix import PASSWORD, USER, Engine

pytestmark = [pytest.mark.airflow, pytest.mark.service]


@pytest.fixture
def engine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A Heritrix, and the Airflow connection to it."""
    (tmp_path / "heritrix").mkdir()
    with Engine(tmp_path / "heritrix") as running:
        extra = {"certificate": running.certificate}
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": running.port, "login": USER}
        monkeypatch.setenv(
            "AIRFLOW_CONN_CUSTODY_CRAWLER", json.dumps(connection | {"password": PASSWORD, "extra": extra})
        )
        yield running


def crawler(site: Any, **settings: Any) -> None:
    """A disk that counts as full, whatever lies on it, and who fills it."""
    settings = {"kind": "heritrix", "job": "wide crawl", "resume_pct": 0.0001} | settings
    site.configure(pressure_pct=0.0002, crawler=settings)


def asked(site: Any) -> list[tuple[str, str]]:
    with site.ledger.read() as connection:
        query = sa.select(event.c.what, event.c.result).where(event.c.what.like("%crawler")).order_by(event.c.id)
        return [(what, result) for what, result in connection.execute(query)]


def is_drained(site: Any) -> bool:
    return not any(file.path.exists() for file in site.disk.of(Fate.DRAINED))


def test_it_is_paused_and_woken_by_the_run_that_finds_room(
    airflow_db: None, drain_site: Any, engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    crawler(drain_site)
    assert drain_site.run({"config": "wide", "dry_run": True}).state == "success"
    assert engine.actions == []
    assert drain_site.run({"config": "wide"}).state == "success"
    assert (engine.actions, asked(drain_site)) == (["pause"], [("pause crawler", "asking"), ("pause crawler", "done")])
    assert is_drained(drain_site)
    drain_site.configure(pressure_pct=100.0, crawler={"kind": "heritrix", "job": "wide crawl", "resume_pct": 99.99})
    (drain_site.disk.job_dir / "DRAINME").unlink()
    assert drain_site.run({"config": "wide"}).state == "success"
    assert engine.actions == ["pause", "unpause"]
    printed = capfd.readouterr()
    assert PASSWORD not in printed.out + printed.err


@pytest.mark.parametrize(
    ("settings", "password", "why"),
    [
        ({}, "wrong", "401"),
        ({"connection": "custody_nowhere"}, PASSWORD, "connection custody_nowhere: is not known to Airflow"),
        ({"kind": "command", "pause": "/no/such/program", "resume": "true"}, PASSWORD, "/no/such/program"),
    ],
)
def test_a_crawler_that_cannot_be_asked_stops_no_drain(
    airflow_db: None,
    drain_site: Any,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    settings: dict[str, str],
    password: str,
    why: str,
) -> None:
    connection = {"conn_type": "http", "host": engine.url, "login": USER, "password": password}
    connection["extra"] = {"certificate": engine.certificate}  # type: ignore[assignment]
    monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_CRAWLER", json.dumps(connection))
    crawler(drain_site, **settings)
    assert drain_site.run({"config": "wide"}).state == "success"
    assert is_drained(drain_site)
    assert engine.actions == []
    told = [line for line in capfd.readouterr().out.splitlines() if "the crawler was not asked" in line]
    assert told
    assert all(why in line for line in told)
