"""How to reach a wiki's databases; credentials come from outside and are put on record nowhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from custody.faults import Fault, FaultKind
from custody.wiki_dump.engine.rows import Address, read_client_file
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.settings import Settings


@dataclass(frozen=True)
class Access:
    """A database server with a user of its own, or a directory of SQLite files."""

    sqlite_dir: Path | None = None
    host: str = "localhost"
    port: int = 3306
    user: str = ""
    password: str = field(default="", repr=False)
    socket: str | None = None

    def address(self, wiki: str) -> Address:
        """The database of a wiki."""
        if self.sqlite_dir:
            return Address(wiki, self.sqlite_dir / f"{wiki}.sqlite")
        return Address(wiki, None, self.host, self.port, self.user, self.password, self.socket)

    @property
    def server(self) -> str:
        """The server that the databases lie on, as runs that share it name it."""
        if self.sqlite_dir:
            return f"sqlite {self.sqlite_dir.resolve()}"
        return self.socket or f"{self.host.lower()}:{self.port}"

    def store(self, farm: FarmConfig, name: str) -> Address:
        """The database of an external text store. Faults: CONFIG where it is not configured."""
        if name not in farm.stores:
            raise Fault(FaultKind.CONFIG, f"text store {name}", "is not configured", next_command="add it to stores")
        store = farm.stores[name]
        if self.sqlite_dir:
            return Address(store.database, self.sqlite_dir / f"{store.database}.sqlite")
        host = store.host or self.host
        return Address(store.database, None, host, store.port, self.user, self.password)


Reach = Callable[[FarmConfig, Settings], Access]
"""How the databases of a wiki are found, by its configuration and settings."""


def from_files(farm: FarmConfig, settings: Settings) -> Access:
    """Without Airflow: SQLite files, a connection in the environment, or ``database.client_config_file``.

    Faults: CONFIG.
    """
    if farm.sqlite_dir:
        return Access(sqlite_dir=farm.sqlite_dir)
    if farm.connection:
        return from_environment(farm.connection)
    if not settings.client_config_file:
        return Access(user=settings.user, password=settings.password)
    found = read_client_file(Path(settings.client_config_file))
    try:
        port = int(found.get("port", "3306"))
    except ValueError as error:
        raise Fault(FaultKind.CONFIG, settings.client_config_file, "its port is no number") from error
    return Access(
        None,
        found.get("host", "localhost"),
        port,
        found.get("user", ""),
        found.get("password", ""),
        found.get("socket"),
    )


def is_in_environment(name: str) -> bool:
    """Whether an Airflow connection can be had without Airflow."""
    return bool(os.environ.get(_variable(name), "").strip())


def _variable(name: str) -> str:
    return f"AIRFLOW_CONN_{name.upper()}"


def from_environment(name: str) -> Access:
    """An Airflow connection as ``AIRFLOW_CONN_<ID>`` holds it, as an address or as JSON. Faults: CONFIG."""
    variable = _variable(name)
    text = os.environ.get(variable, "").strip()
    if not text:
        reason = f"is Airflow's, and not in the environment ({variable}): nobody knows where the databases are"
        example = f"export {variable}=mysql://USER:PASSWORD@HOST, or let the DAG wiki_dump do it, which asks Airflow"
        raise Fault(FaultKind.CONFIG, f"connection {name}", reason, next_command=example)
    try:
        values = json.loads(text) if text.startswith("{") else _of_address(text)
        extra = values.get("extra") or {}
        socket = (json.loads(extra) if isinstance(extra, str) else extra).get("unix_socket")
        host, port = values.get("host"), int(values.get("port") or 3306)
    except (ValueError, AttributeError, TypeError) as error:  # nothing of it is shown: it holds a password
        raise Fault(FaultKind.CONFIG, variable, "is no connection, neither an address nor JSON") from error
    if not host and not socket:
        raise Fault(FaultKind.CONFIG, variable, "has neither host nor unix_socket")
    return Access(None, host or "localhost", port, values.get("login") or "", values.get("password") or "", socket)


def _of_address(text: str) -> dict[str, Any]:
    found = urlsplit(text)
    if not found.scheme:
        raise ValueError("no scheme")
    return {
        "host": unquote(found.hostname or ""),
        "port": found.port,
        "login": unquote(found.username or ""),
        "password": unquote(found.password or ""),
        "extra": dict(parse_qsl(found.query)),
    }
