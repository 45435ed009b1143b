"""Machines for the command line: ssh connections out of the environment, under the names that Airflow gives them there.

``AIRFLOW_CONN_<ID>`` as JSON: conn_type ssh, host, port, login; in its extra host_key, and key_file or private_key.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from custody.faults import Fault, FaultKind
from custody.host import Host, LocalHost, SshTarget
from custody.minidvodb.destination import Destination
from custody.minidvodb.ssh import SharedSshHost


def reach(known: Destination) -> Host:
    """The machine of a destination. Faults: CONFIG where its connection is not in the environment."""
    if not known.connection:
        return LocalHost()
    name = f"AIRFLOW_CONN_{known.connection.upper()}"
    try:
        values = json.loads(os.environ[name])
        extra = values.get("extra") or {}
        return machine(known, values, json.loads(extra) if isinstance(extra, str) else extra)
    except KeyError as error:
        raise Fault(
            FaultKind.CONFIG,
            f"connection {known.connection}",
            f"is not in the environment ({name}, as JSON)",
            next_command="export it, or let the DAG minidvodb_copy do it, which asks Airflow",
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise Fault(FaultKind.CONFIG, name, "is no connection in JSON") from error


def machine(known: Destination, values: dict[str, Any], extra: dict[str, Any]) -> SharedSshHost:
    """A machine from the fields of an ssh connection. Faults: CONFIG where host or host key is missing."""
    if not values.get("host"):
        raise Fault(FaultKind.CONFIG, f"connection {known.connection}", "has no host")
    target = SshTarget(
        host=values["host"],
        host_key=extra.get("host_key") or "",
        user=values.get("login") or None,
        port=int(values.get("port") or 22),
        key_file=Path(extra["key_file"]) if extra.get("key_file") else None,
        private_key=extra.get("private_key") or None,
    )
    return SharedSshHost(target, ciphers=known.settings.ciphers, name=known.name)
