"""Fixtures of the tape room."""

from __future__ import annotations

from pathlib import Path

import pytest

from empty_ledger import new_ledger
from tape_site import TapeSite, make_site


@pytest.fixture
def site(tmp_path: Path) -> TapeSite:
    """A drive, a shelf, a data directory and a ledger of its own."""
    return make_site(tmp_path, new_ledger(f"sqlite:///{tmp_path}/ledger.sqlite"))
