"""The DAG bitarchive_batch in a whole Airflow: who marks a task as failed ends its job at once."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from bitarchive_site import FILES, Site, make_site
from custody.bitarchive.batch import accounts, plan
from custody.bitarchive.states import BatchState, FileState
from custody.ledger import Ledger
from custody_demo.processes import wait_until
from e2e.rig import Rig

pytestmark = [pytest.mark.e2e, pytest.mark.service]

DAG_ID = "bitarchive_batch"
NAME = "cancelled"


@pytest.fixture
def site(running_rig: Rig, tmp_path: Path) -> Site:
    """An archive that the running Airflow knows."""
    made = make_site(tmp_path / "archive", Ledger(running_rig.ledger_url), name=NAME)
    path = running_rig.home / "config" / "bitarchive" / f"{NAME}.yml"
    path.write_text(yaml.safe_dump(made.archive.config.model_dump(mode="json")))
    return made


def running(mark: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                return True
    return False


def test_a_task_marked_as_failed_ends_its_job_at_once_and_drops_what_it_wrote(running_rig: Rig, site: Site) -> None:
    stack, mark = running_rig.stack, f"custody-mark-{site.root.parent.name}"
    job = site.job(f"#!/bin/sh\necho half\nexec sh -c 'sleep 600 & sleep 600; true {mark}'\n", "slow.sh")
    run_id = stack.trigger(DAG_ID, {"config": NAME, "job": job})
    assert wait_until(lambda: running(mark), timeout_s=120), stack.task_instances(DAG_ID, run_id)
    buckets = [one for one in stack.task_instances(DAG_ID, run_id) if one.task_id == "run_on_bucket"]
    started = time.monotonic()
    for bucket in buckets:
        run = f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(run_id, safe='')}"
        stack.request("PATCH", f"{run}/taskInstances/{bucket.task_id}/{bucket.map_index}", {"new_state": "failed"})
    assert wait_until(lambda: not running(mark), timeout_s=20)
    assert time.monotonic() - started < 20
    assert stack.wait(DAG_ID, run_id, timeout_s=90, every_s=0.5) == "failed"
    (found,) = [plan.by_key(site.archive, f"{DAG_ID}/{run_id}")]
    assert found is not None and found.state is BatchState.RUNNING
    lines = list(accounts.lines(site.archive, found.id))
    assert [line.name for line in lines] == list(FILES)
    assert {line.state for line in lines} == {FileState.EXPECTED}  # ended by a person: nothing is said of the files
    home = plan.directory_of(site.archive, found.id)
    assert not [path for path in home.iterdir() if path.name.startswith("output")]
    assert not list((home / "parts").glob("*.out"))
