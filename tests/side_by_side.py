"""Tests in several processes at once (`pytest -n 2`, as bin/test does): who stays together, and who begins.

A file stays in one process, so that what its fixtures start is started once. All that starts a whole Airflow stays in
one process too: two schedulers at once on two cores wait for each other, and what they are asked for comes too late.
The longest begin, or one process would work on alone at the end.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

WHOLE_AIRFLOW = (
    "tests/demo/test_demo.py",
    "tests/demo/test_airflow_stack.py",
    "tests/e2e/",
)
LONGEST_FIRST = ("e2e", "crash", "airflow", "service", "slow")
SEEN = pytest.StashKey[frozenset[str]]()
"""In `config.stash`: every test that was collected, with those that are then left out, without parameters."""


def unit_of(nodeid: str) -> str:
    """What a test stays together with: its file, or all that starts a whole Airflow."""
    path = nodeid.partition("::")[0]
    return "a whole Airflow" if path.startswith(WHOLE_AIRFLOW) else path


def _rank(item: pytest.Item) -> int:
    ranks = (rank for rank, name in enumerate(LONGEST_FIRST) if item.get_closest_marker(name))
    return next(ranks, len(LONGEST_FIRST))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """No content in a name: it may hold the time, and then each process has another name for the same test."""
    is_content = (isinstance(val, bytes) and len(val) > 16) or (isinstance(val, str) and len(val) > 80)
    return argname if is_content else None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Note all tests before some are left out; where there are several processes, put the longest first."""
    config.stash[SEEN] = frozenset(item.nodeid.partition("[")[0] for item in items)
    yield
    if hasattr(config, "workerinput"):
        ranks: dict[str, int] = {}
        for item in items:
            unit = unit_of(item.nodeid)
            ranks[unit] = min(_rank(item), ranks.get(unit, len(LONGEST_FIRST)))
        items.sort(key=lambda item: ranks[unit_of(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out one unit after the other, in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)
