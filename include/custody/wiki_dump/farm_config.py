"""The configuration of one farm, as a named file: its ``wikidump.conf``, its databases, and what Custody adds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from custody import configs
from custody.faults import Fault, FaultKind
from custody.wiki_dump.farm import read_list

_SHELF = configs.Shelf("wiki_dump", called="farm")


class EngineKind(StrEnum):
    """What makes the documents."""

    SQL = "sql"
    MEDIAWIKI = "mediawiki"


class Store(BaseModel):
    """An external text store: a database with a table ``blobs``. User and password are the wiki's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: str
    host: str | None = None
    port: int = Field(3306, ge=1, le=65535)


class Section(BaseModel):
    """Some wikis of a farm whose databases lie on a server of their own.

    :param connection: Airflow connection of that server.
    :param dblist: their db names, one a line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    connection: str
    dblist: Path


class FarmConfig(BaseModel):
    """One farm.

    :param conf: ``wikidump.conf``, or ``path:section`` with an override section.
    :param connection: Airflow connection of the databases (mysql); without one, ``database.client_config_file``.
    :param sections: wikis on other database servers than the others, by the section's name.
    :param runs_per_server: at most so many runs at a time on one database server, whatever farms they belong to.
    :param sqlite_dir: directory of ``<wiki>.sqlite`` files instead.
    :param siteinfo_dir: directory of ``<wiki>.json``, answers of the API's ``meta=siteinfo``.
    :param api: address of api.php, with ``{wiki}`` in it, asked where there is no stored answer.
    :param local_settings: LocalSettings.php for engine mediawiki, with ``{wiki}`` in it.
    :param closed_once: leave a closed wiki out once it was dumped whole after it was closed and has not changed since.
    :param script_timeout_s: after which a script of engine mediawiki is ended, whatever it still writes.
    :param lease_s: after which a run that gives no sign of life is given up.
    :param no_progress_s: after which a task that lives but does not go on is ended.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    conf: str
    engine: EngineKind = EngineKind.SQL
    connection: str | None = None
    sections: dict[str, Section] = Field(default_factory=dict)
    runs_per_server: int | None = Field(None, ge=1, le=1000)
    sqlite_dir: Path | None = None
    siteinfo_dir: Path | None = None
    api: str | None = None
    local_settings: str | None = None
    stores: dict[str, Store] = Field(default_factory=dict)
    legacy_encoding: str | None = None
    private_tables: bool = False
    closed_once: bool = False
    abstracts: bool = False
    restricted_logs: tuple[str, ...] = ("suppress",)
    script_timeout_s: int | None = Field(None, ge=1)
    lease_s: int = Field(900, ge=30)
    no_progress_s: int = Field(3600, ge=5)
    queue: str | None = None
    pool: str | None = None
    executor: str | None = None

    @field_validator("legacy_encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        import codecs

        if value is not None:
            try:
                codecs.lookup(value)
            except LookupError as error:
                raise ValueError(f"{value!r} is no encoding") from error
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.engine is EngineKind.MEDIAWIKI and not self.local_settings:
            raise ValueError("engine mediawiki needs local_settings")
        if (self.connection or self.sections) and self.sqlite_dir:
            raise ValueError("connection and sqlite_dir exclude each other")
        return self

    def of(self, wiki: str) -> FarmConfig:
        """The same for one wiki: its section's connection is the one it has. Faults: CONFIG for lists that clash."""
        found = [name for name, section in self.sections.items() if wiki in read_list(name, str(section.dblist))]
        if len(found) > 1:
            raise Fault(FaultKind.CONFIG, f"wiki {wiki}", f"is in the lists of sections {' and '.join(found)}")
        connection = self.sections[found[0]].connection if found else self.connection
        return self.model_copy(update={"connection": connection, "sections": {}})


def config_names() -> list[str]:
    """Every farm there is, by name."""
    return _SHELF.names()


def load(name: str) -> FarmConfig:
    """Read the farm ``name``. Faults: CONFIG, naming the file, the key and what is wrong with it."""
    content, path = _SHELF.read_yaml(name)
    return parse(content, str(path), base=path.parent)


def parse(values: dict[str, Any], where: str, *, base: Path | None = None) -> FarmConfig:
    """Check values that came from ``where``; relative paths are relative to ``base``. Faults: CONFIG."""
    config = configs.check(FarmConfig, values, where)
    if base is None:
        return config
    update: dict[str, Any] = {"conf": str(base / config.conf)}
    for key in ("sqlite_dir", "siteinfo_dir"):
        if (path := getattr(config, key)) is not None:
            update[key] = base / path
    update["sections"] = {
        name: section.model_copy(update={"dblist": base / section.dblist}) for name, section in config.sections.items()
    }
    return config.model_copy(update=update)
