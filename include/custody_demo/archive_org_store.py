"""What the stand-in for archive.org holds: what is staged and stored, and what is planned to go wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ACCESS_KEY = "AccessKeyOfNobody"
ACCOUNT = "archivist@example.org"


@dataclass
class Rule:
    """One fault: which requests meet it, how often, and what happens to them.

    :param fault: ``answer`` (status, headers, body), ``wrong_etag``, ``no_etag``, ``reset`` (in the middle of the
        body), ``silent`` (takes all, hangs up without a word), ``slow`` (sleeps before answering), ``drip`` (reads
        slowly), ``never_listed``, ``other_md5``, ``failed_task``.
    :param early: answer before the body, where the client asks for that.
    :param skip: let so many matching requests pass first.
    """

    fault: str
    method: str = "PUT"
    path: str = r".*\.warc\.gz"
    times: int = 1_000_000
    skip: int = 0
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    delay_s: float = 0.0
    early: bool = True
    hits: int = 0

    def meets(self, method: str, path: str) -> bool:
        """Say whether this request is hit, and count it."""
        if method != self.method or not re.fullmatch(self.path, path):
            return False
        self.hits += 1
        return self.skip < self.hits <= self.skip + self.times


@dataclass(frozen=True)
class Request:
    """What was received."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    size_bytes: int
    status: int


@dataclass
class Task:
    """A row of the catalog. ``files`` are stored when it is done."""

    id: int
    item: str
    cmd: str
    status: str = "queued"
    files: dict[str, bytes | None] = field(default_factory=dict)
    submitted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    polls: int = 0

    def row(self) -> dict[str, object]:
        """Return it as the tasks API shows it."""
        return {
            "identifier": self.item,
            "task_id": self.id,
            "cmd": self.cmd,
            "status": self.status,
            "submitter": ACCOUNT,
            "submittime": f"{self.submitted_at:%Y-%m-%d %H:%M:%S.%f}",
        }


@dataclass
class StoredItem:
    """An item; `md5` holds what the archive claims of a file where that is not the truth."""

    uploader: str
    metadata: dict[str, str | list[str]]
    files: dict[str, bytes] = field(default_factory=dict)
    md5: dict[str, str] = field(default_factory=dict)


class Archive:
    """The state behind the server; tests look into it and change it.

    :param secret_key: with ACCESS_KEY, what a client must log in with
    :param folder: where every stored file is laid down as a plain file, item/name; None keeps all in memory
    """

    def __init__(self, secret_key: str, *, folder: Path | None = None) -> None:
        self.secret_key, self.folder = secret_key, folder
        self.lock = threading.RLock()
        self.port = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything and be honest."""
        with self.lock:
            self.era = object()  # what was asked before must not happen after
            self.items: dict[str, StoredItem] = {}
            self.tasks: list[Task] = []
            self.rules: list[Rule] = []
            self.requests: list[Request] = []
            self.connections = 0
            self.ingest_after_polls = 0
            self.ingest_after_s = 0.0
            self.tasks_a_page = 500
            self.limit: dict[str, Any] = {}
            self.answers_continue = True
            self.takes_hex_md5 = self.takes_base64_md5 = True

    @property
    def endpoint_url(self) -> str:
        """The address of the server, http://127.0.0.1:PORT."""
        return f"http://127.0.0.1:{self.port}"

    def fault(self, fault: str, **values: Any) -> Rule:
        """Plan a fault."""
        rule = Rule(fault, **values)
        with self.lock:
            self.rules.append(rule)
        return rule

    def refuse(self, status: int, code: str = "", message: str = "", **values: Any) -> Rule:
        """Plan an answer other than success."""
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return self.fault("answer", status=status, body=body, **values)

    def heal(self) -> None:
        """No more faults; what was staged and failed is queued anew, as the archive's staff would do it."""
        with self.lock:
            self.rules.clear()
            for task in self.tasks:
                if task.status == "error":
                    task.status = "queued"

    def seen(self, method: str, path: str = ".*", *, status: int | None = None) -> list[Request]:
        """Requests that were received."""
        return [
            request
            for request in self.requests
            if request.method == method
            and re.fullmatch(path, request.path)
            and (status is None or status == request.status)
        ]

    def stored(self) -> dict[str, tuple[str, int]]:
        """md5 and size of everything that is really stored, by ``item/name``."""
        with self.lock:
            return {
                f"{item}/{name}": (hashlib.md5(content, usedforsecurity=False).hexdigest(), len(content))
                for item, stored in self.items.items()
                for name, content in stored.files.items()
            }

    def airflow_connection(self, secret: str | None = None) -> str:
        """Return the value of an AIRFLOW_CONN_... variable that leads here."""
        extra = {"s3_endpoint": self.endpoint_url, "metadata_endpoint": self.endpoint_url}
        return json.dumps(
            {"conn_type": "http", "login": ACCESS_KEY, "password": secret or self.secret_key, "extra": extra}
        )

    # what the handler asks

    def rule_for(self, method: str, path: str) -> Rule | None:
        """Return the fault that a request meets."""
        with self.lock:
            return next((rule for rule in self.rules if rule.meets(method, path)), None)

    def take(self, item: str, name: str, content: bytes, headers: dict[str, str], rule: Rule | None) -> None:
        """Stage a file; a task will store it."""
        fault = rule.fault if rule else ""
        with self.lock:
            stored = self.items.get(item)
            if stored is None:
                stored = self.items[item] = StoredItem(ACCOUNT, metadata_of(headers))
            kept: bytes | None = None if fault == "never_listed" else content
            task = Task(1000 + len(self.tasks), item, "archive.php", files={name: kept})
            if fault == "failed_task":
                task.status = "error"
            self.tasks.append(task)
            if fault == "other_md5":
                stored.md5[name] = hashlib.md5(content + b"!", usedforsecurity=False).hexdigest()
            if headers.get("x-archive-queue-derive") != "0":
                self.tasks.append(Task(1000 + len(self.tasks), item, "derive.php"))

    def work(self, item: str, *, polled: bool = False) -> None:
        """Do the queued work on an item that is due."""
        for task in self.tasks:
            if task.item != item or task.status != "queued":
                continue
            age = datetime.now(UTC) - task.submitted_at
            if task.polls >= self.ingest_after_polls and age >= timedelta(seconds=self.ingest_after_s):
                for name, content in task.files.items():
                    if content is not None:
                        self._store(item, name, content)
                task.status = "done"
            task.polls += polled

    def _store(self, item: str, name: str, content: bytes) -> None:
        stored = self.items[item]
        old = stored.files.get(name)
        if old is not None and old != content:
            self._keep(item, f"history/files/{name}.~1~", old)
            stored.md5.pop(name, None)
        self._keep(item, name, content)

    def _keep(self, item: str, name: str, content: bytes) -> None:
        self.items[item].files[name] = content
        if self.folder is not None:
            path = self.folder / item / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def is_legal(item: str, name: str) -> bool:
    """Say whether a file of this name may be stored: nothing that leads out of its item."""
    return all(part and not part.startswith(".") for part in (item, *name.split("/"))) and "/" not in item


def metadata_of(headers: dict[str, str]) -> dict[str, str | list[str]]:
    """Return what a request says of the item it makes, as the archive reads it."""
    found: dict[str, str | list[str]] = {}
    for header, value in sorted(headers.items()):
        match = re.fullmatch(r"x-archive-meta(\d*)-(.+)", header)
        if match:
            text = unquote(value[4:-1]) if value.startswith("uri(") else value
            name = match[2].replace("--", "_")
            if match[1]:
                numbered = found.get(name, [])
                found[name] = [*(numbered if isinstance(numbered, list) else [numbered]), text]
            else:
                found[name] = text
    return found
