"""Turning data into pages: templates that escape everything, times in UTC, sizes for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from custody.drain.view import printable
from custody.ledger.store import now
from custody.units import format_size
from custody_airflow.ui.next_step import patience

HERE = Path(__file__).parent

# Nothing of a page may come from elsewhere or run that is not ours, whatever a file is called.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def page(request: Request, template: str, *, status_code: int = 200, **values: Any) -> HTMLResponse:
    """Render a page; ``root`` in a template is the path that the pages are mounted at."""
    from custody_airflow.ui.rooms import rooms

    base = {"root": request.scope.get("root_path", ""), "rooms": rooms(), "now": now(), "query": "", "here": ""}
    content = _templates.get_template(template).render(base | values)
    return HTMLResponse(content.encode("utf-8", "backslashreplace"), status_code=status_code, headers=HEADERS)


def utc(moment: datetime | None) -> Markup:
    """A moment, to the minute, with its age."""
    if moment is None:
        return Markup('<span class="dim">never</span>')
    return Markup('<time datetime="{}" title="{}">{}<span class="dim">, {}</span></time>').format(
        moment.isoformat(timespec="seconds"),
        f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}",
        age(now() - moment),
    )


def age(span: timedelta) -> str:
    """How long ago, in one unit."""
    minutes = span.total_seconds() / 60
    if minutes < 1:
        return "just now" if minutes > -1 else "to come"
    return f"{span_text(span)} ago"


def span_text(span: timedelta) -> str:
    """A length of time in one unit."""
    minutes = span.total_seconds() / 60
    if minutes < 90:
        return f"{max(1, round(minutes))} min"
    if minutes < 48 * 60:
        return f"{minutes / 60:.0f} h"
    return f"{minutes / 60 / 24:.0f} days"


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 file``, ``2,004 files``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "utc": utc,
    "span": span_text,
    "size": format_size,
    "count": count,
    "shown": lambda name: printable(str(name)),
    "patience": patience,
}
