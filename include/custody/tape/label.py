"""The label: tape file 0, by which a cartridge is known before anything is read or written.

It is a small tar archive, so that ``tar -tf`` shows a person whose tape it is: a volume header, and one member with
the same facts as JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from custody.faults import Fault, FaultKind
from custody.tape.drives import Drive, EndOfData

LABEL_MEMBER = ".custody/label.json"
LABEL_FORMAT = 1
LARGEST_BLOCK_BYTES = 16 << 20
"""A read with a buffer smaller than the block fails; no block of ours or of tapeop is larger."""


@dataclass(frozen=True)
class Label:
    """What file 0 says.

    :param block_bytes: size of the blocks behind it.
    :param created: UTC, ISO 8601.
    """

    name: str
    uuid: str
    pool: str
    block_bytes: int
    created: str
    serial: str | None = None
    barcode: str | None = None
    format: int = LABEL_FORMAT


@dataclass(frozen=True)
class Found:
    """What lies at the beginning of a cartridge.

    :param label: ours, or None.
    :param is_blank: nothing was ever written to it.
    :param first_block_sha256: by which a tape without a label is known again; "" where it is blank.
    :param describes: what it is, for a person.
    """

    label: Label | None
    is_blank: bool
    first_block_sha256: str
    describes: str
    first_member: bytes = b""


def encode(label: Label) -> bytes:
    """The one block of file 0."""
    content = json.dumps(asdict(label), indent=1, sort_keys=True).encode() + b"\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        volume = tarfile.TarInfo(f"CUSTODY {label.name}"[:99])
        volume.type = b"V"
        archive.addfile(volume)
        member = tarfile.TarInfo(LABEL_MEMBER)
        member.size = len(content)
        member.mtime = int(datetime.fromisoformat(label.created).timestamp())
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def read(drive: Drive) -> Found:
    """Rewind and look at the first block. Faults: as the drive's, DATA for a label that cannot be understood."""
    drive.rewind()
    buffer = memoryview(bytearray(LARGEST_BLOCK_BYTES))
    try:
        count = drive.read_block(buffer)
    except EndOfData:
        return Found(None, True, "", "a blank cartridge")
    return decode(bytes(buffer[:count]), drive.name)


def decode(block: bytes, where: str) -> Found:
    """Understand the first block of a cartridge. Faults: DATA, CONFIG for a label of a later format."""
    if not block:
        return Found(None, False, "", "a filemark and no label")
    digest = hashlib.sha256(block).hexdigest()
    try:
        with tarfile.open(fileobj=io.BytesIO(block), mode="r:", errors="surrogateescape") as archive:
            first = archive.next()
            while first is not None and first.type == b"V":
                first = archive.next()
            if first is None:
                return Found(None, False, digest, "a tar archive without members")
            if first.name != LABEL_MEMBER:
                name = first.name.encode("utf-8", "surrogateescape")
                return Found(None, False, digest, f"a tar archive that begins with {first.name!r}", name)
            stream = archive.extractfile(first)
            content = stream.read() if stream else b""
    except (tarfile.TarError, OSError, ValueError):
        return Found(None, False, digest, f"something that is no tar archive (first block {len(block)} bytes)")
    return Found(_understand(content, where), False, digest, "")


def _understand(content: bytes, where: str) -> Label:
    try:
        values = json.loads(content)
        if values.get("format", 0) > LABEL_FORMAT:
            raise Fault(FaultKind.CONFIG, where, "the label is of a later Custody", next_command="update Custody")
        return Label(**{key: values[key] for key in Label.__dataclass_fields__})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Fault(FaultKind.DATA, where, f"the label cannot be understood ({error!r})") from error


def new_label(
    name: str, uuid: str, pool: str, block_bytes: int, *, serial: str | None = None, barcode: str | None = None
) -> Label:
    """A label of this moment."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Label(name, uuid, pool, block_bytes, created, serial, barcode)
