"""The root of the command line, and what is common to its verbs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from custody.cli.show import show
from custody.faults import Fault
from custody.ledger import Ledger, default_url

ROOMS = ("drain", "tape", "minidvodb", "bitarchive", "wiki")
LATER = {*ROOMS, "reconcile"}
"""Verbs that are modules of their own; only the one that is asked for is read."""


class Custody(click.Group):
    """The root: it prints a fault as its one line and exits with 1."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The common verbs, and the rooms."""
        return sorted([*super().list_commands(context), *LATER])

    def get_command(self, context: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of this name; a room is imported now."""
        if cmd_name not in LATER:
            return super().get_command(context, cmd_name)
        group = getattr(importlib.import_module(f"custody.cli.{cmd_name}"), cmd_name)
        assert isinstance(group, click.Command)
        return group

    def invoke(self, context: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(context)
        except Fault as fault:
            click.echo(f"custody: {fault}", err=True)
            sys.exit(1)


@click.group(cls=Custody, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Custody: no copy is let go before another one is proven."""


@main.group()
def ledger() -> None:
    """The database that knows where everything is."""


@ledger.command()
def upgrade() -> None:
    """Make the ledger's schema, or bring it up to date."""
    click.echo(f"{Ledger.upgrade(default_url()).name}: up to date")


@main.command("where-is")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of a table.")
def where_is(name: str, as_json: bool) -> None:
    """Tell where every copy of the file NAME is, since when, and what proves it. ``%`` stands for any characters."""
    found = Ledger.open().where_is(name)
    rows = [
        (
            line.name,
            line.size_bytes,
            line.place,
            line.state,
            line.since,
            line.proof or "",
            line.proven_at,
            line.identity,
        )
        for line in found
    ]
    show(("file", "bytes", "place", "state", "since", "proof", "proven", "identity"), rows, as_json=as_json)
    if not found:
        click.echo(f"custody: {name}: no file of this name is on record", err=True)
        sys.exit(1)
