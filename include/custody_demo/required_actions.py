"""Airflow's Required Actions by its REST API, as its own UI uses it: what a run asks a person, and the answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from custody_demo.airflow_api import FINAL_STATES, AirflowApi, AirflowApiError

A_MOMENT_S = 2.0
"""Airflow keeps an answer that comes in the very moment of parking a task, and wakes nobody. People are slower."""


@dataclass(frozen=True)
class Question:
    """One open question of a task."""

    task_id: str
    map_index: int
    subject: str
    body: str
    options: tuple[str, ...]


def open_question(api: AirflowApi, dag_id: str, run_id: str) -> Question | None:
    """The question that a run waits with, or None."""
    query = urlencode({"response_received": "false"})
    for one in api.request("GET", f"{_run(dag_id, run_id)}/hitlDetails?{query}")["hitl_details"]:
        task = one["task_instance"]
        if task["state"] == "awaiting_input":
            return Question(
                task["task_id"], task["map_index"], one["subject"], one["body"] or "", tuple(one["options"])
            )
    return None


def wait_for_question(
    api: AirflowApi,
    dag_id: str,
    run_id: str,
    *,
    timeout_s: float,
    is_meant: Callable[[Question], bool] = lambda question: True,
) -> Question:
    """Wait until a run asks; AirflowApiError where it ends without, or does not in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        question = open_question(api, dag_id, run_id)
        if question and is_meant(question):
            time.sleep(A_MOMENT_S)
            if open_question(api, dag_id, run_id) == question:
                return question
        state = api.run_state(dag_id, run_id)
        if state in FINAL_STATES or time.monotonic() > deadline:
            raise AirflowApiError(f"{dag_id}: run {run_id} is {state} and asked nothing of the kind")
        time.sleep(0.5)


def answer(api: AirflowApi, dag_id: str, run_id: str, question: Question, option: str) -> None:
    """Answer as a person does with a click."""
    path = f"{_run(dag_id, run_id)}/taskInstances/{quote(question.task_id)}/{question.map_index}/hitlDetails"
    api.request("PATCH", path, {"chosen_options": [option], "params_input": {}})


def wait_for_run(api: AirflowApi, dag_id: str, *, config: str, not_these: set[str], timeout_s: float) -> str:
    """Wait for another run of a configuration, which a run has started; returns its id."""
    deadline = time.monotonic() + timeout_s
    while True:
        query = urlencode({"order_by": "-run_after", "limit": 20})
        for run in api.request("GET", f"/api/v2/dags/{quote(dag_id)}/dagRuns?{query}")["dag_runs"]:
            if (run["conf"] or {}).get("config") == config and run["dag_run_id"] not in not_these:
                return str(run["dag_run_id"])
        if time.monotonic() > deadline:
            raise AirflowApiError(f"{dag_id}: no further run of {config} was started in {timeout_s:.0f} s")
        time.sleep(0.5)


def _run(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"
