"""Proof: only what the keeper itself states, with a digest, for every file; unknown is never proven."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from custody.digests import Fixity
from custody.drain.prove import sample
from custody.drain.series import SeriesState
from custody.drain.targets.s3 import S3Target
from custody.faults import Fault, FaultKind
from custody.ledger import tables
from drain_site import Site, Store, check_is_clean, check_nothing_lost, make_site, warc_name


def uploaded(site: Site, count: int = 3) -> int:
    for serial in range(count):
        site.write(serial)
    number = site.one_series()
    site.do_until(number, "upload")
    return number


def test_tombstones_and_success_are_written_when_all_is_proven(site: Site) -> None:
    number = uploaded(site)
    series = site.load(number)
    assert not list(series.directory.glob("*.tombstone"))
    assert not (series.directory / "SUCCESS").exists()
    site.do(number, "prove")
    urls = []
    for serial in range(3):
        url = site.target.url(series.item, warc_name(serial))
        assert (series.directory / f"{warc_name(serial)}.tombstone").read_text() == f"{url}\n"
        urls.append(url)
    assert (series.directory / "TOMBSTONE").read_text() == "".join(f"{url}\n" for url in urls)
    assert (series.directory / "SUCCESS").read_bytes() == (series.directory / "TASK").read_bytes()
    assert site.proofs() == set(site.originals.values())
    assert site.do(number, "prove").state is SeriesState.PROVEN
    assert (series.directory / "TOMBSTONE").read_text() == "".join(f"{url}\n" for url in urls)


def overwrite(site: Site, name: str, content: bytes) -> None:
    assert site.store is not None
    site.store.client().put_object(Bucket=site.store.bucket, Key=name, Body=content)


def test_an_object_that_is_missing_or_different_is_not_proven_and_is_sent_again(each_site: Site) -> None:
    number = uploaded(each_site)
    series = each_site.load(number)
    store = each_site.store
    assert store is not None
    store.client().delete_object(Bucket=store.bucket, Key=f"{series.item}/{warc_name(0)}")
    with pytest.raises(Fault) as refusal:
        each_site.do(number, "prove")
    assert refusal.value.kind is FaultKind.TRANSIENT
    same_size = b"x" * each_site.originals[warc_name(1)][1]
    overwrite(each_site, f"{series.item}/{warc_name(1)}", same_size)
    with pytest.raises(Fault) as refusal:
        each_site.do(number, "prove")
    assert refusal.value.kind is FaultKind.DATA
    assert warc_name(1) in str(refusal.value)
    assert "2 of 3" in str(refusal.value)
    assert each_site.proofs() == set()
    assert not list(series.directory.glob("*.tombstone"))
    with pytest.raises(Fault):
        each_site.do(number, "delete")
    assert len(each_site.on_disk()) == 3
    each_site.take_up(number)
    each_site.do_until(number, "delete")
    check_is_clean(each_site, [number])


def test_an_etag_that_is_no_md5_proves_nothing(tmp_path: Path, ceph_store: Store) -> None:
    """The same bytes, stored by a multipart upload."""
    site = make_site(tmp_path, ceph_store)  # rclone states the md5 of a multipart object too
    number = uploaded(site, 1)
    series = site.load(number)
    store, key = site.store, f"{series.item}/{warc_name(0)}"
    assert store is not None
    client = store.client()
    client.delete_object(Bucket=store.bucket, Key=key)
    upload = client.create_multipart_upload(Bucket=store.bucket, Key=key)
    parts = {"Bucket": store.bucket, "Key": key, "UploadId": upload["UploadId"]}
    part = client.upload_part(**parts, PartNumber=1, Body=series.path(series.files[0]).read_bytes())
    client.complete_multipart_upload(**parts, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    (stated,) = site.target.look(series.item, [warc_name(0)]).values()
    assert stated is not None
    assert stated == Fixity(site.originals[warc_name(0)][1], {})
    with pytest.raises(Fault) as refusal:
        site.do(number, "prove")
    assert "the size alone proves nothing" in str(refusal.value)
    assert site.proofs() == set()
    check_nothing_lost(site)
    assert len(site.on_disk()) == 1

    site.values["proof"] = "readback"
    site.take_up(number)
    site.do(number, "upload", "prove", "delete")
    check_is_clean(site, [number])


def test_a_read_back_reads_every_stored_byte(site: Site) -> None:
    site.values["proof"] = "readback"
    number = uploaded(site)
    series = site.load(number)
    assert site.store is not None and site.store.folder is not None
    site.do(number, "prove")
    proofs = [event for event in site.events("proved")]
    assert len(proofs) == 3
    assert all("sha256" in event.detail["stated"] for event in proofs)
    site.do(number, "delete")
    check_is_clean(site, [number])
    assert series.item


def test_nothing_is_proven_half(site: Site) -> None:
    number = uploaded(site)
    series = site.load(number)
    assert site.store is not None
    site.store.client().delete_object(Bucket=site.store.bucket, Key=f"{series.item}/{warc_name(2)}")
    with pytest.raises(Fault):
        site.do(number, "prove")
    assert site.row_counts()["proof"] == 0
    assert "proven" not in site.copies().values()


@pytest.mark.parametrize(("pct", "read"), [(0, 0), (1, 1), (34, 2), (100, 3)])
def test_of_a_sample_every_stored_byte_is_read_back(site: Site, pct: float, read: int) -> None:
    site.values["sample_pct"] = pct
    number = uploaded(site)
    site.do(number, "prove")
    with site.ledger.read() as connection:
        kinds = list(connection.scalars(sa.select(tables.proof.c.kind)))
    assert (kinds.count("readback"), kinds.count("listing")) == (read, 3 - read)
    site.do(number, "delete")
    check_is_clean(site, [number])


def test_a_sample_that_is_not_what_the_listing_says_proves_nothing(site: Site) -> None:
    site.values["sample_pct"] = 100
    number = uploaded(site, 1)
    member = site.load(number).files[0]

    class Rotten(S3Target):
        def read_back(self, item: str, name: str, progress: object = None, into: object = None) -> Fixity:
            return Fixity(member.state.size_bytes, {"md5": "0" * 32})

    target = site.target
    target.__class__ = Rotten
    with pytest.raises(Fault, match="1 of 1 files are not proven") as refusal:
        site.do(number, "prove", target=target)
    assert refusal.value.kind is FaultKind.DATA
    check_nothing_lost(site)


def test_a_sample_is_the_same_at_a_retry_and_another_for_each_series() -> None:
    names = [f"{number}.warc.gz" for number in range(100)]
    assert sample(names, 5, seed=1) == sample(names, 5, seed=1)
    assert len({frozenset(sample(names, 5, seed=seed)) for seed in range(20)}) > 15
