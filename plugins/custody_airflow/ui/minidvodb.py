"""The room minidvodb: hosts by groups, what runs and what needs somebody, the list of copies, and one copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.minidvodb import actions, destination, report, switches, view
from custody.minidvodb.actions import Line, Selection
from custody.minidvodb.destination import Destination
from custody.minidvodb.records import CopyState, CopyStep
from custody.minidvodb.report import Alert, Cell, Running
from custody_airflow.ui.access import LedgerDep
from custody_airflow.ui.metrics import Gauge
from custody_airflow.ui.next_step import next_step, patience
from custody_airflow.ui.render import page
from custody_airflow.ui.rooms import Attention, Room

PAGE_SIZE = 50
MAX_STUCK = 50

router = APIRouter()

PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class MinidvodbStatus:
    """The room at one moment. ``faulted`` holds the first of all."""

    cells: tuple[Cell, ...]
    hosts: tuple[Destination, ...]
    stages: Mapping[str, bool]
    running: tuple[Running, ...]
    alerts: tuple[Alert, ...]
    faulted: tuple[Attention, ...]

    @property
    def needs_you(self) -> list[Attention]:
        """What waits for a person."""
        return [one for one in self.faulted if one.needs_you]

    @property
    def running_count(self) -> int:
        """How many copies are worked on."""
        return len(self.running)

    def as_json(self) -> Mapping[str, Any]:
        """For programs: sizes in bytes, times in ISO 8601."""
        return {
            "needs_you": len(self.needs_you),
            "running": self.running_count,
            "stages": dict(self.stages),
            "cells": [cell.as_json() for cell in self.cells],
            "hosts": [
                {"host": one.name, "enabled": one.enabled, "since": one.switched_at, "look": dict(one.look)}
                for one in self.hosts
            ],
            "alerts": [asdict(one) for one in self.alerts],
            "faulted": [one.as_json() for one in self.faulted],
        }


def read(ledger: Ledger) -> MinidvodbStatus:
    """Read where the room stands. Faults: those of the ledger."""
    at_work = report.running(ledger)
    busy = {one.copy_id for one in at_work}
    lines = actions.select(ledger, faulted=True, limit=MAX_STUCK)
    stuck = sorted((attention_of(line) for line in lines if line.id not in busy), key=lambda one: not one.needs_you)
    return MinidvodbStatus(
        tuple(report.cells(ledger)),
        tuple(destination.list_all(ledger)),
        {str(stage): on for stage, on in switches.positions(ledger).items()},
        tuple(at_work),
        tuple(report.alerts(ledger)),
        tuple(stuck),
    )


def attention_of(line: Line) -> Attention:
    """A copy with a fault, and the next command."""
    title = f"{line.name} on {line.host}"
    step = next_step(line.fault_text or f"fault {line.fault} of the old system")
    if not step.commands:
        step = replace(step, commands=(f"custody minidvodb revert --copy {line.id}",))
    is_retried = line.not_before is not None
    return Attention(
        title=title,
        path=f"/minidvodb/copy/{line.id}",
        state=line.state,
        kind=line.fault_name or str(line.fault),
        since=line.epoch,
        step=step,
        patience=patience(FaultKind.TRANSIENT) if is_retried else "",
    )


@router.get("/minidvodb", response_class=HTMLResponse)
def show_room(request: Request, ledger: LedgerDep) -> HTMLResponse:
    """Everything at one glance."""
    return page(request, "minidvodb.html", status=read(ledger), here="minidvodb")


@router.get("/minidvodb/copies", response_class=HTMLResponse)
def show_copies(
    request: Request,
    ledger: LedgerDep,
    host: str = "",
    group: str = "",
    state: str = "",
    faulted: bool = False,
    number: Annotated[PageNumber, Query(alias="page")] = 1,
) -> HTMLResponse:
    """All copies, a page at a time."""
    if state and state not in set(CopyState):
        raise Fault(FaultKind.CONFIG, f"state {state!r}", f"there is none; there are: {', '.join(CopyState)}")
    which = Selection(host=host or None, group=group or None, state=state or None)
    total = actions.count(ledger, which, faulted=faulted)
    lines = actions.select(ledger, which, faulted=faulted, limit=PAGE_SIZE, offset=(number - 1) * PAGE_SIZE)
    filters = {"host": host, "group": group, "state": state, "faulted": "true" if faulted else ""}
    return page(
        request,
        "minidvodb_copies.html",
        lines=lines,
        total=total,
        filters=filters,
        hosts=[one.name for one in destination.list_all(ledger)],
        states=list(CopyState),
        number=number,
        last=max(1, -(-total // PAGE_SIZE)),
        here="minidvodb",
    )


@router.get("/minidvodb/copy/{copy_id}", response_class=HTMLResponse)
def show_copy(request: Request, ledger: LedgerDep, copy_id: int) -> HTMLResponse:
    """One copy: how far it is, what proves it, everything that happened."""
    whole = view.read(ledger, copy_id)
    working = [one for one in report.running(ledger) if one.copy_id == copy_id]
    attention = replace(attention_of(whole.line), title="Stopped") if whole.line.fault else None
    return page(
        request,
        "minidvodb_copy.html",
        whole=whole,
        copy=whole.copy,
        line=whole.line,
        row=whole.copy.row,
        steps=list(CopyStep),
        working=working,
        attention=attention,
        here="minidvodb",
    )


@router.get("/api/minidvodb/copy/{copy_id}")
def tell_copy(ledger: LedgerDep, copy_id: int) -> Mapping[str, Any]:
    """The same for programs."""
    whole = view.read(ledger, copy_id)
    return {
        **asdict(whole.line),
        "profile": whole.copy.row["profile"],
        "manifest_sha256": whole.copy.row["manifest_sha256"],
        "places": [asdict(one) for one in whole.places],
        "events": [{**asdict(one), "detail": dict(one.detail)} for one in whole.events],
    }


def gauges(status: MinidvodbStatus, _now: datetime) -> Iterator[Gauge]:
    """What a monitoring system is told."""
    yield Gauge("custody_minidvodb_needs_you", "Copies that wait for a person.", len(status.needs_you))
    yield Gauge("custody_minidvodb_running_copies", "Copies that are worked on now.", status.running_count)
    yield Gauge("custody_minidvodb_alerts", "Things somebody should look at.", len(status.alerts))
    for stage, on in status.stages.items():
        yield Gauge("custody_minidvodb_stage_on", "1 where the stage is on.", float(on), {"stage": stage})
    for cell in status.cells:
        labels = {"host": cell.host, "group": cell.group}
        for name in ("eligible", "new", "running", "full", "faulted", "lost"):
            text = "Copies by what they are."
            yield Gauge("custody_minidvodb_copies", text, getattr(cell, name), {**labels, "state": name})
        yield Gauge("custody_minidvodb_full_bytes", "Bytes of full copies.", cell.bytes_full, labels)
        yield Gauge("custody_minidvodb_left_bytes", "Bytes still to be copied.", cell.bytes_left, labels)
    for host in status.hosts:
        labels = {"host": host.name}
        yield Gauge("custody_minidvodb_host_on", "1 where copies may go there.", float(host.enabled), labels)
        if "used_pct" in host.look:
            used = float(host.look["used_pct"]) / 100
            yield Gauge("custody_minidvodb_host_disk_used_ratio", "Share of its disk in use.", used, labels)


ROOM = Room("minidvodb", "Minidvodb copy", router, read, "minidvodb_overview.html", gauges)
