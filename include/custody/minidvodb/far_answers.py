"""What the scripts on the other machine print, read."""

from __future__ import annotations

import hashlib
import re

from custody.minidvodb.manifest import DIRECTORY, FILE, LINK, TOP, Entry, Snapshot


def parse_list(listing: bytes) -> Snapshot:
    """Entries out of what LIST prints."""
    found: Snapshot = {}
    fields = listing.split(b"\0")
    for head, target in zip(fields[0:-1:2], fields[1::2], strict=False):
        kind, size, time, _, _, mode, path = head.split(b" ", 6)
        path = path or TOP
        if kind == b"f":
            found[path] = Entry(FILE, path, int(mode, 8), int(size), _nanoseconds(time))
        elif kind == b"d":
            found[path] = Entry(DIRECTORY, path, int(mode, 8), 0, 0)
        elif kind == b"l":
            found[path] = Entry(LINK, path, 0, 0, 0, target)
        else:
            found[path] = Entry(kind.decode("ascii", "replace"), path, int(mode, 8), 0, 0)
    return found


def mark_of(listing: bytes) -> str:
    """The fingerprint, of everything below the directory itself."""
    fields = listing.split(b"\0")[2:-1]  # the first entry is the directory
    return hashlib.sha256(b"".join(field + b"\0" for field in sorted(fields))).hexdigest()


def _nanoseconds(time: bytes) -> int:
    seconds, _, fraction = time.partition(b".")
    return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))  # find adds it before 1970 too


_ESCAPED = re.compile(rb"\\#([0-7]{3})")
_DIGEST_LINE = re.compile(rb"([0-9a-f]{32}) (.+)")


def parse_digests_of_rsync(told: bytes) -> dict[bytes, str]:
    """Digests by path out of what rsync prints; lines that hold none are of other entries."""
    found = {}
    for line in told.split(b"\n"):
        if match := _DIGEST_LINE.fullmatch(line):
            found[unescape(match[2])] = match[1].decode()
    return found


def unescape(name: bytes) -> bytes:
    r"""A name as rsync prints it: ``\#012`` stands for the byte of that octal number."""
    return _ESCAPED.sub(lambda sign: bytes([int(sign[1], 8) & 255]), name)


def parse_digests_of_sha256sum(told: bytes) -> dict[bytes, str]:
    """The same of ``sha256sum -z``."""
    found = {}
    for record in told.split(b"\0"):
        digest, _, path = record.partition(b"  ")
        if path:
            found[path.removeprefix(b"./")] = digest.decode()
    return found
