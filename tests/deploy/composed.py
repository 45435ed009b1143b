"""The compose file, its example environment and its page, for the tests beside this module."""

from __future__ import annotations

import base64
import re
import secrets
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yaml"
PROFILES = ("crawler", "tape", "wiki", "archive-node")
VIEWER = {"viewer": "bitarchive-viewer"}
"""Services that are no worker, by their profile."""
ONE_SHOT = {"airflow-init"}
SECRETS = {
    "POSTGRES_PASSWORD",
    "CUSTODY_LEDGER_PASSWORD",
    "REDIS_PASSWORD",
    "AIRFLOW_FERNET_KEY",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_SECRET_KEY",
    "AIRFLOW_ADMIN_USER",
    "AIRFLOW_ADMIN_EMAIL",
    "AIRFLOW_ADMIN_PASSWORD",
}
PATHS = {"CUSTODY_DISK", "TAPE_SG", "TAPE_SOURCE", "WIKI_DUMPS", "ARCHIVE_FILES"}
POOLS = {
    "custody_upload": 4,
    "custody_disk": 4,
    "custody_tape": 1,
    "custody_copy": 4,
    "custody_wiki": 2,
    "custody_batch": 4,
}


def example():
    """Return the variables of .env.example, by name."""
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))


def filled():
    """Return them with the empty lines filled in, as somebody who follows the comments would."""
    values = {name: value or f"{name.lower()}-{secrets.token_hex(8)}" for name, value in example().items()}
    values["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return values | {name: f"/srv/{name.lower()}" for name in PATHS}


def tool(name):
    return str(Path(sys.executable).with_name(name))


def airflow_services(services):
    return {name: service for name, service in services.items() if "build" in service}


def schema_errors(*files):
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode else ""


def mounts(service):
    """Return (source, target, read only, may be made) of each mount of a service."""
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            yield source, target, mode == ["ro"], True
        else:
            yield volume["source"], volume["target"], False, volume["bind"]["create_host_path"]


def deployment_page():
    return (ROOT / "docs" / "deployment.md").read_text()


def documented_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", deployment_page(), re.MULTILINE | re.DOTALL)
