"""Sending to a real S3 server: what is sent is what was packed, and nothing is sent over somebody else's bytes."""

from __future__ import annotations

import logging
import os

import pytest

from custody import lease
from custody.drain.series import SeriesState
from custody.faults import Fault, FaultKind
from drain_site import Site, check_is_clean, check_nothing_lost, warc_name


def created(site: Site, count: int = 3) -> int:
    for serial in range(count):
        site.write(serial)
    number = site.one_series()
    site.do_until(number, "create_item")
    return number


def test_the_straight_path(each_site: Site) -> None:
    number = created(each_site)
    series = each_site.do_until(number, "delete")
    check_is_clean(each_site, [number])
    assert each_site.store is not None
    keys = {f"{series.item}/{name}" for name in each_site.originals}
    assert set(each_site.store.objects()) == keys | {f"{series.item}/MANIFEST.txt"}


def test_the_item_is_made_with_its_manifest_and_what_is_said_of_it(each_site: Site) -> None:
    each_site.values |= {
        "description": "CRAWLHOST:CRAWLJOB from START_DATE\nto END_DATE, K\u00e4se",
        "operator": "me@example.org",
        "metadata": {"two words": "dropped", "subject": ["a", "b"], "creator": None},
    }
    series = each_site.load(created(each_site))
    assert each_site.store is not None
    if each_site.store.folder is None:  # a server of plain files forgets what was said of them
        head = each_site.store.client().head_object(Bucket=each_site.store.bucket, Key=f"{series.item}/MANIFEST.txt")
        assert head["Metadata"]["operator"] == "me@example.org"
        assert head["Metadata"]["description"].startswith("crawler07.example.org:wide from Sun Mar")
        assert "two words" not in head["Metadata"]
        assert "creator" not in head["Metadata"]
    assert each_site.store.objects()[f"{series.item}/MANIFEST.txt"][1] == (series.directory / "MANIFEST").stat().st_size
    assert (series.directory / "BUCKET_OK").read_text() == f"{series.item}\n"


def test_task_has_a_url_and_what_came_of_it(site: Site) -> None:
    number = created(site, 2)
    series = site.do(number, "upload")
    lines = (series.directory / "TASK").read_text().splitlines()
    urls = [line for line in lines if not line.startswith(" ")]
    assert sorted(urls) == sorted(site.target.url(series.item, member.name) for member in series.files)
    assert lines.count("  response_code: 200") == 2
    assert sum(line.startswith("  size_upload_bytes: ") for line in lines) == 2
    assert sum(line.startswith("  total_time_seconds: ") for line in lines) == 2
    assert (series.directory / "LAUNCH").is_file()
    assert not (series.directory / "LAUNCH.open").exists()


def test_names_with_every_allowed_character_arrive(each_site: Site) -> None:
    names = [warc_name(1, prefix="a%20b"), warc_name(2, prefix="x+y=z,@"), warc_name(3, prefix="a..b")]
    for name in names:
        each_site.write(name=name)
    each_site.values["item_naming"] = "odd-{serial}"
    numbers = each_site.plan().series_ids
    for number in numbers:
        each_site.do_until(number, "delete")
    check_is_clean(each_site, numbers)


def test_a_foreign_object_under_our_name_stops_it_before_anything_is_sent(each_site: Site) -> None:
    for serial in range(2):
        each_site.write(serial)
    number = each_site.one_series()
    series = each_site.do_until(number, "manifest")
    store = each_site.store
    assert store is not None
    store.client().put_object(Bucket=store.bucket, Key=f"{series.item}/{warc_name(1)}", Body=b"somebody else's")
    before = store.objects()
    with pytest.raises(Fault) as refusal:
        each_site.do(number, "create_item")
    assert refusal.value.kind is FaultKind.NEEDS_HUMAN
    assert warc_name(1) in str(refusal.value)
    assert store.objects() == before
    with pytest.raises(Fault) as refusal:
        each_site.do(number, "upload")
    assert "takes only what is created" in str(refusal.value)
    assert store.objects() == before


def test_the_manifest_of_another_item_is_not_overwritten(site: Site) -> None:
    site.write(1)
    number = site.one_series()
    series = site.do_until(number, "manifest")
    assert site.store is not None
    key = f"{series.item}/MANIFEST.txt"
    site.store.client().put_object(Bucket=site.store.bucket, Key=key, Body=b"the list of another crawler\n")
    before = site.store.objects()
    with pytest.raises(Fault) as refusal:
        site.do(number, "create_item")
    assert refusal.value.kind is FaultKind.NEEDS_HUMAN
    assert "MANIFEST.txt" in str(refusal.value)
    assert site.store.objects() == before


def test_what_is_stored_already_is_not_sent_again(site: Site) -> None:
    number = created(site)
    series = site.load(number)
    assert site.store is not None
    first = series.files[0]
    site.store.client().put_object(
        Bucket=site.store.bucket, Key=f"{series.item}/{first.name}", Body=series.path(first).read_bytes()
    )
    site.do(number, "upload")
    assert (series.directory / "TASK").read_text().count("response_code") == 2
    (event,) = site.events("upload")
    assert (event.detail["sent"], event.detail["was_there"]) == (2, 1)


def grow(path: str) -> None:
    with open(path, "ab") as stream:
        stream.write(b"x")


def swap(path: str) -> None:
    found = os.stat(path)
    with open(path + ".new", "wb") as stream:
        stream.write(b"x" * found.st_size)
    os.utime(path + ".new", ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(path + ".new", path)


def rot(path: str) -> None:
    """One byte of a bad disk: same inode, same size, same time."""
    found = os.stat(path)
    with open(path, "r+b") as stream:
        stream.seek(1000)
        byte = stream.read(1)
        stream.seek(1000)
        stream.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("change", [grow, swap, rot, os.unlink])
def test_a_file_that_changed_after_packing_is_never_stored(each_site: Site, change: object) -> None:
    number = created(each_site, 1)
    series = each_site.load(number)
    path = series.path(series.files[0])
    change(str(path))  # type: ignore[operator]
    with pytest.raises(Fault) as refusal:
        each_site.do(number, "upload")
    assert refusal.value.kind in {FaultKind.DATA, FaultKind.CONFIG}
    assert path.name in str(refusal.value)
    assert each_site.store is not None
    assert f"{series.item}/{path.name}" not in each_site.store.objects()
    assert each_site.load(number).state is SeriesState.CREATED
    assert path.exists() is (change is not os.unlink)


@pytest.mark.parametrize("step", ["create_item", "upload", "prove", "delete"])
def test_a_wrong_secret_is_an_auth_fault_and_is_not_told(
    site: Site, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="custody")
    site.write(1)
    number = site.one_series()
    names = ["pack", "manifest", "create_item", "upload", "prove", "delete"]
    site.do(number, *names[: names.index(step)])
    assert site.store is not None
    wrong = "wrong-" + "z" * 20
    with pytest.raises(Fault) as refusal:
        site.do(number, step, target=site.store.target(secret_key=wrong))
    assert refusal.value.kind is FaultKind.AUTH
    assert "connection" in str(refusal.value)
    said = str(refusal.value) + caplog.text + "".join(str(event) for event in site.events())
    said += "".join(path.read_text("utf-8", "replace") for path in site.xfer_dir.rglob("*") if path.is_file())
    assert wrong not in said
    assert site.store.secret_key not in said
    assert "\n" not in str(refusal.value)
    check_nothing_lost(site)
    site.take_up(number)
    site.do_until(number, "delete")
    check_is_clean(site, [number])


@pytest.mark.parametrize("step", ["create_item", "upload"])
def test_a_missing_bucket_is_named(each_site: Site, step: str) -> None:
    each_site.write(1)
    number = each_site.one_series()
    each_site.do_until(number, "manifest" if step == "create_item" else "create_item")
    assert each_site.store is not None
    from dataclasses import replace

    elsewhere = replace(each_site.store, bucket="no-such-bucket")
    with pytest.raises(Fault) as refusal:
        each_site.do(number, step, target=elsewhere.target())
    assert refusal.value.kind is FaultKind.CONFIG
    assert "no-such-bucket" in str(refusal.value)


@pytest.mark.parametrize("step", ["create_item", "upload", "prove", "delete"])
def test_a_server_that_is_down_is_transient(site: Site, step: str) -> None:
    from custody_demo.processes import free_ports

    site.write(1)
    number = site.one_series()
    names = ["pack", "manifest", "create_item", "upload", "prove", "delete"]
    site.do(number, *names[: names.index(step)])
    assert site.store is not None
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(Fault) as refusal:
        site.do(number, step, target=site.store.target(endpoint_url=nobody))
    assert refusal.value.kind is FaultKind.TRANSIENT
    assert "\n" not in str(refusal.value)
    check_nothing_lost(site)


def test_who_lost_the_lease_in_the_middle_writes_nothing_more(site: Site) -> None:
    number = created(site, 2)
    series = site.load(number)
    site.values["upload_connections"] = 1
    target = site.target
    real = target.put
    after: dict[str, object] = {}

    def put(*arguments: object) -> object:
        receipt = real(*arguments)  # type: ignore[arg-type]
        steal(site, number)
        after.update(rows=site.row_counts(), files={path: path.stat().st_mtime_ns for path in site.root.rglob("*")})
        return receipt

    target.put = put  # type: ignore[method-assign, assignment]
    with pytest.raises(Fault) as refusal:
        site.do(number, "upload", target=target)
    assert refusal.value.kind is FaultKind.CONFLICT
    assert site.row_counts() == after["rows"]
    assert not (series.directory / "TASK").exists()
    assert not (series.directory / "LAUNCH").exists()
    assert site.load(number).state is SeriesState.CREATED


def steal(site: Site, number: int) -> None:
    """Another owner takes the series over, as after an expiry."""
    import sqlalchemy as sa

    from custody.ledger.store import now
    from custody.ledger.tables import lease as table

    with site.ledger.begin() as connection:
        name = f"drain/series/{number}"
        connection.execute(sa.update(table).where(table.c.name == name).values(expires_at=now()))
    lease.take(site.ledger, name, holder="another/boot/1/1/1")


def test_two_runs_at_once_on_one_series(site: Site) -> None:
    number = created(site, 1)
    target = site.target
    real = target.put
    refused: list[Fault] = []

    def put(*arguments: object) -> object:
        with pytest.raises(Fault) as refusal:
            site.do(number, "upload")
        refused.append(refusal.value)
        return real(*arguments)  # type: ignore[arg-type]

    target.put = put  # type: ignore[method-assign, assignment]
    assert site.do(number, "upload", target=target).state is SeriesState.UPLOADED
    assert [fault.kind for fault in refused] == [FaultKind.CONFLICT]
    assert (site.load(number).directory / "TASK").read_text().count("response_code") == 1


def test_without_a_target_nothing_counts_as_sent(site: Site) -> None:
    site.write(1)
    number = site.one_series()
    site.do_until(number, "manifest")
    from custody.drain.upload import create_item

    with pytest.raises(Fault) as refusal:
        create_item(site.ledger, number, who="tests", targets=[])
    assert refusal.value.kind is FaultKind.CONFIG
    assert site.load(number).state is SeriesState.LISTED
