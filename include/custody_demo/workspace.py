"""What the chapters of the demo share: one directory with configuration, ledger, disks and all that takes copies."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.archive_org_store import Archive
from custody_demo.object_store import RcloneS3
from custody_demo.processes import StartError, lock_directory
from custody_demo.second_machine import SshServer

BUCKET = "archive"
_MARK = ".custody-demo"
# What a demo makes anew each time; Airflow's own home stays, so that the next start is quick.
_FRESH = (
    *("config", "disk", "disk2", "store", "archive.org", "second-machine", "tape", "bitarchive"),
    *("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"),
)


@dataclass(frozen=True)
class Outcome:
    """How a chapter went: `problems` names everything that is not where it should be, and is empty when all is.

    :param tables: what is shown at the end
    """

    title: str
    problems: tuple[str, ...] = ()
    extra: Mapping[str, int] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Workspace:
    """The directory of one demo (`home`) and where its copies go; `lock` keeps other demos out of it.

    :param second_machine: None until it is started, and where there are no programs for it
    :param show: says in one line how far a chapter is
    """

    home: Path
    console: Console
    store: RcloneS3
    archive_org: Archive
    lock: int
    second_machine: SshServer | None = None
    show: Callable[[str], None] = print

    @property
    def config_dir(self) -> Path:
        """Where the named configurations are (CUSTODY_CONFIG_DIR)."""
        return self.home / "config"

    @property
    def disk(self) -> Path:
        """Where the larger sample disk is made."""
        return self.home / "disk"

    @property
    def small_disk(self) -> Path:
        """Where the smaller sample disk is made."""
        return self.home / "disk2"

    @property
    def bucket(self) -> Path:
        """The folder that the object store shows as its bucket."""
        return self.store.folder / BUCKET

    @property
    def items(self) -> Path:
        """The folder in which the stand-in for archive.org keeps its items."""
        return self.home / "archive.org"

    @property
    def second_home(self) -> Path:
        """Where the second machine has its keys and its log."""
        return self.home / "second-machine"

    @property
    def crawls(self) -> Path:
        """The directory on the second machine that takes copies."""
        return self.second_home / "crawls"

    @property
    def ledger_url(self) -> str:
        """The ledger's SQLAlchemy URL (CUSTODY_LEDGER)."""
        return f"sqlite:///{self.home}/ledger.sqlite"

    def environment(self) -> dict[str, str]:
        """Return what Airflow's processes are told about this workspace."""
        told = {
            "CUSTODY_CONFIG_DIR": str(self.config_dir),
            "CUSTODY_LEDGER": self.ledger_url,
            "AIRFLOW_CONN_CUSTODY_S3": self.store.airflow_connection(),
            "AIRFLOW_CONN_CUSTODY_IAS3": self.archive_org.airflow_connection(),
        }
        if self.second_machine:
            told["AIRFLOW_CONN_CUSTODY_THUMPER"] = self.second_machine.airflow_connection()
        return told

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
    store = RcloneS3(home / "store", log=home / "store.log")
    archive_org = Archive(secrets.token_urlsafe(24), folder=home / "archive.org")
    workspace = Workspace(home, console, store, archive_org, lock)
    for directory in (workspace.config_dir, workspace.bucket, workspace.items, workspace.crawls):
        directory.mkdir(parents=True)
    return workspace
