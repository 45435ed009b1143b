"""``custody reconcile``: makes a lost ledger again from what lies on disks, at nodes, in trees and on tapes.

Every room knows how: what is told here is what each reads, and which of it needs a person's hands.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click

from custody import lease
from custody.faults import Fault
from custody.ledger import Ledger, default_url, run_name


@dataclass(frozen=True)
class Source:
    """What one configuration can give back.

    :param rebuild: reads it and yields a line each for what was put on record; None where a person is needed.
    """

    room: str
    name: str
    reads: str
    rebuild: Callable[[Ledger, str], Iterator[str]] | None
    by_hand: str = ""


@click.command()
@click.option("--rebuild", is_flag=True, help="Do it, after making the schema where it is missing. Else only list.")
def reconcile(rebuild: bool) -> None:
    """Make a lost ledger again from what lies on disks, at nodes, in trees and on tapes.

    Safe to call at any time and again: what is on record stays, nothing is sent, moved or deleted. What nobody proved
    since is not taken for proven: the next runs prove it.
    """
    ledger = Ledger.upgrade(default_url()) if rebuild else None
    failed = False
    for source in sources():
        subject = f"{source.room} {source.name}".strip()
        if ledger is None or source.rebuild is None:
            click.echo(f"{subject}: {source.by_hand or source.reads}")
            continue
        try:
            count = 0
            for line in source.rebuild(ledger, source.name):
                click.echo(f"{subject}: {line}")
                count += 1
            if not count:
                click.echo(f"{subject}: nothing that was not on record")
        except Fault as fault:  # one that cannot be read keeps no other from being read
            failed = True
            click.echo(f"custody: {subject}: {fault}", err=True)
    if failed:
        sys.exit(1)


def sources() -> Iterator[Source]:
    """Everything there is to read, room by room."""
    for name in _names("drain.config"):
        yield Source("drain", name, "reads the directories of its transfer directory", _drain)
    for name in _names("bitarchive.config"):
        yield Source("bitarchive", name, "reads every file of its nodes", _bitarchive)
    for name in _names("wiki_dump.farm_config"):
        yield Source("wiki_dump", name, "reads every dump in its trees to its end", _wiki_dump)
    for name in _names("tape.config"):
        step = f"put each tape into the drive, then: custody tape scan -c {name}"
        yield Source("tape", name, "", None, step)
    step = (
        "custody minidvodb import (or add-run), add-host, add-copy, then run: "
        "what is published is read and compared, not sent again"
    )
    yield Source("minidvodb", "", "", None, step)


def _names(module: str) -> list[str]:
    names: list[str] = importlib.import_module(f"custody.{module}").config_names()
    return names


def _drain(ledger: Ledger, name: str) -> Iterator[str]:
    from custody.drain import config
    from custody.drain.adopt import adopt

    with lease.hold(ledger, f"drain/plan/{name}"):
        for found in adopt(ledger, name, config.load(name), who=run_name()):
            yield f"{found.item}: {found.files} files, {found.state} (was: {found.was})"


def _bitarchive(ledger: Ledger, name: str) -> Iterator[str]:
    from custody.bitarchive import catalogue
    from custody.bitarchive.archive import Archive
    from custody.bitarchive.config import ReplicaType

    archive = Archive.open(name, ledger=ledger)
    for replica in archive.config.replicas:
        if replica.type is ReplicaType.BITARCHIVE:
            found = catalogue.adopt(archive, replica, who=run_name())
            yield f"replica {replica.id}: {found.added} files put on record, {found.known} were known"
            yield from (f"left alone, on record with other bytes: {one}" for one in found.different)


def _wiki_dump(ledger: Ledger, name: str) -> Iterator[str]:
    from custody.wiki_dump import farm_config
    from custody.wiki_dump.adopt import adopt

    for found in adopt(ledger, name, farm_config.load(name), who=run_name()):
        if found.state is not None:
            yield f"{found.wiki} {found.date}: {found.files} files read back, {found.state}"
        yield from (f"{found.wiki} {found.date}: {complaint}" for complaint in found.complaints)
