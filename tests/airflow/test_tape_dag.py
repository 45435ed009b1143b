"""The DAG tape_backup, run as a whole in this process on a virtual drive."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from custody.tape.states import TapeState
from custody_airflow.params.tape import PARAMS
from empty_ledger import new_ledger
from tape_site import TapeSite, make_site

pytestmark = pytest.mark.airflow

CONFIG = "lto"


@dataclass
class DagSite:
    """A tape site that the DAG knows as the configuration ``lto``."""

    tape: TapeSite

    def run(self, **conf: Any) -> Any:
        """Run the DAG to its end in this process; the tape that it wants must be in the drive."""
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
        assert not bag.import_errors, bag.import_errors
        before = {name: param.value for name, param in PARAMS.items()}
        try:
            return bag.dags["tape_backup"].test(run_conf={"config": CONFIG, **conf})
        finally:
            for name, value in before.items():  # dag.test leaves the conf of a run in the params
                PARAMS[name].value = value

    def states(self, run: Any) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for instance in run.get_task_instances():
            found.setdefault(instance.task_id, []).append(str(instance.state))
        return {task: sorted(states) for task, states in found.items()}

    def configure(self, **settings: str) -> None:
        path = Path(os.environ["CUSTODY_CONFIG_DIR"]) / "tape" / f"{CONFIG}.conf"
        lines = {"tape_device": str(self.tape.drive), "buffer": "8MiB"} | settings
        path.write_text("[default]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()))


@pytest.fixture
def dag_site(airflow_db: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DagSite:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.delenv("AIRFLOW_CONN_CUSTODY_LEDGER", raising=False)
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "config" / "tape").mkdir(parents=True)
    found = DagSite(make_site(tmp_path, new_ledger(url)))
    found.configure()
    return found


def counted(site: DagSite) -> dict[str, int]:
    found: dict[str, int] = {}
    for backup in site.tape.backups():
        found[backup.state] = found.get(backup.state, 0) + 1
    return found


def test_directories_go_to_tape_are_confirmed_and_come_back(dag_site: DagSite, tmp_path: Path) -> None:
    dag_site.tape.make_tape("T1", on_record=False)
    hostile = dag_site.tape.make_hostile_target("{{ 1 div 0 }}")
    paths = [str(dag_site.tape.make_target(name)) for name in ("a", "b")] + [str(hostile)]
    conf = {"tapes": ["T1"], "targets": paths}
    run = dag_site.run(steps=["open", "import", "assign", "archive", "confirm"], **conf)
    assert run.state == "success"
    assert counted(dag_site) == {"confirmed": 3}
    states = dag_site.states(run)
    assert states["archive.write"] == states["confirm.read"] == ["success"]
    for task in ("tape.activate", "close", "restore", "scan", "next_tape.plan", "next_tape.start"):
        assert states[task] == ["skipped"], task
    for instance in run.get_task_instances():
        value = instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index)
        assert len(json.dumps(value, default=str)) < 10_000, instance.task_id
    before = dag_site.tape.image("T1").read_bytes()

    again = dag_site.run(**conf)
    assert again.state == "success"
    assert dag_site.states(again)["archive.plan"] == ["skipped"]
    assert dag_site.tape.image("T1").read_bytes() == before

    back = dag_site.run(action="restore", patterns=[f"{paths[0]}/sub/file1"], into=str(tmp_path / "back"))
    assert back.state == "success"
    restored = [path for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in restored] == [(Path(paths[0]) / "sub" / "file1").read_bytes()]


def test_what_cannot_be_right_fails_the_first_task_and_nothing_is_done(dag_site: DagSite, capfd: Any) -> None:
    dag_site.tape.make_tape("T1")
    target = dag_site.tape.make_target("a")
    run = dag_site.run(tapes=["T1"], targets=[str(target)], tapez=["T2"])
    assert run.state == "failed"
    states = dag_site.states(run)
    assert states["choose"] == states["report"] == ["failed"]
    assert set(map(tuple, states.values())) <= {("failed",), ("upstream_failed",), ("skipped",)}
    assert "--conf key 'tapez': is not known" in capfd.readouterr().out
    assert dag_site.tape.backups() == []


def test_a_dry_run_touches_nothing(dag_site: DagSite) -> None:
    dag_site.tape.make_tape("T1")
    target = dag_site.tape.make_target("a")
    run = dag_site.run(tapes=["T1"], targets=[str(target)], dry_run=True)
    assert run.state == "success"
    assert dag_site.tape.backups() == []
    assert dag_site.tape.tape("T1").state is TapeState.NEW
