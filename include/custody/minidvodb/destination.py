"""A destination: a named disk on a named machine, with its limits; and the directory that a group wants there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.minidvodb import tables
from custody.minidvodb.codes import CopyFault, FaultCode

ROOM = "minidvodb"
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?:([A-Za-z]{3})(?:-([A-Za-z]{3}))?\s+)?(\d\d):(\d\d)-(\d\d):(\d\d)")


@dataclass(frozen=True)
class Window:
    """A part of the week, UTC: ``Mon-Fri 20:00-06:00``, ``Sat 00:00-24:00``, ``08:00-18:00``; also past midnight."""

    days: frozenset[int]
    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Window:
        """ValueError where it is none."""
        found = _WINDOW.fullmatch(text.strip())
        if not found:
            raise ValueError(f"{text!r} is no window; write it as 'Mon-Fri 20:00-06:00'")
        first, last = found[1], found[2] or found[1]
        days = frozenset(range(7))
        if first:
            if not {first.lower(), last.lower()} <= set(_DAYS):
                raise ValueError(f"{text!r} is no window: days are Mon, Tue, Wed, Thu, Fri, Sat, Sun")
            begin, end = (_DAYS.index(day.lower()) for day in (first, last))
            days = frozenset((begin + step) % 7 for step in range((end - begin) % 7 + 1))
        hours, minutes = int(found[5]), int(found[6])
        try:
            closes = time(0, 0) if (hours, minutes) == (24, 0) else time(hours, minutes)
            return cls(days, time(int(found[3]), int(found[4])), closes)
        except ValueError as error:
            raise ValueError(f"{text!r} is no window: times are 00:00 to 24:00") from error

    def contains(self, at: datetime) -> bool:
        """Whether a time (UTC) lies in it; the day is the one it began on."""
        clock, day = at.time(), at.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= clock < self.end
        if clock >= self.start:
            return day in self.days
        return clock < self.end and (day - 1) % 7 in self.days


class Settings(BaseModel):
    """How a destination is treated. Sizes are bytes, rates bytes a second, times seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_used_pct: float = Field(97.0, gt=0, le=100, description="a disk that is fuller takes no copy")
    min_free_bytes: int = Field(0, ge=0, description="what must be left when a copy is there")
    max_running: int = Field(1, ge=1, le=64, description="copies at the same time")
    max_rate: int | None = Field(None, ge=1024, description="bytes a second to this host, shared by its copies")
    rate_window: str | None = Field(None, description="when max_rate holds; else always")
    window: str | None = Field(None, description="when copies may run; else always")
    min_rate: int = Field(1_000_000, ge=1, description="a copy that is slower than this in all is given up")
    base_timeout_s: float = Field(300.0, gt=0, description="and this much longer")
    stall_s: float = Field(300.0, gt=0, description="a copy in which no byte moves for so long is given up")
    max_attempts: int = Field(8, ge=1, description="after so many failures a copy waits for a person")
    digest: Literal["xxh128", "sha256"] = Field("xxh128", description="of every file, on both sides")
    mover: Literal["rsync", "stream"] | None = Field(None, description="instead of the one that is chosen")
    streams: int = Field(1, ge=1, le=16, description="connections at the same time for one large database")
    ciphers: str | None = Field(
        "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr",
        pattern="^[A-Za-z0-9@.,-]+$",
        description="of ssh, the first that both know",
    )
    fan_out: bool = Field(False, description="take databases from another host that has them proven")
    shared_disk: bool = Field(False, description="another destination may be on the same disk")
    dvoverify: str | None = Field(None, description="a program over there that checks a database: PROGRAM DIRECTORY")
    warn_disabled_days: int = Field(7, ge=0, description="a host that is off for longer is reported")
    warn_used_pct: float = Field(95.0, gt=0, le=100, description="a disk that is fuller is reported")

    @field_validator("window", "rate_window")
    @classmethod
    def _is_window(cls, value: str | None) -> str | None:
        if value is not None:
            Window.parse(value)
        return value

    def may_run(self, at: datetime) -> bool:
        """Whether copies may run at this time."""
        return self.window is None or Window.parse(self.window).contains(at)

    def rate_at(self, at: datetime) -> int | None:
        """The cap that holds at this time; None: none."""
        if self.rate_window and not Window.parse(self.rate_window).contains(at):
            return None
        return self.max_rate


@dataclass(frozen=True)
class Destination:
    """One destination as the ledger knows it."""

    id: int
    name: str
    connection: str | None
    settings: Settings
    enabled: bool
    switched_at: datetime
    machine: str | None
    filesystem: str | None
    look: Mapping[str, Any]

    def demand_enabled(self) -> None:
        """What is switched off takes no new step. Faults: CANCELLED."""
        if not self.enabled:
            raise CopyFault(
                FaultCode.CANCELLED,
                self.name,
                "is switched off",
                next_command=f"custody minidvodb add-host {self.name}",
            )


def settings_of(values: dict[str, Any], subject: str) -> Settings:
    """Check settings. Faults: CONFIG, naming the key."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = "no such key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise Fault(FaultKind.CONFIG, subject, f"{key}: {reason}") from error


def of_row(row: Any) -> Destination:
    """A row of the table."""
    return Destination(
        row.id,
        row.name,
        row.connection,
        Settings.model_validate(row.settings),
        row.enabled,
        row.switched_at,
        row.machine,
        row.filesystem,
        row.look,
    )


def find(ledger: Ledger, name: str) -> Destination:
    """By name. Faults: CONFIG where there is none."""
    with ledger.read() as connection:
        query = sa.select(tables.destination).where(tables.destination.c.name == name)
        row = connection.execute(query).one_or_none()
        known = list(connection.scalars(sa.select(tables.destination.c.name).limit(20))) if row is None else []
    if row is None:
        there = ", ".join(known) or "none"
        raise Fault(
            FaultKind.CONFIG,
            f"host {name}",
            f"is not known; there are: {there}",
            next_command=f"custody minidvodb add-host {name} --connection ID",
        )
    return of_row(row)


def list_all(ledger: Ledger) -> list[Destination]:
    """Every destination, by name."""
    with ledger.read() as connection:
        rows = connection.execute(sa.select(tables.destination).order_by(tables.destination.c.name))
        return [of_row(row) for row in rows]


def put(
    ledger: Ledger,
    name: str,
    *,
    who: str,
    connection_id: str | None = None,
    settings: dict[str, Any] | None = None,
    enabled: bool = True,
) -> Destination:
    """Make a destination, or switch an old one on and change what is given of it. Faults: CONFIG."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}", name):
        raise Fault(FaultKind.CONFIG, f"host {name!r}", "is no name of a host: A-Z a-z 0-9 . _ -")
    table = tables.destination
    with ledger.begin() as connection:
        row = connection.execute(sa.select(table).where(table.c.name == name).with_for_update()).one_or_none()
        merged = {**(row.settings if row else {}), **(settings or {})}
        merged = {key: value for key, value in merged.items() if value is not None or key not in Settings.model_fields}
        checked = settings_of(merged, f"host {name}").model_dump(exclude_unset=True)
        values: dict[str, Any] = {"settings": checked}
        if connection_id is not None:
            values["connection"] = connection_id or None
        if row is None:
            made = {"name": name, "enabled": enabled, "switched_at": now(), "connection": None, "look": {}, **values}
            connection.execute(sa.insert(table).values(**made))
        else:
            if row.enabled != enabled:
                values |= {"enabled": enabled, "switched_at": now()}
            moved = "connection" in values and values["connection"] != row.connection
            if moved:  # it may be another disk now: its identity is learned again
                values |= {"machine": None, "filesystem": None, "identity": None}
            connection.execute(sa.update(table).where(table.c.id == row.id).values(**values))
        ledger.record_event(connection, who=who, room=ROOM, what="host on" if enabled else "host set", subject=name)
    return find(ledger, name)


def switch_off(ledger: Ledger, name: str, *, who: str) -> Destination:
    """Take a host off the list: what runs finishes, nothing new begins."""
    known = find(ledger, name)
    with ledger.begin() as connection:
        table = tables.destination
        off = {"enabled": False, "switched_at": now()}
        connection.execute(sa.update(table).where(table.c.id == known.id, table.c.enabled).values(**off))
        ledger.record_event(connection, who=who, room=ROOM, what="host off", subject=name)
    return find(ledger, name)


def identify(ledger: Ledger, known: Destination, machine: str, filesystem: str, path: str) -> None:
    """Put on record which disk this is, at the first contact; compare it at every later one.

    Faults: CONFIG where another destination is that disk, or where this name has led to another one so far.
    """
    shared = f"\n{known.name}" if known.settings.shared_disk else ""
    identity = hashlib.sha256(f"{machine}\n{filesystem}{shared}".encode()).hexdigest()
    table = tables.destination
    with ledger.begin() as connection:
        other = connection.scalar(
            sa.select(table.c.name).where(table.c.identity == identity, table.c.id != known.id).limit(1)
        )
        row = connection.execute(sa.select(table).where(table.c.id == known.id).with_for_update()).one()
        if other is None and row.identity is None:
            found = {"machine": machine, "filesystem": filesystem, "identity": identity}
            connection.execute(sa.update(table).where(table.c.id == known.id).values(**found))
            return
    if other is not None:
        raise CopyFault(
            FaultCode.CONFIG,
            f"host {known.name}",
            f"is the same disk of the same machine as {other}: two copies there would be one",
            next_command=f"custody minidvodb del-host {known.name} (or set shared_disk on both)",
        )
    if row.identity != identity:
        raise CopyFault(
            FaultCode.CONFIG,
            f"host {known.name}",
            f"{path} is on another disk than before (machine {machine}, file system {filesystem}; it was "
            f"{row.machine}, {row.filesystem})",
            next_command=f"mount the right one, or custody minidvodb add-host {known.name} --new-disk",
        )


def record_look(ledger: Ledger, known: Destination, look: Mapping[str, Any]) -> None:
    """Put on record how full the disk is, for those who cannot look themselves."""
    with ledger.begin() as connection:
        seen = {**look, "at": now().isoformat(timespec="seconds")}
        connection.execute(sa.update(tables.destination).where(tables.destination.c.id == known.id).values(look=seen))


def forget_identity(ledger: Ledger, name: str, *, who: str) -> None:
    """Learn at the next contact which disk this is: it was exchanged on purpose."""
    with ledger.begin() as connection:
        nothing = {"machine": None, "filesystem": None, "identity": None}
        connection.execute(sa.update(tables.destination).where(tables.destination.c.name == name).values(**nothing))
        ledger.record_event(connection, who=who, room=ROOM, what="new disk", subject=name)
