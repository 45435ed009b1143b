"""How to reach a wiki's databases; credentials come from outside and are put on record nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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

    def store(self, farm: FarmConfig, name: str) -> Address:
        """The database of an external text store. Faults: CONFIG where it is not configured."""
        if name not in farm.stores:
            raise Fault(FaultKind.CONFIG, f"text store {name}", "is not configured", next_command="add it to stores")
        store = farm.stores[name]
        if self.sqlite_dir:
            return Address(store.database, self.sqlite_dir / f"{store.database}.sqlite")
        host = store.host or self.host
        return Address(store.database, None, host, store.port, self.user, self.password)


def from_files(farm: FarmConfig, settings: Settings) -> Access:
    """Without Airflow's connections: SQLite files, or what ``database.client_config_file`` holds. Faults: CONFIG."""
    if farm.sqlite_dir:
        return Access(sqlite_dir=farm.sqlite_dir)
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
