"""A cartridge of the embedded kind put into a drive, and taken out."""

from __future__ import annotations

import os
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.tape.drives.cartridges import LOADED, Cartridge, held_drive, loaded_image, read_cartridge, read_drive
from custody.tape.drives.image import ImageDrive


def load(drive: Path, image: Path) -> Cartridge:
    """Put a cartridge into an empty drive; the position is unknown until it is rewound.

    Faults: CONFLICT where the drive is in use or has another cartridge in it, CONFIG where there is no such image.
    Loading what is loaded changes nothing.
    """
    read_drive(drive)
    if not image.is_file():
        raise Fault(FaultKind.CONFIG, str(image), "there is no such cartridge", next_command="list them, or make it")
    cartridge = read_cartridge(image)
    with held_drive(drive):
        present = loaded_image(drive)
        if present is not None:
            if present.samefile(image):
                return cartridge
            raise Fault(
                FaultKind.CONFLICT,
                str(drive),
                f"has {present.name} in it",
                next_command=f"unload it, then load {image.name}",
            )
        with os_errors_as_faults(str(drive)):
            (drive / LOADED).unlink(missing_ok=True)  # a link to a cartridge that is gone
            (drive / LOADED).symlink_to(os.path.relpath(image.resolve(), drive.resolve()))  # both may be moved together
    return cartridge


def unload(drive: Path) -> Path | None:
    """Take the cartridge out; the image that was in, None where the drive was empty. CONFLICT while it is in use."""
    image = loaded_image(drive)
    if image is None:
        return None
    if not image.is_file():
        (drive / LOADED).unlink(missing_ok=True)
        return image
    with ImageDrive(str(drive)) as opened:  # the drive itself ends a file that a killed writer left open
        opened.unload()
    return image
