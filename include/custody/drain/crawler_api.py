"""Crawlers that can be asked to pause: Heritrix 3 and Zeno by their own interfaces, any other by two commands."""

from __future__ import annotations

import http.client
import json
import shlex
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from custody.faults import Fault, FaultKind
from custody.host import LocalHost

TIMEOUT_S = 20.0
WHOLE_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 4 << 20
_REFUSED_KINDS = {401: FaultKind.AUTH, 403: FaultKind.AUTH, 404: FaultKind.CONFIG}


class CrawlerState(StrEnum):
    """What a crawler says of itself."""

    RUNNING = "running"
    PAUSED = "paused"  # or about to be
    STOPPED = "not crawling"  # no job is built, it has ended, or it is ending
    UNKNOWN = "unknown"  # it cannot be asked


class Crawler(Protocol):
    """One crawler that fills a disk."""

    @property
    def name(self) -> str:
        """What it is called in messages and on record; holds no secret."""
        ...

    def state(self) -> CrawlerState:
        """Ask it. Faults: TRANSIENT where it does not answer, AUTH, CONFIG."""
        ...

    def pause(self) -> None:
        """Ask it to pause; harmless where it is paused already. Faults: as :meth:`state`."""
        ...

    def resume(self) -> None:
        """Ask it to go on; harmless where it is running. Faults: as :meth:`state`."""
        ...


@dataclass(frozen=True)
class Login:
    """Name and password for digest authentication (Heritrix asks for nothing else)."""

    user: str
    password: str = field(repr=False)


class _Api:
    """Requests to one address: no proxy, no redirect to another host, an answer of limited size, in limited time.

    :param url: address of the server, such as ``https://crawler07:8443``.
    :param certificate: PEM text of the server's certificate: just this one is trusted, whatever name stands in it.
        Without it the machine's own authorities decide.
    """

    def __init__(self, url: str, login: Login | None = None, certificate: str | None = None) -> None:
        self.url = url.rstrip("/")
        context = _context(certificate, self.url)
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=context),
            _NoRedirect(),
        ]
        if login:
            if not (login.user + login.password).isascii() or '"' in login.user:
                raise Fault(
                    FaultKind.CONFIG, self.url, 'login and password must be of ASCII letters, the login without "'
                )
            passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            passwords.add_password(None, self.url, login.user, login.password)
            handlers.append(urllib.request.HTTPDigestAuthHandler(passwords))
        self._opener = urllib.request.build_opener(*handlers)

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The body of the answer. Faults: TRANSIENT, AUTH, CONFIG, naming the address."""
        url = f"{self.url}{path}"
        pending: Future[bytes] = Future()

        def ask() -> None:
            try:
                pending.set_result(self._ask(url, method, body, headers))
            except Exception as error:
                pending.set_exception(error)

        # an answer that comes byte by byte would never run into a time-out of the socket
        threading.Thread(target=ask, name="crawler", daemon=True).start()
        try:
            return pending.result(WHOLE_TIMEOUT_S)
        except TimeoutError as error:
            reason = f"the crawler has not answered within {WHOLE_TIMEOUT_S:g} s"
            raise Fault(FaultKind.TRANSIENT, url, reason) from error

    def _ask(self, url: str, method: str, body: bytes | None, headers: Mapping[str, str] | None) -> bytes:
        request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read(MAX_ANSWER_BYTES)
                return content
        except urllib.error.HTTPError as error:
            with error:
                if 300 <= error.code < 400 and method == "POST":
                    return b""  # Heritrix answers a command with a redirect to the page of the job
                kind = _REFUSED_KINDS.get(error.code, FaultKind.TRANSIENT if error.code >= 500 else FaultKind.CONFIG)
                raise Fault(kind, url, f"the crawler refused it: {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = " ".join(f"the crawler does not answer ({getattr(error, 'reason', error)!s})"[:300].split())
            raise Fault(FaultKind.TRANSIENT, url, reason) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_arguments: object) -> None:
        """Follow none."""


def _context(certificate: str | None, url: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if certificate:
        try:
            context = ssl.create_default_context(cadata=certificate)
        except (ssl.SSLError, ValueError) as error:
            raise Fault(FaultKind.CONFIG, url, f"the certificate of its connection is no PEM text ({error})") from error
        context.check_hostname = False  # Heritrix makes itself a certificate in a name of its own
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class Heritrix:
    """A job of a Heritrix 3 engine, by its REST interface."""

    def __init__(self, url: str, job: str, login: Login, certificate: str | None = None) -> None:
        self._api = _Api(url, login, certificate)
        self._path = f"/engine/job/{quote(job, safe='')}"
        self.name = f"{self._api.url}{self._path}"

    def state(self) -> CrawlerState:
        """See :class:`Crawler`."""
        answer = self._api.call("GET", self._path, headers={"Accept": "application/xml"})
        try:
            found = ElementTree.fromstring(answer).findtext("crawlControllerState")  # noqa: S314 - entities make no harm
        except ElementTree.ParseError as error:
            raise Fault(FaultKind.TRANSIENT, self.name, "does not answer as Heritrix 3 does") from error
        match (found or "").strip().upper():
            case "RUNNING" | "EMPTY" | "PREPARING":
                return CrawlerState.RUNNING
            case "PAUSED" | "PAUSING":
                return CrawlerState.PAUSED
            case _:
                return CrawlerState.STOPPED

    def pause(self) -> None:
        """See :class:`Crawler`."""
        self._do("pause")

    def resume(self) -> None:
        """See :class:`Crawler`."""
        self._do("unpause")

    def _do(self, action: str) -> None:
        headers = {"Accept": "application/xml", "Content-Type": "application/x-www-form-urlencoded"}
        self._api.call("POST", self._path, urlencode({"action": action}).encode(), headers)


class Zeno:
    """A Zeno that was started with its API switched on."""

    def __init__(self, url: str, login: Login | None = None, certificate: str | None = None) -> None:
        self._api = _Api(url, login, certificate)
        self.name = self._api.url

    def state(self) -> CrawlerState:
        """See :class:`Crawler`."""
        try:
            paused = json.loads(self._api.call("GET", "/pause"))["paused"]
        except (ValueError, KeyError, TypeError) as error:
            raise Fault(FaultKind.TRANSIENT, self.name, "does not answer as Zeno does") from error
        return CrawlerState.PAUSED if paused else CrawlerState.RUNNING

    def pause(self) -> None:
        """See :class:`Crawler`."""
        self._set(paused=True)

    def resume(self) -> None:
        """See :class:`Crawler`."""
        self._set(paused=False)

    def _set(self, *, paused: bool) -> None:
        content = json.dumps({"paused": paused}).encode()
        self._api.call("PATCH", "/pause", content, {"Content-Type": "application/json"})


class CommandCrawler:
    """Any other crawler: two commands on the machine of the disk, split into words as a shell would, run by none."""

    def __init__(self, pause: str, resume: str) -> None:
        self._pause, self._resume = pause, resume
        self.name = pause

    def state(self) -> CrawlerState:
        """See :class:`Crawler`: a command answers nothing."""
        return CrawlerState.UNKNOWN

    def pause(self) -> None:
        """See :class:`Crawler`."""
        self._run("pause", self._pause)

    def resume(self) -> None:
        """See :class:`Crawler`."""
        self._run("resume", self._resume)

    def _run(self, key: str, command: str) -> None:
        subject, argv = f"crawler.{key}", shlex.split(command)
        ended = LocalHost().run(argv, timeout_s=COMMAND_TIMEOUT_S)
        if ended.returncode:
            reason = f"{argv[0]} ended with status {ended.returncode}: {ended.stderr_tail or 'without a word'}"
            raise Fault(FaultKind.TRANSIENT, subject, reason)
