"""The machine that the data comes from: this one, or the one of tapeop's ``ssh_command``."""

from __future__ import annotations

import getopt
import shlex
import subprocess
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.host import Host, LocalHost, SshHost, SshTarget
from custody.tape.config import TapeConfig

LOCAL = "localhost"
_FLAGS = "46AaCfGgKkMNnqsTtVvXxYy"
_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"


def source_of(config: TapeConfig) -> Host:
    """The host of a configuration without an Airflow connection. Faults: CONFIG, AUTH where no host key is known."""
    if config.ssh_connection:
        raise Fault(
            FaultKind.CONFIG,
            f"configuration {config.name}",
            f"its ssh_connection {config.ssh_connection} is known to Airflow only",
            next_command="set ssh_command for the command line",
        )
    return SshHost(parse_ssh_command(config.ssh_command)) if config.ssh_command else LocalHost()


def parse_ssh_command(command: str) -> SshTarget:
    """What tapeop's ``ssh user@host -i key`` means; the host key is the one in the user's known_hosts.

    Faults: CONFIG for what is no such command, AUTH where nobody has vouched for the host yet.
    """
    subject = "ssh_command"
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Fault(FaultKind.CONFIG, subject, f"cannot be read ({error})") from error
    if not words or Path(words[0]).name != "ssh":
        raise Fault(FaultKind.CONFIG, subject, "begins with ssh, as in: ssh user@host -i /path/to/key")
    try:
        options, rest = getopt.gnu_getopt(words[1:], _FLAGS + "".join(f"{letter}:" for letter in _WITH_VALUE))
    except getopt.GetoptError as error:
        raise Fault(FaultKind.CONFIG, subject, f"{error.msg}") from error
    if len(rest) != 1:
        raise Fault(FaultKind.CONFIG, subject, f"names one host, and no command: {' '.join(rest) or 'none'}")
    user, _, host = rest[0].rpartition("@")
    settings = {flag: value for flag, value in options if flag != "-o"}
    for flag, value in options:
        if flag == "-o":
            key, _, chosen = value.replace(" ", "=", 1).partition("=")
            settings[f"-o {key.lower()}"] = chosen
    port = settings.get("-p") or settings.get("-o port") or "22"
    if not port.isdecimal():
        raise Fault(FaultKind.CONFIG, subject, f"{port!r} is no port")
    key_file = settings.get("-i") or settings.get("-o identityfile")
    known_hosts = settings.get("-o userknownhostsfile", "~/.ssh/known_hosts")
    return SshTarget(
        host=host,
        host_key=_known_host_key(host, int(port), Path(known_hosts).expanduser()),
        user=user or settings.get("-l") or settings.get("-o user"),
        port=int(port),
        key_file=Path(key_file).expanduser() if key_file else None,
    )


def _known_host_key(host: str, port: int, known_hosts: Path) -> str:
    """The key that this user has accepted for a host; hashed names too. An ed25519 key is preferred."""
    name = host if port == 22 else f"[{host}]:{port}"
    argv = ["ssh-keygen", "-F", name, "-f", str(known_hosts)]
    try:
        found = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError as error:
        raise Fault(
            FaultKind.CONFIG, "ssh-keygen", "is not installed", next_command="install openssh-client"
        ) from error
    keys = [line.split(" ", 1)[1] for line in found.splitlines() if line and not line.startswith(("#", "@"))]
    if not keys:
        raise Fault(
            FaultKind.AUTH,
            host,
            f"its host key is not in {known_hosts}",
            next_command=f"ssh-keyscan -p {port} {host} >> {known_hosts}, once you have checked the key",
        )
    return sorted(keys, key=lambda key: not key.startswith("ssh-ed25519"))[0]
