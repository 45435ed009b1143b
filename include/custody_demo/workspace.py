"""What the chapters of the demo share: one directory with configuration, ledger, disks and the object store."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console

from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.object_store import RcloneS3
from custody_demo.processes import StartError, lock_directory

BUCKET = "archive"
_MARK = ".custody-demo"
# What a demo makes anew each time; Airflow's own home stays, so that the next start is quick.
_FRESH = ("config", "disk", "store", "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm")


@dataclass(frozen=True)
class Outcome:
    """How a chapter went: `problems` names everything that is not where it should be, and is empty when all is."""

    title: str
    problems: tuple[str, ...] = ()
    extra: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Workspace:
    """The directory of one demo (`home`) and its object store; `lock` keeps other demos out of it."""

    home: Path
    console: Console
    store: RcloneS3
    lock: int

    @property
    def config_dir(self) -> Path:
        """Where the named configurations are (CUSTODY_CONFIG_DIR)."""
        return self.home / "config"

    @property
    def disk(self) -> Path:
        """Where the sample disk is made."""
        return self.home / "disk"

    @property
    def bucket(self) -> Path:
        """The folder that the object store shows as its bucket."""
        return self.store.folder / BUCKET

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL (CUSTODY_LEDGER)."""
        return f"sqlite:///{self.home}/ledger.sqlite"

    def environment(self) -> dict[str, str]:
        """Return what Airflow's processes are told about this workspace."""
        return {
            "CUSTODY_CONFIG_DIR": str(self.config_dir),
            "CUSTODY_LEDGER": self.ledger_url,
            "AIRFLOW_CONN_CUSTODY_S3": self.store.airflow_connection(),
        }

    def upgrade_ledger(self) -> None:
        """Make the ledger's tables with the project's own command."""
        done = subprocess.run(
            [sys.executable, "-m", "custody.cli", "ledger", "upgrade"],
            env={"PYTHONPATH": str(PROJECT / "include"), "LANG": "C.UTF-8", "CUSTODY_LEDGER": self.ledger_url},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StartError(f"custody ledger upgrade failed: {(done.stderr or done.stdout).strip()[-1000:]}")


class Chapter(Protocol):
    """A module of the demo that shows one subsystem."""

    TITLE: str

    def run(self, stack: AirflowStack, workspace: Workspace) -> Outcome:
        """Show it, and say what went wrong."""
        ...


def prepare(home: Path, console: Console) -> Workspace:
    """Make `home` ready for a new demo: whatever an earlier demo drained is removed, Airflow's home is kept.

    A directory that is not empty and was not made by the demo is refused, and nothing in it is touched.
    """
    home = home.resolve()
    mark = home / _MARK
    if home.exists() and any(home.iterdir()) and not mark.exists():
        raise StartError(f"{home} is not empty and not a demo's directory; choose another one with --home")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = lock_directory(home)
    mark.touch()
    for name in _FRESH:
        path = home / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    workspace = Workspace(home, console, RcloneS3(home / "store", log=home / "store.log"), lock)
    workspace.config_dir.mkdir()
    workspace.bucket.mkdir(parents=True)
    return workspace
