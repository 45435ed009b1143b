"""Files too large for one PUT, on real servers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

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


class Cut:
    """A client of which the n-th part fails, and of which is known which parts it was asked to send."""

    def __init__(self, client: Any, at: int = 1_000, error: BaseException | None = None) -> None:
        self._client, self._at = client, at
        self._error = error or ConnectionResetError(104, "connection reset by peer")
        self.numbers: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def upload_part(self, **arguments: Any) -> Any:
        self.numbers.append(arguments["PartNumber"])
        if len(self.numbers) == self._at:
            raise self._error
        return self._client.upload_part(**arguments)


def under_way(store: Store) -> int:
    """How many uploads are begun and not finished."""
    return len(store.client().list_multipart_uploads(Bucket=store.bucket).get("Uploads", []))


def test_what_was_interrupted_is_not_visible_and_is_taken_up_where_it_was(large: Site) -> None:
    assert large.store is not None
    number = large.one_series()
    large.do_until(number, "create_item")
    cut = Cut(large.store.client(), at=2)
    with pytest.raises(Fault):
        large.do(number, "upload", target=in_parts(large.store, cut))
    assert cut.numbers == [1, 2]
    assert [key for key in large.store.objects() if key.endswith(".warc.gz")] == []
    check_nothing_lost(large)
    second = Cut(large.store.client(), at=2, error=KeyboardInterrupt())  # killed
    with pytest.raises(KeyboardInterrupt):
        large.do(number, "upload", target=in_parts(large.store, second))
    assert second.numbers == [2, 3]
    third = Cut(large.store.client())
    large.do_until(number, "delete", target=in_parts(large.store, third))
    assert third.numbers == [3]
    assert under_way(large.store) == 0
    check_is_clean(large, [number])


def test_parts_that_are_not_ours_are_sent_over(large: Site) -> None:
    assert large.store is not None
    number = large.one_series()
    series = large.do_until(number, "create_item")
    client, where = large.store.client(), {"Bucket": large.store.bucket, "Key": f"{series.item}/{series.files[0].name}"}
    for _ in range(2):
        foreign = client.create_multipart_upload(**where)["UploadId"]
        client.upload_part(**where, UploadId=foreign, PartNumber=1, Body=b"x" * PART_BYTES)
        client.upload_part(**where, UploadId=foreign, PartNumber=9, Body=b"and one more")
    counted = Cut(large.store.client())
    large.do_until(number, "delete", target=in_parts(large.store, counted))
    assert counted.numbers == [1, 2, 3]
    assert under_way(large.store) == 0
    check_is_clean(large, [number])


def test_where_the_server_cannot_say_what_it_has_nothing_is_left_there(
    large: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert large.store is not None
    number = large.one_series()
    large.do_until(number, "create_item")
    client = large.store.client()
    real = client.get_paginator

    def refuse(operation: str) -> Any:
        if operation == "list_multipart_uploads":
            raise ClientError({"Error": {"Code": "NotImplemented"}}, "ListMultipartUploads")
        return real(operation)

    monkeypatch.setattr(client, "get_paginator", refuse)
    with pytest.raises(Fault):
        large.do(number, "upload", target=in_parts(large.store, Cut(client, at=2)))
    assert under_way(large.store) == 0
    large.do_until(number, "delete", target=in_parts(large.store, client))
    check_is_clean(large, [number])


def test_parts_of_a_file_that_changed_are_given_up(large: Site) -> None:
    assert large.store is not None
    number = large.one_series()
    series = large.do_until(number, "create_item")
    path, state = series.path(series.files[0]), series.files[0].state
    with path.open("r+b") as stream:
        stream.seek(2 * PART_BYTES + 5)
        stream.write(b"rot")
    os.utime(path, ns=(state.mtime_ns, state.mtime_ns))
    with pytest.raises(Fault, match="its bytes changed on disk; it was not sent"):
        large.do(number, "upload", target=in_parts(large.store))
    assert under_way(large.store) == 0
