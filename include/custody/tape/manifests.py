"""What is on a tape, written out: for people with ``sha256sum -c``, and as JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from custody.faults import os_errors_as_faults
from custody.ledger import Ledger
from custody.publish import write_atomic
from custody.tape import tables
from custody.tape.catalog import Backup, Tape, find_tape, list_backups, list_tapes
from custody.tape.members import Member, MemberKind
from custody.tape.names import unescape
from custody.tape.records import members_of
from custody.tape.states import BackupState
from custody.tape.stream.spool import to_line

_TAPE_FACTS = ("name", "uuid", "serial", "barcode", "pool", "label", "block_bytes")


def on_tape(connection: Connection, tape: Tape) -> list[Backup]:
    """The backups that the catalogue says are on the tape, by file number."""
    states = [state for state in BackupState if state.is_on_tape]
    return list_backups(connection, tables.backup.c.tape_id == tape.id, tables.backup.c.state.in_(states))


def manifest_lines(connection: Connection, tape: Tape) -> Iterator[dict[str, Any]]:
    """A line for the tape, one for each target by file number, and one for each member behind its target."""
    yield {"tape": {key: getattr(tape, key) for key in _TAPE_FACTS}}
    for backup in on_tape(connection, tape):
        yield {
            "target": backup.target.name,
            "source": backup.target.source,
            "file_number": backup.file_number,
            "tape_bytes": backup.tape_bytes,
            "tape_blocks": backup.tape_blocks,
            "members": backup.members,
            "manifest_sha256": backup.manifest_sha256,
        }
        for member in members_of(connection, backup.target.id, backup.id):
            yield json.loads(to_line(member))


def checksum_line(digest: str, name: bytes) -> bytes:
    """One line that ``md5sum -c`` and ``sha256sum -c`` take; they escape backslash, newline and return."""
    if not any(byte in name for byte in b"\\\n\r"):
        return digest.encode() + b"  " + name + b"\n"
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"\\" + digest.encode() + b"  " + escaped + b"\n"


def dump_manifests(ledger: Ledger, directory: Path, tape_name: str | None = None) -> list[Path]:
    """Write ``TAPE.jsonl`` and ``TAPE.sha256`` (or ``.md5``) for a tape, or for all; the same each time.

    Names in the checksum lists are as in the archives, relative to /. Returns the files. Faults: as the file system's.
    """
    with os_errors_as_faults(str(directory)):
        directory.mkdir(parents=True, exist_ok=True)
    written = []
    with ledger.read() as connection:
        tapes = [find_tape(connection, tape_name)] if tape_name else list_tapes(connection)
        for tape in tapes:
            lines = manifest_lines(connection, tape)
            text = b"".join(json.dumps(line, ensure_ascii=False, sort_keys=True).encode() + b"\n" for line in lines)
            written.append(directory / f"{tape.name}.jsonl")
            write_atomic(written[-1], text)
            for algorithm in ("sha256", "md5"):
                sums = b"".join(_sums(connection, tape, algorithm))
                if sums:
                    written.append(directory / f"{tape.name}.{algorithm}")
                    write_atomic(written[-1], sums)
    return written


def _sums(connection: Connection, tape: Tape, algorithm: str) -> Iterator[bytes]:
    for backup in on_tape(connection, tape):
        for member in members_of(connection, backup.target.id, backup.id):
            digest = member.digests.get(algorithm)
            if member.kind is MemberKind.FILE and digest:
                yield checksum_line(digest, member.name)


def restore_commands(backup: Backup, block_bytes: int, device: str = "/dev/nst0", member: Member | None = None) -> str:
    """What a person types to get a target, or one member of it, back without Custody."""
    from shlex import quote

    name = quote(
        (member.name if member else unescape(backup.target.name).lstrip(b"/")).decode("utf-8", "backslashreplace")
    )
    return "\n".join(
        [
            f"mt -f {device} rewind",
            f"mt -f {device} fsf {backup.file_number}",
            f"dd if={device} bs={block_bytes} | tar -x -f - --no-unquote -- {name}",
        ]
    )
