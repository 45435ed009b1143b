"""The parts of tape_backup by themselves, without a scheduler."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskAwaitingInput,
    TaskDeferred,
)

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.tape import session, tapes, turn
from custody.tape.catalog import set_tape_state
from custody.tape.drives import cartridges
from custody.tape.states import TapeState
from custody_airflow.hooks.tape import TapeDriveHook
from custody_airflow.operators import questions, tape_ask, tape_back, tape_confirm, tape_end, tape_import, tape_write
from custody_airflow.operators import tape as operators
from custody_airflow.operators.tape_run import Verb, tape_run, verbs_of
from custody_airflow.operators.tape_work import Pace
from custody_airflow.params.tape import PARAMS
from custody_airflow.sensors.tape import TapeLabelSensor
from custody_demo.second_machine import SshServer
from empty_ledger import new_ledger
from tape_site import WHO, TapeSite, make_site

pytestmark = pytest.mark.airflow


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TapeSite:
    """A tape site that Airflow knows as the configuration ``lto``."""
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.delenv("AIRFLOW_CONN_CUSTODY_LEDGER", raising=False)
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "config" / "tape").mkdir(parents=True)
    found = make_site(tmp_path, new_ledger(url))
    text = f"[default]\ntape_device = {found.drive}\nbuffer = 8MiB\n"
    (tmp_path / "config" / "tape" / "lto.conf").write_text(text)
    return found


def context(**params: Any) -> Any:
    """What a task sees of its run, as far as it matters here."""
    defaults = {name: param.value for name, param in PARAMS.items()}
    states: dict[str, str] = {}
    task_instance = SimpleNamespace(
        dag_id="tape_backup",
        run_id="manual",
        task_id="task",
        map_index=-1,
        id="0",
        get_task_states=lambda **_: {"manual": states},
        get_first_reschedule_date=lambda _: None,
        xcom_push=lambda **_: None,
        xcom_pull=lambda **_: None,
    )
    return {"params": defaults | params, "ti": task_instance, "task_instance": task_instance, "states": states}


def test_one_verb_or_several_in_their_order() -> None:
    assert verbs_of({"action": "backup", "steps": ["confirm", "open", "import"]}) == ("open", "import", "confirm")
    assert verbs_of({"action": "restore", "steps": ["import"]}) == ("restore",)
    with pytest.raises(Fault, match="step 'erase': is none"):
        verbs_of({"action": "backup", "steps": ["erase"]})
    with pytest.raises(Fault, match="names no step"):
        verbs_of({"action": "backup", "steps": []})


def test_a_misspelt_key_is_refused(site: TapeSite) -> None:
    with pytest.raises(Fault, match=r"--conf key 'taps': is not known; known are: .*tapes"):
        tape_run(context(taps=["T1"]))


def test_a_task_that_ends_after_its_run_does_not_take_the_drive_again(site: TapeSite) -> None:
    site.make_tape("T1")
    run, next_run = tape_run(context(tapes=["T1"])), "tape_backup/next"
    with run.mounted(run.tape(), write=True):
        run.give_turn_back()  # the report of a run whose task was marked as failed comes before the end of its process
    turn.take_turn(site.ledger, site.config, next_run)
    with pytest.raises(Fault, match=f"it is the turn of {next_run}"):
        run.take_turn()


def test_a_tape_that_nobody_knows_fails_the_first_task(site: TapeSite) -> None:
    choose = operators.ChooseStepsOperator(task_id="choose", tasks={verb: [] for verb in Verb})
    with pytest.raises(AirflowFailException, match="tape T9: is not in the catalogue"):
        choose.execute(context(tapes=["T9"]))


def test_a_dry_run_says_what_would_be_done(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    log = SimpleNamespace(info=lambda text, *values: said.append(text % values), warning=print)
    monkeypatch.setattr(operators.ChooseStepsOperator, "log", log)
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b"))
    site.assign()
    site.archive()
    new = site.make_target("c")
    ours = context(dry_run=True, targets=[str(new)], steps=["import", "assign", "archive", "confirm", "close"])
    ours["dag"] = SimpleNamespace(tasks=[])
    operators.ChooseStepsOperator(task_id="choose", tasks={verb: [] for verb in Verb}).execute(ours)
    assert said[1:] == [
        f"dry run: would import {new}",
        f"dry run: would archive {site.data / 'b'}",
        f"dry run: would confirm file 1, {site.data / 'a'}",
        "dry run: would close tape T1",
    ]


def test_what_stands_between_two_wanted_tasks_waits_for_its_turn() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["d", "end"], "d": ["end"], "end": []}
    assert operators.skippable(graph, ["b"]) == set()
    assert operators.skippable(graph, ["a", "b"]) == {"a", "b"}
    assert operators.skippable(graph, ["d"]) == {"d"}  # c goes on to the end by itself


def test_without_a_name_the_only_configuration_is_meant(site: TapeSite, tmp_path: Path) -> None:
    assert TapeDriveHook().config.name == "lto"
    (tmp_path / "config" / "tape" / "second.conf").write_text("[default]\n")
    with pytest.raises(Fault, match=r"param config: is needed .* lto, second"):
        _ = TapeDriveHook().config


def test_the_source_may_be_an_airflow_connection(
    site: TapeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config" / "tape" / "far.conf"
    path.write_text("[default]\nssh_connection = custody_source\n")
    with pytest.raises(
        Fault, match=r"connection custody_source: is not known to Airflow. Next: airflow connections add"
    ):
        _ = TapeDriveHook("far").source
    monkeypatch.setenv(
        "AIRFLOW_CONN_CUSTODY_SOURCE",
        '{"conn_type": "ssh", "host": "data.example.org", "login": "u", "extra": {"host_key": "ssh-ed25519 AAAA"}}',
    )
    assert TapeDriveHook("far").source.name == "data.example.org"


def test_data_comes_over_an_airflow_connection(
    site: TapeSite, sshd: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config" / "tape" / "lto.conf"
    path.write_text(f"{path.read_text()}ssh_connection = custody_source\n")
    monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_SOURCE", sshd.airflow_connection())
    site.make_tape("T1")
    target = site.make_hostile_target()
    asked = {"tapes": ["T1"], "find_below": str(target.parent), "find_name": "host*"}
    (batch,) = tape_import.ImportTargetsOperator(task_id="plan").execute(context(**asked))
    tape_import.ScanTargetOperator(task_id="scan", batch=batch).execute(context(**asked))
    tape_import.AssignOperator(task_id="assign").execute(context(**asked))
    (batch,) = tape_write.PlanArchiveOperator(task_id="plan").execute(context(**asked))
    tape_write.TapeArchiveOperator(task_id="write", batch=batch).execute(context(**asked))
    (backup,) = site.backups()
    assert (backup.target.source, backup.target.name, str(backup.state)) == (sshd.host, str(target), "recorded")
    path.write_text(path.read_text().replace("ssh_connection = custody_source\n", ""))
    with pytest.raises(AirflowSkipException, match="nothing is assigned"):  # what lies elsewhere is not looked for here
        tape_write.PlanArchiveOperator(task_id="plan").execute(context(**asked))


def test_the_sensor_waits_for_the_label_and_disturbs_nobody(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.archive()
    site.make_tape("T2", load=False)
    sensor = TapeLabelSensor(task_id="label", config="lto", tape="T1")
    assert sensor.mode == "reschedule"
    assert sensor.poke(context())
    assert not TapeLabelSensor(task_id="label", config="lto", tape="T2", write=True).poke(context())
    with session.held_drive(site.ledger, site.config, writable=False) as (drive, _):
        drive.rewind()
        drive.forward_files(1)
        assert not sensor.poke(context())
        assert drive.status().file_number == 1
    with pytest.raises(AirflowFailException, match="tape T9: is not in the catalogue"):
        TapeLabelSensor(task_id="label", config="lto", tape="T9").poke(context())


def test_the_right_tape_is_not_asked_for_and_another_is(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(questions.HITLOperator, "execute", lambda self, _: asked.append(self) or _park(self))
    site.make_tape("T1")
    site.make_tape("T2")
    site.import_all(site.make_target("a"))
    insert = tape_ask.InsertTapeOperator(task_id="insert")
    with pytest.raises(AirflowSkipException, match="nothing to do on it"):
        insert.execute(context(tapes=["T2"]))
    site.assign("T1")
    assert insert.execute(context(tapes=["T1"])) == {"tape": "T1"}  # it is new, and what is in the drive is blank
    site.insert("T1")
    site.archive("T1")
    site.import_all(site.make_target("b"))
    site.assign("T2")
    with pytest.raises(TaskAwaitingInput) as parked:
        insert.execute(context(tapes=["T2"]))
    assert asked[0].subject == "Insert tape T2"
    assert "holds tape T1" in asked[0].body
    timed_out = {"error": "timeout", "error_type": "timeout"}
    with pytest.raises(TaskAwaitingInput):
        insert.execute_complete(context(tapes=["T2"]), timed_out, **parked.value.kwargs)
    with pytest.raises(AirflowFailException, match="tape T2: nobody inserted it within"):
        insert.execute_complete(context(tapes=["T2"]), timed_out, deadline="2026-01-01T00:00:00+00:00")
    answered = {"chosen_options": [insert.DONE], "params_input": {}, "responded_at": _now(), "responded_by_user": None}
    with pytest.raises(AirflowException, match="said that tape T2 is in, but it holds tape T1"):
        insert.execute_complete(context(tapes=["T2"]), answered)
    site.insert("T2")
    assert insert.execute_complete(context(tapes=["T2"]), timed_out, **parked.value.kwargs) == {"tape": "T2"}


def test_a_restore_that_waits_for_its_tape_names_the_other_one(
    site: TapeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions.HITLOperator, "execute", lambda self, _: _park(self))
    path = tmp_path / "config" / "tape" / "lto.conf"
    path.write_text(f"{path.read_text()}pools = default, offsite\n")
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign("T1")
    site.archive("T1")
    site.make_tape("T2", on_record=False)
    tapes.open_tape(site.ledger, TapeDriveHook().config, "T2", who=WHO, pool="offsite")
    site.assign("T2")
    site.archive("T2")
    cartridges.make_cartridge(site.image("T3"))
    site.insert("T3")
    insert = tape_ask.InsertTapeOperator(task_id="insert")
    wanted = {"action": "restore", "patterns": [str(site.data / "a")], "into": str(tmp_path / "back")}
    with pytest.raises(TaskAwaitingInput):
        insert.execute(context(**wanted))
    asked = insert.subject.removeprefix("Insert tape ").split()[0]
    (other,) = {"T1", "T2"} - {asked}
    assert f"What is to be restored lies on {other} as well." in str(insert.body)
    restore = tape_back.TapeRestoreOperator(task_id="restore")
    with pytest.raises(
        AirflowFailException, match=rf"blank.*lies on tape {other} as well.*restore it from tape {other}"
    ):
        restore.execute(context(**wanted))


def _park(operator: Any) -> Any:
    raise TaskAwaitingInput(method_name="execute_complete", timeout=operator.response_timeout)


def test_a_drive_in_use_is_waited_for_without_a_slot(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    write = tape_write.TapeArchiveOperator(task_id="write", batch={"name": "a", "targets": "1", "size_bytes": 1})
    with session.held_drive(site.ledger, site.config, writable=False), pytest.raises(TaskDeferred):
        write.execute(context(tapes=["T1"]))
    assert [str(one.state) for one in site.backups()] == ["assigned"]
    write.execute(context(tapes=["T1"]))
    assert [str(one.state) for one in site.backups()] == ["recorded"]


def test_a_drive_belongs_to_one_run_until_its_end(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    ours, other = context(tapes=["T1"]), context(tapes=["T1"])
    other["ti"].run_id = "another"
    insert = tape_ask.InsertTapeOperator(task_id="insert")
    assert insert.execute(ours) == {"tape": "T1"}
    with pytest.raises(TaskDeferred):
        insert.execute(other)
    assert not TapeLabelSensor(task_id="label").poke(other)
    write = tape_write.TapeArchiveOperator(task_id="write", batch={"name": "a", "targets": "1", "size_bytes": 1})
    with pytest.raises(TaskDeferred):
        write.execute(other)
    write.execute(ours)
    with pytest.raises(AirflowSkipException, match="no other tape is needed"):
        tape_end.NextTapeOperator(task_id="next").execute(ours)
    assert TapeLabelSensor(task_id="label").poke(other)


def test_a_task_that_is_ended_aborts_its_attempt_and_gives_the_drive_back(site: TapeSite) -> None:
    site.make_tape("T1")
    cartridges.change_cartridge(site.image("T1"), slow_ms=100)
    site.import_all(site.make_target("a", files=8, size_bytes=8 << 20))
    site.assign()
    write = tape_write.TapeArchiveOperator(task_id="write", batch={"name": "a", "targets": "1", "size_bytes": 1})
    threading.Timer(1.5, write.on_kill).start()
    with pytest.raises(AirflowException, match="stopped by Airflow"):
        write.execute(context(tapes=["T1"]))
    assert [str(one.state) for one in site.backups()] == ["assigned"]
    cartridges.change_cartridge(site.image("T1"), slow_ms=0)
    tape_write.TapeArchiveOperator(task_id="write", batch=write.batch).execute(context(tapes=["T1"]))
    assert [(str(one.state), one.file_number) for one in site.backups()] == [("recorded", 1)]


def test_a_target_that_drifted_fails_and_keeps_no_other(site: TapeSite) -> None:
    site.make_tape("T1")
    paths = [site.make_target(name) for name in ("a", "b", "c")]
    site.import_all(*paths)
    site.assign()
    (paths[1] / "sub" / "file0").write_bytes(b"other")
    batch = {"name": "all", "targets": "1-3", "size_bytes": 1}
    write = tape_write.TapeArchiveOperator(task_id="write", batch=batch)
    with pytest.raises(AirflowFailException, match=r"1 of 3 targets were not written.*changed.*file0"):
        write.execute(context(tapes=["T1"]))
    assert sorted(str(one.state) for one in site.backups()) == ["failed", "recorded", "recorded"]
    with pytest.raises(AirflowSkipException, match="nothing of it is waiting"):
        tape_write.TapeArchiveOperator(task_id="write", batch=batch).execute(context(tapes=["T1"]))


def test_what_does_not_read_back_fails_and_names_the_file(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b"))
    site.assign()
    site.archive_all()
    cartridges.change_cartridge(site.image("T1"), flip_bit_at_block=1)
    (batch,) = tape_confirm.PlanConfirmOperator(task_id="plan").execute(context(tapes=["T1"]))
    assert (batch["name"], batch["files"]) == ("files 1 … 2 (2)", "1-2")
    read = tape_confirm.TapeConfirmOperator(task_id="read", batch=batch)
    with pytest.raises(AirflowFailException, match=r"1 of 2 files are not as they were written.*file 1"):
        read.execute(context(tapes=["T1"]))
    assert [str(one.state) for one in site.backups()] == ["failed", "confirmed"]


def test_a_bad_spot_costs_its_file_and_no_other(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b"))
    site.assign()
    site.archive_all()
    cartridges.change_cartridge(site.image("T1"), read_error_at_block=1)
    (batch,) = tape_confirm.PlanConfirmOperator(task_id="plan").execute(context(tapes=["T1"]))
    read = tape_confirm.TapeConfirmOperator(task_id="read", batch=batch)
    with pytest.raises(AirflowFailException, match=r"1 of 2 files are not as they were written"):
        read.execute(context(tapes=["T1"]))
    assert str(site.backups()[1].state) == "confirmed"
    assert str(site.backups()[0].state) != "confirmed"


def test_the_rest_of_a_full_tape_goes_on_with_the_next(site: TapeSite) -> None:
    site.make_tape("T1", capacity_bytes=4 << 20)
    site.make_tape("T2", load=False)
    site.import_all(*(site.make_target(name, files=1, size_bytes=2 << 20) for name in ("a", "b", "c")))
    site.assign("T1")
    site.archive_all("T1")
    assert site.tape("T1").state is TapeState.FULL
    next_tape = tape_end.NextTapeOperator(task_id="next")
    (conf,) = next_tape.execute(context(tapes=["T1", "T2"], steps=["open", "import", "archive", "confirm"]))
    assert (conf["tapes"], conf["steps"]) == (["T2"], ["assign", "archive", "confirm"])
    with pytest.raises(AirflowSkipException, match="2 targets are left over, and the run knows of no other tape"):
        next_tape.execute(context(tapes=["T1"]))
    tape_import.AssignOperator(task_id="assign").execute(context(tapes=["T2"]))
    assert sorted((one.tape_name, str(one.state)) for one in site.backups() if one.state != "released") == [
        ("T1", "recorded"),
        ("T2", "assigned"),
        ("T2", "assigned"),
    ]


def test_closing_hides_nothing(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.archive()
    closing = tape_write.CloseTapeOperator(task_id="close")
    ours = context(action="close", tapes=["T1"])
    with pytest.raises(AirflowFailException, match="1 targets on it are not confirmed"):
        closing.execute(ours)
    site.confirm_all()
    ours["states"]["archive.write_0"] = "failed"
    with pytest.raises(AirflowSkipException, match="not everything was archived"):
        closing.execute(ours)
    ours["states"].clear()
    with site.ledger.begin() as connection:
        set_tape_state(connection, site.tape("T1").id, TapeState.SUSPECT, reason="looks odd")
    with pytest.raises(AirflowFailException, match=r"is suspect: looks odd. Next: custody tape scan T1"):
        closing.execute(ours)
    tapes.trust_tape(site.ledger, "T1", TapeState.OPEN, who=WHO, reason="looked at")
    closing.execute(ours)
    assert site.tape("T1").state is TapeState.CLOSED


def test_opening_twice_is_opening_once(site: TapeSite) -> None:
    opening = operators.OpenTapeOperator(task_id="open")
    for _ in range(2):
        opening.execute(context(action="open", tapes=["T1", "T2"]))
    assert (site.tape("T1").is_online, site.tape("T2").is_online) == (True, False)
    with pytest.raises(AirflowFailException, match="for one tape only"):
        opening.execute(context(action="open", tapes=["T3", "T4"], serial="S"))
    tapes.activate_tape(site.ledger, "T2", who=WHO)
    operators.ActivateTapeOperator(task_id="on").execute(context(action="activate", tapes=["T1"]))
    assert site.tape("T1").is_online


def test_a_person_is_asked_before_a_step_where_the_run_says_so(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions.HITLOperator, "execute", lambda self, _: _park(self))
    remembered: dict[str, Any] = {}
    store = SimpleNamespace(get=remembered.get, set=remembered.__setitem__)
    target = site.make_target("a")
    ours = context(action="import", targets=[str(target)], ask=True) | {"task_state_store": store}
    ours["task"] = SimpleNamespace(get_flat_relatives=lambda upstream: [])
    asking = tape_import.ImportTargetsOperator(task_id="plan")
    with pytest.raises(TaskAwaitingInput):
        asking.execute(ours)
    nothing_yet = {"error": "timeout", "error_type": "timeout"}
    with pytest.raises(TaskAwaitingInput) as parked:
        asking.execute_complete(ours, nothing_yet)
    assert parked.value.timeout == questions.LOOK_AGAIN
    assert asking.subject == "Import 1 targets?"
    assert str(target) in asking.body
    yes = {
        "chosen_options": ["Do it"],
        "params_input": {},
        "responded_at": _now(),
        "responded_by_user": {"name": "pat"},
    }
    assert [one["targets"] for one in asking.execute_complete(ours, yes)] == ["1"]
    assert remembered == {"agreed": "pat"}
    assert asking.execute(ours)  # a retry does not ask again


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def test_a_line_says_how_far_and_how_long() -> None:
    said: list[str] = []
    pace = Pace(said.append, 4_000_000, every_s=0.01)
    time.sleep(0.02)
    pace.advance(1_000_000)
    assert said and said[0].startswith("1 MB of 4 MB, ")
    assert said[0].endswith(" left")
    pace.advance(3_000_000)
    assert "left" not in pace.line()


def test_faults_of_the_drive_are_told_from_those_of_others() -> None:
    from custody_airflow.operators.tape_work import waits_for_the_drive

    assert waits_for_the_drive(Fault(FaultKind.CONFLICT, "/dev/nst0", "another process has it"))
    assert waits_for_the_drive(Fault(FaultKind.CONFLICT, "tape/drive/h/dev/nst0", "is held"))
    assert not waits_for_the_drive(Fault(FaultKind.CONFLICT, "tape T1", "is being written"))
    assert not waits_for_the_drive(Fault(FaultKind.DATA, "/dev/nst0", "I/O error"))


def test_a_hostile_name_is_no_template_and_no_markup() -> None:
    assert tape_ask._escaped("a*b`[x](y)<z>") == r"a\*b\`\[x\](y)\<z\>"


def test_a_lost_ledger_is_made_again_from_the_tape(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_hostile_target())
    site.assign()
    site.archive_all()
    known = [(one.target.name, one.file_number, one.members) for one in site.backups()]
    url = f"sqlite:///{site.root}/new.sqlite"
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    Ledger.upgrade(url)
    site.ledger_url = url
    looked = tape_back.ScanTapeOperator(task_id="scan").execute(context(action="scan", dry_run=True))
    assert (looked["tape"], site.backups()) == ("T1", [])
    done = tape_back.ScanTapeOperator(task_id="scan").execute(context(action="scan"))
    assert done["tape"] == "T1"
    assert [(one.target.name, one.file_number, one.members) for one in site.backups()] == known


def test_a_restore_names_its_tapes_one_after_the_other(site: TapeSite, tmp_path: Path) -> None:
    for name, target in (("T1", "a"), ("T2", "b")):
        site.make_tape(name)
        site.import_all(site.make_target(target))
        site.assign(name)
        site.archive(name)
    wanted = {"action": "restore", "patterns": ["file0"], "into": str(tmp_path / "back")}
    (conf,) = tape_end.NextTapeOperator(task_id="next").execute(context(**wanted))
    assert (conf["action"], conf["tapes"], conf["patterns"]) == ("restore", ["T2"], ["file0"])
    restore = tape_back.TapeRestoreOperator(task_id="restore")
    with pytest.raises(AirflowFailException, match="holds tape T2"):
        restore.execute(context(**wanted))
    site.insert("T1")
    restore.execute(context(**wanted))
    site.insert("T2")
    restore.execute(context(**wanted | {"tapes": ["T2"]}))
    found = sorted(path.read_bytes() for path in (tmp_path / "back").rglob("file0"))
    assert found == sorted((site.data / name / "sub" / "file0").read_bytes() for name in ("a", "b"))
    with pytest.raises(AirflowSkipException, match="no other tape is needed"):
        tape_end.NextTapeOperator(task_id="next").execute(context(**wanted | {"tapes": ["T2"]}))
    with pytest.raises(AirflowFailException, match="needs `patterns` and `into`"):
        restore.execute(context(action="restore", into="/x"))
    with pytest.raises(AirflowFailException, match=r"nowhere.*is on no tape"):
        restore.execute(context(**wanted | {"patterns": ["nowhere"]}))
