"""A proxy before a real S3 server: slow on purpose, and rude when told so. What it lets through is not changed."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class SlowStore:
    """The proxy; a context manager that serves on a free port of the loopback.

    :param delay_s: the least and the most that a request waits, half of it before and half after the server has seen
        it, so that whoever is killed meanwhile may or may not have been heard.
    :param refuse: says of a method and a path whether the answer is 500 and the server never hears of it.
    :param throttle: the same for 503.
    :param retry_after_s: stands as Retry-After in every 503, its own and the server's (Ceph's own names none).
    """

    upstream_url: str
    delay_s: tuple[float, float] = (0.0, 0.0)
    refuse: Callable[[str, str], bool] = lambda _method, _path: False
    throttle: Callable[[str, str], bool] = lambda _method, _path: False
    retry_after_s: int | None = None
    seed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    _server: ThreadingHTTPServer | None = field(default=None, init=False, repr=False)

    @property
    def endpoint_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        dice = random.Random(self.seed)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, dice))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="slow store", daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


def _handler(store: SlowStore, dice: random.Random) -> type[_Handler]:
    return type("Handler", (_Handler,), {"store": store, "dice": dice})


class _Handler(BaseHTTPRequestHandler):
    """One connection of one client."""

    protocol_version = "HTTP/1.1"
    store: SlowStore
    dice: random.Random

    def log_message(self, format: str, *args: object) -> None:
        pass

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        half_s = self.dice.uniform(*self.store.delay_s) / 2
        time.sleep(half_s)
        if self.store.refuse(self.command, self.path):
            self.reply(500, [("Content-Type", "application/xml")], b"<Error><Code>InternalError</Code></Error>")
            return
        if self.store.throttle(self.command, self.path):
            self.reply(503, [("Content-Type", "application/xml")], b"<Error><Code>SlowDown</Code></Error>")
            return
        status, headers, answer = self.ask(body)
        time.sleep(half_s)
        self.reply(status, headers, answer)

    def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = urlsplit(self.store.upstream_url)
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # the signature covers the host the client believes in
                if name.lower() not in {"expect", "connection"}:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            answer = response.read()
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
            if self.command == "HEAD" and (length := response.getheader("Content-Length")):
                headers.append(("Content-Length", length))
            return response.status, headers, answer
        finally:
            connection.close()

    def reply(self, status: int, headers: list[tuple[str, str]], answer: bytes) -> None:
        self.store.statuses[status] += 1
        try:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if status == 503 and self.store.retry_after_s is not None:
                self.send_header("Retry-After", str(self.store.retry_after_s))
            if self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except OSError:
            self.close_connection = True  # whoever asked was killed meanwhile

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve
