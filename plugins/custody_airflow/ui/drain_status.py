"""Where drain stands: every configuration with its disk, what runs, what waits for a person."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from custody.drain import config as configuration
from custody.drain import view
from custody.drain.config import DrainConfig
from custody.drain.forecast import forecast, warn_of_full
from custody.drain.report import SeriesLine
from custody.drain.series import FINISHED
from custody.drain.view import DiskLook, Running, Standing
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody_airflow.ui.disks import Look, look_at_all
from custody_airflow.ui.next_step import next_step, patience, start_run
from custody_airflow.ui.rooms import Attention

MAX_STUCK = 50


@dataclass(frozen=True)
class ConfigStatus:
    """One configuration. ``look`` is None where nobody looked at its disk; ``fault`` says why, where that is wrong."""

    name: str
    config: DrainConfig | None
    standing: Standing
    look: DiskLook | None
    fault: Attention | None
    stuck: tuple[Attention, ...]
    running: tuple[Running, ...]
    until_full: timedelta | None = None

    @property
    def left_bytes(self) -> int:
        """What still has to go, as far as we can see."""
        return self.standing.unfinished_bytes + (self.look.free_files_bytes if self.look else 0)

    @property
    def until_empty(self) -> timedelta | None:
        """How long it takes at the rate of the last day; None where nothing was drained or nothing is left."""
        rate = self.standing.drained.bytes_per_hour
        return timedelta(hours=self.left_bytes / rate) if rate and self.left_bytes else None

    @property
    def is_seen_from_afar(self) -> bool:
        """Whether the look at its disk was put on record by another machine."""
        return self.look is not None and self.look.seen_from != socket.gethostname()

    def as_json(self) -> dict[str, Any]:
        """For programs: sizes in bytes, times in ISO 8601."""
        return {
            "config": self.name,
            "job_dir": str(self.config.job_dir) if self.config else None,
            "states": {str(total.state): asdict(total) for total in self.standing.totals},
            "oldest_unproven": self.standing.oldest_unproven,
            "drained": asdict(self.standing.drained),
            "left_bytes": self.left_bytes,
            "empty_in_s": self.until_empty.total_seconds() if self.until_empty else None,
            "full_in_s": None if self.until_full is None else self.until_full.total_seconds(),
            "disk": asdict(self.look) if self.look else None,
            "fault": self.fault.as_json() if self.fault else None,
            "running": [{**asdict(one), "step": one.step} for one in self.running],
            "stuck": [one.as_json() for one in self.stuck],
        }


@dataclass(frozen=True)
class DrainStatus:
    """All of drain at one moment. ``stuck_count`` is of the whole ledger, ``configs`` hold the first of them."""

    configs: tuple[ConfigStatus, ...]
    stuck_count: int

    @property
    def needs_you(self) -> list[Attention]:
        """What waits for a person."""
        found = [one for config in self.configs for one in (config.fault, *config.stuck) if one]
        return [one for one in found if one.needs_you]

    @property
    def running_count(self) -> int:
        """How many series are worked on."""
        return sum(len(config.running) for config in self.configs)

    def as_json(self) -> Mapping[str, Any]:
        """For programs."""
        return {
            "needs_you": len(self.needs_you),
            "stuck": self.stuck_count,
            "running": self.running_count,
            "configs": [config.as_json() for config in self.configs],
        }


def read(ledger: Ledger, only: str | None = None) -> DrainStatus:
    """Read the status of every configuration, or of one. Faults: those of the ledger."""
    standings = view.standings(ledger)
    names = sorted({*standings, *configuration.config_names()}) if only is None else [only]
    stuck = view.select_series(ledger, config=only, stuck_only=True, limit=MAX_STUCK)
    working = view.running(ledger)
    configs, faults = _load(ledger, names)
    looks = look_at_all({(name, config.job_dir): _look(ledger, name, config) for name, config in configs.items()})
    at_work = {one.series_id for one in working}
    found = []
    for name in names:
        config = configs.get(name)
        look = looks[name, config.job_dir] if config else None
        fault = faults.get(name) or (look if isinstance(look, Fault) else None)
        ahead = forecast(ledger, name)
        until_full = ahead.until_full() if ahead else None
        if fault is None and config:
            fault = warn_of_full(name, config, until_full)
        found.append(
            ConfigStatus(
                name,
                config,
                standings.get(name, Standing(name)),
                look if isinstance(look, DiskLook) else view.last_look(ledger, name),
                _attention(name, fault) if fault else None,
                _stuck(line for line in stuck.lines if line.config == name and line.id not in at_work),
                tuple(one for one in working if one.config == name),
                until_full,
            )
        )
    return DrainStatus(tuple(found), stuck.total)


def _stuck(lines: Iterable[SeriesLine]) -> tuple[Attention, ...]:
    """What needs a person before what can wait."""
    return tuple(sorted((attention_of(line) for line in lines), key=lambda one: not one.needs_you))


def known_configs(ledger: Ledger) -> set[str]:
    """Every name there is, in the ledger or as a file."""
    return {*view.config_names(ledger), *configuration.config_names()}


def attention_of(line: SeriesLine) -> Attention:
    """A stuck series, with the next command: the one its fault names, or the one that takes it up again."""
    step = next_step((line.fault or "").removeprefix(f"{line.item}: "))
    if not step.advice and not step.commands and line.state not in FINISHED:
        step = replace(step, commands=(start_run(line.config),))
    return Attention(
        title=line.item,
        path=f"/drain/series/{line.id}",
        state=line.state,
        kind=line.fault_kind or "",
        since=line.changed_at,
        step=step,
        patience=patience(line.fault_kind, on_hold=line.on_hold),
    )


def _attention(name: str, fault: Fault) -> Attention:
    step = next_step(str(fault))
    return Attention(
        title=f"configuration {name}",
        path=f"/drain?{urlencode({'config': name})}",
        state="",
        kind=fault.kind,
        since=None,
        step=step if step.commands else replace(step, commands=(f"custody drain check {shlex.quote(name)}",)),
        patience=patience(fault.kind),
    )


def _load(ledger: Ledger, names: Iterable[str]) -> tuple[dict[str, DrainConfig], dict[str, Fault]]:
    """Configurations by name; of one without a file the values its last series was planned with."""
    files = set(configuration.config_names())
    configs: dict[str, DrainConfig] = {}
    faults: dict[str, Fault] = {}
    for name in names:
        try:
            config = configuration.load(name) if name in files else view.last_settings(ledger, name)
        except (Fault, ValueError) as error:
            faults[name] = error if isinstance(error, Fault) else Fault(FaultKind.CONFIG, name, "cannot be read")
            continue
        if config:
            configs[name] = config
    return configs, faults


def _look(ledger: Ledger, name: str, config: DrainConfig) -> Look:
    def look() -> DiskLook | None:
        if not config.job_dir.is_dir():
            return None
        return view.look_at_disk(config, view.reserved_keys(ledger, name))

    return look
