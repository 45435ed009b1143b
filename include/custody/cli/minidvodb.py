"""``custody minidvodb ...``: the old macros' verbs (add, del, show, on, off) and where everything stands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from custody.cli import minidvodb_copies
from custody.cli.minidvodb_copies import one_line
from custody.cli.show import show
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger, run_name
from custody.minidvodb import catalogue, destination, report, switches
from custody.minidvodb.destination import Settings
from custody.minidvodb.switches import DEFAULT_PRIORITY, Stage


@click.group()
def minidvodb() -> None:
    """Bring survey databases to other hosts, proven."""


@minidvodb.command("add-copy")
@click.argument("group")
@click.argument("host")
@click.argument("path")
@click.option("--priority", type=click.IntRange(1, 5), default=DEFAULT_PRIORITY, help="1 goes first.")
def add_copy(group: str, host: str, path: str, priority: int) -> None:
    """Ask for all merged databases of GROUP on HOST, below the directory PATH there."""
    made = switches.want(Ledger.open(), group, host, path, who=run_name(), priority=priority)
    click.echo(f"{made.group} on {made.host}: wanted in {made.path}, priority {made.priority}")


@minidvodb.command("del-copy")
@click.argument("host")
@click.argument("group")
def del_copy(host: str, group: str) -> None:
    """Queue nothing more of GROUP for HOST (in this order). What is queued stays; no data is touched."""
    switches.unwant(Ledger.open(), host, group, who=run_name())
    click.echo(f"{group} on {host}: no longer wanted")


@minidvodb.command("show-copy")
@click.option("--json", "as_json", is_flag=True)
def show_copy(as_json: bool) -> None:
    """Show which groups are wanted where."""
    rows = [
        (f"{one.host}.{one.group}", one.group, one.host, one.path, one.priority, "on" if one.enabled else "off")
        for one in switches.list_wanted(Ledger.open())
    ]
    show(("key", "group", "host", "path", "priority", "host is"), rows, as_json=as_json)


@minidvodb.command("add-host")
@click.argument("host")
@click.option("--connection", help="Airflow's ssh connection; '' for a directory of the worker's own machine.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A limit; see `show-host --settings`.")
@click.option("--new-disk", is_flag=True, help="Its disk was exchanged: learn which it is at the next contact.")
def add_host(host: str, connection: str | None, pairs: tuple[str, ...], new_disk: bool) -> None:
    """Let copies go to HOST: make it known, or switch it on again."""
    ledger = Ledger.open()
    made = destination.put(
        ledger, host, who=run_name(), connection_id=connection, settings=dict(_setting(pair) for pair in pairs)
    )
    if new_disk:
        destination.forget_identity(ledger, host, who=run_name())
    click.echo(f"{made.name}: on, by {made.connection or 'this machine'}")


@minidvodb.command("del-host")
@click.argument("host")
def del_host(host: str) -> None:
    """Take HOST off the list: what runs finishes its step, nothing new begins. It stays known."""
    switched = destination.switch_off(Ledger.open(), host, who=run_name())
    click.echo(f"{switched.name}: off")


@minidvodb.command("show-host")
@click.option("--settings", "with_settings", is_flag=True, help="Every limit with its default and meaning.")
@click.option("--json", "as_json", is_flag=True)
def show_host(with_settings: bool, as_json: bool) -> None:
    """Show the hosts, whether they are on, and their disks as last seen."""
    if with_settings:
        fields = [(name, one.default, one.description) for name, one in Settings.model_fields.items()]
        show(("key", "default", "meaning"), fields, as_json=as_json)
        return
    rows = [
        (
            one.name,
            "on" if one.enabled else "off",
            one.switched_at,
            one.connection,
            one.look.get("used_pct"),
            one.look.get("available_bytes"),
            ", ".join(f"{key}={value}" for key, value in one.settings.model_dump(exclude_unset=True).items()),
        )
        for one in destination.list_all(Ledger.open())
    ]
    show(("host", "is", "since", "connection", "used %", "free bytes", "settings"), rows, as_json=as_json)


@minidvodb.command("on")
@click.argument("stages", nargs=-1, type=click.Choice([stage.value for stage in Stage]))
def turn_on(stages: tuple[str, ...]) -> None:
    """Switch stages on; without an argument all of them."""
    _turn(stages, on=True)


@minidvodb.command("off")
@click.argument("stages", nargs=-1, type=click.Choice([stage.value for stage in Stage]))
def turn_off(stages: tuple[str, ...]) -> None:
    """Switch stages off; without an argument all of them."""
    _turn(stages, on=False)


def _turn(stages: tuple[str, ...], *, on: bool) -> None:
    ledger = Ledger.open()
    for stage in [Stage(name) for name in stages] or list(Stage):
        switches.turn(ledger, stage, on, who=run_name())
    for stage, is_on in switches.positions(ledger).items():
        click.echo(f"{stage}: {'on' if is_on else 'off'}")


@minidvodb.command("add-run")
@click.argument("group")
@click.argument("path")
@click.option("--name", help="Default: the last part of PATH.")
@click.option("--machine", help="The machine that holds it; default: where the task runs.")
@click.option("--state", type=click.Choice(catalogue.STATES), default="merged")
def add_run(group: str, path: str, name: str | None, machine: str | None, state: str) -> None:
    """Put a database on record that no old table knows."""
    made = catalogue.add(Ledger.open(), group, path, who=run_name(), name=name, host=machine, state=state)
    click.echo(f"minidvodb {made.minidvodb_id}: {one_line(made.name)} of {one_line(made.group)}, {made.state}")
    if machine is None and not Path(path).is_dir():
        click.echo(
            f"custody: {one_line(path)}: is no directory of this machine (--machine, if it is another's)", err=True
        )


@minidvodb.command("del-run")
@click.argument("minidvodb_id", type=int)
def del_run(minidvodb_id: int) -> None:
    """Take a database off the record that was put there by mistake; only while no copy of it was begun."""
    name = catalogue.remove(Ledger.open(), minidvodb_id, who=run_name())
    click.echo(f"minidvodb {minidvodb_id}: {one_line(name)} is off the record")


@minidvodb.command("import")
@click.argument("url", envvar="CUSTODY_MINIDVODB_OLD")
def import_old(url: str) -> None:
    """Take over minidvodbRun, minidvodbProcessed and minidvodbCopy of the old database (read only).

    URL is SQLAlchemy's, mysql+pymysql://USER:PASSWORD@HOST/DB, and better given in $CUSTODY_MINIDVODB_OLD.
    """
    taken = catalogue.take_over(Ledger.open(), catalogue.OldTables(url), who=run_name())
    click.echo(f"{taken.runs} databases new or changed, {taken.copies} copies taken over")
    for line in taken.left_out:
        click.echo(f"left out: {line}", err=True)


@minidvodb.command()
@click.option("--json", "as_json", is_flag=True)
def status(as_json: bool) -> None:
    """Show host by group what is eligible, new, running, full and faulted, and what needs somebody."""
    ledger = Ledger.open()
    found = report.cells(ledger)
    alerts = report.alerts(ledger)
    if as_json:
        import json

        content = {
            "stages": {stage: on for stage, on in switches.positions(ledger).items()},
            "cells": [one.as_json() for one in found],
            "alerts": [vars(one) for one in alerts],
        }
        click.echo(json.dumps(content, indent=1))
    else:
        _show_status(ledger, found)
        for alert in alerts:
            click.echo(f"{alert.subject}: {alert.text}. Next: {alert.next_command}")
    if any(one.faulted or one.lost for one in found):
        sys.exit(2)


def _show_status(ledger: Ledger, found: list[report.Cell]) -> None:
    words = [f"{stage} {'on' if on else 'OFF'}" for stage, on in switches.positions(ledger).items()]
    click.echo(f"stages: {', '.join(words)}")
    rows = [
        (
            one.host + ("" if one.enabled else " (off)"),
            one.group,
            one.eligible,
            one.new,
            one.running,
            one.full,
            one.unproven,
            one.faulted,
            one.lost,
            one.bytes_full,
            one.bytes_left,
            f"{one.eta_s / 3600:.1f} h" if one.eta_s else "",
        )
        for one in found
    ]
    headings = ("host", "group", "eligible", "new", "running", "full", "unproven", "faulted", "lost")
    show((*headings, "bytes full", "bytes left", "eta"), rows)
    for one in report.running(ledger):
        share = f"{100 * one.bytes_done / one.bytes:.0f} %" if one.bytes else ""
        click.echo(f"running: copy {one.copy_id}, {one.name} to {one.host}, {one.step} {share}")


def _setting(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals:
        raise Fault(FaultKind.CONFIG, f"--set {pair}", "is not KEY=VALUE")
    return key, None if value == "" else value


for _command in minidvodb_copies.COMMANDS:
    minidvodb.add_command(_command)
