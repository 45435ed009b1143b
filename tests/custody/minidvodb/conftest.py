"""A rig for copies: a ledger, a sample database, and destinations behind a real sshd."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody.ledger import Ledger
from minidvodb_rig import Rig, make_rig, open_ledger
from services.ssh import SshServer


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(f"sqlite:///{tmp_path / 'minidvodb.sqlite'}")
    yield made
    made.close()


@pytest.fixture
def rig(tmp_path: Path, ledger: Ledger, sshd: SshServer) -> Rig:
    """One group, one host behind ssh; its directory has a name that a shell would stumble over."""
    return make_rig(tmp_path, ledger, sshd)


@pytest.fixture
def local_rig(tmp_path: Path, ledger: Ledger) -> Rig:
    """The same without ssh: the destination is a directory of this machine."""
    return make_rig(tmp_path, ledger, None)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short name, below /tmp: not on the disk of tmp_path where that is in memory."""
    made = Path(tempfile.mkdtemp(prefix="custody-mini-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)
