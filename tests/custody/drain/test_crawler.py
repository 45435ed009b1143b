"""A crawler is asked to pause while its disk is full, and only what was paused from here is resumed from here."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from custody.drain import crawler_api
from custody.drain.crawler import Standing, standing, watch_crawler
from custody.drain.crawler_api import CommandCrawler, Crawler, CrawlerState, Heritrix, Login, Zeno
from custody.faults import Fault, FaultKind
from custody.host import DiskUsage, LocalHost
from custody_demo.processes import free_ports
from drain_site import WHO, Site
from services.heritrix import PASSWORD, USER, Engine

LOGIN = Login(USER, PASSWORD)


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("heritrix")) as running:
        yield running


@pytest.fixture
def heritrix(engine: Engine) -> Heritrix:
    return Heritrix(engine.url, "wide crawl", LOGIN, engine.certificate)


@pytest.fixture
def fill(disk: Site, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says how full the disk is, in per cent."""
    disk.values |= {"pressure_pct": 90, "crawler": {"kind": "heritrix", "job": "wide crawl", "resume_pct": 70}}

    def set_used(percent: int) -> None:
        monkeypatch.setattr(LocalHost, "disk_usage", lambda *_: DiskUsage(100, 100 - percent, 100, 100))

    set_used(50)
    return set_used


def watch(site: Site, crawler: Crawler, **options: bool) -> str | None:
    return watch_crawler(site.ledger, "wide", site.config, crawler, who=WHO, **options)


def notes(site: Site) -> list[tuple[str, str]]:
    return [(event.what, event.result) for event in site.events() if event.what.endswith("crawler")]


def test_it_pauses_under_pressure_and_goes_on_when_there_is_room(
    disk: Site, engine: Engine, heritrix: Heritrix, fill: Any
) -> None:
    assert watch(disk, heritrix) is None
    fill(90)
    assert "asked to pause, the disk is 90.0 % full" in (watch(disk, heritrix) or "")
    assert standing(disk.ledger, "wide") is Standing.PAUSED
    assert watch(disk, heritrix) is None
    engine.state = "PAUSED"
    fill(71)
    assert watch(disk, heritrix) is None
    assert engine.actions == ["pause"]
    fill(69)
    assert "asked to go on, the disk is 69.0 % full" in (watch(disk, heritrix) or "")
    assert watch(disk, heritrix) is None
    assert engine.actions == ["pause", "unpause"]
    assert notes(disk) == [
        ("pause crawler", "asking"), ("pause crawler", "done"), ("resume crawler", "done"),
    ]  # fmt: skip
    assert PASSWORD not in json.dumps([event.detail for event in disk.events()])


def test_what_somebody_else_paused_is_not_resumed(disk: Site, engine: Engine, heritrix: Heritrix, fill: Any) -> None:
    engine.state = "PAUSED"
    for percent in (95, 95, 50):
        fill(percent)
        assert watch(disk, heritrix) is None
    assert (engine.actions, notes(disk)) == ([], [])


@pytest.mark.parametrize("state", ["FINISHED", "STOPPING", "NASCENT", ""])
def test_a_job_that_does_not_crawl_is_left_alone(
    disk: Site, engine: Engine, heritrix: Heritrix, fill: Any, state: str
) -> None:
    engine.state = state
    fill(95)
    assert watch(disk, heritrix) is None
    assert (engine.actions, notes(disk)) == ([], [])


def test_a_person_who_wakes_it_is_not_fought(disk: Site, engine: Engine, heritrix: Heritrix, fill: Any) -> None:
    fill(95)
    watch(disk, heritrix)
    engine.state = "RUNNING"
    assert "runs again" in (watch(disk, heritrix) or "")
    assert watch(disk, heritrix) is None
    assert engine.actions == ["pause"]
    fill(50)
    watch(disk, heritrix)
    fill(95)
    watch(disk, heritrix)
    assert engine.actions == ["pause", "pause"]


def test_without_drainme_it_is_woken_but_not_paused(disk: Site, engine: Engine, heritrix: Heritrix, fill: Any) -> None:
    fill(95)
    assert watch(disk, heritrix, may_pause=False) is None
    watch(disk, heritrix)
    fill(50)
    watch(disk, heritrix, may_pause=False)
    assert engine.actions == ["pause", "unpause"]


@pytest.mark.parametrize("before_the_call", [True, False])
def test_a_crash_while_asking_leaves_no_crawler_asleep(
    disk: Site, engine: Engine, heritrix: Heritrix, fill: Any, monkeypatch: pytest.MonkeyPatch, before_the_call: bool
) -> None:
    really = Heritrix.pause

    def die(self: Heritrix) -> None:
        if not before_the_call:
            really(self)
        raise KeyboardInterrupt

    fill(95)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Heritrix, "pause", die)
        watch(disk, heritrix)
    assert standing(disk.ledger, "wide") is Standing.ASKING
    watch(disk, heritrix)
    assert standing(disk.ledger, "wide") is Standing.PAUSED
    fill(50)
    watch(disk, heritrix)
    assert engine.actions == ["pause", "unpause"]
    assert engine.state == "RUNNING"


def test_silence_after_a_command_counts_as_perhaps(
    disk: Site, engine: Engine, heritrix: Heritrix, fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawler_api, "TIMEOUT_S", 0.5)
    engine.deaf = True
    fill(95)
    with pytest.raises(Fault, match="the crawler does not answer") as fault:
        watch(disk, heritrix)
    assert fault.value.kind is FaultKind.TRANSIENT
    engine.deaf = False
    fill(50)
    watch(disk, heritrix)
    assert engine.actions == ["pause", "unpause"]
    assert notes(disk)[1] == ("ask crawler", "transient")


@pytest.mark.parametrize(("status", "kind"), [(403, "auth"), (404, "config"), (500, "transient")])
def test_a_refusal_is_on_record(
    disk: Site, engine: Engine, heritrix: Heritrix, fill: Any, status: int, kind: str
) -> None:
    engine.refuse = status
    fill(95)
    with pytest.raises(Fault, match=f"the crawler refused it: {status}") as fault:
        watch(disk, heritrix)
    assert fault.value.kind == kind
    assert notes(disk)[-1] == ("ask crawler", kind)
    engine.refuse = None
    watch(disk, heritrix)
    assert engine.actions == ["pause"]


def test_a_wrong_password_a_wrong_job_and_a_foreign_certificate_are_told(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="401") as fault:
        Heritrix(engine.url, "wide crawl", Login(USER, "wrong"), engine.certificate).state()
    assert fault.value.kind is FaultKind.AUTH
    with pytest.raises(Fault, match="404") as fault:
        Heritrix(engine.url, "another", LOGIN, engine.certificate).state()
    assert fault.value.kind is FaultKind.CONFIG
    seen = engine.statuses.total()
    with Engine(tmp_path) as foreign:
        for certificate in (foreign.certificate, None):
            with pytest.raises(Fault, match="CERTIFICATE_VERIFY_FAILED"):
                Heritrix(engine.url, "wide crawl", LOGIN, certificate).state()
    assert engine.statuses.total() == seen
    with pytest.raises(Fault, match="must be of ASCII letters"):
        Heritrix(engine.url, "wide crawl", Login(USER, "pässword"), engine.certificate)
    with pytest.raises(Fault, match="is no PEM text"):
        Heritrix(engine.url, "wide crawl", LOGIN, "-----BEGIN nonsense")


def test_nobody_there_and_nonsense_are_faults(engine: Engine, heritrix: Heritrix) -> None:
    engine.state = "</job>"
    with pytest.raises(Fault, match="does not answer as Heritrix 3 does"):
        heritrix.state()
    with pytest.raises(Fault, match="does not answer") as fault:
        Heritrix(f"https://127.0.0.1:{free_ports(1)[0]}", "x", LOGIN).state()
    assert fault.value.kind is FaultKind.TRANSIENT
    with socket.create_server(("127.0.0.1", 0)) as mute:
        threading.Thread(target=lambda: mute.accept()[0].sendall(b"SSH-2.0\r\n"), daemon=True).start()
        with pytest.raises(Fault, match="does not answer"):
            Zeno(f"http://127.0.0.1:{mute.getsockname()[1]}").state()


def test_an_answer_byte_by_byte_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawler_api, "WHOLE_TIMEOUT_S", 0.5)

    def drip(listener: socket.socket) -> None:
        client = listener.accept()[0]
        with contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000:
                client.send(bytes([byte]))
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        with pytest.raises(Fault, match=r"has not answered within 0\.5 s") as fault:
            Zeno(f"http://127.0.0.1:{listener.getsockname()[1]}").state()
    assert fault.value.kind is FaultKind.TRANSIENT


class _ZenoApi(BaseHTTPRequestHandler):
    paused = False

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"paused": type(self).paused}).encode())

    def do_PATCH(self) -> None:
        type(self).paused = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paused"]
        self.send_response(200)
        self.end_headers()


def test_zeno_pauses_and_goes_on(disk: Site, fill: Any) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _ZenoApi) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        zeno = Zeno(f"http://127.0.0.1:{server.server_address[1]}")
        assert zeno.state() is CrawlerState.RUNNING
        fill(95)
        watch(disk, zeno)
        assert zeno.state() is CrawlerState.PAUSED
        fill(50)
        watch(disk, zeno)
        assert zeno.state() is CrawlerState.RUNNING
        server.shutdown()


def test_any_other_crawler_is_asked_by_commands(disk: Site, fill: Any, tmp_path: Path) -> None:
    log = tmp_path / "log ; $(touch pwned)"
    other = CommandCrawler(*(f"sh -c 'echo {word} >>\"$1\"' crawler '{log}'" for word in ("pause", "resume")))
    for percent in (95, 95, 50, 50):
        fill(percent)
        watch(disk, other)
    assert log.read_text().split() == ["pause", "resume"]
    fill(95)
    with pytest.raises(Fault, match=r"crawler\.pause: sh ended with status 3: no such container"):
        watch(disk, CommandCrawler("sh -c 'echo no such container >&2; exit 3'", "true"))
