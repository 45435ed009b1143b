"""The DAG bitarchive_batch, run as a whole in this process."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag

from bitarchive_samples import sample
from bitarchive_site import FILES, Site, make_site
from custody.bitarchive import preserve, upload
from custody.bitarchive.batch import accounts, plan
from custody.bitarchive.states import FileState
from custody_airflow.operators.bitarchive_files import CorrectOperator
from custody_airflow.params.bitarchive import PARAMS
from empty_ledger import new_ledger

pytestmark = pytest.mark.airflow

STEPS = ("choose", "resolve_job", "list_expected_files", "run_on_bucket", "collect", "post_process", "report")
NAMES = "".join(f"{name}\n" for name in FILES)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The archive ``news``."""
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    made = make_site(tmp_path / "archive", new_ledger(url))
    config = tmp_path / "config" / "bitarchive" / "news.yml"
    config.parent.mkdir(parents=True)
    config.write_text(yaml.safe_dump(made.archive.config.model_dump(mode="json")))
    return made


def run(conf: dict[str, Any], **kwargs: Any) -> tuple[str, dict[str, set[str]]]:
    """Run the DAG; the state of the run and of each task."""
    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    assert not bag.import_errors, bag.import_errors
    done = bag.dags["bitarchive_batch"].test(run_conf={"config": "news", **conf}, **kwargs)
    states: dict[str, set[str]] = {}
    for instance in done.get_task_instances():
        states.setdefault(instance.task_id, set()).add(str(instance.state))
    return str(done.state.value), states


def test_a_batch_gives_one_output_in_the_order_of_names(airflow_db: None, site: Site, tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    state, tasks = run({"job": "FileListJob", "output": str(out), "errors": str(errors)})
    assert state == "success"
    assert set().union(*(tasks[name] for name in STEPS)) == {"success"}
    assert out.read_text() == NAMES
    assert errors.read_text() == ""


def test_a_failing_file_fails_the_run_and_names_the_part(airflow_db: None, site: Site, tmp_path: Path) -> None:
    job = site.job('#!/bin/sh\ncase "$1" in *b-2*) exit 9;; esac\nbasename "$1"\n', "some.sh")
    out = tmp_path / "out"
    state, tasks = run({"job": job, "output": str(out)})
    assert state == "failed"
    assert tasks["run_on_bucket"] == {"success", "failed"}
    assert tasks["collect"] == tasks["post_process"] == {"success"}
    assert tasks["report"] == {"failed"}
    assert not out.exists()
    assert (tmp_path / "out.partial").read_text() == f"{FILES[0]}\n{FILES[2]}\n{FILES[3]}\n"

    site.job('#!/bin/sh\nbasename "$1"\n', "some.sh")
    lines = list(accounts.lines(site.archive, 1))
    assert [line.state for line in lines].count(FileState.FAILED) == 1
    state, _ = run({"retry_batch": 1})
    assert state == "failed"  # the job is frozen: what was mended is a new batch
    assert [line.attempts for line in accounts.lines(site.archive, 1)] == [1, 2, 1, 1]


def test_nothing_matched_is_a_skip_and_no_success(airflow_db: None, site: Site) -> None:
    _, tasks = run({"job": "FileListJob", "regexp": "nothing"})
    assert tasks["report"] == {"skipped"}


def test_what_cannot_be_is_refused_by_the_first_task(
    airflow_db: None, site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    for conf, first, said in (
        ({"job": "FileListJob", "regex": ".*"}, "choose", "--conf key 'regex': is not known"),
        ({"job": "NoSuchJob"}, "resolve_job", "none of the library"),
    ):
        state, tasks = run(conf)
        assert (state, tasks[first], tasks["report"]) == ("failed", {"failed"}, {"failed"})
        told = capfd.readouterr().out
        assert said in told
        assert f"nothing was done: {first} failed; see the log of {first}" in told


def test_files_are_uploaded_and_a_missing_one_is_brought_back(airflow_db: None, site: Site, tmp_path: Path) -> None:
    path = sample(tmp_path / "in" / "5-new.warc.gz").path
    content = path.read_bytes()
    state, tasks = run({"action": "upload", "files": [str(path)]})
    assert (state, tasks["upload_files"], tasks["report"]) == ("success", {"success"}, {"skipped"})
    assert not path.exists()
    copy = site.root / "far" / "filedir" / path.name
    copy.unlink()
    state, tasks = run({"action": "missing", "replica": "TWO", "dry_run": True})
    assert (tasks["preserve.bring_back"], copy.exists()) == ({"skipped"}, False)
    state, tasks = run({"action": "missing", "replica": "TWO"})
    assert (state, tasks["preserve.bring_back"]) == ("success", {"success"})
    assert copy.read_bytes() == content


def test_a_changed_file_is_replaced_only_when_a_person_says_so(site: Site, tmp_path: Path) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    path = sample(tmp_path / "in" / "5-new.warc.gz").path
    upload.upload(site.archive, [path], who="test")
    copy = site.root / "far" / "filedir" / path.name
    good = copy.read_bytes()
    copy.write_bytes(b"x" * len(good))
    wrong = [
        preserve.find_changed(site.archive, one, who="test").wrong.get(path.name)
        for one in site.archive.config.replicas
    ]
    finding = {"replica": "TWO", "name": path.name, "md5": str(wrong[1])}
    operator = CorrectOperator(task_id="correct", finding=finding)
    instance = SimpleNamespace(dag_id="d", run_id="r", task_id="correct", map_index=0)
    params = {name: param.value for name, param in PARAMS.items()} | {"config": "news", "action": "changed"}
    context: Any = {"params": params, "ti": instance, "task_instance": instance}

    def say(option: str) -> Any:
        person = {"id": "1", "name": "Ada"}
        event = {"chosen_options": [option], "params_input": {}, "responded_by_user": person, "timedout": False}
        return operator.execute_complete(context, event | {"responded_at": datetime.now(UTC)})

    with pytest.raises(AirflowSkipException, match="Ada said: leave it"):
        say(CorrectOperator.LEAVE)
    assert copy.read_bytes() != good
    aside = say(CorrectOperator.REPLACE)["attic"]
    assert copy.read_bytes() == good
    assert (site.root / "far" / "atticdir" / aside).read_bytes() == b"x" * len(good)


def test_a_task_marked_as_success_by_hand_makes_no_result(airflow_db: None, site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    state, tasks = run({"job": "FileListJob", "output": str(out)}, mark_success_pattern="run_on_bucket")
    assert state == "failed"
    assert tasks["report"] == {"failed"}
    assert not list(tmp_path.glob("out*"))
    (batch,) = {line.state for line in accounts.lines(site.archive, 1)}
    assert batch is FileState.EXPECTED
    assert plan.load(site.archive, 1).state == "running"
