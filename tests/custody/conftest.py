"""Ledgers for the tests of the domain: one on SQLite, and one on each database in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from custody.ledger import Ledger
from empty_ledger import new_ledger

settings.register_profile("custody", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("custody")


@pytest.fixture
def ledger_sqlite(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger in a SQLite file."""
    ledger = new_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield ledger
    ledger.close()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.service),
        pytest.param("mariadb", marks=pytest.mark.service),
    ]
)
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: SQLite, PostgreSQL and MariaDB in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    url = request.getfixturevalue(request.param).new_database()
    assert isinstance(url, str)
    return url


@pytest.fixture
def any_ledger(any_database: str) -> Iterator[Ledger]:
    """An empty ledger on each database in turn."""
    ledger = new_ledger(any_database)
    yield ledger
    ledger.close()
