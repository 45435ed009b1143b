"""``custody tape drive|new-drive|new-cartridge|cartridges|load|unload``: the drive, and drives made of files."""

from __future__ import annotations

from pathlib import Path

import click

from custody.cli.tape_group import Exit, Site, table_of, verb
from custody.faults import Fault, FaultKind
from custody.tape.drives import cartridges, changer, look_at_drive
from custody.units import format_size, parse_size

_PATH = click.Path(path_type=Path)


def _virtual_drive(site: Site, drive: Path | None) -> Path:
    path = drive or Path(site.config.device)
    if not path.is_dir():
        raise Fault(
            FaultKind.CONFIG,
            str(path),
            "is no drive made of files",
            next_command=f"custody tape new-drive {path}, or --drive DIRECTORY",
        )
    return path


@click.command()
@verb
def drive(site: Site) -> None:
    """Show the state of the configured drive; the tape is not moved."""
    at = look_at_drive(site.config.device)
    if not at.has_cartridge:
        click.echo(f"{site.config.device}: empty")
        return
    where = "unknown" if at.file_number is None else f"file {at.file_number}, block {at.block_number}"
    marks = [word for word, is_so in (("write-protected", at.write_protected), ("not ready", not at.online)) if is_so]
    click.echo(f"{site.config.device}: a cartridge is in it, position {where}{''.join(f', {mark}' for mark in marks)}")


@click.command("new-drive")
@click.argument("directory", type=_PATH)
@verb
def new_drive(site: Site, directory: Path) -> None:
    """Make an empty drive of files: a DIRECTORY to name as tape_device."""
    cartridges.make_drive(directory, name=directory.name)
    click.echo(f"{directory}: an empty drive. Next: custody tape new-cartridge X.tap; custody tape load X.tap")


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("new-cartridge")
@click.argument("image", type=_PATH)
@click.option("--capacity", callback=_size, help="Its native room, as 100MB or 2.5TB; default: without an end.")
@click.option("--barcode", help="What is printed on it; default: the name of the file.")
@click.option("--serial", help="Its serial number.")
@verb
def new_cartridge(site: Site, image: Path, capacity: int | None, barcode: str | None, serial: str | None) -> None:
    """Make a blank cartridge for a drive of files: IMAGE ends in .tap."""
    if image.suffix != ".tap":
        raise Fault(FaultKind.CONFIG, str(image), "the name of a cartridge ends in .tap")
    made = cartridges.make_cartridge(image, barcode=barcode, serial=serial, capacity_bytes=capacity)
    room = "without an end" if made.capacity_bytes is None else format_size(made.capacity_bytes)
    click.echo(f"{image}: a blank cartridge, barcode {made.barcode}, serial {made.serial}, {room}")


@click.command("cartridges")
@click.argument("library", type=click.Path(exists=True, file_okay=False, path_type=Path))
@verb
def cartridges_(site: Site, library: Path) -> None:
    """List the cartridges for drives of files in the directory LIBRARY."""
    rows: list[list[object]] = [["Image", "Barcode", "SerialNo", "Size", "Protected"]]
    for image, found in cartridges.list_cartridges(library).items():
        size = format_size(image.stat().st_size)
        rows.append([image.name, found.barcode, found.serial, size, "yes" if found.write_protected else ""])
    for text in table_of(rows):
        click.echo(text)


@click.command()
@click.argument("image", type=_PATH)
@click.option("--drive", "drive_", type=_PATH, help="The drive; default: the configured one.")
@verb
def load(site: Site, image: Path, drive_: Path | None) -> None:
    """Put the cartridge IMAGE into a drive of files."""
    path = _virtual_drive(site, drive_)
    click.echo(f"{path}: {changer.load(path, image).barcode} is in it")


@click.command()
@click.option("--drive", "drive_", type=_PATH, help="The drive; default: the configured one.")
@verb
def unload(site: Site, drive_: Path | None) -> Exit:
    """Take the cartridge out of a drive of files."""
    path = _virtual_drive(site, drive_)
    image = changer.unload(path)
    click.echo(f"{path}: was empty" if image is None else f"{path}: {image.name} was taken out")
    return Exit.DONE


COMMANDS = (drive, new_drive, new_cartridge, cartridges_, load, unload)
