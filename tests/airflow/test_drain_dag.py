"""The DAG drain, run as a whole in this process against a real S3 server."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.airflow


def test_probe(airflow_db, drain_site):
    run = drain_site.run({"config": "wide"})
    assert run.state == "success"
