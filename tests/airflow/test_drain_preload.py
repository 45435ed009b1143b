"""What tasks need is read once, where workers are forked, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from custody_airflow import preload

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize(
    ("words", "is_parent"),
    [
        (["scheduler"], True),
        (["scheduler", "--skip-serve-logs"], True),
        (["celery", "worker", "--queues", "crawler"], True),
        (["celery", "flower"], False),
        (["api-server"], False),
        (["dags", "trigger", "scheduler"], False),
        ([], False),
    ],
)
def test_who_forks_tasks(words: list[str], is_parent: bool) -> None:
    assert preload.forks_tasks(["/somewhere/airflow", *words]) is is_parent


def test_the_process_of_the_scheduler_knows_s3_and_others_do_not() -> None:
    script = (
        "import json, sys; sys.argv = ['airflow', *sys.argv[1:]]; import custody_plugin;"
        "print(json.dumps(sorted({'boto3', 'airflow.providers.amazon.aws.hooks.s3'} & set(sys.modules))))"
    )
    for words, known in ((["scheduler"], ["airflow.providers.amazon.aws.hooks.s3", "boto3"]), (["triggerer"], [])):
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout.splitlines()[-1]) == known


def test_what_is_not_installed_is_left_to_its_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preload, "MODULES", ("custody.no_such_module",))
    preload.preload(["airflow", "scheduler"])
    assert "No module named 'custody.no_such_module'" in caplog.text
