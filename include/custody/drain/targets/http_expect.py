"""``Expect: 100-continue``: hear a refusal before gigabytes are sent. http.client knows only how to skip a 100."""

from __future__ import annotations

import http.client
import io
import socket
from typing import Any, cast

_MAX_HEAD_BYTES = 1 << 16


def hear_before_body(sock: socket.socket, wait_s: float, stall_s: float) -> http.client.HTTPResponse | None:
    """Wait for the server's word on the headers of a request whose body has not been sent.

    Returns None where it says "go on", or nothing for ``wait_s``: many servers do not know the question. Else its
    final answer, ready to be read. OSError where the connection breaks.
    """
    head = bytearray()
    sock.settimeout(wait_s)
    try:
        # Byte by byte: what follows the head belongs to whoever reads the answer after us.
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            if not byte or len(head) > _MAX_HEAD_BYTES:
                raise ConnectionResetError("closed before any answer")
            head += byte
            sock.settimeout(stall_s)
    except TimeoutError:
        if head:
            raise
        return None
    finally:
        sock.settimeout(stall_s)
    if head.split(b" ", 2)[1:2] == [b"100"]:
        return None
    response = http.client.HTTPResponse(cast(Any, _Replay(bytes(head), sock)), method="PUT")
    response.begin()
    return response


class _Replay(io.RawIOBase):
    """What was read already, then what still comes."""

    def __init__(self, head: bytes, sock: socket.socket) -> None:
        self._head = head
        self._sock = sock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            return self._sock.recv_into(buffer)
        count = min(len(buffer), len(self._head))
        buffer[:count] = self._head[:count]
        self._head = self._head[count:]
        return count
