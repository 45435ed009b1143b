"""A drive that tests can do everything to: load, take out, protect, damage, whichever drive it is."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from custody.tape.drives import Drive, open_drive
from custody.tape.drives.cartridges import change_cartridge, loaded_image, make_cartridge, make_drive
from custody.tape.drives.changer import load
from custody.tape.drives.device import TapeDevice
from custody.tape.drives.image import ImageDevice
from custody.tape.drives.st import KernelDevice
from services.need import need

SOURCE = Path(__file__).with_name("shim.c")


class Rig(Protocol):
    """A drive with hands.

    :param device: what `open_drive` is given.
    :param differences: facts that this rig itself is known to show wrongly: test name to the reason.
    :param unsafe: those of them that must not even be tried, because the rig would hang.
    """

    device: str
    differences: Mapping[str, str]
    unsafe: frozenset[str]

    def blank(self, capacity_bytes: int | None = None, early_warning_bytes: int = 0) -> None:
        """Load a blank cartridge, not rewound."""
        ...

    def unload(self) -> None:
        """Take the cartridge out by hand."""
        ...

    def protect(self, on: bool) -> None:
        """Flip the tab of the loaded cartridge."""
        ...

    def damage(self, content: bytes) -> None:
        """Flip a bit of a place on tape that holds ``content``."""
        ...

    def raw(self, *, writable: bool = False, is_look: bool = False) -> TapeDevice:
        """Open the raw device."""
        ...

    def drive(self, *, writable: bool = False) -> Drive:
        """Open the drive."""
        ...


class ImageRig:
    """The embedded drive, its cartridges in `home`; with `drive` and `node` one that the preloaded shim shows there."""

    unsafe: frozenset[str] = frozenset()
    differences: Mapping[str, str] = {}

    def __init__(self, home: Path, drive: Path | None = None, node: Path | None = None) -> None:
        self._home = home
        self._directory = drive or home / "drive0"
        self._count = 0
        self._node = node
        self.device = str(node or self._directory)
        make_drive(self._directory, serial="RIG")

    def blank(self, capacity_bytes: int | None = None, early_warning_bytes: int = 0) -> None:
        self.unload()
        image = self._home / f"T{self._count:05}.tap"
        self._count += 1
        make_cartridge(image, capacity_bytes=capacity_bytes, early_warning_bytes=early_warning_bytes)
        load(self._directory, image)

    def unload(self) -> None:
        (self._directory / "loaded").unlink(missing_ok=True)

    @property
    def image(self) -> Path:
        image = loaded_image(self._directory)
        assert image is not None
        return image

    def protect(self, on: bool) -> None:
        change_cartridge(self.image, write_protected=on)

    def damage(self, content: bytes) -> None:
        data = bytearray(self.image.read_bytes())
        data[data.index(content)] ^= 1
        self.image.write_bytes(data)

    def raw(self, *, writable: bool = False, is_look: bool = False) -> TapeDevice:
        kind = KernelDevice if self._node else ImageDevice
        return kind(self.device, writable=writable, is_look=is_look)

    def drive(self, *, writable: bool = False) -> Drive:
        return open_drive(self.device, writable=writable)


def build_shim(directory: Path) -> Path:
    """Compile the shim; a skip where there is no compiler."""
    library = directory / "tape_shim.so"
    need("gcc", package="gcc libc6-dev")
    argv = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(argv, check=True, capture_output=True)
    return library


def shim_environment(library: Path, drive: Path, node: Path) -> dict[str, str]:
    """The environment in which programs see ``drive`` at ``node``. TAPE would make tar write where nobody asked."""
    environment = {key: value for key, value in os.environ.items() if key not in {"TAPE", "TAR_OPTIONS"}}
    return environment | {
        "LD_PRELOAD": str(library),
        "CUSTODY_TAPE_NODE": str(node),
        "CUSTODY_TAPE_DRIVE": str(drive),
        "LC_ALL": "C",
    }
