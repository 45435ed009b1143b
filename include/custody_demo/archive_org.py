"""A stand-in for archive.org on the loopback: IA-S3, metadata API, tasks API. Honest, until a test gives it faults.

It takes a file ("200"), stages it, and stores it by a task, as the real one does; it checks login and Content-MD5; it
remembers every request. What a request meets is decided by the plan in :class:`Archive`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from custody_demo.archive_org_store import ACCESS_KEY, ACCOUNT, Archive, Request, Rule, StoredItem, Task, is_legal

NO_ANSWER = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    archive: Archive

    def setup(self) -> None:
        super().setup()
        self.archive.connections += 1

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def parse_request(self) -> bool:
        self.met: list[Rule | None] = []
        self.received = 0
        return super().parse_request()

    def handle_expect_100(self) -> bool:
        rule = self._rule()
        if rule and rule.fault == "answer" and rule.early:
            self._answer(rule.status, rule.body, rule.headers)
            self.close_connection = True
            return False
        if self.archive.answers_continue:
            return super().handle_expect_100()
        return True

    def _rule(self) -> Rule | None:
        """The rule that this request meets; asked for once a request, because a rule counts."""
        if not self.met:
            self.met.append(self.archive.rule_for(self.command, self.where))
        return self.met[0]

    @property
    def where(self) -> str:
        return unquote(urlsplit(self.path).path)

    def do_PUT(self) -> None:
        rule = self._rule()
        content = self._body(rule)
        if content is None:
            return
        fault = rule.fault if rule else ""
        if rule and fault == "slow":
            era = self.archive.era
            time.sleep(rule.delay_s)
            if era is not self.archive.era:
                self.close_connection = True
                return None
        if rule and fault == "answer":
            return self._answer(rule.status, rule.body, rule.headers)
        if fault == "silent":
            return self._hang_up()
        item, _, name = self.where[1:].partition("/")
        if not is_legal(item, name):
            return self._answer(400, "<Error><Code>InvalidURI</Code></Error>")
        headers = {key.lower(): value for key, value in self.headers.items()}
        refusal = self._refusal(item, content, headers)
        if refusal:
            return self._answer(*refusal)
        self.archive.take(item, name, content, headers, rule)
        etag = {"ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'}
        if fault == "wrong_etag":
            etag = {"ETag": f'"{"0" * 32}"'}
        self._answer(200, "", {} if fault == "no_etag" else etag)

    def _refusal(self, item: str, content: bytes, headers: dict[str, str]) -> tuple[int, str] | None:
        if not self._is_us():
            return 403, "<Error><Code>InvalidAccessKeyId</Code></Error>"
        if not self._is_md5_of(headers.get("content-md5", ""), content):
            return 400, "<Error><Code>BadDigest</Code></Error>"
        stored = self.archive.items.get(item)
        if stored is None and headers.get("x-archive-auto-make-bucket") != "1":
            return 404, "<Error><Code>NoSuchBucket</Code></Error>"
        if stored and stored.uploader != ACCOUNT:
            return 403, "<Error><Code>AccessDenied</Code></Error>"
        return None

    def _is_us(self) -> bool:
        return self.headers.get("authorization") == f"LOW {ACCESS_KEY}:{self.archive.secret_key}"

    def _forbid(self) -> None:
        self._answer(403, json.dumps({"success": False, "error": "login"}), {"Content-Type": "application/json"})

    def _is_md5_of(self, stated: str, content: bytes) -> bool:
        if not stated:
            return True
        digest = hashlib.md5(content, usedforsecurity=False)
        if re.fullmatch("[0-9a-f]{32}", stated):
            return self.archive.takes_hex_md5 and stated == digest.hexdigest()
        with suppress(binascii.Error):
            return self.archive.takes_base64_md5 and base64.b64decode(stated, validate=True) == digest.digest()
        return False

    def _body(self, rule: Rule | None) -> bytes | None:
        size = int(self.headers.get("Content-Length", "0"))
        if rule and rule.fault == "reset":
            self.received = len(self.rfile.read(size // 2))
            self._note(NO_ANSWER)
            # Linger 0: the kernel sends RST, as a server does that was killed.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return None
        parts = []
        while self.received < size:
            part = self.rfile.read(min(1 << 16, size - self.received))
            if not part:
                return None
            parts.append(part)
            self.received += len(part)
            if rule and rule.fault == "drip":
                time.sleep(rule.delay_s)
        return b"".join(parts)

    def do_GET(self) -> None:
        rule = self._rule()
        if rule and rule.fault == "answer":
            return self._answer(rule.status, rule.body, rule.headers)
        if rule and rule.fault == "silent":
            return self._hang_up()
        query = self._query()
        with self.archive.lock:
            if "check_limit" in query:
                return self._limit(query)
            if "check_auth" in query:
                return self._json({"authorized": True, "username": ACCOUNT})
            if self.where.startswith("/metadata/"):
                return self._metadata(self.where.removeprefix("/metadata/"))
            if self.where == "/services/tasks.php":
                return self._tasks(query) if self._is_us() else self._forbid()
            return self._file(self.where.removeprefix("/download"))

    def do_POST(self) -> None:
        rule = self._rule()
        content = json.loads(self._body(None) or b"{}")
        if rule and rule.fault == "answer":
            return self._answer(rule.status, rule.body, rule.headers)
        if not self._is_us():
            return self._forbid()
        with self.archive.lock:
            task = Task(1000 + len(self.archive.tasks), content["identifier"], content["cmd"])
            self.archive.tasks.append(task)
        if rule and rule.fault == "silent":
            return self._hang_up()
        self._json(
            {"success": True, "value": {"task_id": task.id, "log": f"{self.archive.endpoint_url}/log/{task.id}"}}
        )

    def _limit(self, query: dict[str, str]) -> None:
        detail = {
            "accesskey_ration": 74,
            "accesskey_tasks_queued": 0,
            "bucket_ration": 24,
            "bucket_tasks_queued": 0,
            "limit_reason": "",
            "rationing_engaged": 0,
            "rationing_level": 1399,
            "total_global_limit": 1799,
            "total_tasks_queued": 308,
        }
        detail |= {key: value for key, value in self.archive.limit.items() if key != "over_limit"}
        over = self.archive.limit.get("over_limit", 0)
        self._json({"accesskey": query["accesskey"], "bucket": query["bucket"], "detail": detail, "over_limit": over})

    def _metadata(self, item: str) -> None:
        self.archive.work(item)
        stored = self.archive.items.get(item)
        if stored is None or not stored.files:
            return self._json({})
        files = [
            {
                "name": name,
                "source": "original",
                "size": str(len(content)),
                "md5": stored.md5.get(name, hashlib.md5(content, usedforsecurity=False).hexdigest()),
                "sha1": hashlib.sha1(content, usedforsecurity=False).hexdigest() if name not in stored.md5 else "",
                "crc32": f"{binascii.crc32(content):08x}",
            }
            for name, content in stored.files.items()
        ]
        files.append({"name": f"{item}_files.xml", "source": "original", "format": "Metadata"})
        described = {"identifier": item, "uploader": stored.uploader, **stored.metadata}
        self._json({"files": files, "metadata": described, "item_size": 1})

    def _tasks(self, query: dict[str, str]) -> None:
        item = query["identifier"]
        self.archive.work(item, polled=True)
        rows = [task for task in self.archive.tasks if task.item == item and query.get("cmd", task.cmd) == task.cmd]
        start = int(query.get("cursor", "c:0")[2:])
        page = rows[start : start + self.archive.tasks_a_page]
        value: dict[str, object] = {"catalog": [task.row() for task in page if task.status != "done"]}
        if query.get("history") == "1":
            value["history"] = [task.row() for task in page if task.status == "done"]
        if start + len(page) < len(rows):
            value["cursor"] = f"c:{start + len(page)}"
        self._json({"success": True, "value": value})

    def _file(self, path: str) -> None:
        item, _, name = path[1:].partition("/")
        self.archive.work(item)
        content = self.archive.items.get(item, StoredItem("", {})).files.get(name)
        if content is None:
            return self._answer(404, "<Error><Code>NoSuchKey</Code></Error>")
        self._answer(200, content)

    def _query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: str | bytes = "", headers: dict[str, str] | None = None) -> None:
        content = body.encode() if isinstance(body, str) else body
        self._note(status)
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self._note(NO_ANSWER)
        self.close_connection = True

    def _note(self, status: int) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, self.where, self._query(), headers, self.received, status)
        with self.archive.lock:
            self.archive.requests.append(request)


@contextmanager
def serve(archive: Archive) -> Iterator[Archive]:
    """Answer for an archive on a free port of the loopback, in threads of this process, until the end of the block."""
    handler = type("Handler", (_Handler,), {"archive": archive})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    archive.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
