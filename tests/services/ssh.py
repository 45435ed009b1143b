"""The demo's throw-away sshd of the current user; a test skips where its programs are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from custody_demo import second_machine
from custody_demo.second_machine import SshServer
from services.need import need

__all__ = ["SshServer", "run_sshd"]


@contextmanager
def run_sshd(home: Path) -> Iterator[SshServer]:
    """Run an sshd on the loopback until the end of the block; it knows one key, made for it."""
    need("sshd", package="openssh-server")
    need("ssh-keygen", package="openssh-client")
    with second_machine.run_sshd(home) as server:
        yield server
