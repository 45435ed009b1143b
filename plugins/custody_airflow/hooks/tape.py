"""A tape drive and the machine its data comes from, by the name of a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from airflow.sdk import BaseHook

from custody.faults import Fault, FaultKind
from custody.host import Host
from custody.ledger import Ledger
from custody.tape import config as configuration
from custody.tape.catalog import Tape
from custody.tape.config import TapeConfig
from custody.tape.mount import Look, look
from custody.tape.session import Session, mounted
from custody.tape.source import source_of
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.hooks.ssh import ssh_host_of


class TapeDriveHook(BaseHook):
    """What a task needs of a drive; nothing is opened or asked before it is used.

    :param config_name: a file in include/config/tape/ without its ``.conf``, or the path of a ``tape.conf``; empty: the
        only one there is.
    :param overrides: values in the place of those in the file.
    """

    def __init__(self, config_name: str | None = None, overrides: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config_name = config_name
        self.overrides = dict(overrides or {})

    @cached_property
    def config(self) -> TapeConfig:
        """The configuration. Faults: CONFIG, naming the key, or the configurations there are."""
        return configuration.load(self.config_name or _only_one(), self.overrides)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger. Faults: CONFIG, TRANSIENT."""
        return open_ledger()

    @cached_property
    def source(self) -> Host:
        """Where the data lies: by ``ssh_connection`` (Airflow), ``ssh_command``, or here. Faults: CONFIG, AUTH."""
        if self.config.ssh_connection:
            return ssh_host_of(self.config.ssh_connection)
        return source_of(self.config)

    def look(self, tape: Tape, *, write: bool) -> Look:
        """See which tape is in the drive. Faults: CONFLICT while somebody uses it."""
        return look(self.ledger, self.config, tape, write=write)

    @contextmanager
    def mounted(self, tape: Tape, *, who: str, write: bool = False) -> Iterator[Session]:
        """Hold the drive with this tape in it. Faults: as :func:`custody.tape.session.mounted`."""
        with mounted(self.ledger, self.config, tape, who=who, write=write) as session:
            yield session


def _only_one() -> str:
    names = configuration.config_names()
    if len(names) == 1:
        return names[0]
    there = ", ".join(names) or f"none in {configuration.config_directory()}"
    reason = f"is needed to know the drive; there are: {there}"
    raise Fault(FaultKind.CONFIG, "param config", reason, next_command="name one of them, or write NAME.conf there")
