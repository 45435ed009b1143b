"""The sensors: one look each, without a scheduler."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException

from custody.drain.series import SeriesState, set_state
from custody.host import DiskUsage, LocalHost
from custody_airflow.sensors.disk import DiskSpaceSensor
from custody_airflow.sensors.drain import DrainmeSensor, ProofSensor
from drain_site import make_site

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize(
    ("free_bytes", "wanted", "seen"),
    [
        (40, {"min_free_bytes": 40}, True),
        (39, {"min_free_bytes": 40}, False),
        (10, {"at_least_used_pct": 90}, True),
        (11, {"at_least_used_pct": 90}, False),
    ],
)
def test_a_disk_is_waited_for(
    free_bytes: int, wanted: dict[str, float], seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalHost, "disk_usage", lambda self, path: DiskUsage(100, free_bytes, 100, 100))
    sensor = DiskSpaceSensor(task_id="disk", path="/1", **wanted)
    assert sensor.poke({}) is seen
    assert sensor.mode == "reschedule"


def test_a_disk_that_is_not_there_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match="not-mounted: No such file or directory"):
        DiskSpaceSensor(task_id="disk", path=str(tmp_path / "not-mounted")).poke({})


def test_the_switch_is_waited_for(tmp_path: Path) -> None:
    sensor = DrainmeSensor(task_id="switch", job_dir=str(tmp_path))
    assert not sensor.poke({})
    (tmp_path / "DRAINME").touch()
    assert sensor.poke({})


def test_a_proof_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path)
    site.write()
    number = site.one_series()
    monkeypatch.setenv("CUSTODY_LEDGER", site.url)
    sensor = ProofSensor(task_id="proof", series_id=str(number))
    assert not sensor.poke({})
    with site.ledger.begin() as connection:
        set_state(connection, number, SeriesState.PROVEN)
    assert sensor.poke({})
