"""An archive to work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitarchive_site import Site, make_site
from custody.ledger import Ledger


@pytest.fixture
def site(tmp_path: Path, ledger_sqlite: Ledger) -> Site:
    """Two nodes with two files each."""
    return make_site(tmp_path / "archive", ledger_sqlite)
