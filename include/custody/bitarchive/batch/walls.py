"""Walls around a job, by bubblewrap: read-only, without network, in a pid space and a file system of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import custody
from custody.bitarchive.config import Isolation
from custody.faults import Fault, FaultKind


@cache
def why_no_bubblewrap() -> str:
    """Why bubblewrap cannot be used here; empty where it can."""
    argv = [*walls(), "--", sys.executable, "-c", "pass"]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=30, check=False, env={})
    except FileNotFoundError:
        return "is not installed (apt-get install bubblewrap)"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run here ({error})"
    complaint = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return "" if done.returncode == 0 else f"does not run here ({' '.join(complaint[-1:]) or done.returncode})"


def require(isolation: Isolation) -> None:
    """Refuse to run jobs without walls, unless the operator has allowed it. Faults: CONFIG."""
    if isolation is Isolation.BUBBLEWRAP and (reason := why_no_bubblewrap()):
        next_step = "install it, or set `isolation: weak` if every job is trusted like the operator"
        raise Fault(FaultKind.CONFIG, "bubblewrap", reason, next_command=next_step)


def walls(scratch_bytes: int = 1 << 20) -> list[str]:
    """The argument vector up to what differs from job to job; ``scratch_bytes`` is the room of its /tmp."""
    argv = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    argv += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    argv += ["--hostname", "batch", "--proc", "/proc", "--dev", "/dev", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # to become the job's own user, and no more
    else:
        argv += ["--unshare-user"]
    # the /tmp comes before what is bound: Custody itself may be installed below the /tmp out here
    argv += ["--size", str(scratch_bytes), "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
    for path in _system_paths():
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            argv += [*parents_of(path), "--ro-bind", str(path), str(path)]
    for variable, value in environment().items():
        argv += ["--setenv", variable, value]
    return argv


def parents_of(path: Path) -> list[str]:
    """Bubblewrap would make the directories above for its own user only."""
    above = [str(parent) for parent in reversed(path.parents)][1:]
    return [word for parent in above for word in ("--perms", "0755", "--dir", parent)]


def _system_paths() -> Iterable[Path]:
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        yield Path("/", name)
    for name in ("ld.so.cache", "alternatives", "localtime", "mime.types"):
        path = Path("/etc", name)
        if not path.is_symlink():
            yield path
    seen = [Path("/usr")]
    for path in (Path(sys.base_prefix), Path(sys.prefix), *_packages(), Path(custody.__file__).parent):
        if not any(path.is_relative_to(parent) for parent in seen):
            seen.append(path)
            yield path


def _packages() -> list[Path]:
    """Where installed packages are, wherever that is: a container may have them below its user's home."""
    named = (Path(entry) for entry in sys.path if entry)
    return [path for path in named if path.name in {"site-packages", "dist-packages"} and path.is_dir()]


def environment() -> dict[str, str]:
    """All that a job sees of an environment."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108 - the sandbox's own
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join(map(str, [Path(custody.__file__).parents[1], *_packages()])),
        "PYTHONHASHSEED": "0",  # the same output every time, for jobs that iterate over sets too
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
