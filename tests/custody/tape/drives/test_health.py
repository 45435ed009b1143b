"""Log pages and tools' words about a drive's health."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from custody.tape.drives.health import (
    ask_health,
    critical_alerts,
    parse_alerts,
    parse_capacity,
    parse_encryption,
    parse_error_counters,
    parse_tapeinfo_alerts,
    parse_tapeinfo_serial,
    parse_volume_statistics,
    read_serial,
    read_statistics,
)
from custody.tape.drives.protocol import DriveHealth
from services.need import need


def page(number: int, *parameters: tuple[int, bytes]) -> bytes:
    """A log page as a drive sends it."""
    body = b"".join(struct.pack(">HBB", code, 0x03, len(value)) + value for code, value in parameters)
    return struct.pack(">BBH", number, 0, len(body)) + body


ALERTS = page(0x2E, *((number, b"\1" if number in {3, 20} else b"\0") for number in range(1, 65)))
WRITE_ERRORS = page(0x02, *((code, (code * 1000).to_bytes(4, "big")) for code in range(7)))
READ_ERRORS = page(0x03, (6, b"\0\0\0\7"), (0x8000, b"vendor"))
CAPACITY = page(0x31, *((code, value.to_bytes(4, "big")) for code, value in ((1, 1000), (2, 7), (3, 2000), (4, 8))))
VOLUME = page(
    0x17,
    (0x0001, (41).to_bytes(4, "big")),
    (0x0009, (2).to_bytes(4, "big")),
    (0x0202, b"\7\0\0\0\0\0\x27\x10" + b"\7\0\0\1\0\0\0\1"),
    (0x0204, b"\7\0\0\0\0\0\x03\xe8" + b"\7\0\0\1\0\0\0\5"),
)


def decoded(raw: bytes, path: Path) -> str:
    """What sg_logs itself makes of a page."""
    path.write_bytes(raw)
    argv = [need("sg_logs", package="sg3-utils"), "--raw", "--pdt=1", f"--in={path}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_alerts_that_are_up_are_named() -> None:
    assert parse_alerts(ALERTS) == {3: "hard error", 20: "clean now"}


def test_critical_alerts_are_the_ones_to_stop_at() -> None:
    every = DriveHealth(alerts={number: "x" for number in range(1, 65)})
    assert set(critical_alerts(every)) == {3, 4, 5, 6, 9, 20, 21, 22, 30, 31}


def test_error_counters_are_told_apart_by_direction() -> None:
    written = parse_error_counters(WRITE_ERRORS)
    assert written["write_uncorrected"] == 6000 and written["write_bytes"] == 5000
    assert parse_error_counters(READ_ERRORS) == {"read_uncorrected": 7}


def test_what_remains_is_read_from_either_page() -> None:
    assert parse_capacity(CAPACITY) == 1000 << 20
    assert parse_volume_statistics(VOLUME) == (
        {"volume_mounts": 41, "volume_unrecovered_read_errors": 2},
        1_000_000_000,
    )


def test_sg_logs_reads_the_same_pages_the_same_way(tmp_path: Path) -> None:
    """The samples are made here; that they are what drives send is said by the tool that people use."""
    alerts = decoded(ALERTS, tmp_path / "page")
    assert "Hard error: 1" in alerts and "Clean now: 1" in alerts.replace("Cleaning required", "Clean now")
    assert "Total uncorrected errors = 6000" in decoded(WRITE_ERRORS, tmp_path / "page")
    assert "Main partition remaining capacity (in MiB): 1000" in decoded(CAPACITY, tmp_path / "page")
    volume = decoded(VOLUME, tmp_path / "page")
    assert "Thread count: 41" in volume and "Total unrecovered read errors: 2" in volume
    remaining = volume[volume.index("Remaining native capacity partition") :]
    assert "partition number: 0, partition record data counter: 1000" in remaining


@pytest.mark.parametrize("parse", [parse_alerts, parse_error_counters, parse_capacity, parse_volume_statistics])
@pytest.mark.parametrize("raw", [ALERTS, WRITE_ERRORS, CAPACITY, VOLUME])
def test_no_cut_or_garbled_page_is_an_error(parse, raw: bytes) -> None:
    for end in range(len(raw)):
        parse(raw[:end])
    for _ in range(200):
        parse(raw[:4] + os.urandom(len(raw) - 4))
        parse(os.urandom(60))


TAPEINFO = """Product Type: Tape Drive
Vendor ID: 'HP      '
Product ID: 'Ultrium 5-SCSI  '
Revision: 'I3CS'
Attached Changer API: No
SerialNumber: 'HU19477T7K'
MinBlock: 1
MaxBlock: 16777215
TapeAlert[3]:        Hard Error: Uncorrectable read/write error.
TapeAlert[20]:    Clean Now: The tape drive needs cleaning NOW.
Ready: yes
BufferedMode: yes
Medium Type: Not Loaded
Density Code: 0x58
BlockSize: 0
"""


def test_tapeinfo() -> None:
    assert parse_tapeinfo_serial(TAPEINFO) == "HU19477T7K"
    assert parse_tapeinfo_alerts(TAPEINFO) == {3: "hard error", 20: "clean now"}
    assert parse_tapeinfo_serial("") is None


def encryption(mode: int, *descriptions: tuple[int, bytes]) -> bytes:
    """A device encryption status page: header, then key-associated data."""
    kads = b"".join(struct.pack(">BBH", kind, 1, len(text)) + text for kind, text in descriptions)
    rest = struct.pack(">BBBB4sBBH8x", 0x42, mode, 3 if mode else 0, 1, b"\0\0\0\1", 0, 0, 0) + kads
    return struct.pack(">HH", 0x20, len(rest)) + rest


def test_encryption_and_the_name_of_its_key() -> None:
    assert parse_encryption(encryption(2, (1, b"authenticated"), (0, b"archive 2026"))) == ("on", "archive 2026")
    assert parse_encryption(encryption(2)) == ("on", None)
    assert parse_encryption(encryption(0)) == ("off", None)
    assert parse_encryption(b"") == (None, None)
    assert parse_encryption(encryption(2)[:20]) == (None, None)
    whole = encryption(2, (1, b"authenticated"), (0, b"archive 2026"))
    for end in range(len(whole)):
        assert parse_encryption(whole[:end])[1] is None


def test_a_serial_number(tmp_path: Path) -> None:
    (tmp_path / "vpd_pg80").write_bytes(b"\x01\x80\0\x0aHU19477T7K")
    assert read_serial(tmp_path / "vpd_pg80") == "HU19477T7K"
    assert read_serial(tmp_path / "missing") is None


def test_statistics_of_the_kernel(tmp_path: Path) -> None:
    stats = tmp_path / "class" / "scsi_tape" / "st1" / "stats"
    stats.mkdir(parents=True)
    (stats / "in_flight").write_text("1\n")
    (stats / "write_byte_cnt").write_text("1234567\n")
    (stats / "odd").write_text("what?\n")
    assert read_statistics(stats) == {"in_flight": 1, "write_byte_cnt": 1234567}
    assert ask_health(os.makedev(9, 128 + 1), sysfs=tmp_path).counters["in_flight"] == 1
    assert ask_health(os.makedev(9, 128 + 2), sysfs=tmp_path) == DriveHealth()
