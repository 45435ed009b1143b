"""For tests that run Airflow in this process: its database, a drain to run, and what became of every task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config

from custody.ledger import Ledger
from custody_demo.object_store import RcloneS3
from custody_demo.sample_disk import SampleDisk, make_sample_disk
from empty_ledger import new_ledger

BUCKET = "archive"


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Airflow's metadata database in the throw-away home; ten seconds, once."""
    from airflow.utils.db import initdb

    initdb()


@dataclass
class DrainSite:
    """A sample crawl disk, a bucket, a ledger and the configuration ``wide`` that joins them."""

    disk: SampleDisk
    store: RcloneS3
    bucket: str
    ledger: Ledger
    config_file: Path

    @property
    def client(self) -> Any:
        """A boto3 client of the store."""
        return client_of(self.store)

    def run(self, conf: dict[str, Any], **kwargs: Any) -> Any:
        """Run the DAG to its end in this process."""
        return dag_of("drain").test(run_conf=conf, **kwargs)

    def states(self, run: Any) -> dict[str, set[str]]:
        """The states of every task of a run, by task id."""
        found: dict[str, set[str]] = {}
        for instance in run.get_task_instances():
            found.setdefault(instance.task_id, set()).add(str(instance.state))
        return found

    def configure(self, **changes: Any) -> None:
        """Change the configuration file."""
        content = yaml.safe_load(self.config_file.read_text())
        self.config_file.write_text(yaml.safe_dump(content | changes))


def dag_of(dag_id: str) -> Any:
    """A DAG of the project, parsed anew: ``dag.test`` leaves the conf of a run in the params of the object."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    assert not bag.import_errors, bag.import_errors
    return bag.dags[dag_id]


@pytest.fixture
def drain_site(tmp_path: Path, s3_server: RcloneS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[DrainSite]:
    """A fresh site for each test; the S3 server is shared, the bucket is not."""
    bucket = f"archive-{abs(hash(tmp_path)):x}"
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_S3", s3_server.airflow_connection())
    client_of(s3_server).create_bucket(Bucket=bucket)
    disk = make_sample_disk(tmp_path / "disk", files_per_crawl=2, file_size_bytes=20_000)
    config = tmp_path / "config" / "drain" / "wide.yml"
    config.parent.mkdir(parents=True)
    content = {
        "crawljob": "wide",
        "job_dir": str(disk.job_dir),
        "xfer_dir": str(disk.xfer_dir),
        "max_size": "10MB",
        "WARC_naming": 2,
        "target": "s3",
        "bucket": bucket,
        "stable_for_s": 0,
    }
    config.write_text(yaml.safe_dump(content))
    yield DrainSite(disk, s3_server, bucket, new_ledger(url), config)


def client_of(server: RcloneS3) -> Any:
    """A boto3 client of the S3 server."""
    session = boto3.session.Session(server.access_key, server.secret_key, region_name="us-east-1")
    return session.client("s3", endpoint_url=server.endpoint_url, config=Config(s3={"addressing_style": "path"}))


@pytest.fixture(scope="module")
def airflow_app(airflow_db: None) -> Iterator[Any]:
    """Airflow's web application, made anew for each module."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    purge_cached_app()
    yield create_app(apps="core")
    purge_cached_app()


@pytest.fixture
def viewer(airflow_app: Any) -> Any:
    """A client that is logged in and may only look."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    client = TestClient(airflow_app, base_url="http://127.0.0.1")
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="a-viewer", role="viewer"))
    client.headers["Authorization"] = f"Bearer {token}"
    return client
