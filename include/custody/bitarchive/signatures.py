"""Signatures of a list that only grows: each signs the whole of it up to a length, in a file beside it.

``FILE.sig`` has lines ``length sha256 signature`` (Ed25519, base64). A signature is written before the bytes that it
is for: what a crash cuts off is then a line that is not there yet, and never a line that nobody signed. What lies
behind the last signature that fits, and is more than a torn line, was not written by us.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from custody.faults import Fault, FaultKind, os_errors_as_faults

_LINE = re.compile(rb"(\d{1,18}) ([0-9a-f]{64}) ([A-Za-z0-9+/=]{88})")


@dataclass(frozen=True)
class _Signature:
    length: int
    sha256: str
    signature: bytes


class Signatures:
    """The signatures of one list.

    :param path: of the list.
    :param key_file: an Ed25519 private key, PEM, without a password.
    """

    def __init__(self, path: Path, key_file: Path) -> None:
        self._path = path
        self._beside = path.with_name(path.name + ".sig")
        self._key = _load(key_file)

    def check(self, content: bytes) -> None:
        """Faults: DATA where a line is not signed, or not by this key."""
        good = next((one for one in reversed(self._read(content)) if one is not None), None)
        length = good.length if good else 0
        if good:
            try:
                self._key.public_key().verify(good.signature, _text(good.length, good.sha256))
            except InvalidSignature:
                raise self._fault("is signed by another key than the archive's") from None
        if b"\n" in content[length:]:
            raise self._fault(f"holds lines from byte {length} on that are not signed, or were changed")

    def _fault(self, reason: str) -> Fault:
        command = "look at them, then custody bitarchive check sign ARCHIVE REPLICA"
        return Fault(FaultKind.DATA, str(self._path), reason, next_command=command)

    def _read(self, content: bytes) -> list[_Signature | None]:
        """The signatures in the order of their lengths; None for one that does not fit the content."""
        with os_errors_as_faults(str(self._beside)):
            lines = self._beside.read_bytes().splitlines() if self._beside.exists() else []
        found = [
            _Signature(int(match[1]), match[2].decode(), base64.b64decode(match[3]))
            for line in lines
            if (match := _LINE.fullmatch(line))
        ]
        hasher, position = hashlib.sha256(), 0
        checked: list[_Signature | None] = []
        for one in sorted(found, key=lambda one: one.length):
            if one.length <= len(content):
                hasher.update(memoryview(content)[position : one.length])
                position = one.length
            fits = one.length <= len(content) and hasher.copy().hexdigest() == one.sha256
            checked.append(one if fits else None)
        return checked

    def sign(self, content: bytes) -> None:
        """Sign what the list will be, durably, before it is that."""
        sha256 = hashlib.sha256(content).hexdigest()
        signature = base64.b64encode(self._key.sign(_text(len(content), sha256)))
        with os_errors_as_faults(str(self._beside)):
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._beside, flags, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
                line = b"%d %s %s\n" % (len(content), sha256.encode(), signature)
                write_all(descriptor, (b"\n" if torn else b"") + line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: a disk that is almost full takes a part without a word. OSError."""
    while data:
        data = data[os.write(descriptor, data) :]


def _text(length: int, sha256: str) -> bytes:
    return f"custody checksums {length} {sha256}".encode()


def _load(key_file: Path) -> Ed25519PrivateKey:
    with os_errors_as_faults(str(key_file)):
        content = key_file.read_bytes()
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        command = f"openssl genpkey -algorithm ed25519 -out {key_file}"
        raise Fault(FaultKind.CONFIG, str(key_file), "is no Ed25519 key without a password", next_command=command)
    return key
