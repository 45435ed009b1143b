"""Airflow's REST API (v2), as much of it as the demo and the tests use; standard library only."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

FINAL_STATES = frozenset({"success", "failed"})
# On SQLite the server answers 500 when its audit log meets another writer; nothing has been done then.
_TRIES = 6


class AirflowApiError(RuntimeError):
    """The API refused a request or did not answer; the message names request, status and Airflow's own reason."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class TaskInstance:
    """One task of a run, or one of its mapped pieces; `name` is what the grid shows: its template, or its index."""

    task_id: str
    map_index: int
    name: str
    state: str
    try_number: int
    started: str  # ISO time, empty before


class AirflowApi:
    """A logged-in client of one api-server on 127.0.0.1."""

    page_size = 100  # of listings; the most that Airflow gives at once

    def __init__(self, *, port: int, username: str, password: str, timeout_s: float = 60) -> None:
        self.port, self.username, self._password, self.timeout_s = port, username, password, timeout_s
        self._token = ""

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, login: bool = True) -> Any:
        """Send one request, again where that may help, and return the decoded JSON answer (None for an empty one)."""
        for patience in range(_TRIES, 0, -1):
            status, answer = self._send(method, path, body, login=login)
            if status == 401 and login and patience == _TRIES:
                self._token = ""  # it outlives neither a restart with another secret nor a day
            elif status < 500 or patience == 1:
                break
            else:
                time.sleep(0.5)
        if status >= 400:
            raise AirflowApiError(f"Airflow answered {status} to {method} {path}: {_reason(answer)}", status=status)
        return json.loads(answer) if answer.strip() else None

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, *, login: bool) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if login:
            headers["Authorization"] = f"Bearer {self._login()}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout_s)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise AirflowApiError(
                f"no answer from Airflow to {method} http://127.0.0.1:{self.port}{path}: {error!r}"
            ) from error
        finally:
            connection.close()

    def _login(self) -> str:
        if not self._token:
            answer = self.request(
                "POST", "/auth/token", {"username": self.username, "password": self._password}, login=False
            )
            self._token = answer["access_token"]
        return self._token

    def warm_up(self) -> bool:
        """Make the execution API load itself, which takes seconds and would else hit the first task."""
        try:
            self.request("GET", "/execution/health", login=False)
        except AirflowApiError:
            return False
        return True

    def health(self) -> dict[str, str]:
        """Return the state of each component: metadatabase, scheduler, triggerer, dag_processor -> 'healthy'."""
        answer = self.request("GET", "/api/v2/monitor/health", login=False)
        return {name: str(part.get("status")) for name, part in answer.items()}

    def set_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool, or change the one of that name; nothing is sent when it is as it should be."""
        pool = {"name": name, "slots": slots, "description": description, "include_deferred": False}
        known = self.request("GET", f"/api/v2/pools?{urlencode({'pool_name_pattern': name})}")["pools"]
        if any(pool.items() <= each.items() for each in known):
            return
        try:
            self.request("POST", "/api/v2/pools", pool)
        except AirflowApiError as error:
            if error.status != 409:
                raise
            self.request("PATCH", f"/api/v2/pools/{quote(name, safe='')}", pool)

    def wait_for_dag(self, dag_id: str, *, timeout_s: float) -> None:
        """Return when the DAG processor has found the DAG; raise with the import errors when it does not."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.request("GET", f"/api/v2/dags/{quote(dag_id)}")
                return
            except AirflowApiError as error:
                if error.status != 404:
                    raise
            if time.monotonic() > deadline:
                raise AirflowApiError(f"DAG {dag_id} was not found in {timeout_s:.0f} s; {self._import_errors()}")
            time.sleep(0.5)

    def _import_errors(self) -> str:
        errors = self.request("GET", "/api/v2/importErrors")["import_errors"]
        last_lines = (f"{each['filename']}: {each['stack_trace'].strip().splitlines()[-1]}" for each in errors)
        return "; ".join(last_lines) or "no DAG file has an import error"

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the DAG."""
        self.request("PATCH", f"/api/v2/dags/{quote(dag_id)}?update_mask=is_paused", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a run and return its run id; parameters against the DAG's schema raise with the schema's message."""
        # A name of our own: should the answer to the first try be lost, the second one finds its run.
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        try:
            self.request("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", body)
        except AirflowApiError as error:
            if error.status != 409:
                raise
        return run_id

    def wait_until_idle(self, dag_id: str, *, timeout_s: float) -> bool:
        """Wait until no run of the DAG is queued or running; False when there still is one after `timeout_s`."""
        query = urlencode([("state", "queued"), ("state", "running"), ("limit", 1)])
        deadline = time.monotonic() + timeout_s
        while self.request("GET", f"/api/v2/dags/{quote(dag_id)}/dagRuns?{query}")["total_entries"]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
        return True

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return queued, running, success or failed."""
        return str(self.request("GET", _run_path(dag_id, run_id))["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return all task instances of a run, in the order Airflow lists them."""
        found: list[TaskInstance] = []
        while True:
            query = urlencode({"limit": self.page_size, "offset": len(found)})
            page = self.request("GET", f"{_run_path(dag_id, run_id)}/taskInstances?{query}")
            found += [_task_instance(each) for each in page["task_instances"]]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def task_log(self, dag_id: str, run_id: str, task: TaskInstance) -> str:
        """Return what the last try of a task wrote, one event a line."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task.task_id)}/logs/{max(task.try_number, 1)}"
        answer = self.request("GET", f"{path}?full_content=true&map_index={task.map_index}")
        lines = answer["content"] if isinstance(answer["content"], list) else [answer["content"]]
        return "\n".join(_log_line(line) for line in lines)

    def wait(
        self,
        dag_id: str,
        run_id: str,
        on_progress: Callable[[list[TaskInstance]], None] | None = None,
        *,
        timeout_s: float,
        every_s: float = 1.0,
    ) -> str:
        """Wait for a run to end and return its state; `on_progress` is handed its task instances on the way."""
        return self.wait_for_all(dag_id, [run_id], on_progress, timeout_s=timeout_s, every_s=every_s)[run_id]

    def wait_for_all(
        self,
        dag_id: str,
        run_ids: Sequence[str],
        on_progress: Callable[[list[TaskInstance]], None] | None = None,
        *,
        timeout_s: float,
        every_s: float = 1.0,
    ) -> dict[str, str]:
        """Wait until all runs have ended, return their states; `on_progress` is handed the task instances of all."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = {run_id: self.run_state(dag_id, run_id) for run_id in run_ids}
            tasks = [task for run_id in run_ids for task in self.task_instances(dag_id, run_id)]
            if on_progress is not None:
                on_progress(tasks)
            unfinished = [
                f"run {run_id} is still {state}" for run_id, state in states.items() if state not in FINAL_STATES
            ]
            if not unfinished:
                return states
            if time.monotonic() > deadline:
                counts = ", ".join(f"{name} {count}" for name, count in Counter(t.state for t in tasks).items())
                late = "; ".join(unfinished)
                raise AirflowApiError(f"{dag_id}: {late} after {timeout_s:.0f} s ({counts})")
            time.sleep(every_s)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"


def _task_instance(answer: Mapping[str, Any]) -> TaskInstance:
    index = int(answer.get("map_index", -1))
    return TaskInstance(
        task_id=str(answer["task_id"]),
        map_index=index,
        name=str(answer.get("rendered_map_index") or (index if index >= 0 else "")),
        state=str(answer.get("state") or "waiting"),
        try_number=int(answer.get("try_number") or 0),
        started=str(answer.get("start_date") or ""),
    )


def _log_line(line: object) -> str:
    if not isinstance(line, Mapping):
        return str(line)
    details = line.get("error_detail") or []
    errors = "; ".join(f"{each.get('exc_type')}: {each.get('exc_value')}" for each in details)
    return f"{line.get('event', '')}{': ' + errors if errors else ''}"


def _reason(answer: bytes) -> str:
    try:
        detail = json.loads(answer)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.decode(errors="replace")
    return (detail if isinstance(detail, str) else json.dumps(detail))[:1000]
