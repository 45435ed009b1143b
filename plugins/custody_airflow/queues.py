"""Where the tasks of a run work: queue, pool and executor, read from the configuration that the run names.

The bytes stay where they are, so a task that reads a disk must run on the machine of that disk. A run says which
configuration it works on (`conf["config"]`), and the configuration says which queue that machine serves:

    # include/config/drain/crawl1.yml
    queue: crawl1          # optional; without it the tasks go where the DAG says
    pool: custody_disk     # optional
    executor: EdgeExecutor # optional; only where several executors are configured

How urgent it is stands in the run: `conf["priority"]`, 1 to 100, puts its tasks before those of runs with less.

A task for which the DAG itself names a queue, a pool or an executor keeps it. This code runs inside the scheduler:
it never raises, never asks the database, and reads a configuration again only after it has changed.
"""

from __future__ import annotations

import configparser
import errno
import logging
import os
import re
import reprlib
import stat
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

log = logging.getLogger(__name__)

ROOMS = {
    "drain": "drain",
    "wiki_dump": "wiki_dump",
    "minidvodb_copy": "minidvodb",
    "bitarchive_batch": "bitarchive",
    "tape_backup": "tape",
}
"""Directory below the configuration directory, by DAG id."""

SUFFIXES = {"tape": ".conf"}
"""How the files of a room end that are no YAML: INI with a section ``[default]``, as the old tool has them."""

ALL = "all"
"""The configuration of a run that only starts one run for each of the others."""

MAX_PRIORITY = 100
_WEIGHT_OF_ONE = 1000  # more than Airflow's own weights, which count the tasks below a task

_CONFIG_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_PLACE_NAME = re.compile(r"[A-Za-z0-9._-]{1,250}")
_MAX_CONFIG_BYTES = 100_000
_MAX_REMEMBERED = 500


@dataclass(frozen=True)
class Placement:
    """Where the tasks of a run are to go; None leaves what the DAG says."""

    queue: str | None = None
    pool: str | None = None
    executor: str | None = None


NOWHERE = Placement()

_remembered: dict[Path, tuple[tuple[int, int, int], Placement]] = {}  # by inode, size, mtime in ns
_warned: set[str] = set()


def config_dir() -> Path:
    """Return the directory of the configurations: CUSTODY_CONFIG_DIR, or include/config of this checkout."""
    override = os.environ.get("CUSTODY_CONFIG_DIR")
    return Path(override) if override else Path(__file__).resolve().parents[2] / "include" / "config"


def config_path(dag_id: str, conf: Any) -> Path | None:
    """Return the file of the configuration that a run of `dag_id` works on, or None where it names none.

    The name comes from whoever started the run: anything but a plain file name is treated as no name.
    """
    room = ROOMS.get(dag_id)
    name = conf.get("config") if isinstance(conf, dict) else None
    if room is None or not isinstance(name, str) or name == ALL or not _CONFIG_NAME.fullmatch(name):
        return None
    return config_dir() / room / f"{name}{SUFFIXES.get(room, '.yml')}"


def read_placement(path: Path) -> Placement:
    """Return what the configuration says; of a file that cannot be used, log why once and return NOWHERE."""
    try:
        found = path.stat()
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        known = _remembered.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        content = _read(path, found)
        parse = _parse_ini if path.suffix == ".conf" else _parse
    except OSError as error:
        # Not remembered: giving the file other permissions changes nothing of its stamp.
        _warn_once(f"{path}: {error.strerror}; the tasks of its runs stay on the default queue")
        return NOWHERE
    try:
        placement = parse(content)
    except (ValueError, RecursionError, yaml.YAMLError, configparser.Error) as error:
        _warn_once(f"{path}: {' '.join(str(error).split())}; the tasks of its runs stay on the default queue")
        placement = NOWHERE
    if len(_remembered) >= _MAX_REMEMBERED:
        _remembered.clear()
    _remembered[path] = (stamp, placement)
    return placement


def place(task_instance: TaskInstance, dag_run: DagRun | None) -> None:
    """Put a task instance where the configuration of its run wants it; never raises."""
    # An error here would stop the scheduler for every DAG, so that nothing at all may leave this function.
    try:
        path = config_path(task_instance.dag_id, dag_run.conf) if dag_run is not None else None
        if path is not None:
            _move(task_instance, read_placement(path))
            _hasten(task_instance, dag_run.conf.get("priority"))
    except Exception as error:
        _warn_once(f"queue policy: a task stays on its queue: {type(error).__name__}: {error}")


def _read(path: Path, found: os.stat_result) -> bytes:
    # Of a pipe or a device the scheduler would read for ever.
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_CONFIG_BYTES:
        raise OSError(errno.EINVAL, f"is not a plain file of at most {_MAX_CONFIG_BYTES} bytes")
    return path.read_bytes()


def _parse_ini(content: bytes) -> Placement:
    reader = configparser.ConfigParser(interpolation=None, default_section="\0", inline_comment_prefixes=None)
    reader.read_string(content.decode("utf-8"))
    return _placement(dict(reader["default"]) if "default" in reader else {})


def _parse(content: bytes) -> Placement:
    document = yaml.safe_load(content)
    if not isinstance(document, dict):
        raise ValueError("holds no mapping of keys to values")
    return _placement(document)


def _placement(document: dict[Any, Any]) -> Placement:
    said = {field.name: document.get(field.name) for field in fields(Placement)}
    for key, value in said.items():
        if value is not None and not (isinstance(value, str) and _PLACE_NAME.fullmatch(value)):
            # Shortened, since a few aliases of YAML make a value that would fill the memory as text.
            shown = reprlib.repr(value)
            raise ValueError(f"{key}: {shown} is not a name of letters, digits, dots, dashes and underscores")
    return Placement(**said)


def _move(task_instance: TaskInstance, placement: Placement) -> None:
    queue, pool = _defaults()
    if placement.queue and task_instance.queue == queue:
        task_instance.queue = placement.queue
    if placement.pool and task_instance.pool == pool:
        task_instance.pool = placement.pool
    if placement.executor and task_instance.executor is None:
        # A task of an executor that is not there would wait for ever and say so in the scheduler's log only.
        if placement.executor in _executors():
            task_instance.executor = placement.executor
        else:
            _warn_once(f"executor {placement.executor!r} is not in [core] executor; its tasks use the default one")


def _hasten(task_instance: TaskInstance, priority: object) -> None:
    # Set and not added to: Airflow asks again for a task that it clears or maps.
    if isinstance(priority, int) and 0 < priority <= MAX_PRIORITY:
        task_instance.priority_weight = _WEIGHT_OF_ONE * priority


@cache
def _defaults() -> tuple[str, str]:
    from airflow.configuration import conf
    from airflow.models.pool import Pool

    return conf.get("operators", "default_queue"), Pool.DEFAULT_POOL_NAME


@cache
def _executors() -> frozenset[str]:
    from airflow.executors.executor_loader import ExecutorLoader

    names = ExecutorLoader.get_executor_names(validate_teams=False)
    return frozenset(
        spelling
        for name in names
        for spelling in (name.alias, name.module_path, name.module_path.rsplit(".", 1)[-1])
        if spelling
    )


def _warn_once(message: str) -> None:
    if message not in _warned:
        if len(_warned) >= _MAX_REMEMBERED:
            _warned.clear()
        _warned.add(message)
        log.warning(message)
