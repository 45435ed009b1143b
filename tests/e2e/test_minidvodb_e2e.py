"""A minidvodb copy through a real scheduler: its worker killed in the middle of the copy, then the scheduler."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from custody.ledger import Ledger
from custody.minidvodb import catalogue, destination, report, switches, tables
from custody.minidvodb.records import Copy, load
from custody_demo.airflow_api import FINAL_STATES
from custody_demo.minidvodb_sample import Shape, make
from e2e.rig import Rig
from e2e.workers import busy_workers, kill, step_of
from minidvodb_rig import tree_of, visible
from services.ssh import SshServer

pytestmark = [pytest.mark.e2e, pytest.mark.airflow, pytest.mark.service]

DAG, GROUP, HOST = "minidvodb_copy", "ThreePi", "ipp022"
SHAPE = Shape(regions=2, objects=100_000, detections=250_000)  # 8 files, the largest of which a kill cuts
SECONDS_OF_SENDING = 12


@pytest.fixture
def ledger(rig: Rig) -> Iterator[Ledger]:
    made = Ledger(rig.ledger_url)
    yield made
    made.close()


def test_worker_and_scheduler_killed_in_the_middle_of_a_copy(
    rig: Rig, ledger: Ledger, sshd: SshServer, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    source = make(tmp_path / "ThreePi.1", SHAPE)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    connection = {"conn_type": "ssh", "host": sshd.host, "port": sshd.port, "login": sshd.user}
    extra = json.dumps({"host_key": sshd.host_key, "key_file": str(sshd.key_file)})
    rig.stack.request("POST", "/api/v2/connections", {"connection_id": HOST, **connection, "extra": extra})
    settings = {"max_rate": size // SECONDS_OF_SENDING}
    destination.put(ledger, HOST, who="test", connection_id=HOST, settings=settings)
    catalogue.add(ledger, GROUP, str(source), who="test")
    switches.want(ledger, GROUP, HOST, str(there), who="test")

    first = rig.stack.trigger(DAG, {"group": GROUP})
    arrived = wait_for_bytes(rig, there, first, size // 4)
    (worker,) = (
        one
        for one in busy_workers(rig.stack.pid_of("scheduler"))
        if step_of(rig.airflow_db, one.task_instance)[0].startswith("copy.transfer")
    )
    assert kill(worker.supervisor)
    kill(worker.task)
    assert visible(there) == []

    second = rig.stack.trigger(DAG, {"group": GROUP})
    further = wait_for_bytes(rig, there, second, arrived + size // 4)
    rig.stack.kill("scheduler")
    assert visible(there) == []
    rig.stack.start_again("scheduler")

    third = rig.stack.trigger(DAG, {"group": GROUP})
    for run_id in (first, second, third):
        rig.stack.wait(DAG, run_id, lambda tasks: None, timeout_s=120, every_s=0.5)
    copy = only_copy(ledger)
    assert copy.state == "full", f"{copy.row['fault_text']}\n{explain(rig, third)}"
    assert tree_of(there / source.name) == tree_of(source)
    print(
        f"\n{size} bytes: {arrived} and {further} were there when killed; the last step sent {copy.row['sent_bytes']}"
    )
    assert copy.row["sent_bytes"] < size - arrived + size // 10
    assert not report.running(ledger)


def only_copy(ledger: Ledger) -> Copy:
    with ledger.read() as connection:
        return load(ledger, connection.execute(sa.select(tables.copy.c.minidvodbcopy_id)).scalar_one())


def wait_for_bytes(rig: Rig, there: Path, run_id: str, wanted: int) -> int:
    """Wait until so many bytes of the copy are over there; how many there are."""
    arrived = 0
    ends = time.monotonic() + 90
    while time.monotonic() < ends:
        arrived = sum(path.stat().st_size for path in there.glob(".incoming/*/**/*") if path.is_file())
        if arrived >= wanted:
            return arrived
        if rig.stack.run_state(DAG, run_id) in FINAL_STATES:
            break
        time.sleep(0.1)
    raise AssertionError(f"{arrived} bytes are there, {wanted} were waited for; {explain(rig, run_id)}")


def explain(rig: Rig, run_id: str) -> str:
    """Tasks of a run that did not end well, with the ends of their logs."""
    lines = [f"run {run_id}: {rig.stack.run_state(DAG, run_id)}"]
    for task in rig.stack.task_instances(DAG, run_id):
        log = rig.stack.task_log(DAG, run_id, task).splitlines()[-4:] if task.state == "failed" else []
        lines.append(f"{task.task_id} {task.name} {task.state}, try {task.try_number}: {' / '.join(log)}")
    return "\n".join(lines)
