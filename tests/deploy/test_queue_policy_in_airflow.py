"""The queue policy and the ignore files, as Airflow's own machinery uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from deploy.composed import ROOT

pytestmark = pytest.mark.airflow

DAG_FILE = """
from airflow.sdk import dag, task

@dag(dag_id="drain", schedule=None)
def drain():
    @task
    def plan(): return [1, 2, 3]

    @task(queue="central", pool="custody_upload")
    def elsewhere(): ...

    @task
    def pack(unit): ...

    @task
    def literal(unit): ...

    planned = plan()
    planned >> elsewhere()
    pack.expand(unit=planned)
    literal.expand(unit=["a", "b"])

drain()
"""

THROUGH_AIRFLOW = """
import json, os, sys
from airflow import plugins_manager, settings
from airflow.utils import db
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from airflow._shared.timezones import timezone

answers = {"policy_is_called": not settings.task_instance_mutation_hook.is_noop}
plugins, errors = plugins_manager._get_plugins()
answers["plugin_errors"] = errors
import queue

answers["queue_is_the_standard_one"] = hasattr(queue, "SimpleQueue")
scanned = os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] + "/"
answers["modules"] = sorted(n for n, m in sys.modules.items() if (getattr(m, "__file__", "") or "").startswith(scanned))

with create_session() as session:
    db.initdb(session=session)

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.models.taskmap import TaskMap
from sqlalchemy import select

manager = DagBundlesManager()
with create_session() as session:
    manager.sync_bundles_to_db(session=session)
(bundle,) = manager.get_all_dag_bundles()
bundle.initialize()
bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
assert not bag.import_errors, bag.import_errors
sync_bag_to_db(bag, bundle.name, None)

def places(session, run_id):
    rows = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run_id))
    return sorted([r.task_id, r.map_index, r.queue, r.pool] for r in rows)

for name, conf in (("routed", {"config": "crawl1"}), ("plain", {"config": "other"}), ("scheduled", None)):
    with create_session() as session:
        dag = SerializedDagModel.get_dag("drain", session=session)
        run = dag.create_dagrun(run_id=name, run_after=timezone.utcnow(), conf=conf, run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST, state=DagRunState.RUNNING, session=session)
        session.flush()
        answers[name] = places(session, name)

with create_session() as session:
    dag = SerializedDagModel.get_dag("drain", session=session)
    session.add(TaskMap(dag_id="drain", task_id="plan", run_id="routed", map_index=-1, length=3, keys=None))
    session.flush()
    TaskMap.expand_mapped_task(dag.get_task("pack"), "routed", session=session)
    session.flush()
    answers["expanded"] = places(session, "routed")

with create_session() as session:
    rows = list(session.scalars(select(TaskInstance).where(TaskInstance.run_id == "routed")))
    for row in rows:
        row.state = "failed"
    session.flush()
    clear_task_instances(rows, session)
    session.flush()
    answers["cleared"] = places(session, "routed")

json.dump(answers, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def airflow_answers(tmp_path_factory):
    """What Airflow's own code makes of the policy, in a process and a database of its own."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "drain.py").write_text(DAG_FILE)
    (home / "config" / "drain").mkdir(parents=True)
    (home / "config" / "drain" / "crawl1.yml").write_text("queue: crawl1\npool: custody_disk\n")
    (home / "config" / "drain" / "other.yml").write_text("job_dir: /d\n")
    (home / "probe.py").write_text(textwrap.dedent(THROUGH_AIRFLOW))
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=120",
        "CUSTODY_CONFIG_DIR": str(home / "config"),
        "PYTHONPATH": ":".join(str(ROOT / part) for part in ("include", "plugins", "dags")),
    }
    done = subprocess.run(
        [sys.executable, str(home / "probe.py"), str(home / "answers.json")],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return json.loads((home / "answers.json").read_text())


HERE = ["default", "default_pool"]
THERE = ["crawl1", "custody_disk"]
KEPT = ["central", "custody_upload"]


def test_airflow_finds_the_policy(airflow_answers):
    assert airflow_answers["policy_is_called"]


def test_a_new_run_goes_to_the_queue_of_its_configuration(airflow_answers):
    assert airflow_answers["routed"] == [
        ["elsewhere", -1, *KEPT],
        ["literal", 0, *THERE],
        ["literal", 1, *THERE],
        ["pack", -1, *THERE],
        ["plan", -1, *THERE],
    ]


@pytest.mark.parametrize("name", ["plain", "scheduled"])
def test_a_run_without_queue_stays_on_the_default(airflow_answers, name):
    assert {tuple(row[2:]) for row in airflow_answers[name] if row[0] != "elsewhere"} == {tuple(HERE)}


def test_tasks_mapped_while_the_run_goes_on_follow(airflow_answers):
    packs = [row for row in airflow_answers["expanded"] if row[0] == "pack"]
    assert packs == [["pack", index, *THERE] for index in range(3)]


def test_a_cleared_task_goes_there_again(airflow_answers):
    assert airflow_answers["cleared"] == airflow_answers["expanded"]


def test_airflow_scans_only_the_registration_module_of_the_plugins(airflow_answers):
    assert airflow_answers["plugin_errors"] == {}
    assert airflow_answers["queue_is_the_standard_one"]
    bare = {name for name in airflow_answers["modules"] if not name.startswith("custody_airflow")}
    assert "airflow_local_settings" in bare and bare <= {"airflow_local_settings", "custody_plugin"}


@pytest.fixture
def python_files(tmp_path_factory):
    """Ask Airflow's own lister, the one of its plugin loader, which Python files of a folder it would execute."""
    home = tmp_path_factory.mktemp("lister")
    probe = """
import json, sys
from airflow._shared.module_loading import find_path_from_directory
print(json.dumps(list(find_path_from_directory(sys.argv[1], ".airflowignore", "glob"))))
"""

    def ask(folder):
        env = os.environ | {"AIRFLOW_HOME": str(home), "_AIRFLOW__AS_LIBRARY": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", probe, str(folder)]
        done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=60, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        return sorted(str(Path(path).relative_to(folder)) for path in found if path.endswith(".py"))

    return ask


def test_the_ignore_file_of_the_plugins(tmp_path, python_files):
    (tmp_path / ".airflowignore").write_bytes((ROOT / "plugins" / ".airflowignore").read_bytes())
    for name in (
        "custody_plugin.py",
        "airflow_local_settings.py",
        "queue.py",
        "custody_airflow/__init__.py",
        "custody_airflow/queues.py",
        "custody_airflow/custody_plugin.py",
        "custody_airflow/hooks/queue.py",
        "other/queue.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert python_files(tmp_path) == ["custody_plugin.py"]
    assert set(python_files(ROOT / "plugins")) <= {"custody_plugin.py"}


def test_every_dag_file_is_seen_and_helpers_are_not(tmp_path, python_files):
    (tmp_path / ".airflowignore").write_bytes((ROOT / "dags" / ".airflowignore").read_bytes())
    for name in ("drain.py", "wiki_dump.py", "_shared.py", ".drain.py", "__pycache__/drain.py", ".git/drain.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert python_files(tmp_path) == ["drain.py", "wiki_dump.py"]
    real = sorted(path.name for path in (ROOT / "dags").glob("*.py") if not path.name.startswith(("_", ".")))
    assert python_files(ROOT / "dags") == real
