"""The room tape: drives and what they do, tapes and where they are, what is stuck, one tape, and the search."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from custody.ledger import Ledger
from custody.tape import report, unfinished
from custody.tape.find import Found, where_is
from custody.tape.mount import Seen, last_looks
from custody.tape.report import Sum, TapeStatus
from custody.tape.running import Running, running
from custody.tape.states import BackupState
from custody.tape.unfinished import Unfinished
from custody_airflow.ui.access import LedgerDep
from custody_airflow.ui.metrics import Gauge
from custody_airflow.ui.next_step import NextStep
from custody_airflow.ui.render import page
from custody_airflow.ui.rooms import Attention, Room

MAX_FOUND = 200
MAX_STUCK = 50
PAGE_SIZE = 100
SHOWN_STATES = [state for state in BackupState if state is not BackupState.RELEASED]

# Parts of a command may be names of files: what a shell would read as more than words is shown as text, not to copy.
_PLAIN_COMMAND = re.compile(r"custody tape [^;|&$`<>\\'\"\r\n]*")

router = APIRouter()

SearchedText = Annotated[str, Query(max_length=4096)]
PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class TapeRoomStatus:
    """The room at one moment. ``stuck`` and ``waiting`` hold the first of all."""

    tapes: tuple[TapeStatus, ...]
    unassigned: Mapping[str, Sum]
    running: tuple[Running, ...]
    looks: tuple[Seen, ...]
    stuck: tuple[Attention, ...]
    todo: tuple[Attention, ...]

    @property
    def needs_you(self) -> list[Attention]:
        """What waits for a person: a tape to be inserted first."""
        return list(self.stuck)

    @property
    def running_count(self) -> int:
        """How many drives are at work."""
        return len(self.running)

    @property
    def by_state(self) -> dict[BackupState, Sum]:
        """Copies of targets over all tapes."""
        found: dict[BackupState, Sum] = {}
        for one in self.tapes:
            for state, total in one.sums.items():
                found[state] = found.get(state, Sum()) + total
        return {state: found[state] for state in SHOWN_STATES if state in found}

    def as_json(self) -> Mapping[str, Any]:
        """For programs: sizes in bytes, times in ISO 8601."""
        return {
            "needs_you": len(self.needs_you),
            "running": [asdict(one) for one in self.running],
            "drives": [asdict(one) for one in self.looks],
            "targets": {str(state): asdict(total) for state, total in self.by_state.items()},
            "unassigned": {pool: asdict(total) for pool, total in self.unassigned.items()},
            "tapes": [tape_json(one) for one in self.tapes],
            "stuck": [one.as_json() for one in self.stuck],
        }


def tape_json(found: TapeStatus) -> dict[str, Any]:
    """One tape, for programs."""
    keys = ("name", "state", "is_online", "pool", "serial", "barcode", "location", "slot", "capacity_bytes", "reason")
    facts = {key: getattr(found.tape, key) for key in keys}
    return facts | {"targets": {str(state): asdict(total) for state, total in found.sums.items()}}


def read(ledger: Ledger) -> TapeRoomStatus:
    """Read where the room stands. Faults: those of the ledger."""
    jobs, looks = running(ledger), last_looks(ledger)
    found = unfinished.list_unfinished(ledger)
    stuck = [_insert(one) for one in looks if one.wanted]
    stuck += [_attention(one) for one in found if one.is_stuck][:MAX_STUCK]
    return TapeRoomStatus(
        tuple(report.tapes(ledger)),
        report.unassigned(ledger, report.pools_in_use(ledger)),
        tuple(jobs),
        tuple(looks),
        tuple(stuck),
        tuple(_attention(one) for one in found if not one.is_stuck)[:MAX_STUCK],
    )


def _insert(seen: Seen) -> Attention:
    reason = f"Drive {seen.device} of {seen.seen_from} holds {seen.holds}."
    advice = "insert it; the run goes on when its label is read, or when you answer in Required Actions"
    return Attention(
        title=f"Insert tape {seen.wanted}",
        path="/tape",
        state="",
        kind="needs_human",
        since=seen.seen_at,
        step=NextStep(reason, advice),
    )


def _attention(one: Unfinished) -> Attention:
    commands = tuple(part.strip() for part in one.next_command.split("; "))
    is_plain = all(_PLAIN_COMMAND.fullmatch(command) for command in commands) and ", or " not in one.next_command
    step = NextStep(one.what, "", commands) if is_plain else NextStep(one.what, one.next_command)
    return Attention(one.subject, "/tape", "", "needs_human" if one.is_stuck else "waiting", None, step)


@router.get("/tape", response_class=HTMLResponse)
def show_room(
    request: Request, ledger: LedgerDep, tape: str = "", number: Annotated[PageNumber, Query(alias="page")] = 1
) -> HTMLResponse:
    """Everything at one glance, or one tape: its layout, its files, every go at them, and who did what with it."""
    if not tape:
        return page(request, "tape.html", status=read(ledger), here="tape", states=SHOWN_STATES)
    one = report.status(ledger, tape)
    _, files = report.tape_detail(ledger, tape, everything=True)
    first = (number - 1) * PAGE_SIZE
    return page(
        request,
        "tape_one.html",
        one=one,
        tape=one.tape,
        files=files[first : first + PAGE_SIZE],
        total=len(files),
        number=number,
        last=max(1, -(-len(files) // PAGE_SIZE)),
        attempts=report.attempts(ledger, tape, limit=50),
        events=report.audit(ledger, tape, limit=50),
        here="tape",
    )


@router.get("/tape/find", response_class=HTMLResponse)
def show_found(request: Request, ledger: LedgerDep, what: SearchedText = "") -> HTMLResponse:
    """Where a file is: by path, end of a path, pattern, or digest."""
    found = _find(ledger, what)
    values = {"found": found[:MAX_FOUND], "more": len(found) > MAX_FOUND, "limit": MAX_FOUND}
    return page(request, "tape_find.html", what=what, here="tape", **values)


@router.get("/api/tape")
def tell_room(ledger: LedgerDep) -> Mapping[str, Any]:
    """The room for programs."""
    return read(ledger).as_json()


def _find(ledger: Ledger, what: str) -> Sequence[Found]:
    text = what.strip()
    return where_is(ledger, text.encode("utf-8", "surrogateescape"), limit=MAX_FOUND + 1) if text else ()


def gauges(status: TapeRoomStatus, now: datetime) -> Iterator[Gauge]:
    """What a monitoring system is told."""
    yield Gauge("custody_tape_needs_you", "Things that wait for a person.", len(status.needs_you))
    yield Gauge("custody_tape_drives_at_work", "Drives that are used now.", status.running_count)
    for look in status.looks:
        labels = {"drive": look.device, "host": look.seen_from}
        yield Gauge("custody_tape_waits_for_a_tape", "1 while a run waits for one.", float(bool(look.wanted)), labels)
    for job in status.running:
        rate = job.rate_bytes_s or 0.0
        yield Gauge("custody_tape_rate_bytes_per_second", "Of the job at work.", rate, {"drive": job.drive})
    for pool, total in status.unassigned.items():
        yield Gauge("custody_tape_unassigned_targets", "Without a copy in the pool.", total.targets, {"pool": pool})
        yield Gauge("custody_tape_unassigned_bytes", "Their size, as scanned.", total.size_bytes, {"pool": pool})
    for one in status.tapes:
        labels = {"tape": one.tape.name, "pool": one.tape.pool}
        yield Gauge("custody_tape_state", "1 for the state that a tape is in.", 1.0, labels | {"state": one.tape.state})
        for state, total in one.sums.items():
            yield Gauge("custody_tape_targets", "Copies by state.", total.targets, labels | {"state": str(state)})
            yield Gauge("custody_tape_bytes", "Their bytes.", total.size_bytes, labels | {"state": str(state)})
        if one.tape.remaining_bytes is not None:
            room = one.tape.remaining_bytes
            yield Gauge("custody_tape_remaining_bytes", "Native room by the catalogue's account.", room, labels)


ROOM = Room("tape", "Tape", router, read, "tape_overview.html", gauges)
