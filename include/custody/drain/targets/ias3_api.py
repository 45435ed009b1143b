"""What archive.org says of an item, of its own work on it, and of how much more it wants to hear from us.

Metadata API (what is stored), tasks API (what is queued, running, failed), check_limit and check_auth (of IA-S3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from custody.digests import Fixity
from custody.drain.targets.http_put import Answer
from custody.drain.targets.ias3_client import ArchiveClient, Keys
from custody.drain.targets.ias3_faults import refuse_ias3
from custody.faults import Fault, FaultKind

DERIVE = "derive.php"
_TASKS = "/services/tasks.php"
_LIMIT_PAUSE = timedelta(minutes=2)
_HEADROOM = (  # what is left of a ration before we go on while rationing is engaged: for other uploaders of this key
    ("accesskey_ration", "accesskey_tasks_queued", 10),
    ("total_global_limit", "total_tasks_queued", 10),
    ("bucket_ration", "bucket_tasks_queued", 5),
)
_DIGESTS = ("md5", "sha1")


@dataclass(frozen=True)
class StoredItem:
    """An item as the metadata API lists it; files without a size are left out."""

    files: Mapping[str, Fixity]
    uploader: str | None = None
    is_dark: bool = False


@dataclass(frozen=True)
class Task:
    """Work of the archive on an item. ``status``: queued, running, error, paused, or done."""

    id: str
    command: str
    status: str
    submitted_at: datetime | None


class ArchiveApi:
    """The questions.

    :param archive: the metadata and tasks endpoint.
    :param s3: the IA-S3 endpoint.
    """

    def __init__(self, archive: ArchiveClient, s3: ArchiveClient, keys: Keys) -> None:
        self._archive = archive
        self._s3 = s3
        self._keys = keys

    def find_item(self, item: str) -> StoredItem | None:
        """What is stored in an item now; None where there is none. Faults: TRANSIENT, THROTTLED, AUTH."""
        subject = f"{self._archive.endpoint}/metadata/{item}"
        found = _content(self._archive.request("GET", f"/metadata/{quote(item)}"), subject, item)
        if not found:
            return None
        if found.get("is_dark"):
            return StoredItem({}, is_dark=True)
        if not isinstance(found.get("files"), list):
            raise Fault(FaultKind.TRANSIENT, subject, "lists no files")
        described = found.get("metadata")
        uploader = described.get("uploader") if isinstance(described, dict) else None
        return StoredItem(_files(found["files"]), uploader if isinstance(uploader, str) else None)

    def tasks(self, item: str, *, history: bool = False, command: str | None = None) -> list[Task]:
        """Active work on an item, and with ``history`` the finished too. Faults: TRANSIENT, THROTTLED, AUTH."""
        query = {"identifier": item, "catalog": "1", "history": "1" if history else "0", "summary": "0", "limit": "500"}
        if command:
            query["cmd"] = command
        subject = f"{self._archive.endpoint}{_TASKS} of {item}"
        found: list[Task] = []
        while True:
            content = _content(self._archive.request("GET", f"{_TASKS}?{urlencode(query)}"), subject, item)
            value = content.get("value")
            if content.get("success") is not True or not isinstance(value, dict):
                raise Fault(FaultKind.TRANSIENT, subject, "the tasks API does not say what is under way")
            found += [_task(row) for row in value.get("catalog") or ()]
            found += [_task(row, "done") for row in value.get("history") or ()]
            cursor = value.get("cursor")
            if not cursor or query.get("cursor") == cursor:
                return found
            query["cursor"] = cursor

    def submit(self, item: str, command: str) -> str:
        """Queue work on an item; returns its task id. Faults: AUTH, THROTTLED, TRANSIENT."""
        subject = f"{command} for {item}"
        body = json.dumps({"identifier": item, "cmd": command, "args": {}}).encode()
        answer = self._archive.request("POST", _TASKS, {"Content-Type": "application/json"}, body)
        content = _content(answer, subject, item)
        value = content.get("value")
        if content.get("success") is not True or not isinstance(value, dict):
            raise Fault(FaultKind.TRANSIENT, subject, f"was not queued ({str(content.get('error'))[:200]})")
        return str(value.get("task_id"))

    def account(self) -> str | None:
        """The account the keys belong to, as ``metadata.uploader`` names it; None where the archive does not say."""
        answer = self._s3.request("GET", "/?check_auth=1")
        try:
            content = json.loads(answer.body)
        except ValueError:
            return None
        name = content.get("username") if isinstance(content, dict) else None
        return name if isinstance(name, str) and name else None

    def demand_room(self, item: str) -> None:
        """Make sure that the archive wants another file from us now.

        Faults: THROTTLED where it is over its limit, or has rationing on and little is left; TRANSIENT where it does
        not say.
        """
        query = urlencode({"check_limit": "1", "accesskey": self._keys.access, "bucket": item})
        subject = f"{self._s3.host} check_limit"
        content = _content(self._s3.request("GET", f"/?{query}"), subject, item)
        detail = content.get("detail")
        if "over_limit" not in content or not isinstance(detail, dict):
            raise Fault(FaultKind.TRANSIENT, subject, "does not say whether it takes more; nothing was sent")
        why = _why_not_now(content["over_limit"], detail)
        if why:
            raise Fault(FaultKind.THROTTLED, subject, why, until=datetime.now(UTC) + _LIMIT_PAUSE)


def _why_not_now(over_limit: Any, detail: Mapping[str, Any]) -> str | None:
    if over_limit:
        said = str(detail.get("limit_reason") or "").strip()
        return f"is over its limit{f' ({said[:200]})' if said else ''}; nothing was sent"
    if not detail.get("rationing_engaged"):
        return None
    for ration, queued, headroom in _HEADROOM:
        left = _number(detail.get(ration)) - _number(detail.get(queued))
        if left < headroom:
            return f"rationing is on and {left} are left of {ration}; nothing was sent"
    return None


def _content(answer: Answer, subject: str, item: str) -> dict[str, Any]:
    if answer.status != 200:
        raise refuse_ias3(answer, subject, item)
    try:
        content = json.loads(answer.body)
    except ValueError as error:
        raise Fault(FaultKind.TRANSIENT, subject, "answers with something other than JSON") from error
    if content == []:
        return {}  # how PHP writes an empty object
    if not isinstance(content, dict):
        raise Fault(FaultKind.TRANSIENT, subject, "answers with something other than an object")
    return content


def _files(rows: list[Any]) -> dict[str, Fixity]:
    found = {}
    for row in rows:
        if isinstance(row, dict) and str(row.get("size", "")).isdigit():
            digests = {name: str(row[name]).lower() for name in _DIGESTS if row.get(name)}
            found[str(row.get("name"))] = Fixity(int(row["size"]), digests)
    return found


def _task(row: Mapping[str, Any], status: str | None = None) -> Task:
    submitted_at = None
    with suppress(ValueError):
        submitted_at = datetime.fromisoformat(str(row.get("submittime"))).replace(tzinfo=UTC)
    known = status or str(row.get("status") or "unknown")
    return Task(str(row.get("task_id")), str(row.get("cmd")), known, submitted_at)


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0
