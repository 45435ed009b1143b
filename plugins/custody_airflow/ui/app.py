"""The web app of the status page: every route is a GET behind Airflow's login, and none changes anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote

import sqlalchemy as sa
from fastapi import FastAPI, Query, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import Whereabouts, now
from custody_airflow.ui import metrics
from custody_airflow.ui.access import NEEDS_LOGIN, LedgerDep
from custody_airflow.ui.next_step import next_step
from custody_airflow.ui.render import HEADERS, HERE, page
from custody_airflow.ui.rooms import rooms

MAX_NAME = 512
MAX_FOUND = 200
_NOT_THERE = ("series ", "copy ", "state ", "tape ", "batch ")
"""Subjects of faults that say that there is nothing of that name."""

app = FastAPI(
    title="Custody", dependencies=[NEEDS_LOGIN], docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
)

SearchedName = Annotated[str, Query(max_length=MAX_NAME)]


@app.get("/", response_class=HTMLResponse)
def show_overview(request: Request, ledger: LedgerDep) -> HTMLResponse:
    """All rooms at one glance."""
    return page(request, "overview.html", here="overview", found=[(room, room.read(ledger)) for room in rooms()])


@app.get("/where-is", response_class=HTMLResponse)
def show_where_is(request: Request, ledger: LedgerDep, name: SearchedName = "") -> HTMLResponse:
    """Every copy of a file."""
    found = _where_is(ledger, name)
    return page(
        request, "where_is.html", query=name, found=found[:MAX_FOUND], more=len(found) > MAX_FOUND, limit=MAX_FOUND
    )


@app.get("/api/status")
def tell_status(ledger: LedgerDep) -> Mapping[str, Any]:
    """The overview for programs: sizes in bytes, times in ISO 8601."""
    return {"at": now(), "rooms": jsonable_encoder({room.name: room.read(ledger).as_json() for room in rooms()})}


@app.get("/api/metrics")
def tell_metrics(ledger: LedgerDep) -> Response:
    """The numbers of every room for Prometheus, which logs in with a bearer token."""
    at = now()
    gauges = [gauge for room in rooms() for gauge in room.gauges(room.read(ledger), at)]
    return Response(metrics.render(gauges), media_type=metrics.MEDIA_TYPE)


@app.get("/api/where-is")
def tell_where_is(ledger: LedgerDep, name: SearchedName) -> Mapping[str, Any]:
    """Every copy of a file, for programs; at most 1000."""
    return {"name": name, "copies": [asdict(line) for line in _where_is(ledger, name)]}


@app.get("/style.css")
def give_style() -> FileResponse:
    """The one stylesheet."""
    return FileResponse(HERE / "style.css", media_type="text/css")


@app.get("/page.js")
def give_script() -> FileResponse:
    """The one script: refreshing, copying, the theme of the frame."""
    return FileResponse(HERE / "page.js", media_type="text/javascript")


def _where_is(ledger: Ledger, name: str) -> list[Whereabouts]:
    return ledger.where_is(name.strip()) if name.strip() else []


for _room in rooms():
    app.include_router(_room.router)


@app.exception_handler(Fault)
def _show_fault(request: Request, fault: Fault) -> Response:
    """One line and the next command, in the form that was asked for."""
    status = 404 if fault.kind is FaultKind.CONFIG and fault.subject.startswith(_NOT_THERE) else 503
    if _is_for_programs(request):
        content = {"fault": fault.kind, "text": str(fault), "next_command": fault.next_command}
        return JSONResponse(content, status_code=status, headers=HEADERS)
    return page(request, "fault.html", status_code=status, step=next_step(str(fault)), kind=fault.kind)


@app.exception_handler(sa.exc.SQLAlchemyError)
def _show_database_error(request: Request, error: sa.exc.SQLAlchemyError) -> Response:
    """Whatever else a database says: its first line, never the query with its values."""
    said = str(getattr(error, "orig", None) or type(error).__name__).splitlines()[0]
    fault = Fault(FaultKind.TRANSIENT, "ledger", f"cannot be read ({said})", next_command="custody ledger upgrade")
    return _show_fault(request, fault)


@app.exception_handler(RequestValidationError)
def _show_bad_request(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    reason = f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}"
    if _is_for_programs(request):
        return JSONResponse({"fault": FaultKind.CONFIG, "text": reason}, status_code=422, headers=HEADERS)
    return page(request, "fault.html", status_code=422, step=next_step(reason), kind=FaultKind.CONFIG)


@app.exception_handler(HTTPException)
def _show_refusal(request: Request, error: HTTPException) -> Response:
    """Tell people where to log in; programs get Airflow's own answer."""
    if _is_for_programs(request) or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)
    mount = request.scope.get("root_path", "")
    login = f"{mount.rpartition('/')[0]}/auth/login?next={quote(f'{mount}/')}"
    content = {"code": error.status_code, "detail": error.detail, "login": login}
    return page(request, "refused.html", status_code=error.status_code, **content)


def _is_for_programs(request: Request) -> bool:
    return request.scope["path"].removeprefix(request.scope.get("root_path", "")).startswith("/api/")
