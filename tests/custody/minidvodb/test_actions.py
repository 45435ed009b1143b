"""What an operator does by hand, and what is shown of it; audits, and the only way a copy is deleted."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from custody import lease
from custody.cli.main import main
from custody.faults import Fault, FaultKind
from custody.ledger.store import now
from custody.ledger.tables import event
from custody.minidvodb import actions, aside, audit, catalogue, destination, report, switches
from custody.minidvodb.actions import Selection
from custody.minidvodb.codes import FaultCode
from custody.minidvodb.far import Far
from custody.minidvodb.records import lease_of
from custody.minidvodb.retire import retire
from custody.minidvodb.ssh import SharedSshHost
from custody.minidvodb.step import FIRST_PAUSE, JITTER, LONGEST_PAUSE, pause_until
from minidvodb_rig import GROUP, HOST, WHO, Rig, target_of, tree_of, visible


def damage(path: Path) -> None:
    """Another byte, with the same size and time: what only a digest finds."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


@pytest.fixture
def cli(local_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line on the rig's ledger; returns what it printed."""
    monkeypatch.setenv("CUSTODY_LEDGER", local_rig.ledger.url)

    def call(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(main, ["minidvodb", *words])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return call


def test_the_old_example_word_by_word(local_rig: Rig, cli: Any) -> None:
    source = local_rig.make()
    assert "on, by this machine" in cli("add-host", "ipp0222", "--set", "max_running=2")
    cli("add-copy", "ThreePi", "ipp0222", str(local_rig.remote))
    assert [row["key"] for row in json.loads(cli("show-copy", "--json"))] == ["ipp0222.ThreePi"]
    assert "would be queued" in cli("queue", "--pretend")
    assert json.loads(cli("queue", "--json")) == [{"group": "ThreePi", "host": "ipp0222", "queued": 1, "already": 0}]
    assert cli("list", "--pending", "--simple") == "1 1 ipp0222 new 0\n"
    cli("off", "run")
    assert "is switched off" in cli("run", code=1)
    assert "run: on" in cli("on", "run")
    assert "full" in cli("run")
    assert tree_of(local_rig.remote / source.name) == tree_of(source)
    (cell,) = json.loads(cli("status", "--json"))["cells"]
    assert (cell["full"], cell["unproven"], cell["eligible"]) == (1, 0, 0)
    cli("del-host", "ipp0222")
    assert json.loads(cli("show-host", "--json"))[0]["is"] == "off"
    cli("del-copy", "ipp0222", "ThreePi")
    assert json.loads(cli("show-copy", "--json")) == []
    assert visible(local_rig.remote) == ["ThreePi.1"]


def test_a_pair_can_be_queued_once_by_query(local_rig: Rig, cli: Any) -> None:
    first, second = local_rig.make("ThreePi.1"), local_rig.make("ThreePi.2")
    cli("add-host", HOST)
    words = ("queue", "--group", GROUP, "--host", HOST, "--path", str(local_rig.remote), "--minidvodb", "2")
    assert "would be queued" in cli(*words, "--pretend")
    cli(*words)
    assert [line.name for line in actions.select(local_rig.ledger)] == [second.name]
    assert first.exists()


def test_a_fault_is_listed_reverted_and_cleared(local_rig: Rig, cli: Any) -> None:
    copy_id = local_rig.one()
    (local_rig.remote / "ThreePi.1").mkdir()
    (local_rig.remote / "ThreePi.1/theirs").touch()
    with pytest.raises(Fault):
        local_rig.do(copy_id)
    assert json.loads(cli("list", "--json"))[0]["fault"] == "VERIFY"
    assert "1 copy waits for a person (VERIFY, new)" in cli("status", code=2)
    assert cli("revert", code=1).startswith("custody: which copies: are meant?")
    assert "would be reverted" in cli("revert", "--fault", "VERIFY", "--dry-run")
    assert local_rig.load(copy_id).row["fault"] == FaultCode.VERIFY.number
    assert "reverted" in cli("revert", "--all")
    assert local_rig.load(copy_id).row["fault"] == 0
    assert local_rig.pending() == [copy_id]
    cli("update", "--copy", str(copy_id), "--set-fault", "33")
    assert local_rig.load(copy_id).row["fault_name"] == "DEST_MISSING"
    assert local_rig.pending() == []
    cli("update", "--copy", str(copy_id), "--set-fault", "0", "--set-priority", "1", "--set-dtime", "0")
    assert local_rig.load(copy_id).row["fault"] == 0
    assert local_rig.load(copy_id).row["priority"] == 1
    assert len(local_rig.events("reverted")) == 1
    assert len(local_rig.events("updated")) == 2


def test_what_lies_there_is_set_aside_only_where_it_was_said(local_rig: Rig, cli: Any) -> None:
    copy_id = local_rig.one()
    (local_rig.remote / "ThreePi.1").mkdir()
    (local_rig.remote / "ThreePi.1/theirs").write_text("theirs")
    cli("revert", "--copy", str(copy_id), "--replace")
    assert local_rig.do(copy_id).state == "full"
    assert tree_of(local_rig.remote / "ThreePi.1") == tree_of(local_rig.home / "minis/ThreePi.1")
    (aside,) = (local_rig.remote / ".custody").glob("*.set-aside.*")
    assert (aside / "theirs").read_text() == "theirs"


def test_staging_is_cleared_on_demand(local_rig: Rig, cli: Any) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id, "preflight", "transfer")
    local_rig.set(copy_id, fault=41)
    cli("revert", "--copy", str(copy_id), "--clear-staging")
    assert os.listdir(local_rig.remote / ".incoming") == []
    assert local_rig.do(copy_id).state == "full"


def test_nothing_is_changed_under_the_hands_of_a_runner(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    local_rig.set(copy_id, fault=41)
    with lease.hold(local_rig.ledger, lease_of(copy_id)):
        done = actions.revert(local_rig.ledger, Selection(copy_ids=[copy_id]), who=WHO)
        assert done.copies == ()
        with pytest.raises(Fault) as raised:
            actions.update(local_rig.ledger, Selection(copy_ids=[copy_id]), who=WHO, fault=0)
        assert raised.value.kind is FaultKind.CONFLICT
        with pytest.raises(Fault) as raised:
            local_rig.do(copy_id)
        assert raised.value.kind is FaultKind.CONFLICT
        assert [one.copy_id for one in report.running(local_rig.ledger)] == [copy_id]
    assert local_rig.load(copy_id).row["fault"] == 41


def test_a_runner_that_lost_its_lease_writes_nothing_more(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    real = local_rig.reach

    def steal(known: object) -> object:
        with local_rig.ledger.begin() as connection:
            from custody.ledger.tables import lease as leases

            connection.execute(leases.update().values(token=leases.c.token + 1))
        return real(known)  # type: ignore[arg-type]

    local_rig.reach = steal  # type: ignore[method-assign, assignment]
    with pytest.raises(Fault) as raised:
        local_rig.do(copy_id, "preflight")
    assert raised.value.kind is FaultKind.CONFLICT
    row = local_rig.load(copy_id).row
    assert (row["step"], row["fault"]) == ("queued", 0)


def test_pauses_grow_up_to_a_longest_and_do_not_end_at_the_same_moment() -> None:
    """Copies that one outage stopped do not come back all at once."""
    at = now()
    for attempts, shortest in ((1, FIRST_PAUSE), (2, 2 * FIRST_PAUSE), (5, 16 * FIRST_PAUSE), (60, LONGEST_PAUSE)):
        pauses = [pause_until(at, attempts) - at for _ in range(100)]
        assert shortest <= min(pauses) < max(pauses) <= shortest * (1 + JITTER)
        assert len(set(pauses)) > 90
        assert max(pauses) - min(pauses) > shortest * JITTER / 2


def test_failures_are_tried_again_after_growing_pauses_and_not_for_ever(local_rig: Rig) -> None:
    copy_id = local_rig.one(max_attempts=3)
    (local_rig.remote).rename(local_rig.home / "away")
    lock = local_rig.home / "minis/ThreePi.1/.SkyTable.fits.lck"
    lock.write_text("BUSY")
    pauses = []
    for _ in range(2):
        with pytest.raises(Fault) as raised:
            local_rig.do(copy_id)
        assert raised.value.kind is FaultKind.TRANSIENT
        pauses.append((local_rig.load(copy_id).row["not_before"] - now()).total_seconds())
    assert 50 < pauses[0] < 61 * (1 + JITTER)
    assert 110 < pauses[1] < 121 * (1 + JITTER)
    with pytest.raises(Fault) as raised:
        local_rig.do(copy_id)
    assert raised.value.kind is FaultKind.NEEDS_HUMAN
    assert "given up after 3 attempts" in str(raised.value)
    assert local_rig.load(copy_id).row["not_before"] is None
    assert local_rig.pending() == []


def test_an_audit_tells_lost_from_corrupt_and_both_can_be_copied_anew(local_rig: Rig) -> None:
    sources = [local_rig.make(f"ThreePi.{number}", seed=number) for number in (1, 2, 3)]
    local_rig.host()
    copy_ids = local_rig.queue()
    for copy_id in copy_ids:
        local_rig.do(copy_id)
    assert audit.due(local_rig.ledger, older_than=timedelta(days=1), limit=9) == []
    damage(local_rig.remote / "ThreePi.1/n0000/0000.cpm")
    (local_rig.remote / "ThreePi.2").rename(local_rig.home / "stolen")
    found, faults = audit.audit_due(local_rig.ledger, who=WHO, reach=local_rig.reach, older_than=timedelta(0), limit=9)
    assert faults == []
    assert [one.state for one in found] == ["corrupt", "lost", "full"]
    assert "n0000/0000.cpm holds other bytes" in found[0].complaint
    lines = [line for line in local_rig.ledger.where_is("%") if line.place.startswith("ssh:")]
    assert {line.name: str(line.state) for line in lines} == {
        "ThreePi.1": "lost",
        "ThreePi.2": "lost",
        "ThreePi.3": "proven",
    }
    assert local_rig.queue() == copy_ids
    assert local_rig.pending() == []
    actions.revert(local_rig.ledger, Selection(group=GROUP), who=WHO)
    for copy_id in local_rig.pending():
        assert local_rig.do(copy_id).state == "full"
    for source in sources:
        assert tree_of(local_rig.remote / source.name) == tree_of(source)


def test_a_glance_sees_what_was_touched_on_either_side(local_rig: Rig, cli: Any) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id)
    assert "untouched since it was proven" in cli("audit", "--glance")
    there, here = local_rig.remote / "ThreePi.1/n0000/0000.cpm", local_rig.home / "minis/ThreePi.1/n0000/0000.cpm"
    damage(there)
    assert "was touched over there" in cli("audit", "--glance", code=1)
    damage(here)
    assert "written to since it was copied" in cli("audit", "--glance", code=1)
    assert local_rig.load(copy_id).state == "full"


def test_an_audit_does_not_believe_an_altered_manifest(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id)
    manifest = local_rig.remote / ".custody/ThreePi.1.manifest"
    manifest.write_bytes(manifest.read_bytes().replace(b"n0000/0000.cpm", b"n0000/0000.cpX"))
    assert audit.audit(local_rig.ledger, copy_id, who=WHO, reach=local_rig.reach).state == "full"
    assert b"cpX" not in manifest.read_bytes()
    manifest.unlink()
    damage(local_rig.home / "minis/ThreePi.1/n0000/0000.cpm")
    with pytest.raises(Fault) as raised:
        audit.audit(local_rig.ledger, copy_id, who=WHO, reach=local_rig.reach)
    assert raised.value.kind is FaultKind.NEEDS_HUMAN
    assert local_rig.load(copy_id).state == "full"


def test_a_copy_is_deleted_only_while_enough_others_are_read_equal_now(local_rig: Rig) -> None:
    local_rig.make()
    for host in ("ipp022", "ipp055", "ipp060"):
        place = local_rig.home / host
        place.mkdir()
        local_rig.host(host, path=place)
    first, second, third = local_rig.queue()
    for copy_id in (first, second, third):
        local_rig.do(copy_id)
    others = {"who": WHO, "reach": local_rig.reach}
    assert retire(local_rig.ledger, first, copies_needed=2, dry_run=True, **others).allowed
    damage(local_rig.home / "ipp055/ThreePi.1/n0000/0000.cpm")  # and the ledger still calls it full and proven
    with pytest.raises(Fault) as raised:
        retire(local_rig.ledger, first, copies_needed=2, **others)
    assert raised.value.kind is FaultKind.NEEDS_HUMAN
    assert "1 of 2 copies are proven" in str(raised.value)
    assert visible(local_rig.home / "ipp022") == ["ThreePi.1"]
    retire(local_rig.ledger, first, copies_needed=1, **others)
    assert visible(local_rig.home / "ipp022") == []
    assert local_rig.load(first).state == "retired"
    with pytest.raises(Fault, match="0 of 1 copies"):
        retire(local_rig.ledger, third, copies_needed=1, **others)


def call(rig: Rig, *words: str, **env: str) -> Any:
    """``custody minidvodb ...`` on this ledger."""
    return CliRunner().invoke(main, ["minidvodb", *words], env={"CUSTODY_LEDGER": rig.ledger.url, **env})


def test_an_audit_of_a_host_reads_all_of_it_and_says_what_it_did_not_read(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id)
    told = call(local_rig, "audit")
    assert told.exit_code == 0
    assert "nothing to read: no full copy" in told.output
    assert "left unread for 30 days" in told.output
    (local_rig.remote / "ThreePi.1").rename(local_rig.home / "lost")
    glanced = call(local_rig, "audit", "--glance")
    assert "is not there. Next: custody minidvodb audit --copy 1" in glanced.output
    told = call(local_rig, "audit", "--host", HOST)
    assert told.exit_code == 1
    assert "copy 1, ThreePi.1 on ipp022: lost is not there" in told.output
    assert "is not known" in call(local_rig, "audit", "--host", "ipp999").output
    assert call(local_rig, "revert", "--host", HOST, "--state", "lost").exit_code == 0
    assert local_rig.do(copy_id).state == "full"
    assert "nothing was changed" in call(local_rig, "revert", "--host", HOST, "--state", "lost").output


def test_what_nobody_knows_is_refused_and_what_fits_nothing_is_said(local_rig: Rig) -> None:
    local_rig.one()
    assert "no copy fits: nothing was changed" in call(local_rig, "update", "--copy", "999", "--set-fault", "0").output
    unknown = (("update", "--copy", "1", "--set-fault", "99"), ("list", "--fault", "XYZ"), ("revert", "--fault", "X"))
    for words in unknown:
        told = call(local_rig, *words)
        assert told.exit_code == 1
        assert "is not known; there are: AUTH (30)" in told.output
    assert call(local_rig, "list", "--state", "XYZ").exit_code == 2
    assert call(local_rig, "list", "--limit", "-1").exit_code == 2
    for words in (("add-copy", GROUP, HOST, "/"), ("update", "--copy", "1", "--set-path", "/x/../y")):
        assert "custody: path" in call(local_rig, *words).output, words
    assert "ThreePi.1" in call(local_rig, "list", CUSTODY_MINIDVODB_OLD="mysql://a:secret@127.0.0.1:1/x").output
    told = call(local_rig, "list", "--old", "oracle://a:secret@127.0.0.1/x")
    assert "custody: the old database: its address is no SQLAlchemy URL" in told.output
    assert "secret" not in told.output
    told = call(local_rig, "list", "--old", CUSTODY_MINIDVODB_OLD="mysql://a:secret@127.0.0.1:1/x")
    assert "does not answer" in told.output
    assert "secret" not in told.output


def test_a_database_is_on_record_once_and_can_be_taken_off(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    path = local_rig.home / "minis/ThreePi.1"
    with pytest.raises(Fault, match="is on record already, as minidvodb 1"):
        catalogue.add(local_rig.ledger, GROUP, str(path), who=WHO)
    told = call(local_rig, "add-run", GROUP, "/nowhere/line\nend")
    assert told.exit_code == 0
    assert "line\\nend: is no directory of this machine" in told.output
    local_rig.queue()
    assert "line\\nend is off the record" in call(local_rig, "del-run", "2").output
    assert local_rig.pending() == [copy_id]
    local_rig.do(copy_id)
    with pytest.raises(Fault, match="has a copy on record that was begun: 1 on ipp022"):
        catalogue.remove(local_rig.ledger, 1, who=WHO)


def test_an_empty_value_takes_a_limit_back(local_rig: Rig) -> None:
    local_rig.host(max_used_pct=90)
    assert destination.find(local_rig.ledger, HOST).settings.max_used_pct == 90
    assert call(local_rig, "add-host", HOST, "--set", "max_used_pct=").exit_code == 0
    assert destination.find(local_rig.ledger, HOST).settings.max_used_pct == 97
    for key, value, said in (
        ("digest", "md5", "'xxh128' or 'sha256'"),
        ("window", "Mon-Fri 25:00-26:00", "times are 00:00 to 24:00"),
        ("window", "Mon-Fry 08:00-09:00", "days are Mon, Tue"),
    ):
        assert said in call(local_rig, "add-host", HOST, "--set", f"{key}={value}").output


@pytest.mark.parametrize("inside", ["ThreePi.1", "ThreePi.1/n0000"])
def test_nothing_is_made_inside_of_the_database_itself(rig: Rig, inside: str) -> None:
    source = rig.make()
    before = tree_of(source)
    rig.host(path=source.parent / inside)
    (copy_id,) = rig.queue()
    with pytest.raises(Fault, match="lies inside of the database itself; nothing was made there") as raised:
        rig.do(copy_id)
    assert raised.value.kind is FaultKind.CONFIG
    assert raised.value.subject.startswith(f"{HOST}:/")
    assert tree_of(source) == before


def two_names(rig: Rig, how: str) -> tuple[int, int]:
    """Two copies on record that are one directory, reached by two names."""
    rig.make()
    real, other = rig.home / "real", rig.home / "other"
    real.mkdir()
    if how == "a link":
        other.symlink_to(real)
    rig.host("ipp022", path=real)
    rig.host("ipp055", path=real if how == "a name" else other)
    first, second = rig.queue()
    rig.do(first)
    (_, row) = (rig.load(number).row for number in (first, second))
    assert row["state"] == "new"
    return first, second


@pytest.mark.parametrize("how", ["a name", "a link"])
def test_one_directory_under_two_names_is_one_copy(local_rig: Rig, how: str) -> None:
    _, second = two_names(local_rig, how)
    with pytest.raises(Fault, match="is the same directory as copy 1 on ipp022") as raised:
        local_rig.do(second)
    assert raised.value.kind is FaultKind.CONFIG
    assert sorted(os.listdir(local_rig.home / "real/.custody")) == ["ThreePi.1.manifest"]


@pytest.mark.parametrize("how", ["a name", "a link"])
def test_what_vanishes_with_a_copy_does_not_count_when_it_is_retired(local_rig: Rig, how: str) -> None:
    """However it came on record."""
    first, second = two_names(local_rig, how)
    columns = ("manifest_sha256", "fingerprint", "bytes", "files", "algorithm", "verified_at", "profile")
    proven = {name: local_rig.load(first).row[name] for name in columns}
    local_rig.set(second, state="full", step="published", **proven)
    before = tree_of(local_rig.home / "real/ThreePi.1")
    with pytest.raises(Fault, match="0 of 1 copies are proven"):
        retire(local_rig.ledger, first, copies_needed=1, who=WHO, reach=local_rig.reach)
    assert tree_of(local_rig.home / "real/ThreePi.1") == before
    assert sorted(os.listdir(local_rig.home / "real/.custody")) == ["ThreePi.1.manifest"]
    assert audit.glance(local_rig.ledger, first, reach=local_rig.reach) == ""
    assert local_rig.load(first).state == "full"


@pytest.mark.parametrize("stopped_in", ["set_aside", "delete", "forget"])
def test_a_retirement_that_was_cut_short_is_undone_or_ended(
    local_rig: Rig, monkeypatch: pytest.MonkeyPatch, stopped_in: str
) -> None:
    local_rig.make()
    for host in ("ipp022", "ipp055"):
        (local_rig.home / host).mkdir()
        local_rig.host(host, path=local_rig.home / host)
    first, second = local_rig.queue()
    for copy_id in (first, second):
        local_rig.do(copy_id)
    do = getattr(aside, stopped_in)

    def cut(far: Far) -> None:
        do(far)
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(aside, stopped_in, cut)
        try:
            retire(local_rig.ledger, first, copies_needed=1, who=WHO, reach=local_rig.reach)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert visible(local_rig.home / "ipp022") == []
    if stopped_in == "set_aside":  # nothing was decided yet: it comes back, whole
        damage(local_rig.home / "ipp055/ThreePi.1/n0000/0000.cpm")
        with pytest.raises(Fault, match="0 of 1 copies are proven"):
            retire(local_rig.ledger, first, copies_needed=1, who=WHO, reach=local_rig.reach)
        assert audit.audit(local_rig.ledger, first, who=WHO, reach=local_rig.reach).state == "full"
        return
    if stopped_in == "delete":
        assert retire(local_rig.ledger, first, copies_needed=1, who=WHO, reach=local_rig.reach).allowed
    assert local_rig.load(first).state == "retired"
    assert os.listdir(local_rig.home / "ipp022/.custody") == []
    assert len(local_rig.events("retired")) == 1


def test_alerts_name_hosts_that_are_off_and_disks_that_fill_up(local_rig: Rig) -> None:
    copy_id = local_rig.one(warn_used_pct=0.001, warn_disabled_days=0)
    local_rig.do(copy_id)
    (full,) = report.alerts(local_rig.ledger)
    assert "% used when last seen" in full.text
    destination.switch_off(local_rig.ledger, HOST, who=WHO)
    switches.turn(local_rig.ledger, switches.Stage.LOAD, False, who=WHO)
    words = [one.text for one in report.alerts(local_rig.ledger)]
    assert any("is switched off for 0 days" in text for text in words)
    assert "is switched off" in words


def test_where_a_database_is_and_what_proves_it(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id)
    found = {line.place: line for line in local_rig.ledger.where_is("ThreePi.1")}
    there = found[f"ssh://{HOST}{local_rig.remote}/ThreePi.1"]
    assert (there.state, there.proof) == ("proven", "manifest")
    assert there.identity == f"sha256:{local_rig.load(copy_id).row['manifest_sha256']}"


def test_what_is_on_record_of_a_failure_and_of_a_success(local_rig: Rig) -> None:
    copy_id = local_rig.one(dvoverify="/bin/false")
    with pytest.raises(Fault):
        local_rig.do(copy_id)
    row = local_rig.load(copy_id).row
    assert row["dtime"] > 0
    assert (row["exit_status"], row["attempts"]) == (1, 1)
    assert row["started_at"] < row["ended_at"] <= row["epoch"]
    destination.put(local_rig.ledger, HOST, who=WHO, settings={"dvoverify": None})
    row = local_rig.do(copy_id).row
    assert (row["fault"], row["fault_text"], row["attempts"], row["stderr_tail"]) == (0, None, 0, None)
    assert (row["files"], row["mover"]) == (11, "stream")
    assert 0 < row["bytes"] < row["sent_bytes"]
    assert row["verify_s"] > 0
    (line,) = actions.select(local_rig.ledger)
    assert line.rate_bytes_s == row["bytes"] / row["dtime"]


def test_a_key_is_in_no_argument_and_in_no_record(rig: Rig) -> None:
    assert rig.sshd
    secret = rig.sshd.key_file.read_text()
    target = replace(target_of(rig.sshd), key_file=None, private_key=secret)
    host = SharedSshHost(target)
    rig.reach = lambda known: host  # type: ignore[method-assign, assignment]
    copy_id = rig.one()
    assert rig.do(copy_id).state == "full"
    body = secret.splitlines()[1]
    assert body not in " ".join(SharedSshHost(target).ssh_command())
    assert body not in repr(target)
    assert body.encode() not in (rig.home / "minidvodb.sqlite").read_bytes()
    with rig.ledger.read() as connection:
        assert body not in str(connection.execute(event.select()).all())
