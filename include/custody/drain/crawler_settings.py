"""The block ``crawler`` of a configuration: who fills this disk, and how it is asked to pause."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class CrawlerKind(StrEnum):
    """How a crawler is spoken to."""

    HERITRIX = "heritrix"
    ZENO = "zeno"
    COMMAND = "command"


class CrawlerSettings(BaseModel):
    """One crawler. It is asked to pause at ``pressure_pct`` of the disk, and to go on below ``resume_pct``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: CrawlerKind
    connection: str = Field("custody_crawler", description="Airflow connection, for heritrix and zeno")
    job: str | None = Field(None, description="for heritrix: the name of the job in its engine")
    pause: str | None = Field(None, description="for command: what pauses it")
    resume: str | None = Field(None, description="for command: what lets it go on")
    resume_pct: float = Field(80.0, gt=0, lt=100)

    @field_validator("pause", "resume")
    @classmethod
    def _is_a_command(cls, value: str | None) -> str | None:
        if value is not None and not shlex.split(value):
            raise ValueError("is no command")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.kind is CrawlerKind.HERITRIX and not self.job:
            raise ValueError("kind heritrix needs job, the name of the job in its engine")
        if self.kind is CrawlerKind.COMMAND and not (self.pause and self.resume):
            raise ValueError("kind command needs pause and resume")
        return self
