"""The configuration of one tape drive: tapeop's ``tape.conf``, unchanged, and what Custody adds to it.

Everything is checked before the drive is touched; a key nobody knows is an error, not a silent nothing.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from custody import configs
from custody.faults import Fault, FaultKind
from custody.units import parse_size

DEFAULT_POOL = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_POOL_SECTION = re.compile(r"pool[ .:]\s*(\S+)")
_MAIN_SECTION = "default"
_SHELF = configs.Shelf("tape", ".conf")


class Fit(StrEnum):
    """What to do with a target that seems too large for the room that is left on the tape."""

    TRY = "try"  # write it, and let the drive say; compression may make room
    SKIP = "skip"  # leave it for another tape and go on with smaller ones
    NEXT = "next"  # the tape is full


class Encryption(StrEnum):
    """What a pool demands of the drive before anything is written."""

    ANY = "any"
    REQUIRED = "required"
    OFF = "off"


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _nothing(value: object) -> object:
    return None if value == "" else value


Size = Annotated[int, BeforeValidator(_size), Field(ge=1)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class PoolConfig(BaseModel):
    """What holds for the tapes of one pool."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    capacity: Annotated[Size | None, BeforeValidator(_nothing)] = Field(None, description="native room of a tape: 6TB")
    compression: bool | None = Field(None, description="of the drive; unset: as it is")
    encryption: Encryption = Encryption.ANY


class TapeConfig(PoolConfig):
    """One drive and the machine its data comes from."""

    name: str = "tape"
    database_file: Path | None = Field(None, description="tapeop's catalogue: what custody tape import-catalog reads")
    tape_device: str = Field("/dev/nst0", description="non-rewinding node, or the directory of a virtual drive")
    ssh_command: str | None = Field(None, description="ssh user@host -i key: where the data lies; unset: here")
    emulator_dir: Path | None = Field(None, description="tapeop's emulator: a virtual drive instead of tape_device")

    ssh_connection: str | None = Field(None, description="Airflow connection instead of ssh_command")
    block_size: Size = 1 << 20
    buffer: Size = Field(256 << 20, description="memory between source and drive")
    start_at_pct: float = Field(90.0, ge=0, le=100, description="the drive starts when the buffer is this full")
    digests: Words = ("md5", "sha256")
    scan: bool = Field(True, description="import reads every file for a digest, which archive then compares with")
    fit: Fit = Fit.TRY
    pools: Words = Field((DEFAULT_POOL,), description="every target gets one copy on a tape of each")
    low_rate: Size = Field(177_000_000, description="bytes a second below which a drive stops and starts: a warning")
    mount_timeout_s: int = Field(86_400, ge=1, description="how long a run waits for a person to insert the tape")
    batch: Size = Field(100 * 10**9, description="targets are archived in tasks of about this size")
    exit_file: str = Field("exit_file", description="a file of this name where tapeop runs asks it to stop")
    queue: str | None = Field(None, description="Celery queue of the machine that owns the drive")
    pool: str | None = Field(None, description="Airflow pool of its tasks")
    executor: str | None = None
    by_pool: Mapping[str, PoolConfig] = Field(default_factory=dict)

    @field_validator("block_size")
    @classmethod
    def _whole_records(cls, value: int) -> int:
        if value % 512 or value > 16 << 20:
            raise ValueError("is a multiple of 512 and at most 16MiB")
        return value

    @field_validator("digests")
    @classmethod
    def _known_digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if set(value) - {"md5", "sha1", "sha256"} or not set(value) & {"md5", "sha256"}:
            raise ValueError("are any of md5, sha1, sha256; at least md5 or sha256")
        return value

    @field_validator("pools")
    @classmethod
    def _named_pools(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value) or not all(_NAME.fullmatch(pool) for pool in value):
            raise ValueError("names at least one pool, each once, with A-Z a-z 0-9 . _ -")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.ssh_command and self.ssh_connection:
            raise ValueError("ssh_command and ssh_connection are both set: leave one out")
        if strangers := set(self.by_pool) - set(self.pools):
            raise ValueError(f"[pool {sorted(strangers)[0]}] is not among pools")
        if self.buffer < 4 * self.block_size:
            raise ValueError("buffer holds at least 4 blocks of block_size")
        return self

    @property
    def device(self) -> str:
        """What is opened: the drive's node, or the directory of a virtual drive."""
        return str(self.emulator_dir or self.tape_device)

    def of_pool(self, pool: str) -> PoolConfig:
        """What holds for a pool; the main section's values stand where its own section says nothing."""
        own = self.by_pool.get(pool)
        common = {key: getattr(self, key) for key in PoolConfig.model_fields}
        return PoolConfig(**common | (own.model_dump(exclude_unset=True) if own else {}))


def config_directory() -> Path:
    """Where the named configurations lie."""
    return _SHELF.directory


def config_names() -> list[str]:
    """Every configuration there is, by name."""
    return _SHELF.names()


def load(name: str, overrides: Mapping[str, Any] | None = None) -> TapeConfig:
    """Read the configuration ``name``, or the file at a path that ends in .conf.

    Faults: CONFIG, naming the file, the key and what is wrong with it.
    """
    text, path = _SHELF.read(name, Path(name) if name.endswith(".conf") else None)
    return parse(text, str(path), name=path.stem, base=path.parent, overrides=overrides)


def parse(
    text: str, where: str, *, name: str = "tape", base: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> TapeConfig:
    """Check the text of a ``tape.conf``; relative paths are relative to ``base``. Faults: CONFIG."""
    text = text.removeprefix("\ufeff")  # editors of another system put it there
    if "\0" in text:
        raise Fault(FaultKind.CONFIG, where, "is no tape.conf (it has a zero byte in it)")
    reader = configparser.ConfigParser(interpolation=None, default_section="\0", inline_comment_prefixes=None)
    try:
        reader.read_string(text)
    except configparser.Error as error:
        raise Fault(FaultKind.CONFIG, where, f"is no tape.conf ({' '.join(str(error).split())})") from error
    if _MAIN_SECTION not in reader:
        raise Fault(FaultKind.CONFIG, where, "has no [default] section")
    pools: dict[str, dict[str, str]] = {}
    for section in reader.sections():
        found = _POOL_SECTION.fullmatch(section)
        if found:
            pools[found[1]] = dict(reader[section])
        elif section != _MAIN_SECTION:
            raise Fault(FaultKind.CONFIG, where, f"[{section}]: no such section; there are [default] and [pool NAME]")
    values = dict(reader[_MAIN_SECTION]) | {"name": name, "by_pool": pools} | dict(overrides or {})
    config = configs.check(TapeConfig, values, where)
    return _resolved(config, base) if base else config


def _resolved(config: TapeConfig, base: Path) -> TapeConfig:
    changes: dict[str, Any] = {
        key: base / value for key in ("database_file", "emulator_dir") if (value := getattr(config, key))
    }
    if not config.tape_device.startswith(("/", "null:")):
        changes["tape_device"] = str(base / config.tape_device)
    return config.model_copy(update=changes)
