"""A fresh site for each test, with and without a real S3 server behind it."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from custody_demo.object_store import RcloneS3
from drain_site import Site, Store, make_site
from services.ceph import CephRgw


@pytest.fixture
def disk(tmp_path: Path) -> Site:
    """A site whose target is never asked."""
    return make_site(tmp_path)


@pytest.fixture
def store(s3_server: RcloneS3) -> Store:
    """A bucket of its own on the rclone server, whose objects are plain files."""
    bucket = f"archive-{uuid.uuid4().hex[:12]}"
    (s3_server.folder / bucket).mkdir()
    return Store(s3_server.endpoint_url, s3_server.access_key, s3_server.secret_key, bucket, s3_server.folder / bucket)


@pytest.fixture
def ceph_store(ceph_rgw: CephRgw) -> Store:
    """A bucket of its own on Ceph's gateway."""
    store = Store(ceph_rgw.endpoint_url, ceph_rgw.access_key, ceph_rgw.secret_key, f"archive-{uuid.uuid4().hex[:12]}")
    store.client().create_bucket(Bucket=store.bucket)
    return store


@pytest.fixture(params=["store", pytest.param("ceph_store", marks=pytest.mark.service)])
def each_store(request: pytest.FixtureRequest) -> Store:
    """Both servers, one after the other."""
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def site(tmp_path: Path, store: Store) -> Site:
    """A site that drains to the rclone server."""
    return make_site(tmp_path, store)


@pytest.fixture
def each_site(tmp_path: Path, each_store: Store) -> Site:
    """A site that drains to each of the servers."""
    return make_site(tmp_path, each_store)
