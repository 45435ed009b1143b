"""Send a file by HTTP PUT in one read, hashing it on the way in a second thread.

The digest that is made here is compared with the manifest's by whoever called: a file that rotted on disk between
packing and sending is caught before anything is deleted. http.client, because nothing on top of it sends a file at less
than several times its cost.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import queue
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from custody.digests import Fixity, Progress, reading
from custody.drain.targets import Outgoing
from custody.drain.targets.http_expect import hear_before_body
from custody.drain.targets.pace import Cap, Floor, Pacing
from custody.faults import Fault, FaultKind, os_errors_as_faults

BLOCK_BYTES = 1 << 20
RING_BLOCKS = 4
MAX_ANSWER_BYTES = 8 << 20
CONNECT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """A server's answer to a request. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def etag(self) -> str:
        """The entity tag without quotes, lower case."""
        return self.headers.get("etag", "").strip('"').lower()


class _RingHasher:
    """md5 of blocks that are handed over in a ring: while one is hashed the next is read and sent."""

    def __init__(self) -> None:
        self.free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(RING_BLOCKS):
            self.free.put(memoryview(bytearray(BLOCK_BYTES)))
        self._full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._thread = threading.Thread(target=self._work, name="md5", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while handed := self._full.get():
            buffer, count = handed
            self._md5.update(buffer[:count])
            self.free.put(buffer)

    def hand_over(self, buffer: memoryview, count: int) -> None:
        self._full.put((buffer, count))

    def hexdigest(self) -> str:
        self._full.put(None)
        self._thread.join()
        return self._md5.hexdigest()


class _InlineHasher:
    """The same for a file of one block, for which a thread and a ring would cost more than they save."""

    def __init__(self, size_bytes: int) -> None:
        self.free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self.free.put(memoryview(bytearray(max(1, size_bytes))))
        self._md5 = hashlib.md5(usedforsecurity=False)

    def hand_over(self, buffer: memoryview, count: int) -> None:
        self._md5.update(buffer[:count])
        self.free.put(buffer)

    def hexdigest(self) -> str:
        return self._md5.hexdigest()


def _hasher(size_bytes: int) -> _RingHasher | _InlineHasher:
    return _InlineHasher(size_bytes) if size_bytes <= BLOCK_BYTES else _RingHasher()


class Sender:
    """One keep-alive connection to one server; for one thread at a time.

    :param base_url: scheme, host and port; the paths come with each request.
    :param stall_s: a connection on which nothing moves for so long is given up.
    :param pacing: cap and floor of the speed of files.
    """

    def __init__(self, base_url: str, *, stall_s: float = 300.0, pacing: Pacing | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Fault(FaultKind.CONFIG, base_url or "endpoint_url", "is no http or https address")
        self.host = parts.netloc.rpartition("@")[2]
        self._stall_s = stall_s
        self._pacing = pacing or Pacing()
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=min(CONNECT_S, stall_s), context=context
            )
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=min(CONNECT_S, stall_s))

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the next request connects anew."""
        self._connection.close()

    def put_file(
        self,
        path: str,
        headers: Mapping[str, str],
        outgoing: Outgoing,
        progress: Progress | None = None,
        *,
        continue_s: float | None = None,
    ) -> tuple[Answer, Fixity]:
        """PUT a file; returns the answer, and size and md5 of what was read and sent.

        :param continue_s: ask the server first whether it wants the bytes, and wait so long for its word; a refusal
            is then the answer, with nothing read and nothing sent. None: send without asking.

        The file must still be in the state of its manifest. Faults: DATA where it is not, TRANSIENT where the
        connection breaks and no answer can be read, or where it is too slow.
        """
        hasher = _hasher(outgoing.state.size_bytes)
        sent = 0
        with reading(outgoing.path) as descriptor:
            size = os.fstat(descriptor).st_size
            if size != outgoing.state.size_bytes:
                raise Fault(FaultKind.DATA, str(outgoing.path), f"has {size} bytes, its manifest says otherwise")
            expect = {} if continue_s is None else {"Expect": "100-continue"}
            try:
                self._start("PUT", path, {**headers, "Content-Length": str(size), **expect})
                answer = None if continue_s is None else self._refusal(continue_s)
                if answer is None:
                    for buffer, count in self._body(descriptor, outgoing, hasher):
                        self._connection.send(buffer[:count])
                        sent += count
                        if progress:
                            progress(count)
                    answer = self._answer()
            except OSError as error:
                answer = self._early_answer(error)
            except BaseException:
                self.close()
                raise
            finally:
                md5 = hasher.hexdigest()
        if answer.status < 300 and sent < size:
            raise Fault(FaultKind.TRANSIENT, self.host, f"said {answer.status} before it had all of {outgoing.name}")
        return answer, Fixity(sent, {"md5": md5})

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Any small request. Faults: TRANSIENT where the connection breaks."""
        try:
            self._start(method, path, {**headers, "Content-Length": str(len(body))})
            if body:
                self._connection.send(body)
            return self._answer()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Fault(FaultKind.TRANSIENT, self.host, f"connection lost ({_words(error)})") from error

    def read(self, path: str, headers: Mapping[str, str], consume: Callable[[bytes], None]) -> Answer:
        """GET something large; its bytes go to ``consume``. Faults: TRANSIENT where it ends early."""
        try:
            self._start("GET", path, headers)
            response = self._connection.getresponse()
            if response.status != 200:
                return self._answer_of(response)
            expected, found = response.length, 0
            while block := response.read(BLOCK_BYTES):
                found += len(block)
                consume(block)
            if expected is not None and found < expected:
                raise http.client.IncompleteRead(b"", expected - found)
            return self._answer_of(response)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Fault(FaultKind.TRANSIENT, self.host, f"connection lost while reading ({_words(error)})") from error

    def _start(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        self._connect()
        self._connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() != "host":
                self._connection.putheader(name, value)
        self._connection.endheaders()

    def _connect(self) -> None:
        """Make sure of a live connection: one that the server closed while it was idle is made anew."""
        if self._connection.sock is not None:
            poll = select.poll()
            poll.register(self._connection.sock, select.POLLIN)
            if not poll.poll(0):
                return
            self.close()
        self._connection.connect()
        self._connection.sock.settimeout(self._stall_s)

    def _refusal(self, continue_s: float) -> Answer | None:
        try:
            response = hear_before_body(self._connection.sock, continue_s, self._stall_s)
            if response is None:
                return None
            answer = self._answer_of(response)
        except http.client.HTTPException as error:
            raise Fault(FaultKind.TRANSIENT, self.host, f"no proper answer ({_words(error)})") from error
        self.close()  # the server cannot know whether the bytes still come
        return answer

    def _body(
        self, descriptor: int, outgoing: Outgoing, hasher: _RingHasher | _InlineHasher
    ) -> Iterator[tuple[memoryview, int]]:
        """Read the file in turns, hand each to the hasher, and wait for its time; the caller sends it."""
        cap, floor = Cap(self.host, self._pacing), Floor(self.host, self._pacing)
        turn_bytes = self._pacing.turn_bytes(BLOCK_BYTES)
        left = outgoing.state.size_bytes
        while left:
            buffer = hasher.free.get()
            with os_errors_as_faults(str(outgoing.path)):
                count = os.readv(descriptor, [buffer[: min(turn_bytes, left)]])
            if not count:
                raise Fault(FaultKind.DATA, str(outgoing.path), "became shorter while it was sent")
            hasher.hand_over(buffer, count)
            left -= count
            waited_s = cap.wait(count)
            yield buffer, count
            floor.count(count, waited_s)

    def _answer(self) -> Answer:
        try:
            return self._answer_of(self._connection.getresponse())
        except http.client.HTTPException as error:
            self.close()
            raise Fault(FaultKind.TRANSIENT, self.host, f"no proper answer ({_words(error)})") from error

    def _answer_of(self, response: http.client.HTTPResponse) -> Answer:
        body = response.read(MAX_ANSWER_BYTES)
        if response.will_close or not response.isclosed():
            self.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def _early_answer(self, error: OSError) -> Answer:
        """A server that refuses a body may answer and close while we still send: its reason is worth more than ours."""
        try:
            if not isinstance(error, TimeoutError):
                return self._answer()
        except (OSError, Fault):
            pass
        finally:
            self.close()
        raise Fault(FaultKind.TRANSIENT, self.host, f"connection lost while sending ({_words(error)})") from error


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._start
