"""A Python environment of its own, from a lock of its own: for what cannot, or need not, share Airflow's."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import write_atomic

CONFIG = Path(__file__).parents[2] / "config" / "bitarchive"
_WHOLE = "custody-lock.sha256"


def is_whole(environment: Path, lock: Path) -> bool:
    """Whether an environment was made from this lock, to the end."""
    try:
        return (environment / _WHOLE).read_text() == _sha256(lock)
    except OSError:
        return False


def make_environment(environment: Path, lock: Path) -> None:
    """Make it, or find it made. Faults: TRANSIENT where the packages cannot be had, CAPACITY, CONFIG."""
    if is_whole(environment, lock):
        return
    with os_errors_as_faults(str(environment)):
        environment.parent.mkdir(parents=True, exist_ok=True)
    python = str(environment / "bin" / "python")
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)],
    ]
    if uv := shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent)):
        commands[1] = [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", str(lock)]
    for argv in commands:
        done = subprocess.run(argv, capture_output=True, check=False)
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["without a word"]
            kind = FaultKind.CAPACITY if "No space left" in last[0] else FaultKind.TRANSIENT
            raise Fault(kind, str(environment), f"could not be made from {lock}: {last[0]}")
    write_atomic(environment / _WHOLE, _sha256(lock).encode())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
