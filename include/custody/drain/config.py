"""The configuration of one drain: draintasker's ``dtmon.yml``, unchanged, and what Custody adds to it.

Every value is checked before anything is touched; a key nobody knows is an error, not a silent nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from custody.drain.names import naming
from custody.drain.units import parse_size
from custody.faults import Fault, FaultKind

GIB = 1 << 30
MAX_ITEM_GIB = 500
PLACEHOLDER = re.compile(r"\bTBD\b", re.IGNORECASE)
_JOB = re.compile(r"[-_A-Za-z0-9]+")
_CONFIG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class TargetKind(StrEnum):
    """Where a drain goes."""

    IAS3 = "ias3"
    S3 = "s3"
    THUMPER = "thumper"


class ProofKind(StrEnum):
    """How a copy is proven: by its keeper's own record, or by reading every byte back."""

    LISTING = "listing"
    READBACK = "readback"


def _size(value: object) -> object:
    """A bare number is GiB, as in dtmon.yml; a text has a unit."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        if not 0 < value <= MAX_ITEM_GIB:
            raise ValueError(f"{value} GiB: an item holds more than 0 and at most {MAX_ITEM_GIB} GiB")
        return int(value * GIB)
    return parse_size(value) if isinstance(value, str) else value


def _collections(value: object) -> object:
    """``top/mid/leaf``, ``leaf;mid;top`` or a list, leaf first; returned as a list, leaf first."""
    if isinstance(value, str):
        return [part.strip() for part in (value.split(";") if ";" in value else reversed(value.split("/")))]
    return value


Size = Annotated[int, BeforeValidator(_size), PlainSerializer(lambda size: f"{size}B", return_type=str)]


class DrainConfig(BaseModel):
    """One crawl disk, and where it is drained to. The upper part is dtmon.yml, the lower part is Custody's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    crawljob: str
    job_dir: Path
    xfer_dir: Path = Field(alias="xfer_job_dir")
    sleep_time: int = Field(3600, ge=1, description="draintasker's cycle; here the schedule of the DAG")
    max_size: Size = Field(10 * GIB, ge=1)
    warc_naming: str = Field("2", alias="WARC_naming", coerce_numbers_to_str=True)
    item_naming: str | None = None
    block_delay: int = Field(120, ge=1)
    max_block_count: int = Field(120, ge=0)
    retry_delay: int = Field(86400, ge=1)
    description: str = ""
    operator: str = ""
    collections: Annotated[tuple[str, ...], BeforeValidator(_collections)] = ()
    title_prefix: str = ""
    creator: str = "Internet Archive"
    sponsor: str = "Internet Archive"
    contributor: str = "Internet Archive"
    scanningcenter: str = "sanfrancisco"
    derive: bool = True
    compact_names: bool = False
    metadata: dict[str, str | int | list[str] | None] = Field(default_factory=dict)
    md5sum: bool = True
    verify_gzip: bool = True
    suffix_re: str | None = None

    target: TargetKind = TargetKind.IAS3
    connection: str = Field("custody_s3", description="Airflow connection of the target")
    bucket: str | None = Field(None, description="for target s3")
    queue: str | None = Field(None, description="Celery queue of the machine that owns the disk")
    pool: str | None = Field(None, description="Airflow pool of its tasks")
    executor: str | None = Field(None, description="Airflow executor of its tasks, where there are several")
    max_files: int = Field(500, ge=1, le=10_000)
    stable_for_s: int = Field(60, ge=0)
    max_wait_s: int | None = Field(None, ge=0)
    mix_crawls: bool = False
    upload_connections: int = Field(2, ge=1, le=16)
    proof: ProofKind = ProofKind.LISTING
    grace_s: int = Field(0, ge=0)
    rehash_before_delete: bool = False
    clear_finish_drain: bool = False

    @field_validator("crawljob")
    @classmethod
    def _legal_job(cls, value: str) -> str:
        if not _JOB.fullmatch(value):
            raise ValueError("a crawl job is named with A-Z a-z 0-9 _ -")
        return value

    @field_validator("warc_naming")
    @classmethod
    def _known_naming(cls, value: str) -> str:
        try:
            naming(value)
        except Fault as fault:
            raise ValueError(fault.reason) from fault
        return value

    @field_validator("operator", "title_prefix", "collections")
    @classmethod
    def _no_placeholder(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if PLACEHOLDER.search(value if isinstance(value, str) else " ".join(value)):
            raise ValueError("still holds the TBD of the example")
        return value

    @model_validator(mode="after")
    def _target_is_complete(self) -> DrainConfig:
        if self.target is TargetKind.S3 and not self.bucket:
            raise ValueError("target s3 needs a bucket")
        if self.target is TargetKind.IAS3 and not self.collections:
            raise ValueError("target ias3 needs collections")
        if self.job_dir == self.xfer_dir:
            raise ValueError("job_dir and xfer_dir are the same directory")
        return self


def config_directory() -> Path:
    """Where the named configurations of drain lie: ``$CUSTODY_CONFIG_DIR/drain``, or include/config/drain."""
    root = os.environ.get("CUSTODY_CONFIG_DIR")
    return (Path(root) if root else Path(__file__).parents[2] / "config") / "drain"


def config_names() -> list[str]:
    """Every configuration there is, by name."""
    return sorted(path.stem for path in config_directory().glob("*.yml") if not path.name.startswith("."))


def load(name: str, overrides: Mapping[str, Any] | None = None) -> DrainConfig:
    """Read the configuration ``name`` (or the file at a path that ends in .yml), with some values replaced.

    Faults: CONFIG, naming the file, the key and what is wrong with it.
    """
    path = Path(name) if name.endswith((".yml", ".yaml")) and "/" in name else _named(name)
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(config_names()) or f"none in {path.parent}"
        raise Fault(FaultKind.CONFIG, f"configuration {name}", f"is not there; there are: {known}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(FaultKind.CONFIG, str(path), f"cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise Fault(FaultKind.CONFIG, str(path), f"is no YAML ({_one_line(error)})") from error
    if not isinstance(content, dict):
        raise Fault(FaultKind.CONFIG, str(path), "is no list of `key: value` lines")
    return parse(content | dict(overrides or {}), str(path), base=path.parent)


def parse(values: Mapping[str, Any], where: str, *, base: Path | None = None) -> DrainConfig:
    """Check values that came from ``where``; relative directories are relative to ``base``. Faults: CONFIG."""
    try:
        config = DrainConfig.model_validate(dict(values))
    except ValidationError as error:
        complaints = "; ".join(_complaint(detail) for detail in error.errors(include_url=False))
        raise Fault(FaultKind.CONFIG, where, complaints) from error
    if base is None:
        return config
    return config.model_copy(update={"job_dir": base / config.job_dir, "xfer_dir": base / config.xfer_dir})


def _named(name: str) -> Path:
    if not _CONFIG_NAME.fullmatch(name):
        raise Fault(FaultKind.CONFIG, f"configuration {name!r}", "is no name of a configuration")
    return config_directory() / f"{name}.yml"


def _complaint(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "configuration"
    if detail["type"] == "extra_forbidden":
        return f"{key}: no such key"
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
