"""The page of the tape room: what it shows, what it offers for copying, and that looking changes nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from custody.tape import mount, session, tapes
from custody.tape.drives import cartridges
from custody.tape.unfinished import Unfinished
from custody_airflow.ui import tape as room
from empty_ledger import new_ledger
from tape_site import WHO, TapeSite, make_site

pytestmark = pytest.mark.airflow

HOSTILE = '<script>alert("x")</script>; rm -rf $HOME'


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TapeSite:
    """Two tapes: one holds a confirmed and a recorded target, the other waits to be inserted."""
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.delenv("AIRFLOW_CONN_CUSTODY_LEDGER", raising=False)
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    found = make_site(tmp_path, new_ledger(url))
    found.make_tape("TAPE01")
    tapes.move_tape(found.ledger, "TAPE01", who=WHO, location="vault B", slot="12")
    found.import_all(found.make_target("letters"))
    found.assign()
    found.archive()
    found.confirm_all()
    found.import_all(found.make_target("maps"))
    found.assign()
    found.archive()
    return found


@pytest.fixture
def browser(airflow_db: None, site: TapeSite) -> Iterator[Any]:
    """A client of the pages behind the login; that each route asks for it is shown in test_ui.py."""
    from fastapi.testclient import TestClient

    from custody_airflow.ui.access import NEEDS_LOGIN
    from custody_airflow.ui.app import app

    app.dependency_overrides[NEEDS_LOGIN.dependency] = lambda: None
    yield TestClient(app)
    del app.dependency_overrides[NEEDS_LOGIN.dependency]


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.text[:500]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text)))


def test_the_room_shows_tapes_targets_and_the_next_steps(browser: Any) -> None:
    page = text_of(browser.get("/tape"))
    assert "TAPE01 active" in page
    assert "vault B slot 12" in page
    assert re.search(r"recorded 1 15 kB .*confirmed 1 15 kB", page)
    assert "1 recorded, not confirmed" in page
    assert "custody tape confirm all" in page
    assert "No drive is at work." in page


def test_a_tape_shows_its_files_attempts_and_audit(browser: Any, site: TapeSite) -> None:
    page = text_of(browser.get("/tape?tape=TAPE01"))
    assert f"1 confirmed {site.data / 'letters'}" in page
    assert "confirm" in page and WHO in page and "moved" in page
    assert browser.get("/tape?tape=T9", headers={"accept": "text/html"}).status_code == 404


def test_a_run_that_waits_is_the_first_thing_that_needs_you(browser: Any, site: TapeSite) -> None:
    site.make_tape("TAPE02", load=False)
    seen = mount.look(site.ledger, site.config, site.tape("TAPE02"), write=True)
    mount.put_on_record(site.ledger, site.config, seen, who=WHO, waits=True)
    page = text_of(browser.get("/"))
    assert "1 thing needs you" in page
    assert "Insert tape TAPE02" in page
    assert "holds tape TAPE01" in page
    mount.put_on_record(site.ledger, site.config, seen, who=WHO, waits=False)
    assert "Nothing needs you" in text_of(browser.get("/"))


def test_a_drive_at_work_shows_how_far_it_is(browser: Any, site: TapeSite) -> None:
    with session.held_drive(site.ledger, site.config, writable=False) as (_, held):
        from custody import lease

        progress = {"target": "/data/letters", "file_number": 3, "bytes_total": 4_000_000, "bytes_done": 1_000_000}
        lease.beat(site.ledger, held.lease, progress)
        page = text_of(browser.get("/tape"))
    assert "archiving /data/letters" in page
    assert "1 MB of 4 MB" in page


def test_files_are_found_by_path_pattern_and_digest(browser: Any, site: TapeSite) -> None:
    path = site.data / "letters" / "sub" / "file0"
    for what in (str(path), "file0", "letters/*/file0"):
        page = text_of(browser.get("/tape/find", params={"what": what}))
        assert f"TAPE01 1 " in page and str(path) in page  # noqa: F541
    assert "No file of this name" in text_of(browser.get("/tape/find", params={"what": "nothing"}))


def test_hostile_names_are_shown_and_never_run(browser: Any, site: TapeSite) -> None:
    answer = browser.get("/tape/find", params={"what": HOSTILE})
    assert "<script>alert" not in answer.text
    plain = room._attention(Unfinished("tape T1", "waits", "custody tape activate_tape T1; custody tape archive"))
    assert plain.step.commands == ("custody tape activate_tape T1", "custody tape archive")
    hostile = room._attention(Unfinished("x", "failed", f"custody tape reassign T1 '{HOSTILE}'", True))
    assert hostile.step.commands == ()
    assert HOSTILE in hostile.step.advice


def test_looking_changes_nothing(browser: Any, site: TapeSite) -> None:
    def everything() -> tuple[str, bytes, list[str]]:
        with site.ledger.read() as connection:
            rows = "\n".join(connection.connection.driver_connection.iterdump())
        return rows, site.image("TAPE01").read_bytes(), sorted(path.name for path in site.drive.iterdir())

    before = everything()
    for path in (
        "/",
        "/tape",
        "/tape?tape=TAPE01",
        "/tape/find?what=file0",
        "/api/tape",
        "/api/metrics",
        "/api/status",
    ):
        assert browser.get(path).status_code == 200
    assert everything() == before
    assert cartridges.loaded_image(site.drive) is not None


def test_programs_get_numbers(browser: Any) -> None:
    found = browser.get("/api/tape").json()
    assert found["targets"]["confirmed"]["targets"] == 1
    assert found["tapes"][0]["location"] == "vault B"
    metrics = browser.get("/api/metrics").text
    assert 'custody_tape_targets{pool="default",state="confirmed",tape="TAPE01"} 1' in metrics
    assert 'custody_tape_state{pool="default",state="open",tape="TAPE01"} 1' in metrics
