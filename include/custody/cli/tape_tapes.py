"""``custody tape open_tape|activate_tape|close_tape|move|describe|retire_tape|trust_tape``: tapes as things."""

from __future__ import annotations

import click

from custody.cli.tape_group import Exit, Site, has_terminal, verb
from custody.tape import report, tapes
from custody.tape.close import close_tape as close
from custody.tape.states import BackupState, TapeState


@click.command("open_tape")
@click.argument("name")
@click.option("--serial", help="Serial number of the cartridge; may be left out.")
@click.option("--barcode", help="What is printed on it.")
@click.option("--pool", help="The pool it belongs to; default: the first one of the configuration.")
@click.option("--offline", is_flag=True, help="Do not make it the active tape.")
@verb
def open_tape(site: Site, name: str, serial: str | None, barcode: str | None, pool: str | None, offline: bool) -> None:
    """Put a new tape NAME on record and make it the active one."""
    config = site.config
    site.agree(f"Open a new tape called {name}?")
    if serial is None and not site.is_agreed and has_terminal():
        serial = click.prompt("Serial number (may be blank)", default="", show_default=False).strip()
        offline = offline or not click.confirm("Put it online?", default=False)
    tape = tapes.open_tape(
        site.ledger, config, name, who=site.who, serial=serial, barcode=barcode, pool=pool, online=not offline
    )
    state = "is open and active" if tape.is_online else "is open; it is not the active one"
    click.echo(f"Tape {tape.called} {state}; its label is written at the first archive")


@click.command("activate_tape")
@click.argument("name")
@verb
def activate_tape(site: Site, name: str) -> None:
    """Make NAME the tape that verbs without a tape mean."""
    tape = tapes.activate_tape(site.ledger, name, who=site.who)
    note = "" if tape.state.is_writable else f"; it is {tape.state}: it can be read, not written"
    click.echo(f"Tape {tape.called} is active{note}")


@click.command("close_tape")
@click.argument("tape", required=False)
@click.option("--force", is_flag=True, help="Although not everything on it is confirmed.")
@click.option("--no-catalog", is_flag=True, help="Do not write the catalogue as its last file: no drive is needed.")
@verb
def close_tape(site: Site, tape: str | None, force: bool, no_catalog: bool) -> None:
    """Close TAPE, or the one that is active: what is assigned to it and not on it is unassigned again."""
    found = report.status(site.ledger, tape)
    waiting = sum(
        found.sums.get(state, report.Sum()).targets for state in (BackupState.ASSIGNED, BackupState.OUTSTANDING)
    )
    if found.tape.state is not TapeState.CLOSED:
        site.agree(f"Close tape {found.tape.name}, and take {waiting} assigned targets off it?")
    done = close(site.ledger, site.config, found.tape.name, who=site.who, force=force, write_catalog=not no_catalog)
    catalog = "" if done.catalog_file_number is None else f"; its catalogue is file {done.catalog_file_number}"
    click.echo(f"Tape {done.called} is closed{catalog}")


@click.command("move")
@click.argument("name")
@click.argument("location")
@click.argument("slot", default="")
@verb
def move(site: Site, name: str, location: str, slot: str) -> None:
    """Put on record that tape NAME is at LOCATION now, in SLOT."""
    click.echo(f"Tape {tapes.move_tape(site.ledger, name, who=site.who, location=location, slot=slot).called}")


@click.command("describe")
@click.argument("name")
@click.option("--serial", help="Serial number; blank takes it away.")
@click.option("--barcode", help="Barcode; blank takes it away.")
@verb
def describe(site: Site, name: str, serial: str | None, barcode: str | None) -> None:
    """Add or change the serial number or barcode of tape NAME."""
    if serial is None and barcode is None:
        raise click.UsageError("--serial or --barcode says what to change")
    click.echo(f"Tape {tapes.set_tape(site.ledger, name, who=site.who, serial=serial, barcode=barcode).called}")


@click.command("retire_tape")
@click.argument("name")
@click.option("--reason", required=True, help="Why; it stays on record.")
@click.option("--force", is_flag=True, help="Although it holds the only copy on tape of a target.")
@verb
def retire_tape(site: Site, name: str, reason: str, force: bool) -> None:
    """Rely on tape NAME no longer: its copies do not count any more."""
    site.agree(f"Retire tape {name}?")
    tape = tapes.retire_tape(site.ledger, name, who=site.who, reason=reason, force=force)
    click.echo(f"Tape {tape.called} is retired. Next: custody tape assign")


@click.command("trust_tape")
@click.argument("name")
@click.argument("state", type=click.Choice([TapeState.OPEN, TapeState.FULL, TapeState.CLOSED]))
@click.option("--reason", required=True, help="What was looked at; it stays on record.")
@verb
def trust_tape(site: Site, name: str, state: str, reason: str) -> Exit:
    """Say that the suspect tape NAME is open, full or closed again."""
    site.agree(f"Mark tape {name} {state} again?")
    tape = tapes.trust_tape(site.ledger, name, TapeState(state), who=site.who, reason=reason)
    click.echo(f"Tape {tape.called} is {tape.state}")
    return Exit.DONE


COMMANDS = (open_tape, activate_tape, close_tape, move, describe, retire_tape, trust_tape)
