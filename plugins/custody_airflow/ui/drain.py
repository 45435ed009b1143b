"""The room drain: where every crawl disk stands, its series, and one series with its proofs and its audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from custody.drain import view
from custody.drain.series import SeriesState
from custody.faults import Fault, FaultKind
from custody_airflow.ui import drain_metrics, drain_status
from custody_airflow.ui.access import LedgerDep
from custody_airflow.ui.drain_audit import read_audit
from custody_airflow.ui.drain_status import attention_of
from custody_airflow.ui.render import page
from custody_airflow.ui.rooms import Room

PAGE_SIZE = 50

router = APIRouter()

PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


@router.get("/drain", response_class=HTMLResponse)
def show_room(request: Request, ledger: LedgerDep, config: str | None = None) -> HTMLResponse:
    """Every configuration, or one of them."""
    status = drain_status.read(ledger, config)
    return page(request, "drain.html", status=status, only=config, here="drain")


@router.get("/drain/series", response_class=HTMLResponse)
def show_series_list(
    request: Request,
    ledger: LedgerDep,
    config: str = "",
    state: str = "",
    stuck: bool = False,
    number: Annotated[PageNumber, Query(alias="page")] = 1,
) -> HTMLResponse:
    """All series, newest change first, a page at a time."""
    if state and state not in set(SeriesState):
        raise Fault(FaultKind.CONFIG, f"state {state!r}", f"there is none; there are: {', '.join(SeriesState)}")
    found = view.select_series(
        ledger,
        config=config or None,
        states=[SeriesState(state)] if state else (),
        stuck_only=stuck,
        limit=PAGE_SIZE,
        offset=(number - 1) * PAGE_SIZE,
    )
    filters = {"config": config, "state": state, "stuck": "true" if stuck else ""}
    return page(
        request,
        "drain_series_list.html",
        found=found,
        filters=filters,
        configs=sorted(drain_status.known_configs(ledger)),
        states=list(SeriesState),
        number=number,
        last=max(1, -(-found.total // PAGE_SIZE)),
        here="drain",
    )


@router.get("/drain/series/{series_id}", response_class=HTMLResponse)
def show_series(
    request: Request, ledger: LedgerDep, series_id: int, number: Annotated[PageNumber, Query(alias="page")] = 1
) -> HTMLResponse:
    """One series: its files, their copies and proofs, and everything that happened."""
    audit = read_audit(ledger, series_id, page=number)
    attention = replace(attention_of(audit.series), title="Stopped") if audit.series.fault else None
    working = [one for one in view.running(ledger) if one.series_id == series_id]
    return page(
        request,
        "drain_series.html",
        audit=audit,
        series=audit.series,
        attention=attention,
        working=working,
        steps=[state for state in SeriesState if state.rank <= SeriesState.CLEAN.rank],
        number=number,
        here="drain",
    )


@router.get("/api/drain/series/{series_id}")
def tell_series(
    ledger: LedgerDep, series_id: int, number: Annotated[PageNumber, Query(alias="page")] = 1
) -> Mapping[str, Any]:
    """The same for programs."""
    return read_audit(ledger, series_id, page=number).as_json()


ROOM = Room("drain", "Drain", router, drain_status.read, "drain_overview.html", drain_metrics.gauges)
