"""Who may see the pages, and which ledger they show."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import sqlalchemy as sa
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from fastapi import Depends

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger, default_url
from custody.ledger.store import UPGRADE_COMMAND

CONNECTION_VARIABLE = "AIRFLOW_CONN_CUSTODY_LEDGER"

# Airflow serves the app of a plugin to anybody unless it asks for the login itself.
NEEDS_LOGIN = Depends(requires_access_view(AccessView.WEBSITE))


def ledger_url() -> str:
    """The ledger's URL: of ``$AIRFLOW_CONN_CUSTODY_LEDGER``, else ``$CUSTODY_LEDGER``, else the default file."""
    given = os.environ.get(CONNECTION_VARIABLE)
    if not given:
        return default_url()
    from airflow.sdk import Connection

    from custody_airflow.hooks.ledger import CONNECTION_ID, url_of

    try:
        if given.lstrip().startswith("{"):
            return url_of(Connection.from_json(given, conn_id=CONNECTION_ID))
        return url_of(Connection.from_uri(given, conn_id=CONNECTION_ID))
    except (json.JSONDecodeError, ValueError, TypeError) as error:  # the value itself may hold a password
        raise Fault(FaultKind.CONFIG, CONNECTION_VARIABLE, "is neither a connection URI nor JSON") from error


def _ledger() -> Ledger:
    """Open the ledger to read. Faults: CONFIG, TRANSIENT.

    A SQLite file that is not there is not made: looking at a page changes nothing.
    """
    url = ledger_url()
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        parsed = None  # Ledger.open names it
    if parsed is not None and parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        if not path.is_file():
            raise Fault(FaultKind.CONFIG, f"ledger {path}", "is not there yet", next_command=UPGRADE_COMMAND)
    return Ledger.open(url)


LedgerDep = Annotated[Ledger, Depends(_ledger)]
