"""A drain through a server that lies: nothing is lost, nothing is deleted without proof, and honesty mends it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from custody.drain.series import SeriesState
from custody.faults import Fault, FaultKind
from custody_demo.object_store import RcloneS3
from drain_site import Site, Store, check_is_clean, check_nothing_lost, make_site
from lying.proxy import Lie, LyingProxy

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def proxy(s3_server: RcloneS3) -> Iterator[LyingProxy]:
    with LyingProxy(s3_server.endpoint_url, s3_server.folder) as running:
        yield running


@pytest.fixture
def site(s3_server: RcloneS3, proxy: LyingProxy, tmp_path: Path) -> Iterator[Site]:
    """Two files; big enough that a body is not gone in one block."""
    bucket = f"lying-{uuid.uuid4().hex[:12]}"
    (s3_server.folder / bucket).mkdir()
    store = Store(proxy.endpoint_url, s3_server.access_key, s3_server.secret_key, bucket, s3_server.folder / bucket)
    site = make_site(tmp_path, store)
    site.write(0, size_bytes=300_000)
    site.write(1, size_bytes=300_000)
    yield site
    proxy.lie = None


def run(site: Site, number: int) -> list[Fault]:
    """One run: every step as far as it comes, as the scheduler would do it."""
    site.take_up(number)
    try:
        site.do_until(number, "delete")
    except Fault as fault:
        return [fault]
    return []


LIES = [
    ("PUT", ".warc.gz", "flip", {FaultKind.TRANSIENT}),
    ("PUT", ".warc.gz", "cut", {FaultKind.TRANSIENT}),
    ("PUT", ".warc.gz", "reset", {FaultKind.TRANSIENT}),
    ("PUT", ".warc.gz", "no_answer", {FaultKind.TRANSIENT}),
    ("PUT", ".warc.gz", "early_ok", {FaultKind.TRANSIENT, FaultKind.DATA}),
    ("PUT", ".warc.gz", "bad_gateway", {FaultKind.TRANSIENT}),
    ("PUT", ".warc.gz", "slow_down", {FaultKind.THROTTLED}),
    ("PUT", ".warc.gz", "nothing_stored", {FaultKind.TRANSIENT}),
    ("PUT", ".warc.gz", "half_stored", {FaultKind.DATA}),
    ("PUT", ".warc.gz", "flip_stored", {FaultKind.DATA}),
    ("PUT", "MANIFEST.txt", "flip", {FaultKind.DATA, FaultKind.TRANSIENT}),
    ("PUT", "MANIFEST.txt", "slow_down", {FaultKind.THROTTLED}),
    ("PUT", "MANIFEST.txt", "reset", {FaultKind.TRANSIENT}),
    ("GET", "list-type", "slow_down", {FaultKind.THROTTLED}),
    ("GET", "list-type", "garbage", {FaultKind.TRANSIENT}),
    ("GET", "list-type", "cut_answer", {FaultKind.TRANSIENT}),
    ("GET", "list-type", "reset", {FaultKind.TRANSIENT}),
    ("GET", "list-type", "bad_gateway", {FaultKind.TRANSIENT}),
    ("GET", "list-type", "endless", {FaultKind.TRANSIENT, FaultKind.CONFIG}),
    ("PUT", ".warc.gz", "redirect", {FaultKind.CONFIG}),
    ("PUT", ".warc.gz", "html_ok", {FaultKind.TRANSIENT}),
    ("PUT", "MANIFEST.txt", "html_ok", {FaultKind.TRANSIENT}),
]


@pytest.mark.parametrize(("method", "part", "kind", "expected"), LIES, ids=[f"{m}-{p}-{k}" for m, p, k, _ in LIES])
def test_nothing_is_lost_under_a_lie_and_honesty_mends_it(
    site: Site, proxy: LyingProxy, method: str, part: str, kind: str, expected: set[FaultKind]
) -> None:
    number = site.one_series()
    proxy.lie = Lie(kind, method=method, part=part)
    for _ in range(2):
        faults = run(site, number)
        assert proxy.lie.told, "the lie was never told"
        assert [fault.kind for fault in faults] and faults[0].kind in expected, faults
        assert "\n" not in str(faults[0])
        assert site.store is not None
        assert site.store.secret_key not in str(faults[0])
        check_nothing_lost(site)
        assert len(site.on_disk()) == 2, "deleted while the server lied"
        assert site.load(number).state is not SeriesState.CLEAN
    proxy.lie = None
    assert run(site, number) == []
    check_is_clean(site, [number])


def test_a_wrong_receipt_for_the_right_bytes_is_settled_by_looking(site: Site, proxy: LyingProxy) -> None:
    number = site.one_series()
    proxy.lie = Lie("wrong_etag", times=2)
    (fault,) = run(site, number)
    assert fault.kind is FaultKind.TRANSIENT
    assert len(site.on_disk()) == 2
    proxy.lie = None
    assert run(site, number) == []
    check_is_clean(site, [number])


@pytest.mark.parametrize(
    ("kind", "expected"), [("not_listed", FaultKind.TRANSIENT), ("foreign_digest", FaultKind.DATA)]
)
def test_what_the_keeper_does_not_state_any_more_is_not_let_go(
    site: Site, proxy: LyingProxy, kind: str, expected: FaultKind
) -> None:
    number = site.one_series()
    site.do_until(number, "upload")
    proxy.lie = Lie(kind, method="GET", part="list-type")
    with pytest.raises(Fault) as unproven:
        site.do(number, "prove")
    assert unproven.value.kind is expected
    proxy.lie = None
    site.take_up(number)
    site.do_until(number, "prove")
    proxy.lie = Lie(kind, method="GET", part="list-type")
    with pytest.raises(Fault, match="2 of 2 files are kept"):
        site.do(number, "delete")
    assert len(site.on_disk()) == 2
    proxy.lie = None
    assert run(site, number) == []
    check_is_clean(site, [number])


@pytest.mark.parametrize(("method", "part"), [("PUT", ".warc.gz"), ("PUT", "MANIFEST.txt"), ("GET", "list-type")])
def test_a_redirect_leads_no_key_and_no_bytes_to_another_host(
    site: Site, proxy: LyingProxy, method: str, part: str
) -> None:
    number = site.one_series()
    proxy.lie = Lie("redirect", method=method, part=part)
    proxy.stolen.clear()
    assert run(site, number)
    assert proxy.lie.told
    assert proxy.stolen == []
    check_nothing_lost(site)
    proxy.lie = None
    assert run(site, number) == []
    check_is_clean(site, [number])


def test_a_slow_answer_is_waited_for(site: Site, proxy: LyingProxy) -> None:
    number = site.one_series()
    proxy.lie = Lie("delay")
    started = time.monotonic()
    assert run(site, number) == []
    assert time.monotonic() - started >= 1.0
    check_is_clean(site, [number])


@pytest.mark.parametrize("part", [".warc.gz", "MANIFEST.txt"])
def test_the_time_that_a_busy_server_asks_for_is_kept(site: Site, proxy: LyingProxy, part: str) -> None:
    number = site.one_series()
    proxy.lie = Lie("slow_down", part=part)
    (fault,) = run(site, number)
    assert fault.kind is FaultKind.THROTTLED
    assert fault.until is not None
    assert timedelta(0) < fault.until - datetime.now(UTC) <= timedelta(seconds=7)


def test_a_lie_about_one_file_does_not_send_the_other_again(site: Site, proxy: LyingProxy) -> None:
    site.values["upload_connections"] = 1
    number = site.one_series()
    proxy.lie = Lie("nothing_stored", times=1)
    assert run(site, number)
    proxy.lie = None
    assert run(site, number) == []
    check_is_clean(site, [number])
    assert [event.detail["sent"] for event in site.events("upload") if event.result == "done"] == [2, 1]


@pytest.mark.parametrize("kind", ["flip", "cut_answer", "reset", "garbage"])
def test_a_read_back_that_is_not_right_proves_nothing(site: Site, proxy: LyingProxy, kind: str) -> None:
    site.values["proof"] = "readback"
    number = site.one_series()
    proxy.lie = Lie(kind, method="GET")
    assert run(site, number)
    check_nothing_lost(site)
    assert site.proofs() == set()
    proxy.lie = None
    assert run(site, number) == []
    check_is_clean(site, [number])


@pytest.mark.parametrize("kind", ["nothing", "half"])
def test_a_server_that_loses_what_was_proven_keeps_the_file_here(site: Site, kind: str) -> None:
    number = site.one_series()
    site.do_until(number, "prove")
    assert site.store is not None and site.store.folder is not None
    for path in site.store.folder.rglob("*.warc.gz"):
        if kind == "nothing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (fault,) = run_delete(site, number)
    assert fault.kind is FaultKind.DATA
    assert len(site.on_disk()) == 2
    assert run(site, number) == []
    check_is_clean(site, [number])


def run_delete(site: Site, number: int) -> list[Fault]:
    with pytest.raises(Fault) as refusal:
        site.do(number, "delete")
    return [refusal.value]
