"""Registers Custody's page with Airflow; the only module of this folder that Airflow scans."""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from custody_airflow.preload import preload
from custody_airflow.ui.app import app

# Where a proxy serves Airflow below a path, the frame of the page has to be asked for below it too.
_BASE = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")

preload(sys.argv)


class CustodyPlugin(AirflowPlugin):
    """The page "Custody" in the navigation."""

    name = "custody"
    fastapi_apps = [{"app": app, "url_prefix": "/custody", "name": "Custody"}]  # noqa: RUF012 - Airflow's own form
    external_views = [  # noqa: RUF012
        {
            "name": "Custody",
            "href": f"{_BASE}/custody/",
            "destination": "nav",
            "url_route": "custody",
            "nav_top_level": True,
        }
    ]
