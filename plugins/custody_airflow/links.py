"""Links from tasks to the status page."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from airflow.configuration import conf
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.types import TaskInstanceKey

# The frame of the page inside Airflow's UI: /plugin/ROUTE/PATH-OF-THE-PAGE.
_FRAME = "/plugin/custody/custody"


class CustodyLink(BaseOperatorLink):
    """The button "Custody" of a drain task: its series where it has one, else the room."""

    name = "Custody"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page, relative to the host, within Airflow's own frame. Airflow asks with rendered templates."""
        try:
            return series_page(int(operator.series_id))  # type: ignore[attr-defined]
        except (AttributeError, TypeError, ValueError):  # no task of a series, or its number is not known yet
            return room_page()


def series_page(series_id: int) -> str:
    """The page of one series."""
    return f"{_base()}{_FRAME}/drain/series/{series_id}"


def room_page(config: str | None = None) -> str:
    """The page of drain, or of one configuration."""
    return f"{_base()}{_FRAME}/drain" + (f"?config={quote(config, safe='')}" if config else "")


def page_of(path: str) -> str:
    """Any page of ours, by its path below the root of the pages."""
    return f"{_base()}{_FRAME}{path}"


def _base() -> str:
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
