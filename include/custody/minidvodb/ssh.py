"""One ssh connection for all commands of a step: a copy takes a dozen, and each would cost a handshake of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from custody.host import CONNECT_TIMEOUT_S, SshHost, SshTarget, end_group

_LOOK_EVERY_S = 0.01
_MUX_SAYINGS = (b"mux_client", b"ControlSocket", b"Control socket", b"Shared connection")


class SharedSshHost(SshHost):
    """A machine over ssh whose commands share one connection until :meth:`close`.

    Where the shared connection cannot be made, every command makes its own, and says what is wrong.

    :param ciphers: of ssh, the first that both know; None: ssh's own choice.
    """

    def __init__(self, target: SshTarget, *, ciphers: str | None = None) -> None:
        super().__init__(target)
        self._address = target.host
        self._ciphers = ciphers
        self._shared: subprocess.Popen[bytes] | None = None
        self._tried = False
        self._asked = 0
        self.stays = False
        self._folder = Path(tempfile.mkdtemp(prefix="custody-mux-"))
        atexit.register(self.close)

    def ssh_command(self) -> list[str]:
        """See :class:`SshHost`."""
        own = super().ssh_command() + ([f"-oCiphers={self._ciphers}"] if self._ciphers else [])
        self._asked += 1
        if not self._tried and (self.stays or self._asked > 1):  # for a single command its own connection is cheaper
            self._tried = True
            self._share(own)
        if self._shared and self._shared.poll() is None:
            return [*own, "-o", f"ControlPath={self._socket}"]
        return own

    def _checked(self, returncode: int, stderr: bytes) -> bytes:
        """Where the shared connection fails ssh makes one of its own; what it says of that is no complaint."""
        lines = stderr.splitlines(keepends=True)
        while lines and lines[0].startswith(_MUX_SAYINGS):
            lines.pop(0)
        return super()._checked(returncode, b"".join(lines))

    @property
    def _socket(self) -> Path:
        return self._folder / "m"

    def _share(self, own: list[str]) -> None:
        """Make the connection that the others go through; it ends with us, whatever ends us."""
        lead = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        argv = [*lead, *own, "-M", "-N", "-o", f"ControlPath={self._socket}", self._address]
        with suppress(OSError):
            self._shared = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
                env={**os.environ, "LC_ALL": "C"},
            )
            deadline = time.monotonic() + CONNECT_TIMEOUT_S
            while not self._socket.exists() and self._shared.poll() is None and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY_S)

    def close(self) -> None:
        """End the connection, unless it ``stays`` for others. What is asked for later makes one of its own."""
        if self.stays:
            return
        if self._shared and self._shared.poll() is None:
            end_group(self._shared)
        self._shared = None
        atexit.unregister(self.close)
        shutil.rmtree(self._folder, ignore_errors=True)
