"""Caps and floors of the speed, measured."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from custody.digests import read_file
from custody.drain.config import DrainConfig, parse
from custody.drain.targets import Outgoing
from custody.drain.targets.http_put import Sender
from custody.drain.targets.pace import Cap, DayWindow, Floor, Pacing
from custody.drain.targets.s3 import S3Target
from custody.faults import Fault, FaultKind
from custody_demo.object_store import RcloneS3
from drain_site import Store, make_site

RATE = 4_000_000


@pytest.fixture(autouse=True)
def own_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files by which processes share a line lie where the test's others do."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def send(sender: Sender, path: Path, url_path: str) -> float:
    reading = read_file(path)
    started = time.monotonic()
    answer, read = sender.put_file(url_path, {}, Outgoing(path, path.name, reading.fixity, reading.state))
    assert answer.status == 200 and read.digests["md5"] == reading.fixity.digests["md5"]
    return time.monotonic() - started


def test_a_cap_holds_within_ten_percent(tmp_path: Path, anonymous_s3_server: RcloneS3) -> None:
    (anonymous_s3_server.folder / "capped").mkdir(exist_ok=True)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8_000_000)
    with Sender(anonymous_s3_server.endpoint_url, pacing=Pacing(RATE)) as sender:
        took_s = [send(sender, path, f"/capped/file{number}") for number in range(2)]
        # A machine that is busy with other things may be slower than the cap, but never faster: it gets more tries.
        while min(took_s) >= 8_000_000 / RATE * 1.1 and len(took_s) < 8:
            took_s.append(send(sender, path, f"/capped/file{len(took_s)}"))
    # One that came late makes up for it in the next half second, so that a single file says less than all of them.
    assert sum(took_s) > len(took_s) * 8_000_000 / RATE * 0.9
    assert min(took_s) < 8_000_000 / RATE * 1.1


def test_the_s3_target_keeps_to_it_too(tmp_path: Path, store: Store) -> None:
    site = make_site(tmp_path, store, max_rate="4MB")
    site.write(content=None, size_bytes=1_000_000)
    number = site.one_series()
    site.do_until(number, "create_item")
    target = store.target()
    paced = S3Target(target._client, target._credentials, store.bucket, pacing=site.config.pacing)
    started = time.monotonic()
    series = site.do(number, "upload", target=paced)
    assert time.monotonic() - started > series.size_bytes / RATE * 0.8


@pytest.mark.slow
def test_processes_of_a_machine_share_a_cap(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from custody.drain.targets.pace import *;"
        f"cap = Cap('archive.example', Pacing({RATE}), Path(sys.argv[1]));"
        "[cap.wait(100_000) for _ in range(20)]"
    )
    started = time.monotonic()
    cap = Cap("archive.example", Pacing(RATE), tmp_path)
    cap.wait(RATE)  # so that both begin while the line is taken
    booked = cap._take_turn(2.0)
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(30) for process in running] == [0, 0]
    took_s = time.monotonic() - booked - 2.0
    assert 2 * 20 * 100_000 / RATE * 0.8 < took_s < 2 * 20 * 100_000 / RATE * 1.3
    assert time.monotonic() - started < 10


def test_a_stale_booking_of_before_a_reboot_blocks_nobody(tmp_path: Path) -> None:
    cap = Cap("h", Pacing(RATE), tmp_path)
    cap._take_turn(1e9)
    assert cap.wait(1) < 1


def test_outside_its_window_there_is_no_cap(tmp_path: Path) -> None:
    at = datetime.now(UTC)
    later = f"{at + timedelta(hours=2):%H:%M}-{at + timedelta(hours=3):%H:%M}"
    cap = Cap("h", Pacing(1, DayWindow.parse(later)), tmp_path)
    assert cap.wait(10_000) == 0.0


@pytest.mark.parametrize(
    ("window", "hour", "inside"),
    [("08:00-20:00", 8, True), ("08:00-20:00", 20, False), ("20:00-08:00", 23, True), ("20:00-08:00", 12, False)],
)
def test_a_window_may_span_midnight(window: str, hour: int, inside: bool) -> None:
    assert DayWindow.parse(window).contains(datetime(2026, 3, 1, hour, tzinfo=UTC)) is inside


def test_what_the_cap_made_it_wait_does_not_count_as_slow() -> None:
    floor = Floor("h", Pacing(min_rate_bytes_s=1000, min_rate_over_s=0.05))
    time.sleep(0.06)
    floor.count(1, waited_s=0.06)
    time.sleep(0.06)
    with pytest.raises(Fault) as raised:
        floor.count(1)
    assert raised.value.kind is FaultKind.TRANSIENT


def config(**values: object) -> DrainConfig:
    base = {"crawljob": "j", "job_dir": "/a", "xfer_dir": "/b", "target": "s3", "bucket": "b"}
    return parse(base | values, "here")


def test_the_keys_of_a_configuration() -> None:
    made = config(max_rate="20MB", rate_window="08:00-20:00", min_rate="5kB")
    assert made.pacing == Pacing(20_000_000, DayWindow(480, 1200), 5000)
    assert DrainConfig.model_validate(made.model_dump(mode="json")) == made
    assert config().pacing == Pacing(None, None, 1000)
    assert DrainConfig.model_validate(config().model_dump(mode="json")) == config()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_rate": 20}, "max_rate: 20 is no rate"),
        ({"max_rate": "20"}, "max_rate: '20' is no rate"),
        ({"max_rate": True}, "max_rate: True is no rate"),
        ({"max_rate": "fast"}, "max_rate: 'fast' is no size"),
        ({"rate_window": "8-20"}, "rate_window: '8-20' is no part of a day"),
        ({"rate_window": "08:00-08:00"}, "is no part of a day"),
        ({"rate_window": "08:00-24:30"}, "is no part of a day"),
    ],
)
def test_wrong_keys_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(Fault) as raised:
        config(**values)
    assert raised.value.kind is FaultKind.CONFIG and said in str(raised.value)
