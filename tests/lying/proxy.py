"""A proxy before a real server that lies on command: one thread a connection, HTTP/1.1, standard library only."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import socketserver
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit


@dataclass
class Lie:
    """What to do to a request, and to which.

    :param kind: flip | cut | reset | delay | slow_down | nothing_stored | half_stored | flip_stored | wrong_etag |
        bad_gateway | garbage | early_ok | no_answer | cut_answer | redirect | html_ok | not_listed | foreign_digest |
        endless
    :param method: only requests of this method.
    :param part: only paths that hold this text.
    :param times: so often; then the proxy is honest.
    """

    kind: str
    method: str = "PUT"
    part: str = ".warc.gz"
    times: int = 1_000_000
    told: int = field(default=0, init=False)


class LyingProxy:
    """Forwards to ``upstream`` (http://host:port); ``lie`` is what it does wrong, or None.

    :param folder: where the server keeps its objects as files: what is "stored" without its knowledge is put there.
    """

    def __init__(self, upstream: str, folder: Path) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.folder = folder
        self.lie: Lie | None = None
        self.stolen: list[dict[str, str]] = []  # the headers of what was sent to where a redirect led
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint_url(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def lie_for(self, method: str, path: str) -> str | None:
        """The lie for a request, counted."""
        with self._lock:
            lie = self.lie
            if lie is None or lie.method != method or lie.part not in path or lie.told >= lie.times:
                return None
            lie.told += 1
            return lie.kind


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that breaks is what this proxy is for."""


class _Handler(BaseHTTPRequestHandler):
    owner: LyingProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Be silent."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path.startswith("/stolen"):
            self.rfile.read(length)
            self.owner.stolen.append(dict(self.headers.items()))
            self._answer(200, {"ETag": f'"{"0" * 32}"'}, b"")
            return
        lie = self.owner.lie_for(self.command, self.path)
        if lie in {"cut", "reset", "slow_down", "early_ok", "bad_gateway", "no_answer"}:
            self._before_the_body(lie, length)
            return
        body = self.rfile.read(length)
        if lie == "delay":
            time.sleep(1.0)
        if lie == "garbage":
            self._answer(200, {"Content-Type": "application/xml"}, b"<html>this is <b>no XML")
            return
        if lie == "redirect":  # the same server under another name, which is another host to whoever follows
            port = self.owner.endpoint_url.rpartition(":")[2]
            self._answer(307, {"Location": f"http://localhost:{port}/stolen{self.path}"}, b"")
            return
        if lie == "html_ok":
            self._answer(200, {"Content-Type": "text/html"}, b"<html>Welcome! Please log in to this network.</html>")
            return
        if lie == "nothing_stored":
            self._answer(200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b"")
            return
        self._forward(lie, body)

    def _before_the_body(self, lie: str, length: int) -> None:
        if lie in {"cut", "reset", "no_answer"}:
            self.rfile.read(length if lie == "no_answer" else length // 2)
            if lie == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif lie == "slow_down":
            self.rfile.read(length)
            body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self._answer(503, {"Retry-After": "7"}, body)
        elif lie == "bad_gateway":
            self._answer(502, {"Connection": "close"}, b"<html>bad gateway</html>")
        else:
            self._answer(200, {"Connection": "close"}, b"")
        self.close_connection = True
        if lie == "reset":
            self.connection.close()

    def _forward(self, lie: str | None, body: bytes) -> None:
        if lie in {"half_stored", "flip_stored"}:
            stored = body[: len(body) // 2] if lie == "half_stored" else bytes([body[0] ^ 1]) + body[1:]
            path = self.owner.folder / unquote(urlsplit(self.path).path).lstrip("/")
            path.write_bytes(stored)
            self._answer(200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b"")
            return
        if lie == "flip" and self.command == "PUT":
            body = bytes([body[0] ^ 1]) + body[1:]
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection = http.client.HTTPConnection(*self.owner.upstream, timeout=30)
        try:
            connection.request(self.command, self.path, body=body or None, headers=headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        answered = dict(response.getheaders())
        if lie == "wrong_etag":
            answered = {name: value for name, value in answered.items() if name.lower() != "etag"}
            answered["ETag"] = f'"{"0" * 32}"'
        elif lie == "flip" and self.command == "GET" and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif lie == "not_listed":
            content = re.sub(rb"<Contents>.*?</Contents>", b"", content, flags=re.DOTALL)
        elif lie == "foreign_digest":
            content = re.sub(rb"<ETag>.*?</ETag>", b"<ETag>" + b"0" * 32 + b"</ETag>", content)
        elif lie == "endless":
            page = b"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
            content = content.replace(b"<IsTruncated>false</IsTruncated>", page)
        elif lie == "cut_answer":
            self.send_response_only(response.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self._answer(response.status, answered, content)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        skipped = {"content-length", "transfer-encoding", "connection"}
        for name, value in headers.items():
            if name.lower() not in skipped or value == "close":
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle
