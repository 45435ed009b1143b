"""One whole Airflow for all end-to-end tests: its start costs half a minute, a run some twenty seconds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.object_store import RcloneS3
from e2e.rig import DAG_ID, Rig
from e2e.workers import CommandLines

# Airflow waits minutes before it believes that somebody is dead; nothing else of it is different here.
IMPATIENT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "CUSTODY_RETRY_DELAY_S": "2",
    "CUSTODY_LOOK_AGAIN_S": "3",
}


@pytest.fixture(scope="session")
def running_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Airflow with the DAGs that are tested here, switched on; its ledger, its S3 server, the watch on processes."""
    home = tmp_path_factory.mktemp("e2e")
    ledger_url = f"sqlite:///{home}/ledger.sqlite"
    _upgrade(ledger_url)
    for name in (DAG_ID, "tape", "bitarchive"):
        (home / "config" / name).mkdir(parents=True)
    with RcloneS3(home / "store") as plain:
        stack = AirflowStack(
            home / "airflow",
            dags=_dags_without_a_clock(home / "dags"),
            extra_env={
                "CUSTODY_CONFIG_DIR": str(home / "config"),
                "CUSTODY_LEDGER": ledger_url,
                "AIRFLOW_CONN_CUSTODY_S3": plain.airflow_connection(),
                **IMPATIENT,
            },
        )
        secrets = [plain.secret_key, stack._memory.jwt_secret]
        with CommandLines(secrets) as commands, stack:
            stack.import_pools(PROJECT / "include/config/pools.json")
            for dag_id in (DAG_ID, "tape_backup", "bitarchive_batch", "minidvodb_copy"):
                stack.wait_for_dag(dag_id, timeout_s=120)
                stack.unpause(dag_id)
            yield Rig(stack, plain, home, ledger_url, commands, secrets)


@pytest.fixture
def rig(running_rig: Rig) -> Iterator[Rig]:
    """The same for every test, with no configuration in it before and after."""
    yield running_rig
    for config_file in running_rig.config_dir.iterdir():
        config_file.unlink()


def _dags_without_a_clock(directory: Path) -> Path:
    """The DAGs as they are, but started by the tests alone: a run at the full hour would drain their disks too."""
    directory.mkdir()
    for name, scheduled in (("drain.py", 'schedule="@hourly"'), ("minidvodb_copy.py", 'schedule="*/15 * * * *"')):
        text = (PROJECT / "dags" / name).read_text()
        assert text.count(scheduled) == 1
        (directory / name).write_text(text.replace(scheduled, "schedule=None"))
    for name in ("tape_backup.py", "bitarchive_batch.py"):
        shutil.copy(PROJECT / "dags" / name, directory)
    return directory


def _upgrade(ledger_url: str) -> None:
    env = {"PYTHONPATH": str(PROJECT / "include"), "LANG": "C.UTF-8", "CUSTODY_LEDGER": ledger_url}
    subprocess.run([sys.executable, "-m", "custody.cli", "ledger", "upgrade"], env=env, check=True)
