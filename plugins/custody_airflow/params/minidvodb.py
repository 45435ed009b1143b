"""The trigger form of minidvodb_copy."""

from __future__ import annotations

from airflow.sdk import Param

from custody.minidvodb.load import DEFAULT_LIMIT

_ONCE = "Ask for one group on one host"
_AUDIT = "Audit"


def _text(title: str, description: str, **schema: object) -> Param:
    return Param(None, type=["null", "string"], title=title, description=description, **schema)


PARAMS = {
    "action": Param(
        "copy",
        type="string",
        enum=["copy", "audit"],
        values_display={"copy": "Queue and copy", "audit": "Read full copies again"},
        title="What to do",
        description="`audit` reads full copies over there and compares them with their manifests; it sends nothing.",
    ),
    "config": _text(
        "Machine",
        "Name of a file in include/config/minidvodb/ (without .yml): the run works on that machine's worker, on its "
        "databases only; empty: on the default queue, on all.",
        examples=["ipp004"],
    ),
    "group": _text("Group", "Only databases of this group.", examples=["ThreePi"]),
    "host": _text("Host", "Only copies for this host.", examples=["ipp022"]),
    "copy": Param(
        None, type=["null", "integer"], minimum=1, title="Copy", description="Only this copy (minidvodbcopy_id)."
    ),
    "limit": Param(
        DEFAULT_LIMIT,
        type="integer",
        minimum=1,
        maximum=1000,
        title="At most",
        description="Copies that one run takes; the next run takes the rest.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Say in the log of `queue` of every database whether it would be queued, and why not.",
    ),
    "path": _text(
        "Directory over there",
        "With group and host: from now on the group is wanted on the host below this directory (add.minidvodb.copy).",
        section=_ONCE,
        examples=["/data/ipp022.0/gpc1/mini-catdirs/ThreePi"],
    ),
    "priority": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=5,
        title="Priority",
        description="Of what this run queues: 1 goes first, 5 last; empty: 3, or what was set for the group and host.",
        section=_ONCE,
    ),
    "older_than_days": Param(
        30.0,
        type="number",
        minimum=0,
        title="Not read for (days)",
        description="An audit takes the copies whose last verification is older than this.",
        section=_AUDIT,
    ),
}
