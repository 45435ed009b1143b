"""A Heritrix engine as far as its REST interface goes: https, digest authentication, one job that runs or is paused."""

from __future__ import annotations

import hashlib
import re
import secrets
import ssl
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs

USER, PASSWORD, REALM = "operator", 'pass"word: ~', "Authentication Required"
_FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|([^,\s]+))')


@dataclass
class Engine:
    """The server; a context manager. ``state`` is what the job is in, ``actions`` what it was told.

    :param refuse: an HTTP status it answers every command with, once the login is right.
    :param deaf: it takes a command, does it, and never answers.
    """

    home: Path
    state: str = "RUNNING"
    refuse: int | None = None
    deaf: bool = False
    actions: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    nonces: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        self.key, self.certificate_file = self.home / "key.pem", self.home / "certificate.pem"
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=Heritrix",
        ]
        made = subprocess.run(
            [*make, "-keyout", str(self.key), "-out", str(self.certificate_file)], capture_output=True, check=False
        )
        assert made.returncode == 0, made.stderr.decode()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"engine": self}))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate_file, self.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def certificate(self) -> str:
        return self.certificate_file.read_text()

    def is_login(self, method: str, header: str) -> bool:
        """Whether an Authorization header is right: RFC 2617 with qop=auth, md5."""
        said = {name: quoted or plain for name, quoted, plain in _FIELD.findall(header)}
        if said.get("nonce") not in self.nonces or said.get("username") != USER:
            return False
        first = _md5(f"{USER}:{REALM}:{PASSWORD}")
        second = _md5(f"{method}:{said['uri']}")
        right = _md5(":".join((first, said["nonce"], said["nc"], said["cnonce"], said["qop"], second)))
        return secrets.compare_digest(right, said["response"])


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: Engine

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.is_let_in():
            page = f"<?xml version='1.0'?><job><crawlControllerState>{self.engine.state}</crawlControllerState></job>"
            self.reply(200 if self.path == "/engine/job/wide%20crawl" else 404, page.encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if not self.is_let_in():
            return
        engine, (action,) = self.engine, parse_qs(body)["action"]
        if engine.refuse:
            self.reply(engine.refuse)
            return
        engine.actions.append(action)
        engine.state = {"pause": "PAUSING", "unpause": "RUNNING"}[action]
        if engine.deaf:
            time.sleep(3)
            self.close_connection = True
            return
        self.reply(303, headers={"Location": f"http://127.0.0.1:{engine.port}/elsewhere"})

    def is_let_in(self) -> bool:
        if self.engine.is_login(self.command, self.headers.get("Authorization", "")):
            return True
        nonce = secrets.token_hex(8)
        self.engine.nonces.add(nonce)
        challenge = f'Digest realm="{REALM}", domain="/", nonce="{nonce}", algorithm=MD5, qop="auth"'
        self.reply(401, headers={"WWW-Authenticate": challenge})
        return False

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.engine.statuses[status] += 1
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
