"""Rehearse an archive: the next target is written to the tape and compared, and not put on record.

It is tapeop's ``--no-db-update``. What lies there is explained by its attempt and is written over by the next archive.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.host import Host
from custody.tape import attempts
from custody.tape.archive import Progress, next_assigned, require_end_of_data
from custody.tape.catalog import next_file_number
from custody.tape.names import unescape
from custody.tape.outcome import Archived, Outcome, drift_of
from custody.tape.session import Session
from custody.tape.states import AttemptResult
from custody.tape.stream.compose import OPENING_NAME
from custody.tape.stream.source import TarSource
from custody.tape.stream.write import write_tape_file


def rehearse_one(
    session: Session, host: Host, *, stop: threading.Event | None = None, progress: Progress | None = None
) -> Archived:
    """Write the next assigned target behind the last file of the mounted tape; the catalogue stays as it is.

    Faults: as :func:`~custody.tape.archive.archive_one`.
    """
    with session.ledger.read() as connection:
        backup = next_assigned(connection, session)
        number = next_file_number(connection, session.tape)
    if backup is None:
        return Archived(Outcome.NO_WORK)
    require_end_of_data(session, number)
    with session.transaction() as connection:
        attempt = attempts.begin(connection, session, "write", number, backup)
    text = "a rehearsal: not put on record"
    try:
        with (
            tempfile.TemporaryDirectory(prefix="custody-tape-") as directory,
            TarSource(host, backup.target.path, [unescape(name) for name in backup.target.excludes]) as source,
        ):
            written = write_tape_file(
                session.drive,
                source.stream,
                source_ended=source.ended,
                subject=f"{host.name}:{backup.target.name}",
                block_bytes=session.tape.block_bytes,
                buffer_bytes=session.config.buffer,
                head=[(OPENING_NAME, attempts.describe(session, attempt, backup))],
                spool_path=Path(directory) / "manifest.jsonl",
                algorithms=session.config.digests,
                progress=progress,
                stop=stop,
            )
            drift = None if written.is_end_of_tape else drift_of(session, backup, written)
        if drift:
            text = f"a rehearsal: {drift}"
            raise Fault(FaultKind.DATA, backup.target.name, f"is not what was scanned: {next(iter(drift.lines()))}")
    except Fault as fault:
        if fault.kind is FaultKind.CANCELLED and stop and stop.is_set():
            return Archived(Outcome.STOPPED, backup)
        raise
    finally:
        with session.transaction() as connection:
            attempts.end(connection, attempt, AttemptResult.ABORTED, fault_text=text)
    outcome = Outcome.FULL if written.is_end_of_tape else Outcome.RECORDED
    return Archived(outcome, backup, written.rate_bytes_s, written.underruns)
