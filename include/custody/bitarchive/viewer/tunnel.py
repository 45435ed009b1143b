"""``CONNECT``: a browser that has the viewer as its proxy asks for a tunnel to a host, and gets this server.

Nothing is ever connected to: behind the tunnel stands the same application, as that host, with a certificate of the
viewer's own authority. Who asks is told by what the browser said when it asked for the tunnel.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from custody.bitarchive.viewer.authority import Authority

USER = "custody_proxy_authorization"
"""In the state of a request: the ``Proxy-Authorization`` of its tunnel."""
MAX_HEAD_BYTES = 16 << 10
_HANDSHAKE_TIMEOUT_S = 20.0
_CONNECT = b"CONNECT "
_TARGET = re.compile(
    rb"CONNECT (?P<host>[A-Za-z0-9._-]{1,253}|\[?[0-9a-fA-F:.]{2,45}\]?):(?P<port>\d{1,5}) HTTP/1\.[01]"
)
_AUTHORIZATION = re.compile(rb"\r\nproxy-authorization:[ \t]*([^\r\n]*)", re.IGNORECASE)


class _Inside(HttpToolsProtocol):
    """What stands behind a tunnel. Bytes may come before it is told that there is a connection."""

    _early = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if early := self._early:
            self._early = b""
            self.data_received(early)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            self._early += data
        else:
            super().data_received(data)


class _Tunnelling(HttpToolsProtocol):
    """HTTP, and CONNECT as the first request of a connection."""

    authority: Authority

    _head: bytes | None = b""
    _task: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            super().data_received(data)
            return
        self._head += data
        if self._head[: len(_CONNECT)] != _CONNECT[: len(self._head)]:
            head, self._head = self._head, None
            super().data_received(head)
        elif b"\r\n\r\n" in self._head:
            self._open(self._head)
        elif len(self._head) > MAX_HEAD_BYTES:
            self._refuse()

    def _open(self, head: bytes) -> None:
        target = _TARGET.match(head)
        if not target or not head.endswith(b"\r\n\r\n"):
            self._refuse()
            return
        said = _AUTHORIZATION.search(head)
        self.transport.pause_reading()
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        state = {**self.app_state, USER: said[1].decode("latin-1") if said else ""}
        inside = _Inside(self.config, self.server_state, state, self.loop)
        self.connections.discard(self)  # from here on it is the one inside that counts
        self._task = self.loop.create_task(self._secure(target["host"].decode(), inside))

    async def _secure(self, host: str, inside: _Inside) -> None:
        try:
            context = await asyncio.to_thread(self.authority.context_for, host)
            made = await self.loop.start_tls(
                self.transport,
                inside,
                context,
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S,
            )
            assert made is not None
            inside.connection_made(made)
        except (OSError, ValueError, AssertionError):  # a browser that does not believe us just goes away
            self.transport.abort()

    def _refuse(self) -> None:
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()


def tunnelling(authority: Authority) -> type[HttpToolsProtocol]:
    """The protocol of a server whose tunnels end in itself."""
    return type("Tunnelling", (_Tunnelling,), {"authority": authority})


def authorization_of(scope: Any) -> str | None:
    """What the browser said of itself when it asked for the tunnel; None for a request that came without one."""
    return cast("str | None", scope.get("state", {}).get(USER))
