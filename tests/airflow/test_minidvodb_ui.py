"""The pages of minidvodb, asked through Airflow's own app with its own login."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from custody import lease
from custody.faults import Fault
from custody.minidvodb import destination, switches
from custody.minidvodb.records import lease_of
from empty_ledger import new_ledger
from minidvodb_rig import HOST, WHO, Rig, make_rig

pytestmark = pytest.mark.airflow

HOSTILE = '<script>alert("x")</script>&\u202etxt.exe'
PAGES = ("/minidvodb", "/minidvodb/copies", "/minidvodb/copy/1", "/", "/api/minidvodb/copy/1", "/api/status")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    return make_rig(tmp_path, new_ledger(url), None)


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


def test_pages_ask_for_the_login_and_change_nothing(viewer: Any, site: Rig) -> None:
    site.do(site.one())
    before = (site.home / "ledger.sqlite").read_bytes()
    for path in PAGES:
        assert viewer.get(f"/custody{path}").status_code == 200, path
    assert (site.home / "ledger.sqlite").read_bytes() == before
    del viewer.headers["Authorization"]
    for path in PAGES:
        assert viewer.get(f"/custody{path}").status_code in {401, 403}, path


def test_hosts_by_groups_and_a_copy_with_its_proof(viewer: Any, site: Rig) -> None:
    site.make("ThreePi.1")
    site.make("ThreePi.2")
    site.host()
    first, second = site.queue()
    site.do(first)
    site.make("ThreePi.3")
    with lease.hold(site.ledger, lease_of(second)) as held:
        held.progress["step"] = "transfer"
        lease.beat(site.ledger, held.lease, dict(held.progress))
        text = text_of(viewer.get("/custody/minidvodb"))
        assert "queue on load on run on" in text
        assert "ipp022 ThreePi 1 0 1 1 0 0" in text  # eligible, new, running, full, faulted, lost
        assert "ThreePi.2 ipp022 transfer" in text
    text = text_of(viewer.get(f"/custody/minidvodb/copy/{first}"))
    assert "queued checked sent verified published" in text
    assert "proven by manifest" in text
    told = viewer.get(f"/custody/api/minidvodb/copy/{first}").json()
    assert told["state"] == "full"
    assert [one["what"] for one in told["events"]] == ["publish", "verify", "transfer", "preflight"]
    cell = viewer.get("/custody/api/status").json()["rooms"]["minidvodb"]["cells"][0]
    assert (cell["full"], cell["new"], cell["eligible"]) == (1, 1, 1)
    metrics = viewer.get("/custody/api/metrics").text
    assert 'custody_minidvodb_copies{group="ThreePi",host="ipp022",state="full"} 1' in metrics
    assert viewer.get("/custody/minidvodb/copy/99").status_code == 404


def test_what_stopped_says_why_and_the_next_command(viewer: Any, site: Rig) -> None:
    copy_id = site.one()
    (site.remote / "ThreePi.1").mkdir()
    (site.remote / "ThreePi.1/theirs").touch()
    with pytest.raises(Fault):
        site.do(copy_id)
    for path in ("/minidvodb", "/", f"/minidvodb/copy/{copy_id}"):
        text = text_of(viewer.get(f"/custody{path}"))
        assert "something else is there under its name" in text
        assert f"custody minidvodb revert --copy {copy_id}" in text
    assert "1 thing needs you" in text_of(viewer.get("/custody/"))
    assert "VERIFY" in text_of(viewer.get("/custody/minidvodb/copies?faulted=true"))
    site.set(copy_id, fault=32, fault_name="UNREACHABLE", fault_text="gone", not_before=destination.now())
    assert "Nothing needs you" in text_of(viewer.get("/custody/"))


def test_hostile_names_are_shown_and_do_nothing(viewer: Any, site: Rig) -> None:
    site.make(HOSTILE.replace("/", "|"), group=HOSTILE[:60])
    site.host(group=HOSTILE[:60])
    site.queue()
    switches.turn(site.ledger, switches.Stage.QUEUE, False, who=WHO)
    for path in PAGES[:4]:
        answer = viewer.get(f"/custody{path}")
        assert "<script>alert" not in answer.text
        assert "\u202e" not in answer.text
    assert HOST in answer.text
