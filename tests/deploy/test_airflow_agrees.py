"""Airflow's own opinion of the compose file and of docs/deployment.md: options, commands, connections."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from deploy.composed import airflow_services, deployment_page, documented_blocks

pytestmark = pytest.mark.airflow

WRONG_COMMAND = ["celery", "worker", "--kews", "tape"]
WRONG_OPTION = "AIRFLOW__CORE__EXECUTER"
ASK_AIRFLOW = """
import argparse, json, sys
from airflow.configuration import conf
from airflow.cli.cli_parser import get_parser
from airflow.sdk.definitions.connection import Connection
from airflow.models.connection import Connection as Stored
question = json.load(open(sys.argv[1]))
known = {f"AIRFLOW__{s}__{k}".upper().replace("-", "_") for s, d in conf.configuration_description.items()
         for k in d["options"]}
refused = []
parser = get_parser()
for command in question["commands"]:
    try:
        parser.parse_args(command)
    except SystemExit as error:
        if error.code:
            refused.append(command)
uri = question["ledger"]
task_side, stored = Connection.from_uri(uri, conn_id="custody_ledger"), Stored(conn_id="custody_ledger", uri=uri)
ledger = [[c.conn_type, c.login, c.password, c.host, c.port, c.schema] for c in (task_side, stored)]
json.dump({"unknown": sorted(set(question["options"]) - known), "refused": refused, "ledger": ledger},
          open(sys.argv[2], "w"))
"""


def airflow_commands(services):
    """Return every Airflow command of the compose file: of services, health checks and the init script."""
    for service in airflow_services(services).values():
        if service["command"][0] != "bash" and "entrypoint" not in service:
            yield service["command"]
        test = service.get("healthcheck", {}).get("test", [])
        if len(test) == 2 and test[1].startswith("airflow "):
            yield shlex.split(test[1])[1:]
    yield from commands_in(services["airflow-init"]["command"][2])


def commands_in(script):
    """Return the Airflow commands of a shell script, without what comes after a pipe or the end of the line."""
    for line in script.replace("\\\n", " ").splitlines():
        found = re.search(r"(?:^|[|&] *|\s)airflow ([a-z][^|&>#]+)", line)
        if found and not line.lstrip().startswith("#"):
            yield shlex.split(found[1])


@pytest.fixture(scope="session")
def opinion(services, values, tmp_path_factory):
    """Airflow's answer to all questions at once, in a process of its own, with the settings of the compose file."""
    folder = tmp_path_factory.mktemp("opinion")
    page = documented_blocks("bash") + re.findall(r"`(airflow [a-z][^`]*)`", deployment_page())
    commands = [*airflow_commands(services), *(command for text in page for command in commands_in(text))]
    assert len(commands) > 15
    options = {name for s in services.values() for name in s.get("environment", {}) if name.startswith("AIRFLOW__")}
    options |= set(re.findall(r"\bAIRFLOW__[A-Z_]+__[A-Z_]+\b", deployment_page()))
    # One of each that is wrong, so that an answer without them would show a question that cannot fail.
    question = {"commands": [*commands, WRONG_COMMAND], "options": sorted(options | {WRONG_OPTION})}
    question["ledger"] = services["worker"]["environment"]["AIRFLOW_CONN_CUSTODY_LEDGER"]
    (folder / "question").write_text(json.dumps(question))
    (folder / "ask.py").write_text(ASK_AIRFLOW)
    chosen = ("AIRFLOW__CORE__AUTH_MANAGER", "AIRFLOW__CORE__EXECUTOR")
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    env |= {name: services["worker"]["environment"][name] for name in chosen} | {"AIRFLOW_HOME": str(folder)}
    command = [sys.executable, "ask.py", "question", "answer"]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answer").read_text())


def test_every_airflow_option_is_real(opinion):
    assert opinion["unknown"] == [WRONG_OPTION]


def test_every_airflow_command_is_real(opinion):
    assert opinion["refused"] == [WRONG_COMMAND]


def test_the_ledger_connection_keeps_the_scheme_of_sqlalchemy(opinion, values):
    expected = ["postgresql+psycopg2", "custody", values["CUSTODY_LEDGER_PASSWORD"], "postgres", None, "custody"]
    assert opinion["ledger"] == [expected, expected]


def test_command_line_and_tasks_use_one_ledger(services):
    for name, service in airflow_services(services).items():
        assert service["environment"]["CUSTODY_LEDGER"] == service["environment"]["AIRFLOW_CONN_CUSTODY_LEDGER"], name
