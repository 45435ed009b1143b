"""Sample DVO databases: seeded, valid FITS, of any size; and broken in the ways that databases break."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BLOCK = 2880
BANDS = ("n0000", "n0730", "n1500", "n2230", "n3000", "n3730", "n4500", "n5230", "n6000", "n6730", "n7500", "n8230")
_ROW_BYTES = {"cpt": 128, "cpm": 184, "cps": 64}
_NAMES = {"cpt": "DVO_AVERAGE_PS1_V4", "cpm": "DVO_MEASURE_PS1_V4", "cps": "DVO_SECFILT_PS1_V4"}


@dataclass(frozen=True)
class Shape:
    """How large a database is: regions, and detections in each. A region has four files, or as many as ``files``."""

    regions: int
    detections: int
    objects: int = 20
    secfilt: int = 2


T0 = Shape(regions=2, detections=400)
T1 = Shape(regions=60, detections=1500)
T2 = Shape(regions=5000, detections=380)
T3 = Shape(regions=2, detections=2_917_776, objects=4_194_304, secfilt=0)


def make(root: Path, shape: Shape = T0, *, seed: int = 1) -> Path:
    """Make a database; the same seed makes the same bytes. Returns ``root``."""
    dice = random.Random(seed)  # noqa: S311 - sample data
    root.mkdir(parents=True)
    _write(root / "Photcodes.dat", [], "DVO_PHOTCODE", 64, 10, dice)
    _write(root / "Images.dat", [], "DVO_IMAGE_PS1_V4", 512, 5, dice)
    _write(root / "SkyTable.fits", [], "SKY_REGION", 56, shape.regions, dice)
    for band in (*BANDS, *(band.replace("n", "s") for band in BANDS)):
        (root / band).mkdir()
    for number in range(shape.regions):
        band = BANDS[number % len(BANDS)]
        _make_region(root / band, f"{number:04d}", shape, dice)
    return root


def _make_region(band: Path, name: str, shape: Shape, dice: random.Random) -> None:
    counts = [("NSTARS", shape.objects), ("NMEAS", shape.detections), ("NMISS", 0), ("NSECFILT", shape.secfilt)]
    rows = {"cpt": shape.objects, "cpm": shape.detections, "cps": shape.objects * shape.secfilt}
    for suffix, row_bytes in _ROW_BYTES.items():
        cards = counts if suffix == "cpt" else []
        _write(band / f"{name}.{suffix}", cards, _NAMES[suffix], row_bytes, rows[suffix], dice)
    _write(band / f"{name}.cpn", [], "DVO_MISSING_PS1_V4", 8, 0, dice)


def _write(
    path: Path, cards: list[tuple[str, int]], extension: str, row_bytes: int, rows: int, dice: random.Random
) -> None:
    primary = [("SIMPLE", "T"), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", "T"), *cards]
    table = [
        ("XTENSION", "'BINTABLE'"), ("BITPIX", 8), ("NAXIS", 2), ("NAXIS1", row_bytes), ("NAXIS2", rows),
        ("PCOUNT", 0), ("GCOUNT", 1), ("TFIELDS", 0), ("EXTNAME", f"'{extension}'"),
    ]  # fmt: skip
    with path.open("wb") as stream:
        stream.write(_header(primary) + _header(table))
        left = row_bytes * rows
        pad = -left % BLOCK
        while left:
            count = min(left, 1 << 22)
            stream.write(dice.randbytes(count))
            left -= count
        stream.write(bytes(pad))


def _header(cards: list[tuple[str, int]] | list[tuple[str, object]]) -> bytes:
    text = "".join(f"{name:<8}= {value!s:>20}".ljust(80) for name, value in cards) + "END".ljust(80)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode()


def break_short(root: Path) -> None:
    """A .cpm that was cut off."""
    path = root / "n0000/0000.cpm"
    os.truncate(path, path.stat().st_size - BLOCK)


def break_trailing(root: Path) -> None:
    """Bytes behind the last table."""
    with (root / "n0000/0000.cps").open("ab") as stream:
        stream.write(b"junk")


def break_count(root: Path) -> None:
    """NMEAS of a .cpt that is not the number of rows of its .cpm."""
    path = root / "n0000/0000.cpt"
    content = path.read_bytes()
    at = content.index(b"NMEAS   =")
    path.write_bytes(content[:at] + f"NMEAS   = {7:>20}".ljust(80).encode() + content[at + 80 :])


def break_empty(root: Path) -> None:
    """A .cpt of no bytes."""
    (root / "n0000/0000.cpt").write_bytes(b"")


def break_locked(root: Path) -> None:
    """A hard lock that nobody took away."""
    (root / "n0000/.0000.cpt.lck").write_text("BUSY\n")


def break_missing(root: Path) -> None:
    """No SkyTable."""
    (root / "SkyTable.fits").unlink()


def break_spread(root: Path) -> None:
    """A database of which other machines hold a part."""
    (root / "HostTable.dat").write_text("1 ipp060 /data/ipp060.0/dvo\n2 ipp061 /data/ipp061.0/dvo\n")


BROKEN: dict[str, Callable[[Path], None]] = {
    "short": break_short,
    "trailing": break_trailing,
    "count": break_count,
    "empty": break_empty,
    "locked": break_locked,
    "missing": break_missing,
    "spread": break_spread,
}
"""What is wrong, by name."""
