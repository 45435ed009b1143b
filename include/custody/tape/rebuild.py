"""Rebuild: a cartridge is read from its label to its end, and the catalogue made again from what lies there.

Every tape file is compared with its own manifest before it counts; what is damaged or unfinished is told and never
recorded. Rows that are there and equal stay; one that says otherwise is a CONFLICT that names it.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from custody.ledger import Ledger
from custody.tape import attempts, tables
from custody.tape import label as labels
from custody.tape.catalog import Tape, set_tape_state, tape_by_id
from custody.tape.config import TapeConfig
from custody.tape.content import BAD, Content, Scanned, ScannedFile
from custody.tape.content import Verdict as Verdict
from custody.tape.drives import Drive, EndOfData
from custody.tape.examine import ReadFile, examine
from custody.tape.known import identify, insert_tape
from custody.tape.put_back import explain_leftover, missing, put_back, put_back_damaged, verdict_of
from custody.tape.session import Session, held_drive
from custody.tape.states import AttemptResult, TapeState

Progress = Callable[[int], None]
_LEAST_BLOCK_BYTES = 1 << 20


def scan_tape(
    ledger: Ledger,
    config: TapeConfig,
    *,
    who: str,
    name: str | None = None,
    dry_run: bool = False,
    adopt_as: str | None = None,
    source: str = "localhost",
    progress: Progress | None = None,
    tell: Callable[[ScannedFile], None] = lambda found: None,
    stop: threading.Event | None = None,
    patience_s: float = 0,
) -> Scanned:
    """Read the cartridge in the drive to its end, and put on record what is whole on it.

    :param name: the tape that is meant to be in the drive; default: whichever is.
    :param dry_run: only look.
    :param adopt_as: put a cartridge without a label on record under this name. Its archives have no manifest: they
        are recorded as they were read, and not confirmed.
    :param source: host that targets of such a tape came from.
    :param progress: called with the bytes of every block.
    :param tell: called with every file as soon as it is judged.

    Faults: NEEDS_HUMAN for another tape than ``name``, or one without a label that nobody knows; CONFLICT where the
    catalogue has another tape of its name, uuid or serial; CONFIG for a blank one; those of the drive. What is wrong
    with single files is in the result, see :meth:`Scanned.require`.
    """
    with held_drive(ledger, config, writable=False, patience_s=patience_s) as (drive, held):
        drive.set_block_size(0)
        found = labels.read(drive)
        with ledger.read() as connection:
            known = identify(connection, config, drive.name, found, name, adopt_as)
        session = None
        if not dry_run:
            with ledger.begin() as connection:
                held.check(connection)
                tape = insert_tape(ledger, connection, known, who)
            session = Session(ledger, config, tape, drive, held, who)
        scan = _Scan(ledger, config, drive, known.tape if session is None else session.tape, session, known.label)
        scan.source, scan.progress, scan.tell, scan.stop = source, progress, tell, stop
        files = scan.run(held.progress, known.name)
        row = known.tape if session is None else session.tape
        return Scanned(row, known.name, known.uuid, dry_run, tuple(files))


class _Scan:
    source: str
    progress: Progress | None
    tell: Callable[[ScannedFile], None]
    stop: threading.Event | None

    def __init__(
        self,
        ledger: Ledger,
        config: TapeConfig,
        drive: Drive,
        tape: Tape | None,
        session: Session | None,
        label: labels.Label | None,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._drive = drive
        self._tape = tape
        self._session = session
        self._label = label
        self._block_bytes = (
            max(label.block_bytes, _LEAST_BLOCK_BYTES) if label is not None else labels.LARGEST_BLOCK_BYTES
        )
        self._contents: list[tuple[ScannedFile, Content]] = []
        self._put_as_failed: set[int] = set()

    def run(self, report: dict[str, object], name: str) -> list[ScannedFile]:
        """Look at every file, one behind the other."""
        number = first = 1 if self._label else 0
        attempt = None
        if self._session is not None:
            with self._session.transaction() as connection:
                attempt = attempts.begin(connection, self._session, "scan", first)
        files: list[ScannedFile] = []
        result, text = AttemptResult.ABORTED, None
        try:
            is_there = self._go_to(number)
            while is_there:
                report.update(scanning=name, file_number=number)
                done = self._look_at(number)
                if done is None:
                    break
                files.append(done[0])
                self._contents.append(done)
                self.tell(done[0])
                read = done[1].read
                is_there = (read is not None and read.ended_at_filemark) or self._go_behind(number)
                number += 1
            files += self._missing(number)
            bad = next((str(one) for one in files if one.verdict in BAD), None)
            result, text = (AttemptResult.FAILED, bad) if bad else (AttemptResult.DONE, None)
        finally:
            if self._session is not None and attempt is not None:
                with self._session.transaction() as connection:
                    size = sum(one.size_bytes for one in files)
                    attempts.end(connection, attempt, result, fault_text=text, tape_bytes=size)
        files = [self._named(one) for one in files]
        if self._session is not None:
            self._conclude(self._session, files)
        return files

    def _missing(self, next_number: int) -> list[ScannedFile]:
        if self._tape is None:
            return []
        with self._ledger.read() as connection:
            found = [
                ScannedFile(one.file_number or 0, Verdict.MISSING, one.target.name, 0, 0, f"on record as {one.state}")
                for one in missing(connection, self._tape, next_number)
            ]
        for one in found:
            self.tell(one)
        return found

    def _named(self, one: ScannedFile) -> ScannedFile:
        """What a file was that cannot say so itself any more: the tape's own catalogue knows."""
        known = {number: name for _, content in self._contents for number, name in content.targets.items()}
        return one if one.target else replace(one, target=known.get(one.number))

    def _go_to(self, number: int) -> bool:
        self._drive.rewind()
        try:
            if number:
                self._drive.forward_files(number)
        except EndOfData:
            return False
        return True

    def _go_behind(self, number: int) -> bool:
        """Go on behind a file that was not read to its filemark; False where nothing comes any more."""
        if self._drive.status().file_number != number:
            return self._go_to(number + 1)
        try:
            self._drive.forward_files(1)
        except EndOfData:
            return False
        return True

    def _look_at(self, number: int) -> tuple[ScannedFile, Content] | None:
        """One file, judged and put on record; None at the end of what is recorded."""
        with tempfile.TemporaryDirectory(prefix="custody-scan-") as directory:
            place = ReadFile(
                self._drive, number, self._block_bytes, self._config.digests, Path(directory), self.progress, self.stop
            )
            content = examine(place, self._label, self._tape.label if self._tape else "none" if not self._label else "")
            if content is None:
                return None
            verdict, reason = content.verdict, content.reason
            if verdict in {Verdict.NEW, Verdict.CATALOG} and content.facts is not None:
                if self._session is not None:
                    verdict, reason = put_back(self._session, number, content, self.source)
                elif self._tape is not None:
                    with self._ledger.read() as connection:
                        verdict, reason = verdict_of(connection, self._tape, number, content, self.source)
            elif verdict is Verdict.DAMAGED and content.complaints and self._session is not None:
                if put_back_damaged(self._session, number, content, self.source):
                    self._put_as_failed.add(number)
                    well = content.members - len(content.complaints)
                    reason += f"; it is on record as failed: {well} of its {content.members} members are well"
            elif verdict is Verdict.UNFINISHED and self._is_on_record(number):
                verdict = Verdict.DAMAGED
            target = content.facts.target if content.facts else None
            done = ScannedFile(number, verdict, target, content.members, content.size_bytes, reason)
            return done, content

    def _is_on_record(self, number: int) -> bool:
        if self._tape is None:
            return False
        with self._ledger.read() as connection:
            return any(one.file_number == number for one in missing(connection, self._tape, number))

    def _conclude(self, session: Session, files: list[ScannedFile]) -> None:
        """What follows for the tape: its state, what was written to it, where its catalogue is."""
        last = self._contents[-1] if self._contents else None
        unexplained = [one for one in files if self._is_alarming(session, one, files[-1])]
        with session.transaction() as connection:
            if last is not None and last[0].verdict is Verdict.UNFINISHED:
                explain_leftover(connection, session, last[0].number, last[1])
            catalog = next((one.number for one in files if one.verdict is Verdict.CATALOG), None)
            tape = tape_by_id(connection, session.tape.id)
            counted = {Verdict.NEW, Verdict.KNOWN, Verdict.CATALOG}
            written = sum(one.size_bytes for one in files if one.verdict in counted)
            values: dict[str, object] = {"written_bytes": max(written, tape.written_bytes)}
            if catalog is not None:
                values["catalog_file_number"] = catalog
            connection.execute(sa.update(tables.tape).where(tables.tape.c.id == tape.id).values(**values))
            if unexplained and tape.state is not TapeState.RETIRED:
                set_tape_state(connection, tape.id, TapeState.SUSPECT, reason=f"scan: {unexplained[0]}")
            else:
                self._move_on(connection, tape, files, catalog)
            counts = {str(verdict): sum(one.verdict is verdict for one in files) for verdict in Verdict}
            session.event(connection, "scanned", tape.name, **{key: count for key, count in counts.items() if count})
        session.reload()

    def _move_on(self, connection: sa.Connection, tape: Tape, files: list[ScannedFile], catalog: int | None) -> None:
        has_data = any(one.verdict in {Verdict.NEW, Verdict.KNOWN} for one in files)
        if tape.state in {TapeState.NEW, TapeState.LABELLED} and has_data:
            set_tape_state(connection, tape.id, TapeState.OPEN)
        if catalog is not None and tape.state in {TapeState.NEW, TapeState.LABELLED, TapeState.OPEN}:
            set_tape_state(connection, tape.id, TapeState.CLOSED)

    def _is_alarming(self, session: Session, one: ScannedFile, last: ScannedFile) -> bool:
        """Whether a file makes the tape suspect: what a known attempt or state explains does not."""
        if one.verdict is Verdict.UNFINISHED:
            if one is last:
                return False
        elif one.verdict not in BAD:
            return False
        if one.number in self._put_as_failed:
            return True
        table = tables.backup
        with session.ledger.read() as connection:
            if attempts.explains_leftover(connection, session.tape.id, one.number):
                return False
            state = connection.scalar(
                sa.select(table.c.state).where(table.c.tape_id == session.tape.id, table.c.file_number == one.number)
            )
        return state not in {"failed", "released"}
