"""HTTP to archive.org: the LOW login, connections kept alive, redirects followed where the login may go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from custody.digests import Fixity, Progress
from custody.drain.targets import Outgoing
from custody.drain.targets.http_put import Answer, Sender
from custody.drain.targets.pace import Pacing
from custody.faults import Fault, FaultKind

ARCHIVE = "archive.org"
REDIRECTS = frozenset({301, 302, 307, 308})
PUT_REDIRECTS = frozenset({307, 308})  # after the others a client may turn a PUT into a GET
MAX_REDIRECTS = 5


@dataclass(frozen=True)
class Keys:
    """The two IA-S3 keys of an account."""

    access: str
    secret: str = field(repr=False)

    @property
    def header(self) -> dict[str, str]:
        """The login as a request carries it."""
        return {"authorization": f"LOW {self.access}:{self.secret}"}


@dataclass(frozen=True)
class Manners:
    """How we treat the archive.

    :param stall_s: a connection on which nothing moves for so long is given up.
    :param continue_s: how long to wait for "go on" before the bytes of a file are sent.
    :param race_pauses_s: pauses between quick repetitions while an item is being made.
    :param asks_limit: ask check_limit before every file.
    :param content_md5: ``base64`` or ``hex``.
    :param shortest_wait_s: first pause while the archive has work on an item under way; it grows with its age.
    """

    stall_s: float = 300.0
    continue_s: float = 20.0
    race_pauses_s: tuple[float, ...] = (2.0, 5.0, 10.0, 20.0)
    asks_limit: bool = True
    content_md5: str = "base64"
    shortest_wait_s: float = 60.0
    pacing: Pacing = field(default_factory=Pacing)


def may_have_login(url: str, configured: str) -> bool:
    """Whether the login may go to ``url``: the archive's own hosts over https, or the very host that is configured."""
    there, ours = urlsplit(url), urlsplit(configured)
    host = (there.hostname or "").rstrip(".")
    if there.scheme == "https" and (host == ARCHIVE or host.endswith(f".{ARCHIVE}")):
        return True
    is_downgrade = ours.scheme == "https" and there.scheme != "https"
    return there.scheme in {"http", "https"} and host == ours.hostname and not is_downgrade


class ArchiveClient:
    """Requests to one endpoint; may be used by several threads.

    :param endpoint: such as ``https://s3.us.archive.org``.
    """

    def __init__(self, endpoint: str, keys: Keys, manners: Manners) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.host = urlsplit(self.endpoint).netloc
        self._keys = keys
        self._manners = manners
        self._idle: dict[str, list[Sender]] = {}
        self._lock = threading.Lock()

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """A small request with the login. Faults: TRANSIENT, and CONFIG for a redirect to a stranger."""
        return self._follow(
            path,
            PUT_REDIRECTS if body else REDIRECTS,
            lambda sender, there: sender.request(method, there, {**(headers or {}), **self._keys.header}, body),
        )

    def put_file(
        self, path: str, headers: Mapping[str, str], outgoing: Outgoing, progress: Progress | None = None
    ) -> tuple[Answer, Fixity]:
        """PUT a file, from its start again after each redirect. Faults: as :meth:`Sender.put_file`, and CONFIG."""
        read = Fixity(0)

        def put(sender: Sender, there: str) -> Answer:
            nonlocal read
            if progress and read.size_bytes:
                progress(-read.size_bytes)
            login = {**headers, **self._keys.header}
            answer, read = sender.put_file(there, login, outgoing, progress, continue_s=self._manners.continue_s)
            return answer

        return self._follow(path, PUT_REDIRECTS, put), read

    def read(self, path: str, consume: Callable[[bytes], None]) -> Answer:
        """GET something large. Faults: as :meth:`Sender.read`, and CONFIG."""
        return self._follow(path, REDIRECTS, lambda sender, there: sender.read(there, self._keys.header, consume))

    def _follow(self, path: str, redirects: frozenset[int], ask: Callable[[Sender, str], Answer]) -> Answer:
        url = self.endpoint + path
        for _ in range(MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            with self._sender(f"{parts.scheme}://{parts.netloc}") as sender:
                answer = ask(sender, f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
            location = answer.headers.get("location")
            if answer.status not in redirects or not location:
                return answer
            url = urljoin(url, location)
            if not may_have_login(url, self.endpoint):
                reason = f"redirects to {urlsplit(url).netloc}, no host of {ARCHIVE} over https; nothing was sent there"
                raise Fault(FaultKind.CONFIG, self.host, reason, next_command="check the endpoint of the connection")
        raise Fault(FaultKind.TRANSIENT, self.host, f"redirects more than {MAX_REDIRECTS} times")

    @contextmanager
    def _sender(self, base: str) -> Iterator[Sender]:
        """Borrow an idle connection or make one; one that was part of a fault is hung up."""
        with self._lock:
            idle = self._idle.setdefault(base, [])
            sender = idle.pop() if idle else None
        if sender is None:
            sender = Sender(base, stall_s=self._manners.stall_s, pacing=self._manners.pacing)
        try:
            yield sender
        except BaseException:
            sender.close()
            raise
        with self._lock:
            idle.append(sender)
