"""Which tape is in the drive: a look for one who waits for another. Nothing is written, nobody is disturbed."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.tables import LONG_NAME, event
from custody.tape import label as labels
from custody.tape.catalog import ROOM, Tape
from custody.tape.config import TapeConfig
from custody.tape.drives import look_at_drive
from custody.tape.label import Found
from custody.tape.session import held_drive
from custody.tape.states import TapeState

NOTHING = "no cartridge"
LOOK = "look"


@dataclass(frozen=True)
class Look:
    """What was seen.

    :param holds: what is in the drive, for a person.
    :param complaint: why the run cannot go on with it; empty where it can.
    """

    tape: Tape
    holds: str
    complaint: str

    @property
    def is_right(self) -> bool:
        """Whether the wanted tape is in."""
        return not self.complaint


def look(ledger: Ledger, config: TapeConfig, tape: Tape, *, write: bool) -> Look:
    """See whether ``tape`` is in the drive; with ``write``, also whether it may be written to.

    The cartridge is rewound, its first block read; while another job has the drive it is not touched. What really may
    be done is decided again when the tape is mounted. Faults: CONFLICT while somebody uses the drive, CONFIG where
    there is none, those of the drive.
    """
    status = look_at_drive(config.device)
    if not status.online:
        holds = "a cartridge that the drive is still loading" if status.has_cartridge else NOTHING
        return Look(tape, holds, f"holds {holds}")
    try:
        with held_drive(ledger, config, writable=False) as (drive, _):
            drive.set_block_size(0)
            found = labels.read(drive)
    except Fault as fault:
        if fault.kind is not FaultKind.NEEDS_HUMAN:
            raise
        return Look(tape, NOTHING, fault.reason)  # taken out in between
    holds = describe(found)
    if not is_it(tape, found, write=write):
        return Look(tape, holds, f"holds {holds}")
    if write and status.write_protected:
        return Look(tape, holds, f"holds tape {tape.name}, but it is write-protected: slide its tab open")
    return Look(tape, holds, "")


def may_have_changed(config: TapeConfig) -> bool:
    """Whether the cartridge may be another one than at the last look: the drive has lost count, or is empty.

    Reading the same label every minute for a day would wear the tape. Faults: as :func:`look`.
    """
    status = look_at_drive(config.device)
    return not status.online or status.file_number is None


def describe(found: Found) -> str:
    """What lies at the beginning of a cartridge, for a person."""
    return f"tape {found.label.name}" if found.label else found.describes


def is_it(tape: Tape, found: Found, *, write: bool) -> bool:
    """Whether a cartridge may be the wanted tape. A new one must be blank, an unlabelled one be known by its data."""
    if tape.has_label:
        if found.label:
            return found.label.uuid == tape.uuid
        return write and found.is_blank and tape.state is TapeState.NEW
    if found.label or found.is_blank:
        return False
    return tape.identity in {None, found.first_block_sha256}  # seen for the first time: the mount compares its members


@dataclass(frozen=True)
class Seen:
    """The last look at a drive that is on record. ``wanted`` is a tape that a run waits for, else empty."""

    device: str
    seen_from: str
    seen_at: datetime
    holds: str
    wanted: str


def put_on_record(ledger: Ledger, config: TapeConfig, seen: Look, *, who: str, waits: bool) -> None:
    """Let the status page know what is in the drive, and whether a run waits for another tape.

    Nothing is written where the last look on record says the same.
    """
    subject = f"{socket.gethostname()}:{config.device}"[:LONG_NAME]
    detail = {"holds": seen.holds, "wanted": seen.tape.called if waits else ""}
    with ledger.begin() as connection:
        last = connection.scalar(
            sa.select(event.c.detail)
            .where(event.c.room == ROOM, event.c.what == LOOK, event.c.subject == subject)
            .order_by(event.c.id.desc())
            .limit(1)
        )
        if last != detail:
            ledger.record_event(connection, who=who, room=ROOM, what=LOOK, subject=subject, detail=detail)


def last_looks(ledger: Ledger) -> list[Seen]:
    """The last look at every drive that anybody waited for, by the name of the drive."""
    newest = sa.select(sa.func.max(event.c.id)).where(event.c.room == ROOM, event.c.what == LOOK)
    query = sa.select(event).where(event.c.id.in_(newest.group_by(event.c.subject))).order_by(event.c.subject)
    with ledger.read() as connection:
        rows = connection.execute(query).all()
    found = []
    for row in rows:
        host, _, device = row.subject.partition(":")
        found.append(Seen(device, host, row.happened_at, row.detail["holds"], row.detail["wanted"]))
    return found
