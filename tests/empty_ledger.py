"""Ledgers with their tables and no rows, for tests of anything but the making of them."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import sqlalchemy as sa

from custody.ledger import Ledger


def new_ledger(url: str) -> Ledger:
    """An empty ledger at a URL. On SQLite it is copied: each migration again would cost thirty times as much."""
    database = sa.make_url(url).database
    if not url.startswith("sqlite:///") or not database or Path(database).exists():
        return Ledger.upgrade(url)
    shutil.copyfile(_made_once(), database)
    return Ledger.open(url)


@functools.cache
def _made_once() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="custody-ledger-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = directory / "ledger.sqlite"
    Ledger.upgrade(f"sqlite:///{path}").close()
    assert [each.name for each in directory.iterdir()] == [path.name], "what is still in the log is not in the copy"
    return path
