"""The pages of bitarchive, asked through Airflow's own app with its own login."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from bitarchive_site import FILES, Site, make_site
from custody.bitarchive import preserve
from custody.ledger import Ledger
from empty_ledger import new_ledger

pytestmark = pytest.mark.airflow

PAGES = ("/bitarchive", "/bitarchive/batch/1", "/bitarchive/batch/1?failed=true", "/", "/api/bitarchive/batch/1")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    return make_site(tmp_path / "archive", new_ledger(url))


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


def test_a_batch_and_every_file_of_it_are_shown(viewer: Any, site: Site) -> None:
    hostile = 'raise ValueError("<script>alert(1)</script>")'
    job = site.job(
        "from custody.bitarchive.jobs import FileBatchJob\n\nclass J(FileBatchJob):\n"
        f"    def process_file(self, file, out):\n        if file.name[0] == 'b':\n            {hostile}\n"
    )
    site.run(job)
    room = text_of(viewer.get("/custody/bitarchive"))
    assert "news ONE 4" in room
    assert "Batch 1: job.py on news" in room
    assert "1 failed of 4 files" in room
    assert "custody bitarchive batch news --retry-failed 1" in room
    answer = viewer.get("/custody/bitarchive/batch/1")
    page = text_of(answer)
    assert all(name in page for name in FILES)
    assert "<script>alert" not in answer.text
    assert "ValueError <script>alert(1)</script>" in page
    assert FILES[0] not in text_of(viewer.get("/custody/bitarchive/batch/1?failed=true"))
    told = viewer.get("/custody/api/bitarchive/batch/1").json()
    assert (told["state"], [row["name"] for row in told["not_done"]]) == ("partial", [FILES[1]])
    assert (
        'custody_bitarchive_files{archive="news",replica="ONE",state="files"} 4'
        in viewer.get("/custody/api/metrics").text
    )


def test_what_is_missing_needs_somebody(viewer: Any, site: Site) -> None:
    site.path(FILES[0]).unlink()
    preserve.find_missing(site.archive, site.archive.config.replica("ONE"), who="test")
    page = text_of(viewer.get("/custody/"))
    assert "news, replica ONE" in page
    assert "1 missing of 4 files" in page
    assert "custody bitarchive check status news" in page


def test_an_empty_room_and_a_batch_that_is_not_there(
    viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUSTODY_LEDGER", Ledger.upgrade(f"sqlite:///{tmp_path}/empty.sqlite").url)
    assert "No archive is on record yet" in text_of(viewer.get("/custody/bitarchive"))
    assert "is not on record" in viewer.get("/custody/bitarchive/batch/7").text


@pytest.mark.parametrize("path", PAGES)
def test_pages_ask_for_the_login(airflow_app: Any, site: Site, path: str) -> None:
    from fastapi.testclient import TestClient

    answer = TestClient(airflow_app, base_url="http://127.0.0.1", follow_redirects=False).get(f"/custody{path}")
    assert answer.status_code in {302, 303, 307, 401, 403}
