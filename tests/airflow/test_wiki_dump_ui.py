"""The page of the room wiki_dump: what runs, what stands still, one run; nothing of it changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from custody.faults import Fault
from custody.wiki_dump.whole import dump
from wiki_farm import FarmSite, make_farm

pytestmark = [pytest.mark.airflow]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FarmSite]:
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "farm/config"))
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path}/farm/ledger.sqlite")
    found = make_farm(tmp_path / "farm")
    found.add_wiki("aawiki", pages=3, revisions=2)
    found.lists(["aawiki"])
    yield found
    found.ledger.close()


@pytest.fixture
def client() -> Iterator[TestClient]:
    from custody_airflow.ui.access import NEEDS_LOGIN
    from custody_airflow.ui.app import app

    app.dependency_overrides[NEEDS_LOGIN.dependency] = lambda: None
    yield TestClient(app)
    app.dependency_overrides.clear()


def test_what_stands_still_is_shown_with_the_next_command(site: FarmSite, client: TestClient) -> None:
    assert "No wiki was dumped yet" in client.get("/wiki_dump").text
    database = site.database("aawiki")
    database.execute("ALTER TABLE logging RENAME COLUMN log_params TO log_things")
    with pytest.raises(Fault):
        dump(site.ledger, "farm", site.config, who="<test>", wiki="aawiki", date="20260801")
    text = client.get("/wiki_dump").text
    assert "Partial dump, 1 item failed" in text and "airflow dags trigger wiki_dump --conf" in text
    number = client.get("/api/status").json()["rooms"]["wiki_dump"]["runs"][0]["id"]
    page = client.get(f"/wiki_dump/run/{number}").text
    assert "xmlpagelogsdump" in page and "&lt;test&gt;" in page and "aawiki-20260801-pages-articles.xml.bz2" in page
    assert 'custody_wiki_dump_complete{config="farm",wiki="aawiki"} 0' in client.get("/api/metrics").text
    database.execute("ALTER TABLE logging RENAME COLUMN log_things TO log_params")
    dump(site.ledger, "farm", site.config, who="test", wiki="aawiki", date="20260801")
    assert "Dump complete" in client.get("/").text
    assert client.get(f"/api/wiki_dump/run/{number}").json()["state"] == "done"
    assert client.get("/wiki_dump/run/99").status_code == 404


def test_every_page_asks_for_the_login_and_changes_nothing(site: FarmSite) -> None:
    from custody_airflow.ui.app import app

    dump(site.ledger, "farm", site.config, who="test", wiki="aawiki", date="20260801")
    routes = {route.path: route.methods for route in app.routes if "wiki_dump" in route.path}
    assert set(routes) == {"/wiki_dump", "/wiki_dump/run/{run_id}", "/api/wiki_dump/run/{run_id}"}
    assert set.union(*routes.values()) <= {"GET", "HEAD"}
    client = TestClient(app)
    for path in routes:
        assert client.get(path.replace("{run_id}", "1")).status_code in {401, 403}
