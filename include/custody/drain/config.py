"""The configuration of one drain: draintasker's ``dtmon.yml``, unchanged, and what Custody adds to it.

Every value is checked before anything is touched; a key nobody knows is an error, not a silent nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from custody import configs
from custody.drain.crawler_settings import CrawlerSettings
from custody.drain.names import check_template, ending_filter, naming
from custody.drain.targets.pace import DayWindow, Pacing
from custody.faults import Fault
from custody.units import parse_size

GIB = 1 << 30
MAX_ITEM_GIB = 500
PLACEHOLDER = re.compile(r"\bTBD\b", re.IGNORECASE)
_JOB = re.compile(r"[-_A-Za-z0-9]+")
_SHELF = configs.Shelf("drain")


class TargetKind(StrEnum):
    """Where a drain goes."""

    IAS3 = "ias3"
    S3 = "s3"
    THUMPER = "thumper"
    DIRECTORY = "directory"


class Transfer(StrEnum):
    """Who runs rsync: the crawler pushes, or the second machine pulls."""

    PUSH = "push"
    PULL = "pull"


class ProofKind(StrEnum):
    """How a copy is proven: by its keeper's own record, or by reading every byte back."""

    LISTING = "listing"
    READBACK = "readback"


def _size(value: object) -> object:
    """A bare number is GiB, as in dtmon.yml; a text has a unit."""
    if isinstance(value, bool):
        raise ValueError("is a size, not yes or no")
    if isinstance(value, str):
        if value.strip().isdecimal():
            raise ValueError(f"{value!r} has no unit; write it as {value.strip()}GiB or {value.strip()}B")
        value = parse_size(value) / GIB
    if isinstance(value, int | float):
        if not 0 < value <= MAX_ITEM_GIB:
            raise ValueError(f"{value:g} GiB: an item holds more than 0 and at most {MAX_ITEM_GIB} GiB")
        return max(1, int(value * GIB))
    return value


def _collections(value: object) -> object:
    """``top/mid/leaf``, ``leaf;mid;top`` or a list, leaf first; returned as a list, leaf first."""
    if isinstance(value, str):
        return [part.strip() for part in (value.split(";") if ";" in value else reversed(value.split("/")))]
    return value


def _rate(value: object) -> object:
    """Bytes a second, always with a unit."""
    if value is None:
        return value
    if not isinstance(value, str) or value.strip().isdecimal():
        raise ValueError(f"{value!r} is no rate; write bytes a second with a unit: 20MB, 500kB")
    return parse_size(value)


Rate = Annotated[int | None, BeforeValidator(_rate), PlainSerializer(lambda rate: None if rate is None else f"{rate}B")]
Size = Annotated[int, BeforeValidator(_size), PlainSerializer(lambda size: f"{size}B", return_type=str)]


class Destination(BaseModel):
    """One place a drain goes to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: TargetKind = TargetKind.IAS3
    connection: str | None = Field(None, description="Airflow connection; default custody_TARGET")
    bucket: str | None = Field(None, description="for target s3")
    remote_dir: Path | None = Field(None, description="for targets thumper and directory: where items are put")
    transfer: Transfer = Transfer.PUSH
    proof: ProofKind = ProofKind.LISTING

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.target is TargetKind.S3 and not self.bucket:
            raise ValueError("target s3 needs a bucket")
        needs_directory = self.target in {TargetKind.THUMPER, TargetKind.DIRECTORY}
        if needs_directory and not (self.remote_dir and self.remote_dir.is_absolute()):
            raise ValueError(f"target {self.target} needs remote_dir, an absolute path")
        return self

    @property
    def connection_id(self) -> str:
        """The Airflow connection that holds address and keys."""
        return self.connection or f"custody_{self.target}"


class DrainConfig(Destination):
    """One crawl disk, and where it is drained to.

    First dtmon.yml's keys, then Custody's own; those of the first (often the only) destination stand among them.
    """

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
    beforepack: str | None = Field(None, description="command before a step; see hooks")
    onpack: str | None = Field(None, description="command after a step")
    beforemanifest: str | None = None
    onmanifest: str | None = None
    beforeingest: str | None = None
    oningest: str | None = None
    beforeclean: str | None = None
    onclean: str | None = None

    also: tuple[Destination, ...] = Field(
        (), description="further copies that must be proven before anything is deleted"
    )
    queue: str | None = Field(None, description="Celery queue of the machine that owns the disk")
    pool: str | None = Field(None, description="Airflow pool of its tasks")
    executor: str | None = Field(None, description="Airflow executor of its tasks, where there are several")
    max_files: int = Field(500, ge=1, le=10_000)
    batch_gib: float = Field(
        10.0, ge=0, le=MAX_ITEM_GIB, description="series that together are no larger go through the steps in one task"
    )
    stable_for_s: int = Field(60, ge=0)
    max_wait_s: int | None = Field(None, ge=0)
    mix_crawls: bool = False
    upload_connections: int = Field(2, ge=1, le=16)
    max_rate: Rate = Field(None, description="bytes a second that this machine sends to one host at most: 20MB")
    rate_window: str | None = Field(None, description="the part of the day (UTC) in which max_rate holds: 08:00-20:00")
    min_rate: Rate = Field(1000, description="a file that is slower than this for 15 minutes is given up and sent anew")
    max_attempts: int = Field(
        50, ge=1, description="after so many failures that time might have mended, a person is asked"
    )
    pressure_pct: float = Field(
        95.0, gt=0, le=100, description="a disk this full is drained without waiting for full items"
    )
    crawler: CrawlerSettings | None = Field(None, description="who is asked to pause at pressure_pct")
    full_warn_h: float = Field(
        12.0, ge=0, description="a disk that will be full within so many hours, as it fills now, is for a person"
    )
    open_warn_s: int = Field(86400, ge=1, description="a .open file older than this is reported")
    sample_pct: float = Field(
        0.0, ge=0, le=100, description="of the files proven by a listing, so many in a hundred are read back as well"
    )
    grace_s: int = Field(0, ge=0)
    undo_s: int = Field(0, ge=0, description="how long deleted files stay in the trash of their item; 0: no trash")
    rehash_before_delete: bool = False
    clear_finish_drain: bool = False
    bundle_from: tuple[Path, ...] = Field(
        (), description="directories whose config, logs and reports are stored as a bundle when the crawl is drained"
    )

    @field_validator("crawljob")
    @classmethod
    def _legal_job(cls, value: str) -> str:
        if not _JOB.fullmatch(value):
            raise ValueError("a crawl job is named with A-Z a-z 0-9 _ -")
        return value

    @field_validator("suffix_re")
    @classmethod
    def _legal_suffix_re(cls, value: str | None) -> str | None:
        if value is not None:
            ending_filter(value)
        return value

    @field_validator("warc_naming")
    @classmethod
    def _known_naming(cls, value: str) -> str:
        try:
            naming(value)
        except Fault as fault:
            raise ValueError(fault.reason) from fault
        return value

    @field_validator("item_naming")
    @classmethod
    def _legal_items(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "warc_naming" in info.data:
            try:
                check_template(value, naming(info.data["warc_naming"]))
            except Fault as fault:
                raise ValueError(fault.reason) from fault
        return value

    @field_validator(
        "sleep_time", "block_delay", "max_block_count", "retry_delay", "max_files", "stable_for_s", "max_wait_s",
        "upload_connections", "grace_s", "batch_gib", "sample_pct", "full_warn_h",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _number(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("is a number, not yes or no")
        return value

    @field_validator("rate_window")
    @classmethod
    def _part_of_a_day(cls, value: str | None) -> str | None:
        if value is not None:
            DayWindow.parse(value)
        return value

    @field_validator("description")
    @classmethod
    def _no_relic(cls, value: str) -> str:
        if "{describe_effort}" in value:
            raise ValueError("still holds {describe_effort}; the words that are filled in are CRAWLHOST and the like")
        return value

    @field_validator("collections")
    @classmethod
    def _no_empty_collection(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("holds a collection without a name")
        return value

    @field_validator("operator", "title_prefix", "collections")
    @classmethod
    def _no_placeholder(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if PLACEHOLDER.search(value if isinstance(value, str) else " ".join(value)):
            raise ValueError("still holds the TBD of the example")
        return value

    @property
    def destinations(self) -> tuple[Destination, ...]:
        """Every place a series goes to; all must be proven before a file is deleted."""
        return (self, *self.also)

    @property
    def pacing(self) -> Pacing:
        """How fast its files are sent."""
        window = DayWindow.parse(self.rate_window) if self.rate_window else None
        return Pacing(self.max_rate, window, self.min_rate or 0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if any(place.target is TargetKind.IAS3 for place in self.destinations) and not self.collections:
            raise ValueError("target ias3 needs collections")
        for place in self.destinations:
            if place.target is TargetKind.DIRECTORY and place.remote_dir and self._is_drained(place.remote_dir):
                raise ValueError(f"remote_dir {place.remote_dir} lies in a directory that is drained, or around one")
        if self.job_dir == self.xfer_dir:
            raise ValueError("job_dir and xfer_dir are the same directory")
        if self.crawler and self.crawler.resume_pct >= self.pressure_pct:
            raise ValueError(f"crawler.resume_pct must be below pressure_pct ({self.pressure_pct:g})")
        return self

    def _is_drained(self, place: Path) -> bool:
        own = (self.job_dir, self.xfer_dir)
        return any(place.is_relative_to(one) or one.is_relative_to(place) for one in own)


def config_names() -> list[str]:
    """Every configuration there is, by name."""
    return _SHELF.names()


def load(name: str, overrides: Mapping[str, Any] | None = None) -> DrainConfig:
    """Read the configuration ``name`` (or the file at a path that ends in .yml), with some values replaced.

    Faults: CONFIG, naming the file, the key and what is wrong with it.
    """
    is_path = name.endswith((".yml", ".yaml")) and "/" in name
    content, path = _SHELF.read_yaml(name, Path(name) if is_path else None)
    return parse(content | dict(overrides or {}), str(path), base=path.parent)


def parse(values: Mapping[str, Any], where: str, *, base: Path | None = None) -> DrainConfig:
    """Check values that came from ``where``; relative directories are relative to ``base``. Faults: CONFIG."""
    config = configs.check(DrainConfig, values, where)
    if base is None:
        return config
    bundled = tuple(base / directory for directory in config.bundle_from)
    own = {"job_dir": base / config.job_dir, "xfer_dir": base / config.xfer_dir, "bundle_from": bundled}
    return config.model_copy(update=own)
