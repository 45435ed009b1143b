"""A whole Airflow for demo and tests: SQLite, LocalExecutor, everything below one directory and on the loopback.

It runs the four processes of `airflow standalone` itself. `standalone` would also start two log servers that listen
on every interface of the machine, and killing it leaves its api-server behind; beside that it is one process more.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import secrets
import signal
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from custody_demo import processes
from custody_demo.airflow_api import AirflowApi, AirflowApiError
from custody_demo.processes import Family, ProcessId, StartError

PROJECT = Path(__file__).resolve().parents[2]
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}


@dataclass
class _Memory:
    """What a home keeps from one start to the next (file `stack.json`, mode 0600)."""

    password: str
    jwt_secret: str
    port: int
    migrated_for: str = ""
    boot_id: str = ""
    leaders: tuple[tuple[int, int], ...] = ()


class AirflowStack(AirflowApi):
    """Start, use and stop one Airflow; also a context manager.

    :param home: directory of its state (database, logs, passwords); made when missing
    :param dags: folder of DAG files; `plugins`: folder of plugins
    :param extra_env: more environment for all its processes, such as AIRFLOW_CONN_... and CUSTODY_...
    :param refresh_s: how often DAG files are looked at
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path = PROJECT / "dags",
        plugins: Path = PROJECT / "plugins",
        extra_env: Mapping[str, str] | None = None,
        parallelism: int = 8,
        refresh_s: int = 15,
    ) -> None:
        self.home = home.resolve()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.dags, self.plugins = dags.resolve(), plugins.resolve()
        self.extra_env = dict(extra_env or {})
        self.parallelism, self.refresh_s = parallelism, refresh_s
        self._bin = Path(sysconfig.get_path("scripts"))
        self._memory = self._remember()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._family = Family()
        self._locked: int | None = None
        super().__init__(port=self._memory.port, username="admin", password=self._memory.password)

    @property
    def url(self) -> str:
        """The address of the web interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        """The password of `username`, made on the first start of this home."""
        return self._memory.password

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = 300) -> None:
        """Start all components and return when they are healthy and ready for the first task."""
        if self._locked is None:
            self._locked = processes.lock_directory(self.home)
        self._end_leftovers()
        if not processes.is_free(self.port):
            self.port = self._memory.port = processes.free_ports(1)[0]
        deadline = time.monotonic() + timeout_s
        env = self.environment()
        _write_private(self.home / "passwords.json", {self.username: self.password})
        try:
            self._migrate(env, deadline)
            for name in COMPONENTS:
                self._start_component(name, env)
            self._note_leaders()
            self._wait_until_healthy(deadline)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all components and wait until nothing that came of them is left."""
        # First who talks to the api-server: without it the scheduler's workers wait a minute, the triggerer ten s.
        family = self._family
        for names in (("scheduler", "triggerer"), tuple(self._running)):
            ending = [self._running[name] for name in names if name in self._running]
            family.refresh()
            for process in ending:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            # Looked for while they have parents: later nobody could tell whose they were.
            processes.wait_until(partial(_have_ended, ending, family), timeout_s=20)
        family.end(grace_s=5)
        for process in self._running.values():
            process.wait()
        self._running.clear()
        self._family = Family()
        self._memory.leaders = ()
        self._save()
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def pid_of(self, component: str) -> int:
        """Return the process of a component: api-server, scheduler, dag-processor or triggerer."""
        return self._running[component].pid

    def kill(self, component: str) -> None:
        """End one component by SIGKILL, as the kernel does when memory is short; what came of it is left running."""
        self._family.refresh()
        process = self._running[component]
        process.kill()
        process.wait()

    def start_again(self, component: str) -> None:
        """Start a component that has ended; returns at once."""
        self._start_component(component, self.environment())
        self._note_leaders()

    def import_pools(self, file: Path) -> None:
        """Make the pools of a file in the format of `airflow pools import`."""
        for name, pool in json.loads(file.read_text()).items():
            self.set_pool(name, int(pool["slots"]), str(pool.get("description", "")))

    def environment(self) -> dict[str, str]:
        """Return the whole environment of the components: nothing of the caller's own is in it."""
        return {
            "PATH": f"{self._bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": ":".join(str(PROJECT / part) for part in ("include", "plugins", "dags")),
            "PYTHONUNBUFFERED": "1",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.plugins),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            # SQLite has one writer: with the default of 32 the scheduler dies of "database is locked".
            "AIRFLOW__CORE__PARALLELISM": str(self.parallelism),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self._database(timeout_s=120),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{self.username}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API_AUTH__JWT_SECRET": self._memory.jwt_secret,
            # The first call to the execution API takes longer than the five seconds a worker would wait.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": str(self.refresh_s),
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": str(self.refresh_s),
            **self.extra_env,
        }

    def _start_component(self, name: str, env: Mapping[str, str]) -> None:
        argv = [str(self._bin / "airflow"), name, *COMPONENTS[name]]
        own = {**env, **self._environment_of(name)}
        self._running[name] = processes.start(argv, env=own, cwd=self.home, log=self._log(name))

    def _database(self, *, timeout_s: int) -> str:
        return f"sqlite:///{self.home}/airflow.db?timeout={timeout_s}"

    def _environment_of(self, component: str) -> dict[str, str]:
        """Return what differs for one component.

        The api-server commits its audit log on its event loop. When another of its threads has a write open, that one
        cannot end before the loop goes on, nor the loop before the lock is free: both wait for the timeout. Its clients
        try again, so there it is short.
        """
        return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self._database(timeout_s=3)} if component == "api-server" else {}

    def _log(self, name: str) -> Path:
        return self.home / "components" / f"{name}.log"

    def _migrate(self, env: Mapping[str, str], deadline: float) -> None:
        version = importlib.metadata.version("apache-airflow-core")
        if self._memory.migrated_for == version and (self.home / "airflow.db").exists():
            return
        argv = [str(self._bin / "airflow"), "db", "migrate"]
        self._running["migrate"] = process = processes.start(argv, env=env, cwd=self.home, log=self._log("migrate"))
        self._note_leaders()
        try:
            code = process.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = -1
        if code != 0:
            raise StartError(self._why("migrate", "could not make Airflow's database"))
        del self._running["migrate"]
        self._memory.migrated_for = version
        self._save()

    def _wait_until_healthy(self, deadline: float) -> None:
        answers = processes.wait_until(
            lambda: self._all_run() and self._answers(), timeout_s=deadline - time.monotonic(), every_s=0.2
        )
        if not answers:
            raise StartError(self._why("api-server", "Airflow's API did not answer in time"))
        self.warm_up()
        waiting: dict[str, str] = {}

        def all_healthy() -> bool:
            self._all_run()
            waiting.clear()
            waiting.update({name: state for name, state in self.health().items() if state != "healthy"})
            return not waiting

        if not processes.wait_until(all_healthy, timeout_s=deadline - time.monotonic(), every_s=0.2):
            raise StartError(f"Airflow is not healthy in time: {waiting}; logs: {self.home / 'components'}")

    def _all_run(self) -> bool:
        self._family.refresh()
        for name, process in self._running.items():
            if process.poll() is not None:
                raise StartError(self._why(name, f"airflow {name} ended with code {process.returncode}"))
        return True

    def _answers(self) -> bool:
        try:
            self.health()
        except AirflowApiError:
            return False
        return True

    def _why(self, component: str, what: str) -> str:
        log = self._log(component)
        return f"{what}; last lines of {log}:\n  {processes.last_lines(log)}"

    def _note_leaders(self) -> None:
        """Write down who leads the sessions, so that the next start can end what a killed one left."""
        leaders = [processes.process_id(process.pid) for process in self._running.values()]
        self._family.known |= {leader for leader in leaders if leader is not None}
        self._memory.leaders = tuple((each.pid, each.started_ticks) for each in self._family.known)
        self._memory.boot_id = _boot_id()
        self._save()

    def _end_leftovers(self) -> None:
        if self._memory.leaders and self._memory.boot_id == _boot_id():
            Family({ProcessId(*leader) for leader in self._memory.leaders}).end(grace_s=0)

    def _remember(self) -> _Memory:
        try:
            return _Memory(**json.loads((self.home / "stack.json").read_text()))
        except (OSError, ValueError, TypeError):
            return _Memory(secrets.token_urlsafe(12), secrets.token_urlsafe(64), processes.free_ports(1)[0])

    def _save(self) -> None:
        _write_private(self.home / "stack.json", asdict(self._memory))


def _have_ended(ending: list[subprocess.Popen[bytes]], family: Family) -> bool:
    family.refresh()
    return all(process.poll() is not None for process in ending)


def _write_private(file: Path, content: Mapping[str, object]) -> None:
    new = file.with_name(f"{file.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(content, out)
    new.replace(file)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
