"""Cartridges and drives of the embedded kind: files and directories that people may look at, copy and keep.

A cartridge is an image ``X.tap`` (SIMH format: length, data padded to even, length; a zero length is a filemark; the
end of the file is the end of data) with what is printed on its case in ``X.tap.json``. A drive is a directory with a
``drive.json``; its symbolic link ``loaded`` names the cartridge that is in it. Where the head is, is in ``state``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import fsync_directory, write_atomic

LOADED = "loaded"
STATE = "state"
DRIVE_JSON = "drive.json"
LTO_6_DENSITY = 0x5A


@dataclass(frozen=True)
class FaultPlan:
    """What is to go wrong with a cartridge, for tests and rehearsals. Blocks are counted from 0 over the whole tape.

    ``kill_after_block`` and ``power_cut_after_block`` end the process that writes, once: they are struck out first.
    """

    read_error_at_block: int | None = None
    write_error_at_block: int | None = None
    no_space_at_block: int | None = None
    flip_bit_at_block: int | None = None
    slow_ms: int | None = None
    kill_after_block: int | None = None
    power_cut_after_block: int | None = None


@dataclass(frozen=True)
class Cartridge:
    """What is known of a cartridge beside its content.

    :param capacity_bytes: native, framing included; None without an end.
    :param early_warning_bytes: how long before the end the drive begins to refuse every second block.
    :param alerts: TapeAlert flags that the drive will report once.
    :param encryption: "on", "off", or None.
    :param power_cut: the host died while the last tape file was written: it has no filemark, and gets none.
    """

    barcode: str
    serial: str
    capacity_bytes: int | None = None
    early_warning_bytes: int = 0
    write_protected: bool = False
    density: int = LTO_6_DENSITY
    encryption: str | None = None
    encryption_key: str | None = None
    power_cut: bool = False
    alerts: tuple[int, ...] = ()
    faults: FaultPlan = field(default_factory=FaultPlan)


def sidecar_of(image: Path) -> Path:
    """``X.tap.json`` of ``X.tap``."""
    return image.with_name(image.name + ".json")


def make_cartridge(
    image: Path,
    *,
    barcode: str | None = None,
    serial: str | None = None,
    capacity_bytes: int | None = None,
    early_warning_bytes: int | None = None,
) -> Cartridge:
    """Make a blank cartridge. CONFLICT where something has that name, CONFIG for a capacity that cannot be.

    :param barcode: default: the file's name without ``.tap``.
    :param early_warning_bytes: default: 2 % of the capacity.
    """
    if capacity_bytes is not None and capacity_bytes <= 0:
        raise Fault(FaultKind.CONFIG, str(image), f"cannot hold {capacity_bytes} bytes")
    warning = (capacity_bytes or 0) // 50 if early_warning_bytes is None else early_warning_bytes
    barcode = barcode or image.name.removesuffix(".tap")
    cartridge = Cartridge(barcode, serial or f"CUSTODY-{barcode}", capacity_bytes, warning)
    with os_errors_as_faults(str(image)):
        if not os.path.lexists(image):  # the sidecar first: an image without one would be a tape without an end
            write_cartridge(image, cartridge)
        os.close(os.open(image, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        fsync_directory(image.parent)
    return cartridge


def read_cartridge(image: Path) -> Cartridge:
    """Read a sidecar; without one, a cartridge without end, named after its file. CONFIG where it makes no sense."""
    sidecar = sidecar_of(image)
    name = image.name.removesuffix(".tap")
    try:
        with os_errors_as_faults(str(sidecar)):
            content = sidecar.read_bytes()
    except Fault as fault:
        if isinstance(fault.__cause__, FileNotFoundError):
            return Cartridge(name, f"CUSTODY-{name}")
        raise
    try:
        raw = json.loads(content)
        plan = raw.pop("faults", None) or {}
        cartridge = Cartridge(
            **({"barcode": name, "serial": f"CUSTODY-{name}"} | raw | {"alerts": tuple(raw.get("alerts") or ())}),
            faults=FaultPlan(**plan),
        )
        _check(cartridge)
    except (ValueError, TypeError, AttributeError) as error:
        raise Fault(
            FaultKind.CONFIG, str(sidecar), f"is no description of a cartridge: {error}", next_command="mend it"
        ) from error
    return cartridge


def _check(cartridge: Cartridge) -> None:
    whole = [cartridge.capacity_bytes, *cartridge.alerts, *asdict(cartridge.faults).values()]
    numbers = [number for number in whole if number is not None] + [cartridge.early_warning_bytes, cartridge.density]
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 0 for number in numbers):
        raise ValueError("a number is negative or none")
    if not isinstance(cartridge.write_protected, bool) or not isinstance(cartridge.power_cut, bool):
        raise ValueError("write_protected and power_cut are true or false")


def write_cartridge(image: Path, cartridge: Cartridge) -> None:
    """Write a sidecar, whole or not at all."""
    raw = {key: value for key, value in asdict(cartridge).items() if value is not None}
    raw["faults"] = {key: value for key, value in raw["faults"].items() if value is not None}
    write_atomic(sidecar_of(image), json.dumps(raw, indent=1, sort_keys=True).encode() + b"\n")


def change_cartridge(image: Path, **changes: Any) -> Cartridge:
    """Change fields of a sidecar; a name of :class:`FaultPlan` changes the plan."""
    cartridge = read_cartridge(image)
    planned = {key: changes.pop(key) for key in list(changes) if key in {item.name for item in fields(FaultPlan)}}
    cartridge = replace(cartridge, **changes, faults=replace(cartridge.faults, **planned))
    write_cartridge(image, cartridge)
    return cartridge


def make_drive(directory: Path, **identity: Any) -> None:
    """Make an empty drive; ``identity`` (a serial, a name) goes into its drive.json. Existing ones stay as they are."""
    with os_errors_as_faults(str(directory)):
        directory.mkdir(parents=True, exist_ok=True)
    if not (directory / DRIVE_JSON).exists():
        write_atomic(directory / DRIVE_JSON, json.dumps(identity, sort_keys=True).encode() + b"\n")


def read_drive(directory: Path) -> Mapping[str, Any]:
    """The identity of a drive; CONFIG where the directory is none."""
    try:
        raw = json.loads((directory / DRIVE_JSON).read_bytes())
    except FileNotFoundError:
        if (directory / LOADED).is_symlink():
            return {}
        raise Fault(
            FaultKind.CONFIG,
            str(directory),
            "is a directory, but no drive: it has no drive.json",
            next_command="name the drive, or make one",
        ) from None
    except (OSError, ValueError) as error:
        raise Fault(FaultKind.CONFIG, str(directory / DRIVE_JSON), f"cannot be read: {error}") from error
    return raw if isinstance(raw, dict) else {}


def loaded_image(drive: Path) -> Path | None:
    """The image of the cartridge in a drive; None where it is empty. A link to nothing is an empty drive."""
    link = drive / LOADED
    with os_errors_as_faults(str(link)):
        try:
            target = link.readlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            if link.exists():
                raise Fault(
                    FaultKind.CONFIG, str(link), "is no symbolic link", next_command="move it away, load again"
                ) from error
            raise
    image = drive / target
    return image.resolve() if image.exists() else None


def list_cartridges(library: Path) -> dict[Path, Cartridge]:
    """All cartridges in a directory, by image, in the order of their names."""
    return {image: read_cartridge(image) for image in sorted(library.glob("*.tap")) if image.is_file()}


@contextmanager
def held_drive(directory: Path) -> Iterator[int]:
    """Have a drive for oneself: the descriptor of its directory. CONFLICT where another process has it."""
    with os_errors_as_faults(str(directory)):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Fault(
                FaultKind.CONFLICT, str(directory), "another process has it", next_command="wait for it, or use fuser"
            ) from error
        yield descriptor
    finally:
        os.close(descriptor)


def flip_bit(image: Path, block: int, offset_bytes: int = 0) -> None:
    """Damage a recorded block: its ``block``-th from 0 over the whole tape, at a byte of it. For rehearsals."""
    with image.open("r+b") as stream:
        for _ in range(block + 1):
            while (length := int.from_bytes(stream.read(4), "little")) == 0:
                if stream.tell() >= image.stat().st_size:
                    raise Fault(FaultKind.CONFIG, str(image), f"has no block {block}")
            start = stream.tell()
            stream.seek(start + length + length % 2 + 4)
        stream.seek(start + offset_bytes)
        value = stream.read(1)[0]
        stream.seek(start + offset_bytes)
        stream.write(bytes([value ^ 1]))
