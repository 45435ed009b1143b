"""Both servers with one command: pywb, in an environment of its own, and the command host beside it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from custody.bitarchive.archive import Archive
from custody.bitarchive.environment import CONFIG, make_environment
from custody.bitarchive.viewer.app import make_app
from custody.bitarchive.viewer.authority import Authority
from custody.bitarchive.viewer.commands import Commands
from custody.bitarchive.viewer.tunnel import tunnelling
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.host import end_group
from custody.publish import write_atomic

LOCK = CONFIG / "viewer" / "requirements.txt"
START_TIMEOUT_S = 60.0


def home_of(archive: Archive) -> Path:
    """Where the viewer keeps its things."""
    return archive.config.work_dir / "viewer"


def find_pywb(archive: Archive) -> Path:
    """Pywb's ``wayback`` program: ``$CUSTODY_PYWB``, the environment of the viewer, or PATH. Faults: CONFIG."""
    named = os.environ.get("CUSTODY_PYWB")
    for candidate in (named, environment_of(archive) / "bin" / "wayback", shutil.which("wayback")):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    command = f"custody bitarchive viewer {archive.name} --install"
    raise Fault(FaultKind.CONFIG, "pywb", "is not installed", next_command=command)


def environment_of(archive: Archive) -> Path:
    """Where pywb's own environment lies."""
    return home_of(archive) / "env"


def install_pywb(environment: Path) -> Path:
    """Make pywb's own environment from its own lock: its pins cannot share Airflow's. Returns its program."""
    make_environment(environment, LOCK)
    return environment / "bin" / "wayback"


@contextmanager
def running_pywb(archive: Archive, program: Path, host: str, port: int, command_port: int) -> Iterator[None]:
    """Pywb on the collections of the viewer, for the length of a block; it fetches files from the command host."""
    home = home_of(archive) / "pywb"
    with os_errors_as_faults(str(home)):
        (home / "collections").mkdir(parents=True, exist_ok=True)
        files = f"http://127.0.0.1:{command_port}/getFile?arcFile="
        write_atomic(home / "config.yaml", f'collections_root: collections\narchive_paths: "{files}"\n'.encode())
        log = (home / "pywb.log").open("ab")
    with log:
        argv = [str(program), "-p", str(port), "-b", host, "-d", str(home)]
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, env=_environment()
        )
        try:
            _await(process, port, home / "pywb.log")
            yield
        finally:
            end_group(process)


def _environment() -> dict[str, str]:
    """Pywb sees no secret of ours, and no path of our modules."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise Fault(FaultKind.CONFIG, "pywb", f"does not start on port {port}", next_command=f"look at {log}")


def serve(archive: Archive, *, host: str, port: int, pywb_port: int, replay_url: str | None = None) -> None:
    """Serve until interrupted. Faults: CONFIG where pywb is missing or a port is taken.

    :param replay_url: how browsers reach pywb, where not at its own address.
    """
    import uvicorn

    program, authority = find_pywb(archive), Authority(home_of(archive) / "ca")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running_pywb(archive, program, host, pywb_port, port):
        commands = Commands(archive, home_of(archive), replay_url or f"http://{host}:{pywb_port}")
        app = make_app(commands, f"http://127.0.0.1:{pywb_port}", authority.certificate_path)
        uvicorn.run(app, host=host, port=port, http=tunnelling(authority), log_level="warning", access_log=False)
