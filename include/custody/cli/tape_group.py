"""What the verbs of ``custody tape`` have in common: tapeop's manners on the command line, and how each one ends."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import Ledger, run_name
from custody.tape import config as configuration
from custody.tape.config import TapeConfig
from custody.units import format_size

CONFIG_FILE = "tape.conf"
CONFIG_VARIABLE = "CUSTODY_TAPE_CONFIG"
_SHOWN_EVERY_S = 1.0
_WITH_VALUE = {"-c", "--config-file"}


class Exit(IntEnum):
    """How a verb ends; 1 and 2 (wrong usage) are everybody's."""

    DONE = 0
    TROUBLE = 1
    NO_WORK = 40
    STOPPED = 41
    FULL = 42


@dataclass
class Site:
    """What a verb works with; each is looked for when it is first asked for.

    :param config_name: a name, or the path of a ``tape.conf``; None: the usual places.
    """

    config_name: str | None = None
    is_agreed: bool = False
    who: str = field(default_factory=run_name)

    @functools.cached_property
    def ledger(self) -> Ledger:
        """The ledger."""
        return Ledger.open()

    @functools.cached_property
    def config(self) -> TapeConfig:
        """The configuration of the drive. Faults: CONFIG, also where it is not clear which one is meant."""
        name = self.config_name or _usual_config()
        path = Path(name)
        if name.endswith(".conf") or not ("/" in name or path.is_file()):
            return configuration.load(name)
        with os_errors_as_faults(name):  # a file may be called anything, as with tapeop
            text = path.read_bytes().decode("utf-8", "replace")
        return configuration.parse(text, name, name=path.stem, base=path.parent)

    def agree(self, question: str) -> None:
        """Ask a person, unless ``--yes`` was given; ends the verb where the answer is not yes.

        Without a terminal nobody is asked, and nothing is done.
        """
        if self.is_agreed:
            return
        if not has_terminal():
            click.echo(
                f"custody: {question} Not done: there is no terminal to ask at. Next: the same with --yes", err=True
            )
            raise SystemExit(Exit.TROUBLE)
        if not click.confirm(question, default=False):
            click.echo("Nothing was done.", err=True)
            raise SystemExit(Exit.TROUBLE)

    @property
    def is_stop_asked(self) -> bool:
        """Whether somebody has put the exit file here."""
        return Path(self.config.exit_file).exists()


def _usual_config() -> str:
    if Path(CONFIG_FILE).is_file():
        return f"./{CONFIG_FILE}"
    if named := os.environ.get(CONFIG_VARIABLE):
        return named
    names = configuration.config_names()
    if len(names) == 1:
        return names[0]
    there = ", ".join(names) or f"none in {configuration.config_directory()}"
    raise Fault(
        FaultKind.CONFIG,
        CONFIG_FILE,
        f"is not in this directory; configurations there are: {there}",
        next_command="custody tape -c NAME_OR_FILE ...",
    )


class TapeGroup(click.Group):
    """Takes options before the verb as well as behind it, as tapeop did; without a verb it shows where things stand."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put the verb first."""
        position = 0
        while position < len(args) and args[position].startswith("-"):
            if args[position] in {"-h", "--help", "--"}:
                return super().parse_args(context, args)
            position += 2 if args[position] in _WITH_VALUE else 1
        leading, rest = args[:position], args[position:]
        verb = rest[0] if rest else "overview"
        return super().parse_args(context, [verb, *leading, *rest[1:]])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """A verb by its name; - and _ are the same to people."""
        found = super().get_command(context, name)
        if found is not None:
            return found
        same = {known.replace("_", "-"): known for known in self.commands}
        return self.commands.get(same.get(name.replace("_", "-"), ""))

    def _names(self, context: click.Context) -> str:
        return ", ".join(name for name in self.list_commands(context) if not self.commands[name].hidden)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the verbs that there are where somebody asks for another one."""
        if args and self.get_command(context, args[0]) is None:
            context.fail(f"no such verb: {args[0]}. There are: {self._names(context)}")
        return super().resolve_command(context, args)


def verb(function: Callable[..., Exit | None]) -> Callable[..., None]:
    """Give a verb its :class:`Site` and the options of all; what it returns is how the program ends."""

    @click.option("-c", "--config-file", "config_name", help="A tape.conf, or the name of a configuration.")
    @click.option("--yes", is_flag=True, help="Answer every question with yes.")
    @functools.wraps(function)
    def run(config_name: str | None, yes: bool, **arguments: Any) -> None:
        try:
            ended = function(Site(config_name, yes), **arguments)
        except Fault as fault:
            if fault.kind is not FaultKind.CANCELLED:
                raise
            click.echo(f"custody: {fault}", err=True)
            ended = Exit.STOPPED
        except KeyboardInterrupt:
            click.echo("custody: stopped", err=True)
            ended = Exit.STOPPED
        if ended:
            sys.exit(ended)

    return run


def has_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def path_bytes(text: str) -> bytes:
    """The bytes of an argument."""
    return os.fsencode(text)


class Interrupts:
    """What Ctrl-C means while a drive works: the first time, pause behind this target; the second, abort it.

    :ivar stop: set when the target is to be aborted.

    SIGTERM aborts at once. A third Ctrl-C is no longer held back.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.is_pause_asked = False

    @contextmanager
    def held(self) -> Iterator[Interrupts]:
        """Catch signals within a block; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
        if self.is_pause_asked:
            self.stop.set()
            _say("custody: aborting this target")
        else:
            self.is_pause_asked = True
            _say("custody: will stop behind this target; once more aborts it")

    def _terminate(self, number: int, frame: object) -> None:
        self.is_pause_asked = True
        self.stop.set()


class Meter:
    """How far a job is, on one line of the terminal that is written over; nothing where there is no terminal.

    :param report: what the job says of itself: ``bytes_done`` and ``bytes_total`` of this tape file.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self._report = report
        self._began = self._shown = time.monotonic()
        self._is_shown = False
        self._has_terminal = sys.stderr is not None and sys.stderr.isatty()

    def advance(self, count: int) -> None:
        """Some bytes more are done."""
        at = time.monotonic()
        done, total = int(self._report.get("bytes_done") or 0), self._report.get("bytes_total")
        if done <= count:
            self._began = at  # another tape file
        if not self._has_terminal or at - self._shown < _SHOWN_EVERY_S or at <= self._began:
            return
        rate = done / (at - self._began)
        line = f"{format_size(done)}" + (f" of {format_size(total)}" if total else "") + f", {format_size(rate)}/s"
        if total and total > done and rate:
            line += f", {timedelta(seconds=int((total - done) / rate))} left"
        self._shown, self._is_shown = at, True
        sys.stderr.write(f"\r\033[K{line}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown:
            self._is_shown = False
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _say(line: str) -> None:
    os.write(2, line.encode() + b"\n")  # a signal may come while click is writing: no buffers here


def table_of(rows: Sequence[Sequence[object]]) -> list[str]:
    """Columns parted by blanks, as tapeop printed them."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))] if texts else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts]


def gigabytes(size_bytes: int) -> str:
    """Three decimals of 10^9 bytes."""
    return f"{size_bytes / 1e9:.3f}"


def number_or(words: Sequence[str]) -> Callable[[str | None], int | str | None]:
    """A reader of an argument that is a file number or one of some words. Faults: CONFIG."""

    def read(text: str | None) -> int | str | None:
        if text is None or text in words:
            return text
        if text.isdecimal() and len(text) < 10:
            return int(text)
        raise click.UsageError(f"{text!r} is no file number, nor one of: {', '.join(words)}")

    return read
