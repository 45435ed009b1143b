"""For all tests: the fixtures of real servers, and the rule that in CI nothing skips for want of one."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

pytest_plugins = ["airflow_home", "crash.summary", "services.fixtures", "side_by_side"]

SERVER_FIXTURES = frozenset({"s3_server", "anonymous_s3_server", "ceph_rgw", "sshd", "postgresql", "mariadb"})
MAY_NOT_SKIP = ("service", "crash", "airflow", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever uses a server is marked so, whether its author thought of it or not."""
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("service")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With CUSTODY_REQUIRE_SERVICES=1 a skip of a marked test is a failure."""
    report = yield
    is_marked = any(item.get_closest_marker(name) for name in MAY_NOT_SKIP)
    if report.skipped and not hasattr(report, "wasxfail") and is_marked and os.environ.get("CUSTODY_REQUIRE_SERVICES"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} would skip, which CUSTODY_REQUIRE_SERVICES forbids: {report.longrepr}"
    return report
