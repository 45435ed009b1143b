"""The root of the command line, and what is common to its verbs."""

from __future__ import annotations

import sys
from typing import Any

import click

from custody.cli.drain import drain
from custody.cli.minidvodb import minidvodb
from custody.cli.show import show
from custody.faults import Fault
from custody.ledger import Ledger, default_url


class FaultAware(click.Group):
    """A group that prints a fault as its one line and exits with 1."""

    def invoke(self, context: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(context)
        except Fault as fault:
            click.echo(f"custody: {fault}", err=True)
            sys.exit(1)


@click.group(cls=FaultAware, context_settings={"help_option_names": ["-h", "--help"]})
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


main.add_command(drain)
main.add_command(minidvodb)
