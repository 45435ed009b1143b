"""A second machine for lack of one: an sshd of the current user on the loopback, with keys made for it alone."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault
from custody.host import SshHost, SshTarget
from custody_demo import processes
from custody_demo.processes import StartError

# Debian keeps servers where an ordinary user's PATH does not look.
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
_PACKAGES = {"sshd": "openssh-server", "ssh-keygen": "openssh-client", "ssh": "openssh-client", "rsync": "rsync"}


@dataclass(frozen=True)
class SshServer:
    """Where it listens, who may come in with which key, and the host key to pin."""

    host: str
    port: int
    user: str
    key_file: Path
    known_hosts: Path
    host_key: str  # as in known_hosts, without the host: "ssh-ed25519 AAAA..."

    def airflow_connection(self) -> str:
        """Return the value of an AIRFLOW_CONN_... variable that leads here."""
        extra = {"host_key": self.host_key, "key_file": str(self.key_file)}
        return json.dumps(
            {"conn_type": "ssh", "host": self.host, "port": self.port, "login": self.user, "extra": extra}
        )


def find_program(name: str) -> str:
    """Return the absolute path of a program, or raise StartError with the Debian package to install."""
    found = shutil.which(name) or shutil.which(name, path=_SBIN)
    if found is None:
        raise StartError(f"there is no {name} (apt-get install {_PACKAGES.get(name, name)})")
    return found


@contextmanager
def run_second_machine(home: Path) -> Iterator[SshServer]:
    """Run an sshd on which a drain can lay down files by rsync; raise StartError, saying why, where none will do.

    :param home: an existing directory for its keys and its log
    """
    for name in ("ssh", "rsync"):
        find_program(name)
    with run_sshd(home) as server:
        address = SshTarget(server.host, server.host_key, user=server.user, port=server.port, key_file=server.key_file)
        try:
            # An account may be locked, or have a shell that lets nobody in; better to know it before a disk waits.
            done = SshHost(address).run(["rsync", "--version"], timeout_s=30)
        except Fault as fault:
            raise StartError(f"sshd does not let {server.user} in ({fault.reason}; its log: {home / 'log'})") from fault
        if done.returncode != 0:
            raise StartError(f"rsync does not run by ssh: {done.stderr_tail}")
        yield server


@contextmanager
def run_sshd(home: Path) -> Iterator[SshServer]:
    """Run an sshd on the loopback until the end of the block; it knows one key, made for it."""
    sshd, keygen = find_program("sshd"), find_program("ssh-keygen")
    for name in ("host_key", "user_key"):
        argv = [keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(home / name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    port = processes.free_ports(1)[0]
    host_key = " ".join((home / "host_key.pub").read_text().split()[:2])
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    _write_config(home, port)
    if os.getuid() == 0:
        # Debian's service makes it at boot; without it sshd as root does not start.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = home / "log"
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    process = processes.start([sshd, "-D", "-e", "-f", str(home / "sshd_config")], env=env, cwd=home, log=log)
    leader = processes.process_id(process.pid)
    family = processes.Family({leader} if leader else set())
    try:
        listens = processes.wait_until(lambda: process.poll() is not None or not processes.is_free(port), timeout_s=20)
        if not listens or process.poll() is not None:
            raise StartError(f"sshd did not start; last lines of {log}:\n  {processes.last_lines(log)}")
        yield SshServer("127.0.0.1", port, getpass.getuser(), home / "user_key", home / "known_hosts", host_key)
    finally:
        family.refresh()
        process.terminate()
        process.wait(timeout=20)
        family.end(grace_s=1)


def _write_config(home: Path, port: int) -> None:
    (home / "sshd_config").write_text(
        f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey "{home}/host_key"
        PidFile "{home}/pid"
        AuthorizedKeysFile "{home}/user_key.pub"
        PermitRootLogin prohibit-password
        PasswordAuthentication no
        KbdInteractiveAuthentication no
        UsePAM no
        StrictModes no
        MaxStartups 100
        Subsystem sftp internal-sftp
        """
    )
