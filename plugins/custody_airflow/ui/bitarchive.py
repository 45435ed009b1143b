"""The room bitarchive: how the replicas stand, the batches, and what became of every file of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from custody.bitarchive import view
from custody.bitarchive.states import BatchState
from custody.bitarchive.view import BatchLine, ReplicaLine
from custody.ledger import Ledger
from custody_airflow.ui.access import LedgerDep
from custody_airflow.ui.metrics import Gauge
from custody_airflow.ui.next_step import NextStep
from custody_airflow.ui.render import page
from custody_airflow.ui.rooms import Attention, Room

PAGE_SIZE = 100
RECENT_BATCHES = 20
WORTH_A_LOOK = timedelta(days=7)
"""A batch that lacks files is shown as needing somebody for so long; it stays in the list."""

router = APIRouter()

PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class BitarchiveStatus:
    """The room at one moment."""

    replicas: tuple[ReplicaLine, ...]
    batches: tuple[BatchLine, ...]
    needs_you: tuple[Attention, ...]

    @property
    def running_count(self) -> int:
        """How many batches are worked on."""
        return sum(one.is_running for one in self.batches)

    def as_json(self) -> Mapping[str, Any]:
        """For programs: sizes in bytes, times in ISO 8601."""
        return {
            "needs_you": [one.as_json() for one in self.needs_you],
            "running": self.running_count,
            "replicas": [asdict(one) for one in self.replicas],
            "batches": [asdict(one) for one in self.batches],
        }


def read(ledger: Ledger) -> BitarchiveStatus:
    """Read where the room stands. Faults: those of the ledger."""
    replicas, batches = view.replicas(ledger), view.batches(ledger, limit=RECENT_BATCHES)
    bad = [_of_replica(one) for one in replicas if one.is_bad]
    young = datetime.now(UTC) - WORTH_A_LOOK
    open_ones = [
        one
        for one in batches
        if one.state in {BatchState.PARTIAL, BatchState.NONE} and one.files_expected and one.changed_at > young
    ]
    return BitarchiveStatus(tuple(replicas), tuple(batches), (*bad, *map(_of_batch, open_ones)))


def _of_replica(one: ReplicaLine) -> Attention:
    what = [(one.corrupt, "corrupt"), (one.missing, "missing"), (one.unfinished, "not uploaded")]
    said = ", ".join(f"{count:,} {name}" for count, name in what if count)
    step = NextStep(f"{said} of {one.files:,} files", "", (f"custody bitarchive check status {one.archive}",))
    title = f"{one.archive}, replica {one.replica}"
    return Attention(title, "/bitarchive", "", "corrupt" if one.corrupt else "missing", one.checked_at, step)


def _of_batch(one: BatchLine) -> Attention:
    commands = (
        f"custody bitarchive account {one.archive} {one.id} --failed",
        f"custody bitarchive batch {one.archive} --retry-failed {one.id}",
    )
    step = NextStep(f"{one.not_done} of {one.files_expected:,} files", "", commands)
    title = f"Batch {one.id}: {one.job} on {one.archive}"
    return Attention(title, f"/bitarchive/batch/{one.id}", one.state, "data", one.changed_at, step)


@router.get("/bitarchive", response_class=HTMLResponse)
def show_room(
    request: Request, ledger: LedgerDep, number: Annotated[PageNumber, Query(alias="page")] = 1
) -> HTMLResponse:
    """Everything at one glance."""
    total = view.count_batches(ledger)
    return page(
        request,
        "bitarchive.html",
        status=read(ledger),
        lines=view.batches(ledger, limit=RECENT_BATCHES, offset=(number - 1) * RECENT_BATCHES),
        number=number,
        last=max(1, -(-total // RECENT_BATCHES)),
        here="bitarchive",
    )


@router.get("/bitarchive/batch/{batch_id}", response_class=HTMLResponse)
def show_batch(
    request: Request,
    ledger: LedgerDep,
    batch_id: int,
    failed: bool = False,
    number: Annotated[PageNumber, Query(alias="page")] = 1,
) -> HTMLResponse:
    """One batch: every file of it, a page at a time."""
    one = view.one_batch(ledger, batch_id)
    shown = one.files_expected - one.done if failed else one.files_expected
    rows = view.files(ledger, batch_id, only_failed=failed, limit=PAGE_SIZE, offset=(number - 1) * PAGE_SIZE)
    return page(
        request,
        "bitarchive_batch.html",
        one=one,
        rows=rows,
        attention=_of_batch(one) if one.state in {BatchState.PARTIAL, BatchState.NONE} else None,
        filters={"failed": "true" if failed else ""},
        number=number,
        last=max(1, -(-shown // PAGE_SIZE)),
        here="bitarchive",
    )


@router.get("/api/bitarchive/batch/{batch_id}")
def tell_batch(ledger: LedgerDep, batch_id: int) -> Mapping[str, Any]:
    """The same for programs; the files that are not done."""
    one = view.one_batch(ledger, batch_id)
    failed = view.files(ledger, batch_id, only_failed=True, limit=1000)
    return {**asdict(one), "not_done": [asdict(row) for row in failed]}


def gauges(status: BitarchiveStatus, _now: datetime) -> Iterator[Gauge]:
    """What a monitoring system is told."""
    yield Gauge("custody_bitarchive_needs_you", "Things that wait for a person.", len(status.needs_you))
    yield Gauge("custody_bitarchive_running_batches", "Batches that are worked on now.", status.running_count)
    for one in status.replicas:
        labels = {"archive": one.archive, "replica": one.replica}
        yield Gauge("custody_bitarchive_bytes", "Bytes of the files of a replica.", one.size_bytes, labels)
        for name in ("files", "missing", "corrupt", "unfinished", "unchecked"):
            text = "Files of a replica by what is known of them."
            yield Gauge("custody_bitarchive_files", text, getattr(one, name), {**labels, "state": name})


ROOM = Room("bitarchive", "Bitarchive", router, read, "bitarchive_overview.html", gauges)
