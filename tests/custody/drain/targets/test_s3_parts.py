"""Files too large for one PUT, on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest

from custody.drain.targets.s3 import S3Target
from custody.faults import Fault
from drain_site import Site, Store, check_is_clean, check_nothing_lost, make_site

PART_BYTES = 5 << 20  # the least that S3 takes, but for the last part


def in_parts(store: Store, client: Any = None) -> S3Target:
    session = boto3.session.Session(store.access_key, store.secret_key)
    credentials = session.get_credentials()
    return S3Target(client or store.client(), credentials, store.bucket, single_put_bytes=PART_BYTES)


@pytest.fixture
def large(tmp_path: Path, each_store: Store) -> Site:
    """A file of two parts and a bit, about to be drained; proof by reading back."""
    site = make_site(tmp_path, each_store, proof="readback", max_size="40MB")
    site.write(size_bytes=2 * PART_BYTES + 1234)
    return site


def test_a_large_file_goes_in_parts_and_is_proven_by_reading_back(large: Site) -> None:
    assert large.store is not None
    number = large.one_series()
    large.do_until(number, "delete", target=in_parts(large.store))
    check_is_clean(large, [number])


def test_what_is_interrupted_leaves_nothing_at_the_server(large: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert large.store is not None
    number = large.one_series()
    large.do_until(number, "create_item")
    client = large.store.client()
    real, calls = client.upload_part, []

    def fail_at_the_second(**arguments: Any) -> Any:
        calls.append(arguments["PartNumber"])
        if len(calls) == 2:
            raise ConnectionResetError(104, "connection reset by peer")
        return real(**arguments)

    monkeypatch.setattr(client, "upload_part", fail_at_the_second)
    with pytest.raises(Fault):
        large.do(number, "upload", target=in_parts(large.store, client))
    assert calls == [1, 2]
    assert [key for key in large.store.objects() if key.endswith(".warc.gz")] == []
    assert large.store.client().list_multipart_uploads(Bucket=large.store.bucket).get("Uploads", []) == []
    check_nothing_lost(large)
    large.do_until(number, "delete", target=in_parts(large.store))
    check_is_clean(large, [number])
