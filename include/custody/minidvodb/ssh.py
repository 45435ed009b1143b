"""One ssh connection for all commands of a step: a copy takes a dozen, and each would cost a handshake of its own."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.host import Completed, SshHost, SshTarget, classify_ssh
from custody.minidvodb.channel import Asked, Channel


def address_of(host: SshHost) -> str:
    """What ssh is given; the name of a machine is for people."""
    return host.address if isinstance(host, SharedSshHost) else host.name


class SharedSshHost(SshHost):
    """A machine over ssh whose commands go through one shell over there, until :meth:`close`.

    Programs that speak over ssh themselves (rsync) share its connection.

    :param ciphers: of ssh, the first that both know; None: ssh's own choice.
    :param name: under which people know it; default: its address.
    """

    def __init__(self, target: SshTarget, *, ciphers: str | None = None, name: str | None = None) -> None:
        super().__init__(target)
        self.address = target.host
        self._ssh_target = target
        self.name = name or target.host
        self._ciphers = ciphers
        self._channel: Channel | None = None
        self.stays = False
        self._folder = Path(tempfile.mkdtemp(prefix="custody-mux-"))
        atexit.register(self.close)

    @property
    def channel(self) -> Channel:
        """The shell over there, started where there is none. Faults: CONFIG where there is no ssh here."""
        if self._channel is None or not self._channel.lives:
            self.drop()
            self._folder.mkdir(mode=0o700, exist_ok=True)
            lead = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
            master = ["-M", "-o", f"ControlPath={self._socket}"]  # it ends with us, whatever ends us
            self._channel = Channel([*lead, *self._own_command(), *master, self.address], self.name)
        return self._channel

    def another(self) -> SharedSshHost:
        """One more connection to the same machine."""
        return SharedSshHost(self._ssh_target, ciphers=self._ciphers, name=self.name)

    def begin(self) -> None:
        """Make the connection in the background, where there is none; the first command waits for it."""
        assert self.channel

    def ssh_command(self) -> list[str]:
        """See :class:`SshHost`."""
        if self._channel and self._channel.lives and self._socket.exists():
            return [*self._own_command(), "-o", f"ControlPath={self._socket}"]
        return self._own_command()

    def _own_command(self) -> list[str]:
        return super().ssh_command() + ([f"-oCiphers={self._ciphers}"] if self._ciphers else [])

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None) -> Completed:
        """See :class:`SshHost`."""
        return self.start(argv, stdin=stdin or b"", timeout_s=timeout_s)()

    def start(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None
    ) -> Callable[[], Completed]:
        """The same in two halves: what is returned waits for the program's end, and raises its faults."""
        asked = self.channel.start(argv, stdin=stdin, timeout_s=timeout_s)

        def wait() -> Completed:
            try:
                done = asked.end()
            except TimeoutError as error:
                self.abandon()
                reason = f"{argv[0]} did not end within {timeout_s:g} s" if timeout_s else "does not answer"
                raise Fault(FaultKind.TRANSIENT, self.name, reason) from error
            return done or self.lost()

        return wait

    def feed(self, argv: Sequence[str]) -> Asked:
        """Start a program over there that reads a stream; see :meth:`Channel.feed`."""
        return self.channel.feed(argv)

    def lost(self) -> Completed:
        """Say why the connection ended. Faults: AUTH, TRANSIENT, CONFIG: always one of them."""
        channel = self._channel
        complaint = channel.complaint_at_end().strip() if channel else ""
        was_greeted = bool(channel and channel.group)
        self.drop()
        if was_greeted:
            last = complaint.splitlines()[-1:] or ["it ended without a word"]
            raise Fault(FaultKind.TRANSIENT, self.name, f"the connection was lost ({last[0]})")
        raise classify_ssh(self.name, complaint or "the login ended without a word: is there a shell for this user?")

    def abandon(self) -> None:
        """End the shell over there with all that runs in it."""
        group = self._channel.group if self._channel else None
        self.drop()
        if group:
            self._end_remote(group)

    def close(self) -> None:
        """End the connection, unless it ``stays`` for others. What is asked for later makes one of its own."""
        if self.stays:
            return
        self.drop()
        atexit.unregister(self.close)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _socket(self) -> Path:
        return self._folder / "m"

    def drop(self) -> None:
        """End the connection; the next command makes another."""
        if self._channel:
            self._channel.close()
        self._channel = None
        self._socket.unlink(missing_ok=True)
