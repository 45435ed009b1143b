"""The drain through a real scheduler into Ceph: left in peace, and told to slow down by a gateway that means it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody_demo.sample_disk import CRAWLS, SampleCrawl
from drain_site import Store
from e2e.rig import DAG_ID, STEPS, Rig
from e2e.slow_store import SlowStore
from services.ceph import CephRgw, run_ceph_rgw

pytestmark = [pytest.mark.e2e, pytest.mark.airflow, pytest.mark.service]

TWO_AT_ONCE = ("--rgw_max_concurrent_requests", "2", "--rgw_scheduler_type", "throttler")
FOUR_CRAWLS = (
    *CRAWLS,
    SampleCrawl(prefix="BLOGS-01", host="crawler03.example.org", pid=991),
    SampleCrawl(prefix="GOV-2026", host="crawler04.example.org", pid=992),
)


def store_of(gateway: CephRgw, bucket: str) -> Store:
    store = Store(gateway.endpoint_url, gateway.access_key, gateway.secret_key, bucket)
    store.client().create_bucket(Bucket=bucket)
    return store


@pytest.fixture
def narrow_gateway() -> Iterator[CephRgw]:
    """A gateway that answers 503 to whoever comes third."""
    home = Path(tempfile.mkdtemp(prefix="custody-rgw-", dir="/tmp"))  # the path of a socket may not be long
    try:
        with run_ceph_rgw(home, gateway_options=TWO_AT_ONCE) as gateway:
            yield gateway
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_a_disk_is_drained_into_ceph(rig: Rig, ceph_rgw: CephRgw) -> None:
    store = store_of(ceph_rgw, "straight")
    rig.connect("custody_ceph", store)
    disk = rig.add_disk("ceph", store, connection="custody_ceph", proof="readback")
    run_id = rig.drain("ceph")
    assert disk.out_of_place() == []
    assert rig.deleted_without_proof(disk) == []
    assert [rig.states(run_id)[step] for step in STEPS] == [{"success": 2}] * len(STEPS)
    before = rig.marks(disk)
    rig.drain("ceph")
    assert rig.marks(disk) == before


def test_a_gateway_that_says_slow_down_gets_everything_in_the_end(rig: Rig, narrow_gateway: CephRgw) -> None:
    store = store_of(narrow_gateway, "narrow")
    with SlowStore(store.endpoint_url, retry_after_s=17) as counted:  # without it a task is put away for a minute
        rig.connect("custody_narrow", store, endpoint_url=counted.endpoint_url)
        disk = rig.add_disk(
            "narrow",
            store,
            connection="custody_narrow",
            crawls=FOUR_CRAWLS,
            files_per_crawl=4,
            file_size_bytes=1_000_000,
            upload_connections=4,
        )
        run_id = rig.trigger(config="narrow")
        state = rig.wait(run_id, timeout_s=420)
        print(f"\n{state}; answers of the gateway: {dict(counted.statuses)}")
        assert state == "success", rig.explain(run_id)
        assert counted.statuses[503] > 0
    assert disk.out_of_place() == []
    assert rig.deleted_without_proof(disk) == []
    assert [task for task in rig.stack.task_instances(DAG_ID, run_id) if task.state not in {"success", "skipped"}] == []
