"""The configuration of one archive: its replicas, their nodes, and the limits of batch jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from custody import configs
from custody.faults import Fault, FaultKind
from custody.units import parse_size

_SHELF = configs.Shelf("bitarchive", called="archive")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(_size), Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReplicaType(StrEnum):
    """What a replica keeps: the files, or their checksums only."""

    BITARCHIVE = "bitarchive"
    CHECKSUM = "checksum"


class Isolation(StrEnum):
    """What stands between a batch job and the machine."""

    BUBBLEWRAP = "bubblewrap"
    WEAK = "weak"  # limits and a clean environment only: the job sees the disk and the network


class Ssh(_Strict):
    """How the command line reaches a node; in Airflow ``connection`` names an ssh connection instead."""

    host: str
    host_key: str
    user: str | None = None
    port: int = 22
    key_file: Path | None = None


class Node(_Strict):
    """One machine's share of a replica: a directory with ``filedir``, ``tempdir`` and ``atticdir`` in it.

    :param ssh, connection: where it is another machine; neither for a directory of this one.
    :param command: the ``custody`` program over there, for batch jobs.
    """

    name: str
    directory: Path
    ssh: Ssh | None = None
    connection: str | None = None
    command: tuple[str, ...] = ("custody",)

    @field_validator("name")
    @classmethod
    def _legal(cls, value: str) -> str:
        return _legal_name(value)

    @field_validator("directory")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError("is no absolute path")
        return value

    @property
    def is_remote(self) -> bool:
        """Whether it is another machine."""
        return bool(self.ssh or self.connection)


class Replica(_Strict):
    """One whole copy of the archive, or of its checksums.

    :param file: of a checksum replica: its list.
    :param signing_key: of a checksum replica: an Ed25519 private key (PEM); its lines are signed then.
    """

    id: str
    name: str
    type: ReplicaType = ReplicaType.BITARCHIVE
    nodes: tuple[Node, ...] = ()
    file: Path | None = None
    signing_key: Path | None = None

    @field_validator("id", "name")
    @classmethod
    def _legal(cls, value: str) -> str:
        return _legal_name(value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.type is ReplicaType.CHECKSUM:
            if self.nodes or self.file is None:
                raise ValueError("a checksum replica has a file (its list of checksums) and no nodes")
        elif not self.nodes or self.file or self.signing_key:
            raise ValueError("a bitarchive replica has nodes, and neither a file nor a signing_key")
        names = [node.name for node in self.nodes]
        if len(set(names)) < len(names):
            raise ValueError("two of its nodes have one name")
        return self


class Limits(_Strict):
    """What one job may use for one file.

    :param cpu_s: CPU time; None: as much as the time-out allows.
    :param memory: address space of each of its processes.
    :param memory_all: memory in use by all of them together; None: as ``memory``.
    :param processes: processes and threads at a time.
    :param scratch: what it may write to its /tmp, and the largest file there.
    :param output: bytes of output.
    """

    cpu_s: int | None = Field(default=None, ge=1)
    memory: Size = 2 << 30
    memory_all: Size | None = None
    processes: int = Field(default=64, ge=1)
    scratch: Size = 256 << 20
    output: Size = 4 << 30


class ArchiveConfig(_Strict):
    """See ``docs/bitarchive.md``.

    :param work_dir: outputs of batches, and what is needed meanwhile.
    :param cache_dir: index caches; ``cache`` below ``work_dir`` where not given.
    :param file_timeout_s, job_timeout_s: how long a job may take for one file, and for its whole run.
    :param bucket_size: how many bytes of files one task takes.
    :param workers: files worked on at a time in one task.
    :param verify_after: read every file again after the job had it, and compare it with the catalogue.
    :param index_processes: files indexed at a time; None: one for each core.
    :param approvers: who may say that a changed file is replaced; empty: whoever reaches the page or the command.
    :param min_space_left: a node with less free bytes takes no uploads.
    """

    replicas: tuple[Replica, ...] = Field(min_length=1)
    use_replica: str
    work_dir: Path
    cache_dir: Path | None = None
    isolation: Isolation = Isolation.BUBBLEWRAP
    limits: Limits = Limits()
    file_timeout_s: float = Field(default=3600, gt=0)
    job_timeout_s: float = Field(default=7 * 86400, gt=0)
    max_exceptions: int = Field(default=100, ge=1, le=10_000)
    bucket_size: Size = 50 * 1000**3
    workers: int = Field(default=2, ge=1, le=256)
    min_space_left: Size = 2 * 1000**3
    verify_after: bool = False
    approvers: tuple[str, ...] = ()
    cache_max_size: Size | None = None
    index_processes: int | None = Field(default=None, ge=1, le=64)
    queue: str | None = None
    pool: str | None = None
    executor: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        ids = [word for replica in self.replicas for word in {replica.id, replica.name}]
        if len(set(ids)) < len(ids):
            raise ValueError("two replicas have one id or name")
        roots = [
            (node.directory, node.ssh and node.ssh.host, node.connection)
            for replica in self.replicas
            for node in replica.nodes
        ]
        if len(set(roots)) < len(roots):
            raise ValueError("two nodes have one directory: they would be one copy")
        if self.replica(self.use_replica).type is not ReplicaType.BITARCHIVE:
            raise ValueError(f"use_replica: {self.use_replica} is a checksum replica")
        return self

    def replica(self, name: str) -> Replica:
        """A replica by its id or name. ValueError where there is none, naming those there are."""
        for replica in self.replicas:
            if name in {replica.id, replica.name}:
                return replica
        known = ", ".join(f"{replica.id} ({replica.name}, {replica.type})" for replica in self.replicas)
        raise ValueError(f"there is no replica {name!r}; there are: {known}")

    @property
    def caches(self) -> Path:
        """The root of the index caches."""
        return self.cache_dir or self.work_dir / "cache"


def replica_for_files(config: ArchiveConfig, name: str | None) -> Replica:
    """The replica to read files from: the named one, else ``use_replica``. Faults: CONFIG (unknown, or checksums)."""
    try:
        replica = config.replica(name or config.use_replica)
    except ValueError as error:
        raise Fault(FaultKind.CONFIG, f"replica {name!r}", str(error).partition("; ")[2] or str(error)) from error
    if replica.type is not ReplicaType.BITARCHIVE:
        raise Fault(FaultKind.CONFIG, f"replica {replica.id}", "holds checksums only; take a bitarchive replica")
    return replica


def _legal_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("is no name of letters, digits, dots, dashes and underscores")
    return value


def config_names() -> list[str]:
    """Every configuration there is, by name."""
    return _SHELF.names()


def load(name: str, overrides: Mapping[str, Any] | None = None) -> ArchiveConfig:
    """Read the configuration ``name``, with some values replaced.

    Faults: CONFIG, naming the file, the key and what is wrong with it.
    """
    content, path = _SHELF.read_yaml(name)
    return parse(content | dict(overrides or {}), str(path))


def parse(values: Mapping[str, Any], where: str) -> ArchiveConfig:
    """Check values that came from ``where``. Faults: CONFIG."""
    return configs.check(ArchiveConfig, values, where)
