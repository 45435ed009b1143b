"""The stack runs a real Airflow on the loopback and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody_demo import processes
from custody_demo.airflow_api import AirflowApiError
from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.processes import StartError

pytestmark = pytest.mark.e2e

DAG = '''
"""Three mapped tasks, one of which may fail."""
import os
from airflow.sdk import Param, dag, get_current_context, task

@dag(schedule=None, params={"fail_on": Param(0, type="integer", title="fail on", minimum=0)})
def tiny():
    @task
    def numbers():
        assert "CUSTODY_STRAY" not in os.environ
        return [1, 2, 3]

    @task(map_index_template="{{ shown }}", pool="narrow")
    def work(number):
        context = get_current_context()
        context["shown"] = f"number {number}"
        if number == context["params"]["fail_on"]:
            raise ValueError(f"{os.environ['CUSTODY_WORD']} {number}")

    work.expand(number=numbers())

tiny()
'''


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stack")
    for name in ("dags", "plugins"):
        (root / name).mkdir()
    (root / "dags/tiny.py").write_text(DAG)
    (root / "pools.json").write_text(json.dumps({"narrow": {"slots": 2, "description": "two at once"}}))
    return root


def _stack(places: Path) -> AirflowStack:
    environment = {"CUSTODY_WORD": "no to"}
    return AirflowStack(
        places / "home", dags=places / "dags", plugins=places / "plugins", extra_env=environment, refresh_s=5
    )


@pytest.fixture(scope="module")
def left_running(places: Path) -> list[int]:
    """What was left of an Airflow in the same home whose starter was killed: every process that still ran then."""
    script = (
        "import sys; from pathlib import Path; from custody_demo.airflow_stack import AirflowStack\n"
        "home, dags, plugins = map(Path, sys.argv[1:])\n"
        "stack = AirflowStack(home, dags=dags, plugins=plugins)\n"
        "stack.start()\n"
        "print(*(member.pid for member in stack._family.refresh()), flush=True)\n"
        "sys.stdin.read()\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, *(str(places / name) for name in ("home", "dags", "plugins"))],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "include")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    started = [int(pid) for pid in starter.stdout.readline().split()]
    starter.kill()
    starter.wait()
    return [pid for pid in started if processes.process_id(pid)]


@pytest.fixture(scope="module")
def stack(places: Path, left_running: list[int]) -> Iterator[AirflowStack]:
    """One for all tests, started where another one was left behind; nothing is left of it at the end."""
    os.environ["CUSTODY_STRAY"] = "of the caller"
    family: set[processes.ProcessId] = set()
    try:
        with _stack(places) as running:
            running.import_pools(places / "pools.json")
            running.import_pools(places / "pools.json")
            running.wait_for_dag("tiny", timeout_s=60)
            running.unpause("tiny")
            yield running
            family = running._family.refresh()
    finally:
        del os.environ["CUSTODY_STRAY"]
    assert len(family) >= 4
    assert not any(processes.process_id(member.pid) == member for member in family)


def test_a_run_succeeds_and_its_tasks_have_names(stack: AirflowStack) -> None:
    seen: list[int] = []
    run_id = stack.trigger("tiny", {})
    assert stack.wait("tiny", run_id, lambda tasks: seen.append(len(tasks)), timeout_s=120) == "success"
    tasks = stack.task_instances("tiny", run_id)
    assert sorted((task.task_id, task.name, task.state) for task in tasks) == [
        ("numbers", "", "success"),
        ("work", "number 1", "success"),
        ("work", "number 2", "success"),
        ("work", "number 3", "success"),
    ]
    assert seen[-1] == 4


def test_a_failed_task_tells_why(stack: AirflowStack) -> None:
    run_id = stack.trigger("tiny", {"fail_on": 2})
    assert stack.wait("tiny", run_id, timeout_s=120) == "failed"
    failed = [task for task in stack.task_instances("tiny", run_id) if task.state == "failed"]
    assert [task.map_index for task in failed] == [1]
    assert "ValueError: no to 2" in stack.task_log("tiny", run_id, failed[0])


def test_a_bad_parameter_is_refused_with_the_reason_of_the_schema(stack: AirflowStack) -> None:
    with pytest.raises(AirflowApiError, match="-1 is less than the minimum of 0") as refusal:
        stack.trigger("tiny", {"fail_on": -1})
    assert refusal.value.status == 400


def test_a_dag_that_is_not_there_is_named(stack: AirflowStack) -> None:
    with pytest.raises(AirflowApiError, match="DAG missing was not found in 0 s; no DAG file has an import error"):
        stack.wait_for_dag("missing", timeout_s=0)


def test_all_pages_of_task_instances_are_read(stack: AirflowStack, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = stack.trigger("tiny", {})
    assert stack.wait("tiny", run_id, timeout_s=120) == "success"
    monkeypatch.setattr(stack, "page_size", 3)
    tasks = stack.task_instances("tiny", run_id)
    assert sorted((task.task_id, task.map_index) for task in tasks) == [
        ("numbers", -1),
        ("work", 0),
        ("work", 1),
        ("work", 2),
    ]


def test_it_listens_on_the_loopback_only(stack: AirflowStack) -> None:
    inodes = {
        os.readlink(link)
        for member in stack._family.refresh()
        for link in Path(f"/proc/{member.pid}/fd").glob("*")
        if link.is_symlink() and os.path.lexists(link)
    }
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                listening.append(fields[1])
    loopback = socket.inet_aton("127.0.0.1")[::-1].hex().upper()
    assert listening == [f"{loopback}:{stack.port:04X}"]


def test_its_secrets_are_private_and_not_in_argv(stack: AirflowStack) -> None:
    secrets = {stack.password, stack._memory.jwt_secret}
    for name in ("stack.json", "passwords.json"):
        assert stat.S_IMODE((stack.home / name).stat().st_mode) == 0o600
    for member in stack._family.refresh():
        argv = Path(f"/proc/{member.pid}/cmdline").read_text()
        assert not any(secret in argv for secret in secrets)
    logs = "".join(path.read_text() for path in (stack.home / "components").iterdir())
    assert not any(secret in logs for secret in secrets)


def test_its_home_cannot_be_used_twice(stack: AirflowStack, places: Path) -> None:
    with pytest.raises(StartError, match="in use by another process"):
        _stack(places).start()
    assert stack.health()["scheduler"] == "healthy"


def test_what_a_killed_starter_left_is_ended_by_the_next_start(stack: AirflowStack, left_running: list[int]) -> None:
    assert len(left_running) >= 4
    assert not any(processes.process_id(pid) for pid in left_running)
    assert stack.health()["scheduler"] == "healthy"
    assert (stack.home / "components/migrate.log").read_text().count("Performing upgrade") <= 1
