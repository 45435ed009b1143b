"""What a drive says of its own health: alerts, counters, what is left on the tape, its serial number, encryption.

All is asked through the generic node (``/dev/sgN``), which moves no tape and needs no second opening of the tape node:
log pages and the encryption status raw by ``sg3-utils``, as their layout is a standard (SSC) and a tool's wording is
not; ``tapeinfo`` for alerts where these are missing. ``stenc`` is not asked: to tell its status it may read up to 100
blocks from where the head is, behind the back of the driver, which would then be wrong about the position. Whatever is
not installed or not answered stays unknown.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from custody.faults import Fault
from custody.host import LocalHost
from custody.tape.drives.protocol import DriveHealth

ASK_TIMEOUT_S = 60.0
CRITICAL_ALERTS = frozenset({3, 4, 5, 6, 9, 20, 21, 22, 30, 31})
ALERT_NAMES: Mapping[int, str] = {
    1: "read warning",
    2: "write warning",
    3: "hard error",
    4: "media",
    5: "read failure",
    6: "write failure",
    7: "media life",
    8: "not data grade",
    9: "write protect",
    10: "no removal",
    11: "cleaning media",
    12: "unsupported format",
    13: "recoverable mechanical cartridge failure",
    14: "unrecoverable mechanical cartridge failure",
    15: "memory chip in cartridge failure",
    16: "forced eject",
    17: "read only format",
    18: "tape directory corrupted on load",
    19: "nearing media life",
    20: "clean now",
    21: "clean periodic",
    22: "expired cleaning media",
    23: "invalid cleaning tape",
    24: "retension requested",
    25: "dual-port interface error",
    26: "cooling fan failing",
    27: "power supply failure",
    28: "power consumption",
    29: "drive maintenance",
    30: "hardware A",
    31: "hardware B",
    32: "interface",
    33: "eject media",
    34: "microcode update fail",
    35: "drive humidity",
    36: "drive temperature",
    37: "drive voltage",
    38: "predictive failure",
    39: "diagnostics required",
    50: "lost statistics",
    51: "tape directory invalid at unload",
    52: "tape system area write failure",
    53: "tape system area read failure",
    54: "no start of data",
    55: "loading or threading failure",
    56: "unrecoverable unload failure",
    57: "automation interface failure",
    58: "microcode failure",
    59: "worm medium integrity check failed",
    60: "worm medium overwrite attempted",
}
_ERROR_COUNTERS = (
    "corrected_without_delay",
    "corrected_with_delay",
    "retried",
    "corrected",
    "correction_runs",
    "bytes",
    "uncorrected",
)
_VOLUME_STATISTICS: Mapping[int, str] = {
    0x01: "volume_mounts",
    0x02: "volume_datasets_written",
    0x03: "volume_recovered_write_errors",
    0x04: "volume_unrecovered_write_errors",
    0x07: "volume_datasets_read",
    0x08: "volume_recovered_read_errors",
    0x09: "volume_unrecovered_read_errors",
}
_MEGABYTE = 1_000_000
_MEBIBYTE = 1 << 20
_REMAINING_NATIVE_PER_PARTITION = 0x0204
_SYSFS = Path("/sys")
_DES_BYTES = 1024
# Security protocol in: tape data encryption, device encryption status.
_ASK_DES = ("a2", "20", "00", "20", "00", "00", "00", "00", "04", "00", "00", "00")
_DES_PAGE = 0x0020
_DES_HEADER_BYTES = 24


def name_alert(number: int) -> str:
    """The name of a TapeAlert flag."""
    return ALERT_NAMES.get(number, f"flag {number}")


def critical_alerts(health: DriveHealth) -> dict[int, str]:
    """The flags that are up and forbid to go on: errors, bad or protected medium, cleaning, hardware."""
    return {number: name for number, name in health.alerts.items() if number in CRITICAL_ALERTS}


def ask_health(device_number: int, *, sysfs: Path = _SYSFS) -> DriveHealth:
    """Collect what can be learnt of the drive with this device number (of its tape node)."""
    link = sysfs / "dev" / "char" / f"{os.major(device_number)}:{os.minor(device_number)}"
    counters = read_statistics(sysfs / "class" / "scsi_tape" / f"st{_drive_index(device_number)}" / "stats")
    generic = next(iter(sorted((link / "device" / "scsi_generic").glob("sg*"))), None)
    if generic is None:
        return DriveHealth(counters=counters)
    return _ask_generic(f"/dev/{generic.name}", counters, read_serial(link / "device" / "vpd_pg80"))


def _ask_generic(node: str, counters: dict[str, int], serial: str | None) -> DriveHealth:
    alerts: dict[int, str] = {}
    remaining_bytes = None
    for page in (0x2E, 0x02, 0x03, 0x17, 0x31):
        raw = _ask(["sg_logs", "--raw", f"--page={page:#x}", node])
        match page:
            case 0x2E:
                alerts = parse_alerts(raw)
            case 0x17:
                statistics, remaining_bytes = parse_volume_statistics(raw)
                counters |= statistics
            case 0x31:
                remaining_bytes = remaining_bytes if remaining_bytes is not None else parse_capacity(raw)
            case _:
                counters |= parse_error_counters(raw)
    told = "" if alerts and serial else _ask(["tapeinfo", "-f", node]).decode("utf-8", "replace")
    encryption, key = parse_encryption(_ask(["sg_raw", "--binary", f"--request={_DES_BYTES}", node, *_ASK_DES]))
    return DriveHealth(
        alerts=alerts or parse_tapeinfo_alerts(told),
        counters=counters,
        remaining_bytes=remaining_bytes,
        serial=serial or parse_tapeinfo_serial(told),
        encryption=encryption,
        encryption_key=key,
    )


def _ask(argv: list[str]) -> bytes:
    """The output of a tool; empty where it is missing, fails, or does not answer."""
    if shutil.which(argv[0]) is None:
        return b""
    try:
        answer = LocalHost().run(argv, timeout_s=ASK_TIMEOUT_S)
    except Fault:
        return b""
    return answer.stdout if answer.returncode == 0 else b""


def _drive_index(device_number: int) -> int:
    """The N of stN: a minor number is N (low 5 bits, the rest above bit 8), mode (2 bits) and no-rewind (1 bit)."""
    minor = os.minor(device_number)
    return (minor >> 8 << 5) | (minor & 0x1F)


def read_statistics(directory: Path) -> dict[str, int]:
    """Read the kernel's counters of a drive (``in_flight``, ``read_byte_cnt``, ``write_ns``, …); empty without."""
    found = {}
    for entry in sorted(directory.glob("*")) if directory.is_dir() else []:
        try:
            found[entry.name] = int(entry.read_text())
        except (OSError, ValueError):
            continue
    return found


def _parameters(raw: bytes, page: int) -> Iterator[tuple[int, bytes]]:
    """Yield code and value of each parameter of a log page; a page cut short or another one yields what it has."""
    if len(raw) < 4 or raw[0] & 0x3F != page:
        return
    end = min(len(raw), 4 + int.from_bytes(raw[2:4], "big"))
    at = 4
    while at + 4 <= end:
        code, length = int.from_bytes(raw[at : at + 2], "big"), raw[at + 3]
        if at + 4 + length > end:
            return
        yield code, raw[at + 4 : at + 4 + length]
        at += 4 + length


def parse_alerts(raw: bytes) -> dict[int, str]:
    """Flags of log page 0x2e that are up."""
    return {code: name_alert(code) for code, value in _parameters(raw, 0x2E) if 1 <= code <= 64 and value[:1] > b"\0"}


def parse_error_counters(raw: bytes) -> dict[str, int]:
    """Counters of log page 0x02 (``write_…``) or 0x03 (``read_…``)."""
    page = raw[0] & 0x3F if raw else 0
    prefix = {0x02: "write", 0x03: "read"}.get(page)
    if prefix is None:
        return {}
    return {
        f"{prefix}_{_ERROR_COUNTERS[code]}": int.from_bytes(value, "big")
        for code, value in _parameters(raw, page)
        if code < len(_ERROR_COUNTERS) and value
    }


def parse_capacity(raw: bytes) -> int | None:
    """Bytes that remain on partition 0 by log page 0x31 (in MiB; LTO-5 and LTO-6)."""
    for code, value in _parameters(raw, 0x31):
        if code == 1 and value:
            return int.from_bytes(value, "big") * _MEBIBYTE
    return None


def parse_volume_statistics(raw: bytes) -> tuple[dict[str, int], int | None]:
    """Counters of log page 0x17, and the native bytes that remain on partition 0 (in MB there)."""
    counters, remaining_bytes = {}, None
    for code, value in _parameters(raw, 0x17):
        if code in _VOLUME_STATISTICS and value:
            counters[_VOLUME_STATISTICS[code]] = int.from_bytes(value, "big")
        elif code == _REMAINING_NATIVE_PER_PARTITION:
            # Records: length of the rest, a reserved byte, the partition's number (2), its value.
            while len(value) > 4 and value[0] >= 4 and value[0] < len(value):
                number = int.from_bytes(value[4 : 1 + value[0]], "big")
                is_known = number != (1 << 8 * (value[0] - 3)) - 1
                if int.from_bytes(value[2:4], "big") == 0 and is_known:
                    remaining_bytes = number * _MEGABYTE
                value = value[1 + value[0] :]
    return counters, remaining_bytes


def parse_tapeinfo_serial(text: str) -> str | None:
    """The drive's serial number from ``tapeinfo``."""
    found = re.search(r"^SerialNumber: '([^'\n]*)'", text, re.MULTILINE)
    return (found[1].strip() or None) if found else None


def parse_tapeinfo_alerts(text: str) -> dict[int, str]:
    """TapeAlert flags from ``tapeinfo``, for where sg_logs is missing."""
    return {int(number): name_alert(int(number)) for number in re.findall(r"^TapeAlert\[(\d+)\]:", text, re.MULTILINE)}


def parse_encryption(raw: bytes) -> tuple[str | None, str | None]:
    """Whether the drive encrypts what it writes ("on", "off", None unknown), and the description of its key.

    :param raw: the device encryption status page (SSC). The key itself is never in it.
    """
    if len(raw) < _DES_HEADER_BYTES or int.from_bytes(raw[:2], "big") != _DES_PAGE:
        return None, None
    end = min(len(raw), 4 + int.from_bytes(raw[2:4], "big"))
    state = "on" if raw[5] else "off"  # 0 disabled, 1 external, 2 encrypt
    at = _DES_HEADER_BYTES
    while at + 4 <= end:
        kind, length = raw[at], int.from_bytes(raw[at + 2 : at + 4], "big")
        if kind == 0 and at + 4 + length <= end:  # unauthenticated, which is where people put a name
            return state, raw[at + 4 : at + 4 + length].rstrip(b"\0").decode("utf-8", "backslashreplace") or None
        at += 4 + length
    return state, None


def read_serial(page: Path) -> str | None:
    """A drive's serial number as the kernel has it (vital product data, page 0x80)."""
    try:
        raw = page.read_bytes()
    except OSError:
        return None
    length = int.from_bytes(raw[2:4], "big")
    return raw[4 : 4 + length].decode("ascii", "replace").strip() or None
