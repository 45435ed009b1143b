"""The target archive.org against a stand-in that has its manners, and its faults when a test asks for them."""

from __future__ import annotations

import base64
import hashlib
import re
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from custody.digests import FileState, Fixity, read_file
from custody.drain import markers
from custody.drain.series import SeriesState
from custody.drain.targets import Item, Outgoing
from custody.drain.targets.ias3 import IAS3Target, metadata_headers
from custody.drain.targets.ias3_client import Keys, Manners, may_have_login
from custody.faults import Fault, FaultKind
from custody_demo.object_store import RcloneS3
from drain_site import Site, check_nothing_lost, make_site
from services.ias3 import ACCESS_KEY, ACCOUNT, SECRET_KEY, Archive, run_ias3

QUICK = Manners(stall_s=2.0, continue_s=0.3, race_pauses_s=(0.01, 0.01), shortest_wait_s=60.0)
WARC_PUT = r".*\.warc\.gz"


@dataclass(frozen=True)
class Store:
    """What a site needs of the archive."""

    archive: Archive
    manners: Manners = QUICK
    secret: str = SECRET_KEY
    bucket: str = "none"

    def target(self, **values: Any) -> IAS3Target:
        url = self.archive.endpoint_url
        given = {"s3_endpoint": url, "metadata_endpoint": url, "derive": True, "manners": self.manners} | values
        return IAS3Target(Keys(ACCESS_KEY, self.secret), **given)

    def objects(self) -> dict[str, tuple[str, int]]:
        return self.archive.stored()


@pytest.fixture
def target(ias3_server: Archive) -> IAS3Target:
    return Store(ias3_server).target()


@pytest.fixture
def site(tmp_path: Path, ias3_server: Archive) -> Site:
    """Three WARCs that go to the stand-in as one item."""
    site = make_site(
        tmp_path,
        target="ias3",
        bucket=None,
        collections="web/wide/wide00012",
        operator="archivist@example.org",
        title_prefix="Wide Crawldata",
        description="CRAWLHOST:CRAWLJOB from START_DATE to END_DATE",
        upload_connections=2,
    )
    site.store = Store(ias3_server)  # type: ignore[assignment]
    for serial in range(3):
        site.write(serial)
    return site


def outgoing(path: Path, content: bytes = b"0123456789" * 1000) -> Outgoing:
    path.write_bytes(content)
    reading = read_file(path)
    return Outgoing(path, path.name, reading.fixity, reading.state)


def item(**metadata: Any) -> Item:
    return Item(
        f"item-{uuid.uuid4().hex[:10]}", {"title": "A crawl", "collection": ["leaf", "mid", "top"]} | metadata, 10
    )


def fault_of(call: Any, *arguments: Any) -> Fault:
    with pytest.raises(Fault) as raised:
        call(*arguments)
    assert SECRET_KEY not in str(raised.value) + repr(raised.value)
    return raised.value


# one file


def test_a_file_is_taken_staged_and_then_listed(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    ias3_server.ingest_after_polls = 1
    one, file = item(), outgoing(tmp_path / "a.warc.gz")
    target.create(one, b"md5  a.warc.gz\n")
    receipt = target.put(one, file)
    assert receipt.read.digests == {"md5": file.fixity.digests["md5"]} == receipt.stated.digests
    assert receipt.url == f"{ias3_server.endpoint_url}/download/{one.identifier}/a.warc.gz"
    assert target.look(one.identifier, ["a.warc.gz"]) == {"a.warc.gz": None}
    assert fault_of(target.settle, one.identifier).kind is FaultKind.THROTTLED
    target.settle(one.identifier)
    found = target.look(one.identifier, ["a.warc.gz", "b.warc.gz"])
    content = file.path.read_bytes()
    digests = {"md5": hashlib.md5(content).hexdigest(), "sha1": hashlib.sha1(content).hexdigest()}
    assert found["a.warc.gz"] == Fixity(len(content), digests)
    assert found["a.warc.gz"].digests == digests and found["b.warc.gz"] is None
    back = target.read_back(one.identifier, "a.warc.gz")
    assert back.digests["sha256"] == file.fixity.digests["sha256"]


def test_the_manifest_makes_the_item_and_every_file_carries_the_whole_metadata(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path
) -> None:
    one = item(numwarcs="1", creator="Zoë Müller", notes="two\nlines")
    target.create(one, b"list\n")
    target.put(one, outgoing(tmp_path / "a.warc.gz"))
    first, second = ias3_server.seen("PUT")
    assert (first.path, second.path) == (f"/{one.identifier}/MANIFEST.txt", f"/{one.identifier}/a.warc.gz")
    for request in (first, second):
        headers = request.headers
        assert headers["x-archive-auto-make-bucket"] == "1"
        assert headers["x-archive-queue-derive"] == "0"
        assert headers["x-archive-keep-old-version"] == "1"
        assert headers["x-archive-size-hint"] == "10"
        assert headers["x-archive-meta-numwarcs"] == "1"
        assert headers["x-archive-meta-creator"] == "uri(Zo%C3%AB%20M%C3%BCller)"
        assert headers["x-archive-meta-notes"] == "uri(two%0Alines)"
        assert [headers[f"x-archive-meta0{number}-collection"] for number in (1, 2, 3)] == ["leaf", "mid", "top"]
        assert len(base64.b64decode(headers["content-md5"])) == 16
    stored = ias3_server.items[one.identifier].metadata
    assert stored["creator"] == "Zoë Müller" and stored["notes"] == "two\nlines"
    assert stored["collection"] == ["leaf", "mid", "top"]
    target.create(one, b"list\n")
    assert len(ias3_server.seen("PUT", ".*/MANIFEST.txt")) == 1, "an equal manifest is not sent again"


def test_a_file_that_arrives_first_makes_the_item_complete(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path
) -> None:
    one = item()
    target.put(one, outgoing(tmp_path / "a.warc.gz"))
    assert ias3_server.items[one.identifier].metadata["collection"] == ["leaf", "mid", "top"]


def test_content_md5_can_be_hexadecimal(ias3_server: Archive, tmp_path: Path) -> None:
    ias3_server.takes_base64_md5 = False
    hexadecimal = Store(ias3_server, replace(QUICK, content_md5="hex")).target()
    one, file = item(), outgoing(tmp_path / "a.warc.gz")
    hexadecimal.create(one, b"list\n")
    hexadecimal.put(one, file)
    assert ias3_server.seen("PUT", WARC_PUT)[0].headers["content-md5"] == file.fixity.digests["md5"]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("plain words", "plain words"),
        ("caf\u00e9", "uri(caf%C3%A9)"),
        ("tab\there", "uri(tab%09here)"),
        (" blank ", "uri(%20blank%20)"),
        ("uri(x)", "uri(uri%28x%29)"),
        ("100 %", "100 %"),
    ],
)
def test_metadata_values_survive_the_way(text: str, sent: str) -> None:
    assert metadata_headers(Item("i", {"some_field": text}), "d")["x-archive-meta-some--field"] == sent


def test_a_metadata_name_that_is_no_header_is_refused() -> None:
    fault = fault_of(metadata_headers, Item("i", {"a b\r\nx": "y"}), "d")
    assert fault.kind is FaultKind.CONFIG


# check_limit (row 22)


@pytest.mark.parametrize(
    "limit",
    [
        {"over_limit": 1, "limit_reason": "too many tasks"},
        {"rationing_engaged": 1, "accesskey_tasks_queued": 65},
        {"rationing_engaged": 1, "bucket_tasks_queued": 20},
        {"rationing_engaged": 1, "total_tasks_queued": 1790},
    ],
)
def test_over_the_limit_or_without_headroom_nothing_is_sent(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path, limit: dict[str, Any]
) -> None:
    ias3_server.limit = limit
    for call, argument in ((target.put, outgoing(tmp_path / "a.warc.gz")), (target.create, b"list\n")):
        fault = fault_of(call, item(), argument)
        assert fault.kind is FaultKind.THROTTLED and fault.until and fault.until > datetime.now(UTC)
    assert not ias3_server.seen("PUT")


def test_headroom_is_asked_for_only_while_rationing_is_on(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path
) -> None:
    ias3_server.limit = {"rationing_engaged": 0, "accesskey_tasks_queued": 74}
    target.put(item(), outgoing(tmp_path / "a.warc.gz"))
    ias3_server.limit = {"rationing_engaged": 1, "accesskey_tasks_queued": 64, "bucket_tasks_queued": 19}
    target.put(item(), outgoing(tmp_path / "b.warc.gz"))
    asked = [request for request in ias3_server.seen("GET", "/") if "check_limit" in request.query]
    assert [request.query["accesskey"] for request in asked] == [ACCESS_KEY, ACCESS_KEY]


@pytest.mark.parametrize("fault", ["answer", "silent"])
def test_without_an_answer_to_check_limit_nothing_is_sent(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path, fault: str
) -> None:
    ias3_server.fault(fault, method="GET", path="/", status=500)
    assert fault_of(target.put, item(), outgoing(tmp_path / "a.warc.gz")).kind is FaultKind.TRANSIENT
    assert not ias3_server.seen("PUT")


# refusals by class (row 23)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", FaultKind.AUTH),
        (401, "", FaultKind.AUTH),
        (400, "InvalidArgument", FaultKind.CONFIG),
        (423, "", FaultKind.TRANSIENT),
        (500, "InternalError", FaultKind.TRANSIENT),
        (502, "", FaultKind.TRANSIENT),
        (504, "", FaultKind.TRANSIENT),
        (507, "", FaultKind.CAPACITY),
        (429, "", FaultKind.THROTTLED),
        (503, "SlowDown", FaultKind.THROTTLED),
    ],
)
def test_a_refusal_has_its_class_and_the_bytes_stay_here(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path, status: int, code: str, kind: FaultKind
) -> None:
    ias3_server.refuse(status, code)
    assert fault_of(target.put, item(), outgoing(tmp_path / "a.warc.gz")).kind is kind
    (request,) = ias3_server.seen("PUT")
    assert request.size_bytes == 0, "refused at the headers: not a byte of the file was sent"


def test_retry_after_in_seconds_and_as_a_date(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    file, at = outgoing(tmp_path / "a.warc.gz"), datetime.now(UTC)
    date = at + timedelta(hours=2)
    for value, seconds in (("1234", 1234), (format_datetime(date, usegmt=True), 7200), ("soon", 60)):
        ias3_server.heal()
        ias3_server.refuse(503, "SlowDown", headers={"Retry-After": value})
        until = fault_of(target.put, item(), file).until
        assert until is not None and abs((until - at).total_seconds() - seconds) < 5


def test_spam_is_for_a_person_and_not_repeated(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    ias3_server.refuse(503, "SlowDown", "Your upload appears to be spam")
    fault = fault_of(target.put, item(), outgoing(tmp_path / "a.warc.gz"))
    assert fault.kind is FaultKind.NEEDS_HUMAN and "write to info@archive.org" in str(fault)
    assert not fault.kind.is_worth_a_retry
    assert len(ias3_server.seen("PUT")) == 1


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (409, "BucketAlreadyExists", "The bucket namespace is shared by all users of the system."),
        (503, "SlowDown", "Failed to get necessary short term bucket lock"),
        (400, "BadRequest", "auto_make_bucket requested, but the bucket is being made"),
        (409, "OperationAborted", ""),
        (404, "NoSuchBucket", ""),
    ],
)
def test_races_of_making_an_item_are_outlasted_here(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path, status: int, code: str, message: str
) -> None:
    ias3_server.refuse(status, code, message, times=2)
    done: list[int] = []
    file = outgoing(tmp_path / "a.warc.gz")
    target.put(item(), file, done.append)
    assert len(ias3_server.seen("PUT")) == 3
    assert sum(done) == file.state.size_bytes
    ias3_server.refuse(status, code, message)
    assert fault_of(target.put, item(), file).kind is FaultKind.TRANSIENT


def test_bad_digest_with_a_whole_disk_is_sent_again(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    ias3_server.refuse(400, "BadDigest", early=False)
    fault = fault_of(target.put, item(), outgoing(tmp_path / "a.warc.gz"))
    assert fault.kind is FaultKind.TRANSIENT and "damaged on the way" in str(fault)


def test_bad_digest_because_the_disk_changed_is_data(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    file = outgoing(tmp_path / "a.warc.gz")
    file.path.write_bytes(b"x" * file.state.size_bytes)
    fault = fault_of(target.put, item(), replace(file, state=FileState.of_path(file.path)))
    assert fault.kind is FaultKind.DATA and "changed on disk" in str(fault)
    assert not ias3_server.stored()


def test_wrong_keys_are_auth_at_once(ias3_server: Archive, tmp_path: Path) -> None:
    stranger = Store(ias3_server, secret="wrong").target()
    assert fault_of(stranger.put, item(), outgoing(tmp_path / "a.warc.gz")).kind is FaultKind.AUTH
    assert fault_of(stranger.settle, "some-item").kind is FaultKind.AUTH


# the connection (rows 20, 21, 24)


@pytest.mark.parametrize("fault", ["reset", "silent"])
def test_a_broken_connection_is_transient(ias3_server: Archive, target: IAS3Target, tmp_path: Path, fault: str) -> None:
    ias3_server.fault(fault, times=1)
    one, file = item(), outgoing(tmp_path / "a.warc.gz", b"0" * 9_000_000)
    assert fault_of(target.put, one, file).kind is FaultKind.TRANSIENT
    target.put(one, file)
    target.settle(one.identifier)
    assert ias3_server.stored()[f"{one.identifier}/a.warc.gz"] == (file.fixity.digests["md5"], 9_000_000)


def test_a_server_that_takes_all_and_says_nothing_is_given_up(ias3_server: Archive, tmp_path: Path) -> None:
    impatient = Store(ias3_server, replace(QUICK, stall_s=0.5)).target()
    ias3_server.fault("slow", delay_s=12)
    started = time.monotonic()
    assert fault_of(impatient.put, item(), outgoing(tmp_path / "a.warc.gz")).kind is FaultKind.TRANSIENT
    assert time.monotonic() - started < 10


def test_a_server_that_is_too_slow_is_given_up(ias3_server: Archive, tmp_path: Path) -> None:
    pacing = replace(QUICK.pacing, min_rate_bytes_s=500_000_000, min_rate_over_s=0.3)
    ias3_server.fault("drip", delay_s=0.005)
    slow = Store(ias3_server, replace(QUICK, pacing=pacing, stall_s=20)).target()
    fault = fault_of(slow.put, item(), outgoing(tmp_path / "a.warc.gz", b"0" * 30_000_000))
    assert fault.kind is FaultKind.TRANSIENT and "less than min_rate" in str(fault)


def test_a_server_that_does_not_say_go_on_gets_the_file_all_the_same(ias3_server: Archive, tmp_path: Path) -> None:
    ias3_server.answers_continue = False
    patient = Store(ias3_server, replace(QUICK, stall_s=20)).target()
    file, started = outgoing(tmp_path / "a.warc.gz"), time.monotonic()
    patient.put(item(), file)
    assert QUICK.continue_s <= time.monotonic() - started < 15
    assert ias3_server.seen("PUT", status=200)[0].size_bytes == file.state.size_bytes


def test_an_answer_before_the_bytes_is_no_success(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    ias3_server.fault("answer", status=200)
    fault = fault_of(target.put, item(), outgoing(tmp_path / "a.warc.gz"))
    assert fault.kind is FaultKind.TRANSIENT and "before it had all" in str(fault)


def test_one_connection_serves_many_files(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    one = item()
    for serial in range(4):
        target.put(one, outgoing(tmp_path / f"{serial}.warc.gz"))
    assert len(ias3_server.requests) == 8 and ias3_server.connections == 1


# redirects (row 25)


@pytest.mark.parametrize(
    ("url", "configured", "trusted"),
    [
        ("https://ia800001.us.archive.org/x", "https://s3.us.archive.org", True),
        ("https://archive.org/x", "https://s3.us.archive.org", True),
        ("http://ia800001.us.archive.org/x", "https://s3.us.archive.org", False),
        ("http://s3.us.archive.org/x", "https://s3.us.archive.org", False),
        ("https://archive.org.evil.example/x", "https://s3.us.archive.org", False),
        ("https://evilarchive.org/x", "https://s3.us.archive.org", False),
        ("https://archive.org@evil.example/x", "https://s3.us.archive.org", False),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:8", True),
        ("http://127.0.0.2:9/x", "http://127.0.0.1:8", False),
        ("ftp://127.0.0.1/x", "http://127.0.0.1:8", False),
    ],
)
def test_the_login_goes_only_where_it_belongs(url: str, configured: str, trusted: bool) -> None:
    assert may_have_login(url, configured) is trusted


@pytest.mark.parametrize("early", [True, False])
def test_a_redirect_is_followed_with_the_login_and_the_whole_file(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path, early: bool
) -> None:
    one, file, done = item(), outgoing(tmp_path / "a.warc.gz"), list[int]()
    with run_ias3() as other:
        location = f"{other.endpoint_url}/{one.identifier}/a.warc.gz"
        ias3_server.fault("answer", status=307, headers={"Location": location}, early=early)
        target.put(one, file, done.append)
        (request,) = other.seen("PUT")
        assert request.headers["authorization"] == f"LOW {ACCESS_KEY}:{SECRET_KEY}"
        assert request.size_bytes == file.state.size_bytes == sum(done)
    assert ias3_server.seen("PUT")[0].size_bytes == (0 if early else file.state.size_bytes)


def test_a_redirect_to_a_stranger_gets_nothing(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    ias3_server.fault("answer", status=307, headers={"Location": "http://127.0.0.2:1/somewhere"})
    fault = fault_of(target.put, item(), outgoing(tmp_path / "a.warc.gz"))
    assert fault.kind is FaultKind.CONFIG and "127.0.0.2:1" in str(fault)


def test_a_circle_of_redirects_ends(ias3_server: Archive, target: IAS3Target, tmp_path: Path) -> None:
    ias3_server.fault("answer", status=307, headers={"Location": "/again/a.warc.gz"})
    assert fault_of(target.put, item(), outgoing(tmp_path / "a.warc.gz")).kind is FaultKind.TRANSIENT


# the item (rows 29, 31, 32)


def test_an_item_of_somebody_else_is_refused_before_data_is_sent(ias3_server: Archive, site: Site) -> None:
    number = site.one_series()
    site.do_until(number, "manifest")
    mine = site.load(number).item
    Store(ias3_server).target().create(Item(mine), b"theirs\n")
    ias3_server.items[mine].uploader = "somebody@example.org"
    before = len(ias3_server.seen("PUT"))
    fault = fault_of(site.do, number, "create_item")
    assert fault.kind is FaultKind.NEEDS_HUMAN
    assert "belongs to somebody@example.org" in str(fault) and ACCOUNT in str(fault)
    assert len(ias3_server.seen("PUT")) == before


def test_an_item_of_another_crawl_of_ours_is_not_mixed_with_this_one(ias3_server: Archive, target: IAS3Target) -> None:
    one = item()
    target.create(one, b"this crawl\n")
    assert target.look(one.identifier, ["MANIFEST.txt"])["MANIFEST.txt"]
    fault = fault_of(target.create, one, b"another crawl\n")
    assert fault.kind is FaultKind.NEEDS_HUMAN
    assert len(ias3_server.seen("PUT")) == 1


def test_an_unknown_item_holds_nothing(target: IAS3Target) -> None:
    assert target.look("never-made", ["a", "b"]) == {"a": None, "b": None}


def test_a_failed_task_refuses_the_proof_by_its_number(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path
) -> None:
    one = item()
    target.create(one, b"list\n")
    ias3_server.fault("failed_task")
    target.put(one, outgoing(tmp_path / "a.warc.gz"))
    fault = fault_of(target.settle, one.identifier)
    assert fault.kind is FaultKind.NEEDS_HUMAN
    failed = next(task.id for task in ias3_server.tasks if task.status == "error")
    assert f"({failed})" in fault.reason and f"/log/{failed}" in str(fault.next_command)


def test_a_failed_task_on_the_last_page_of_a_long_list_is_seen(
    ias3_server: Archive, target: IAS3Target, tmp_path: Path
) -> None:
    ias3_server.tasks_a_page = 2
    one = item()
    target.create(one, b"list\n")
    for serial in range(4):
        if serial == 3:
            ias3_server.fault("failed_task")
        target.put(one, outgoing(tmp_path / f"{serial}.warc.gz"))
    assert fault_of(target.settle, one.identifier).kind is FaultKind.NEEDS_HUMAN


def test_an_item_that_is_dark_is_for_a_person(ias3_server: Archive, target: IAS3Target) -> None:
    ias3_server.fault("answer", method="GET", path="/metadata/.*", status=200, body='{"is_dark": true}')
    assert fault_of(target.look, "some-item", ["a"]).kind is FaultKind.NEEDS_HUMAN


def test_the_wait_for_pending_tasks_grows_with_their_age(ias3_server: Archive, target: IAS3Target) -> None:
    ias3_server.ingest_after_polls = 1_000_000
    one = item()
    target.create(one, b"list\n")
    for age_s, waits_s in ((0, 60), (600, 300), (86400, 1800)):
        ias3_server.tasks[0].submitted_at = datetime.now(UTC) - timedelta(seconds=age_s)
        until = fault_of(target.settle, one.identifier).until
        assert until is not None and abs((until - datetime.now(UTC)).total_seconds() - waits_s) < 5


def test_one_derive_and_no_second_after_a_crash(ias3_server: Archive, target: IAS3Target) -> None:
    one = item()
    target.create(one, b"list\n")
    target.settle(one.identifier)
    ias3_server.fault("silent", method="POST", path=".*", times=1)
    assert fault_of(target.finish, one, []).kind is FaultKind.TRANSIENT, "queued, and the answer was lost"
    target.finish(one, [])
    target.settle(one.identifier)
    target.finish(one, [])
    assert [task.cmd for task in ias3_server.tasks].count("derive.php") == 1
    assert len(ias3_server.seen("POST")) == 1


def test_without_derive_none_is_queued(ias3_server: Archive) -> None:
    quiet = Store(ias3_server).target(derive=False)
    one = item()
    quiet.create(one, b"list\n")
    quiet.finish(one, [])
    assert [task.cmd for task in ias3_server.tasks] == ["archive.php"]


# the steps


def drain(site: Site, number: int) -> list[Fault]:
    """A run: every step until one has a fault."""
    try:
        site.do_until(number, "delete")
    except Fault as fault:
        return [fault]
    return []


def assert_done(site: Site, ias3_server: Archive, number: int) -> None:
    series = site.load(number)
    assert series.state is SeriesState.CLEAN, series.fault_text
    check_nothing_lost(site)
    stored = ias3_server.stored()
    for member in series.files:
        assert member.fixity is not None
        assert stored[f"{series.item}/{member.name}"] == (member.fixity.digests["md5"], member.state.size_bytes)
        assert not series.path(member).exists()
    assert [task.cmd for task in ias3_server.tasks].count("derive.php") == 1
    for path in series.directory.rglob("*"):
        if path.is_file():
            assert SECRET_KEY.encode() not in path.read_bytes(), path
    assert SECRET_KEY not in str(site.events())


def test_a_series_goes_the_straight_way(ias3_server: Archive, site: Site) -> None:
    number = site.one_series()
    assert drain(site, number) == []
    assert_done(site, ias3_server, number)
    series = site.load(number)
    puts = [request.path.rpartition("/")[2] for request in ias3_server.seen("PUT") if series.item in request.path]
    assert puts[0] == "MANIFEST.txt" and len(puts) == 4
    lines = (series.directory / markers.TOMBSTONE).read_text().splitlines()
    assert lines[0] == f"{ias3_server.endpoint_url}/download/{series.item}/{series.files[0].name}"


def test_the_metadata_of_an_item_is_what_it_was_and_in_utc(ias3_server: Archive, site: Site) -> None:
    number = site.one_series()
    site.do_until(number, "create_item")
    series = site.load(number)
    (request,) = ias3_server.seen("PUT")
    sent = {name: value for name, value in request.headers.items() if name.startswith("x-archive-")}
    lastdate = sent.pop("x-archive-meta-lastdate")
    newest = max(member.state.mtime_ns for member in series.files) / 1e9
    assert lastdate == datetime.fromtimestamp(newest, UTC).strftime("%Y%m%d%H%M%S")
    sent.pop("x-archive-meta-crawler", None)
    assert sent == {
        "x-archive-auto-make-bucket": "1",
        "x-archive-queue-derive": "0",
        "x-archive-keep-old-version": "1",
        "x-archive-size-hint": str(series.size_bytes),
        "x-archive-meta-sizehint": str(series.size_bytes),
        "x-archive-meta-identifier-access": f"https://archive.org/details/{series.item}",
        "x-archive-meta-mediatype": "web",
        "x-archive-meta-subject": "crawldata",
        "x-archive-meta01-collection": "wide00012",
        "x-archive-meta02-collection": "wide",
        "x-archive-meta03-collection": "web",
        "x-archive-meta-title": "Wide Crawldata 2026-03-01T11:04:09UTC to 2026-03-01T11:04:09UTC",
        "x-archive-meta-description": "crawler07.example.org:wide from Sun Mar  1 11:04:09 UTC 2026 "
        "to Sun Mar  1 11:04:09 UTC 2026",
        "x-archive-meta-creator": "Internet Archive",
        "x-archive-meta-sponsor": "Internet Archive",
        "x-archive-meta-contributor": "Internet Archive",
        "x-archive-meta-operator": "archivist@example.org",
        "x-archive-meta-scanningcenter": "sanfrancisco",
        "x-archive-meta-crawljob": "wide",
        "x-archive-meta-scandate": "20260301110409",
        "x-archive-meta-date": "2026",
        "x-archive-meta-numwarcs": "3",
        "x-archive-meta-firstfiledate": "20260301110409387",
        "x-archive-meta-lastfiledate": "20260301110409387",
        "x-archive-meta-firstfileserial": "00000",
        "x-archive-meta-lastfileserial": "00002",
    }


FAULTS: dict[str, tuple[dict[str, Any], FaultKind]] = {
    "slow down": ({"fault": "answer", "status": 503, "headers": {"Retry-After": "5"}}, FaultKind.THROTTLED),
    "spam": ({"fault": "answer", "status": 503, "body": "appears to be spam"}, FaultKind.NEEDS_HUMAN),
    "forbidden": ({"fault": "answer", "status": 403}, FaultKind.AUTH),
    "locked": ({"fault": "answer", "status": 423}, FaultKind.TRANSIENT),
    "bad gateway, for one file only": ({"fault": "answer", "status": 502, "skip": 1, "times": 1}, FaultKind.TRANSIENT),
    "full": ({"fault": "answer", "status": 507}, FaultKind.CAPACITY),
    "race": ({"fault": "answer", "status": 404, "body": "<Code>NoSuchBucket</Code>"}, FaultKind.TRANSIENT),
    "race on the manifest": (
        {"fault": "answer", "status": 409, "body": "bucket namespace is shared", "path": ".*/MANIFEST.txt"},
        FaultKind.TRANSIENT,
    ),
    "bad digest": (
        {"fault": "answer", "status": 400, "body": "<Code>BadDigest</Code>", "early": False},
        FaultKind.TRANSIENT,
    ),
    "wrong etag": ({"fault": "wrong_etag"}, FaultKind.TRANSIENT),
    "reset": ({"fault": "reset"}, FaultKind.TRANSIENT),
    "silent": ({"fault": "silent", "skip": 1}, FaultKind.TRANSIENT),
    "never listed": ({"fault": "never_listed"}, FaultKind.TRANSIENT),
    "one never listed": ({"fault": "never_listed", "skip": 2, "times": 1}, FaultKind.TRANSIENT),
    "listed with another md5": ({"fault": "other_md5"}, FaultKind.DATA),
    "failed task": ({"fault": "failed_task"}, FaultKind.NEEDS_HUMAN),
    "redirect to a stranger": (
        {"fault": "answer", "status": 307, "headers": {"Location": "https://example.org/"}},
        FaultKind.CONFIG,
    ),
    "metadata API down": (
        {"fault": "answer", "method": "GET", "path": "/metadata/.*", "status": 502},
        FaultKind.TRANSIENT,
    ),
    "metadata API lies empty": (
        {"fault": "answer", "method": "GET", "path": "/metadata/.*", "status": 200, "body": "{}", "skip": 3},
        FaultKind.TRANSIENT,
    ),
    "tasks API down": (
        {"fault": "answer", "method": "GET", "path": "/services/.*", "status": 504},
        FaultKind.TRANSIENT,
    ),
    "tasks API does not know": (
        {"fault": "answer", "method": "GET", "path": "/services/.*", "status": 200, "body": '{"success": false}'},
        FaultKind.TRANSIENT,
    ),
    "derive is not queued": ({"fault": "answer", "method": "POST", "path": ".*", "status": 429}, FaultKind.THROTTLED),
}


def assert_all_kept(site: Site) -> None:
    check_nothing_lost(site)
    assert len(site.on_disk()) == 3, "a file was deleted without a listed md5 and size"
    assert not site.events("deleted")


@pytest.mark.parametrize("name", FAULTS)
def test_under_every_fault_nothing_is_deleted_and_the_next_run_finishes(
    ias3_server: Archive, site: Site, name: str
) -> None:
    values, kind = FAULTS[name]
    ias3_server.fault(**values)
    number = site.one_series()
    (fault,) = drain(site, number)
    assert fault.kind is kind, fault
    assert_all_kept(site)
    if values["fault"] != "wrong_etag" and "times" not in values:  # those are mended by asking what is stored
        site.take_up(number)
        assert [again.kind for again in drain(site, number)] == [kind]
        assert_all_kept(site)
    site.take_up(number)
    ias3_server.heal()
    if name == "listed with another md5":
        for stored in ias3_server.items.values():
            stored.files = {key: content for key, content in stored.files.items() if ".warc" not in key}
            stored.md5.clear()
    assert drain(site, number) == []
    assert_done(site, ias3_server, number)


def test_a_missing_etag_is_no_receipt_but_the_listing_proves(ias3_server: Archive, site: Site) -> None:
    ias3_server.fault("no_etag")
    number = site.one_series()
    assert drain(site, number) == []
    assert_done(site, ias3_server, number)
    tasks = (site.load(number).directory / markers.TASK).read_text()
    assert re.search(r"etag: -$", tasks, re.M)


def test_pending_tasks_defer_the_proof(ias3_server: Archive, site: Site) -> None:
    ias3_server.ingest_after_polls = 1
    number = site.one_series()
    (fault,) = drain(site, number)
    assert fault.kind is FaultKind.THROTTLED and fault.until and "tasks under way" in str(fault)
    assert site.load(number).state is SeriesState.UPLOADED
    assert drain(site, number) == []
    assert_done(site, ias3_server, number)
    assert len(ias3_server.seen("PUT", WARC_PUT)) == 3


def test_what_the_archive_still_stores_is_waited_for_and_not_sent_twice(ias3_server: Archive, site: Site) -> None:
    ias3_server.ingest_after_polls = 2
    number = site.one_series()
    assert [fault.kind for fault in drain(site, number)] == [FaultKind.THROTTLED]
    site.take_up(number)  # the next run begins while the archive is at work
    assert site.load(number).state is SeriesState.CREATED
    assert [fault.kind for fault in drain(site, number)] == [FaultKind.THROTTLED]
    assert drain(site, number) == []
    assert_done(site, ias3_server, number)
    assert len(ias3_server.seen("PUT", WARC_PUT)) == 3


def test_a_crashed_upload_sends_only_what_is_missing(ias3_server: Archive, site: Site) -> None:
    number = site.one_series()
    rule = ias3_server.fault("reset", skip=2)
    (fault,) = drain(site, number)
    assert fault.kind is FaultKind.TRANSIENT and rule.hits >= 3
    ias3_server.heal()
    before = len(ias3_server.seen("PUT", status=200))
    assert drain(site, number) == []
    assert len(ias3_server.seen("PUT", status=200)) == before + 1
    assert_done(site, ias3_server, number)


def test_a_copy_that_vanished_after_the_proof_keeps_the_file(ias3_server: Archive, site: Site) -> None:
    number = site.one_series()
    site.do_until(number, "prove")
    ias3_server.items[site.load(number).item].files.pop(site.load(number).files[1].name)
    (fault,) = drain(site, number)
    assert fault.kind is FaultKind.DATA
    assert len(site.on_disk()) == 1
    site.take_up(number)
    assert drain(site, number) == []
    assert_done(site, ias3_server, number)


# a server of somebody else that takes the LOW login


def test_an_anonymous_s3_server_takes_and_checks_the_same_requests(
    anonymous_s3_server: RcloneS3, tmp_path: Path
) -> None:
    url = anonymous_s3_server.endpoint_url
    manners = replace(QUICK, asks_limit=False)
    there = IAS3Target(Keys("a", "b"), s3_endpoint=url, metadata_endpoint=url, manners=manners)
    one = item(creator="Zoë")
    (anonymous_s3_server.folder / one.identifier).mkdir()
    file = outgoing(tmp_path / "a.warc.gz", b"0123456789" * 300_000)
    receipt = there.put(one, file)
    assert receipt.stated.digests == receipt.read.digests == {"md5": file.fixity.digests["md5"]}
    assert (anonymous_s3_server.folder / one.identifier / "a.warc.gz").read_bytes() == file.path.read_bytes()
    assert there.read_back(one.identifier, "a.warc.gz").digests["md5"] == file.fixity.digests["md5"]

    file.path.write_bytes(b"x" * file.state.size_bytes)
    changed = replace(file, name="b.warc.gz", state=FileState.of_path(file.path))
    assert fault_of(there.put, one, changed).kind is FaultKind.DATA
    assert not (anonymous_s3_server.folder / one.identifier / "b.warc.gz").exists()
