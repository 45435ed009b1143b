"""A throw-away sshd of the current user."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from custody_demo import processes
from services.need import need


@dataclass(frozen=True)
class SshServer:
    """Where it listens, who may come in with which key, and the host key to pin."""

    host: str
    port: int
    user: str
    key_file: Path
    known_hosts: Path
    host_key: str  # as in known_hosts, without the host: "ssh-ed25519 AAAA..."


@contextmanager
def run_sshd(home: Path) -> Iterator[SshServer]:
    """Run an sshd on the loopback until the end of the block; it knows one key, made for it."""
    sshd, keygen = need("sshd", package="openssh-server"), need("ssh-keygen", package="openssh-client")
    for name in ("host_key", "user_key"):
        argv = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(home / name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    port = processes.free_ports(1)[0]
    host_key = " ".join((home / "host_key.pub").read_text().split()[:2])
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (home / "sshd_config").write_text(
        f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey {home}/host_key
        PidFile {home}/pid
        AuthorizedKeysFile {home}/user_key.pub
        PermitRootLogin prohibit-password
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        UsePAM no
        StrictModes no
        MaxStartups 100
        Subsystem sftp internal-sftp
        """
    )
    if os.getuid() == 0:
        # Debian's service makes it at boot; without it sshd as root does not start.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = home / "log"
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    process = processes.start([sshd, "-D", "-e", "-f", str(home / "sshd_config")], env=env, cwd=home, log=log)
    family = processes.Family({one for one in [processes.process_id(process.pid)] if one})
    try:
        assert processes.wait_until(lambda: not processes.is_free(port), timeout_s=20), processes.last_lines(log)
        assert process.poll() is None, processes.last_lines(log)
        yield SshServer("127.0.0.1", port, getpass.getuser(), home / "user_key", home / "known_hosts", host_key)
    finally:
        family.refresh()
        process.terminate()
        process.wait(timeout=20)
        family.end(grace_s=1)
