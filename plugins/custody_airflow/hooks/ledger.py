"""The ledger, by the Airflow connection ``custody_ledger`` or by ``$CUSTODY_LEDGER``."""

from __future__ import annotations

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from sqlalchemy import URL

from custody.ledger import Ledger

CONNECTION_ID = "custody_ledger"

_DRIVERS = {"postgres": "postgresql+psycopg2", "postgresql": "postgresql+psycopg2", "mysql": "mysql+pymysql"}


def open_ledger() -> Ledger:
    """Open the ledger of this deployment. Faults: CONFIG where its schema is missing or old, TRANSIENT."""
    try:
        connection = BaseHook.get_connection(CONNECTION_ID)
    except AirflowNotFoundException:
        return Ledger.open()
    return Ledger.open(url_of(connection))


def url_of(connection: Connection) -> str:
    """The SQLAlchemy URL of a postgres, mysql or sqlite connection."""
    if connection.conn_type == "sqlite":
        return f"sqlite:///{connection.host}"
    url = URL.create(
        _DRIVERS.get(connection.conn_type, connection.conn_type),
        username=connection.login,
        password=connection.password,
        host=connection.host,
        port=connection.port,
        database=connection.schema,
    )
    return url.render_as_string(hide_password=False)
