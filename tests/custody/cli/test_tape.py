"""tapeop's verbs as people type them, and how each of them ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from custody.cli.main import main
from custody.cli.tape import tape as tape_group
from custody.cli.tape_group import Exit, Interrupts
from custody.ledger import Ledger
from custody.tape.drives import cartridges
from empty_ledger import new_ledger
from tape_site import WHO, TapeSite, make_site

ROOT = Path(__file__).parents[3]
SEED_VERBS = {
    *("tapes", "status", "unassigned", "backup_info", "where_is", "tape_detail", "dump_manifest"),
    *("import", "assign", "archive", "confirm", "open_tape", "activate_tape", "close_tape"),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TapeSite:
    """A site whose directory is the current one, as people who used tapeop have it."""
    made = make_site(tmp_path, new_ledger(f"sqlite:///{tmp_path}/ledger.sqlite"))
    monkeypatch.setenv("CUSTODY_LEDGER", made.ledger_url)
    monkeypatch.chdir(tmp_path)
    return made


def _tape(*words: str | bytes, stdin: str | bytes | None = None) -> Result:
    given = ["tape", *(os.fsdecode(word) for word in words)]
    return CliRunner().invoke(main, given, input=stdin)


def _done(*words: str | bytes, stdin: str | bytes | None = None) -> str:
    result = _tape(*words, stdin=stdin)
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.output


def _prepare(site: TapeSite, *names: str) -> None:
    site.make_tape("T1")
    for name in names:
        site.make_target(name)
    _done("import", "--yes", *(word for name in names for word in ("--target", str(site.data / name))))
    _done("assign", "--yes")


def test_every_verb_of_tapeop_is_there_under_its_name() -> None:
    assert set(tape_group.commands) >= SEED_VERBS
    for verb in SEED_VERBS:
        assert CliRunner().invoke(main, ["tape", verb, "--help"]).exit_code == 0
    assert CliRunner().invoke(main, ["tape", "open-tape", "--help"]).exit_code == 0


def test_a_day_with_tapes(site: TapeSite) -> None:
    """Everything by the command line: from an empty drive to a restored directory."""
    assert "No tape is active" in _done()
    _done("new-cartridge", "shelf/A1.tap", "--capacity", "100MB")
    _done("load", "shelf/A1.tap")
    hostile, plain = site.make_hostile_target(), site.make_target("b")
    content = os.fsencode(hostile) + b"\n" + os.fsencode(plain) + b"\n\n"
    (site.root / "list").write_bytes(content)
    assert "2 targets are new" in _done("import", "list", "--yes")
    again = _done("import", "-", "--yes", stdin=content)
    assert "0 targets are new, 2 were known, 0 are to be scanned" in again
    assert "2 unassigned targets" in _done("unassigned")
    assert "A1 is in it" not in _done("open_tape", "ACT01", "--serial", "S1", "--yes")
    _done("assign", "--yes")
    assert "recorded as file 1" in _done("archive")
    assert "recorded as file 2" in _done("archive", "--repeat")
    assert f"file 1: confirmed, 5 members: {plain}" in _done("confirm", "1")
    assert f"members: {hostile}" in _done("confirm", "next")
    status = _done()
    assert "Tape ACT01 (serial S1) is open, active" in status and "1 - 2 : confirmed" in status
    assert "ACT01  *   S1" in _done("tapes")
    assert f"1 confirmed 0.000 {plain}" in _done("tape_detail")
    assert "target:" in _done("backup_info", "2")
    assert "ACT01" in _done("where_is", "b/sub/file1")
    assert sorted(Path(line).name for line in _done("dump_manifest", "out").split()) == [
        "ACT01.jsonl",
        "ACT01.md5",
        "ACT01.sha256",
    ]
    assert "moved" in (_done("move", "ACT01", "vault", "7"), _done("history"))[1]
    assert "its catalogue is file 3" in _done("close_tape", "--yes")
    assert "No tape is active" in _done()
    assert "file 3: catalogue" in _done("scan", "ACT01", "--dry-run")
    _done("restore", "--into", "back", str(hostile))
    compared = subprocess.run(["diff", "-r", "--no-dereference", "-x", "fifo", f"back/{hostile}", hostile])
    assert compared.returncode == 0


def test_options_stand_before_the_verb_as_well_as_behind_it(site: TapeSite) -> None:
    _prepare(site, "a")
    _done("archive")
    _done("confirm")
    assert _tape("confirm", "1").exit_code == 1
    _done("--retry", "confirm", "1")
    _done("confirm", "--retry", "1")
    _done("-c", "tape.conf", "--retry", "confirm", "1")
    assert "WroteGB" in _done("-v", "tapes")
    assert _tape("--retry", "tapes").exit_code == 2


def test_usage_is_2_and_an_unknown_verb_names_those_there_are(site: TapeSite) -> None:
    result = _tape("frobnicate")
    assert result.exit_code == 2
    assert "no such verb: frobnicate. There are: activate_tape, archive" in result.stderr
    for words in (["confirm", "x"], ["open_tape"], ["import"], ["confirm", "-1"], ["backup_info", "a"]):
        assert _tape(*words).exit_code == 2, words


def test_no_work_is_40(site: TapeSite) -> None:
    site.make_tape("T1")
    assert _tape("assign", "--yes").exit_code == Exit.NO_WORK
    assert _tape("reassign", "--yes").exit_code == Exit.NO_WORK
    _done("import", "--yes", "--target", str(site.make_target("a")))
    _done("assign", "--yes")
    _done("archive", "--repeat")
    for words in (["archive"], ["archive", "--repeat"]):
        assert _tape(*words).exit_code == Exit.NO_WORK
    _done("confirm", "all")
    for words in (["confirm"], ["confirm", "next"], ["confirm", "all"], ["confirm", "--repeat"]):
        assert _tape(*words).exit_code == Exit.NO_WORK


def test_a_stop_file_is_41_and_nothing_is_begun(site: TapeSite) -> None:
    _prepare(site, "a", "b")
    (site.root / "exit_file").touch()
    for words in (["archive"], ["archive", "--repeat"], ["confirm"], ["import", "--yes", "--target", "/x"]):
        assert _tape(*words).exit_code == Exit.STOPPED
    assert {backup.file_number for backup in site.backups()} == {None}
    (site.root / "exit_file").unlink()
    _done("archive")


def test_a_full_tape_is_42_and_everything_else_1(site: TapeSite) -> None:
    site.make_tape("T1", capacity_bytes=3 << 20)
    for name in ("a", "b"):
        site.make_target(name, files=2, size_bytes=1 << 20)
    _done("import", "--yes", "--target", str(site.data / "a"), "--target", str(site.data / "b"))
    _done("assign", "--yes")
    result = _tape("archive", "--repeat")
    assert result.exit_code == Exit.FULL
    assert (
        "tape T1 is full" in result.stderr and "Next: custody tape open_tape NAME; custody tape assign" in result.stderr
    )
    result = _tape("archive")
    assert result.exit_code == 1
    assert "is full: nothing more is written to it" in result.stderr
    assert _tape("status", "T9").exit_code == 1
    assert _tape("activate_tape", "T9").exit_code == 1
    assert "T1" in _done("status")  # it stayed the active one


def test_a_bad_tape_file_is_1_and_every_difference_is_named(site: TapeSite) -> None:
    _prepare(site, "a", "b", "c")
    _done("archive", "--repeat")
    cartridges.flip_bit(site.image("T1"), 2, 9000)
    result = _tape("confirm", "--repeat")
    assert result.exit_code == 1
    assert "file 1: confirmed" in result.stdout and "file 3" not in result.output
    assert "file 2: NOT as the catalogue has it" in result.stderr
    result = _tape("confirm", "all")
    assert (result.exit_code, result.stderr) == (0, "") and "file 3: confirmed" in result.stdout
    assert "2 - 2 : failed" in _done("status")
    assert _tape("confirm", "all", "--retry").exit_code == 1


def test_without_a_terminal_nothing_is_asked_and_nothing_done(site: TapeSite) -> None:
    site.make_tape("T1")
    site.make_target("a")
    for words in (["import", "--target", str(site.data / "a")], ["open_tape", "T2"], ["close_tape"]):
        result = _tape(*words, stdin="y\n")
        assert result.exit_code == 1
        assert "there is no terminal to ask at. Next: the same with --yes" in result.stderr
    assert site.tape().name == "T1" and site.tape().state == "new"
    _done("import", "--yes", "--target", str(site.data / "a"))
    assert _tape("assign").exit_code == 1
    assert site.backups() == []


def _environment(site: TapeSite) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "include"), "CUSTODY_LEDGER": site.ledger_url}


def _start(site: TapeSite, *words: str, **options: object) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "custody.cli", "tape", *words]
    return subprocess.Popen(argv, env=_environment(site), cwd=site.root, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(("answer", "status", "targets"), [(b"\n", 1, 0), (b"n\n", 1, 0), (b"y\n", 0, 1)])
def test_a_question_at_a_terminal_defaults_to_no(site: TapeSite, answer: bytes, status: int, targets: int) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    ours, theirs = pty.openpty()
    process = _start(site, "assign", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    waiting = select.poll()  # select() knows no descriptor above 1023
    waiting.register(ours, select.POLLIN)
    while b"[y/N]" not in said:
        assert waiting.poll(20_000), said
        said += os.read(ours, 1000)
    os.write(ours, answer)
    assert process.wait(20) == status
    os.close(ours)
    assert b"Assign 1 targets" in said
    assert len(site.backups()) == targets


def test_tape_in_the_environment_has_no_effect(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = site.root / "strange"
    monkeypatch.setenv("TAPE", str(strange))
    monkeypatch.setenv("TAR_OPTIONS", "--exclude=file1")
    _prepare(site, "a")
    _done("archive")
    _done("confirm")
    _done("restore", "--into", "back", str(site.data / "a"))
    assert not strange.exists()
    assert len(list((site.root / "back").rglob("file*"))) == 3


def test_a_rehearsal_leaves_the_catalogue_and_is_written_over(site: TapeSite) -> None:
    _prepare(site, "a", "b")
    before = site.image("T1").stat().st_size
    assert "still assigned" in _done("archive", "--no-db-update")
    assert site.image("T1").stat().st_size > before
    assert {backup.state for backup in site.backups()} == {"assigned"}
    _done("archive", "--repeat")
    assert "file 1: confirmed" in _done("confirm", "--no-db-update")
    assert {backup.state for backup in site.backups()} == {"recorded"}
    _done("confirm", "all")


def test_where_is_answers_programs_too(site: TapeSite) -> None:
    _prepare(site, "a")
    _done("archive")
    (found,) = json.loads(_done("where_is", "--json", "a/sub/file0"))
    assert (found["tape"], found["file_number"], found["size_bytes"]) == ("T1", 1, 5000)
    result = _tape("where_is", "--json", "nothing")
    assert (result.exit_code, json.loads(result.stdout)) == (1, [])


def test_details_are_what_md5sum_takes(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_hostile_target())
    site.assign()
    site.archive()
    made = _start(site, "tape_detail", "-v", stdout=subprocess.PIPE)
    lines = made.communicate()[0]
    done = subprocess.run(["md5sum", "-c", "--strict", "-"], input=lines, cwd="/", capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b": OK") > 12


def test_without_a_configuration_the_places_for_one_are_named(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    (site.root / "conf").mkdir()
    (site.root / "tape.conf").rename(site.root / "other.conf")
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(site.root / "conf"))
    result = _tape("drive")
    assert result.exit_code == 1
    assert "tape.conf: is not in this directory" in result.stderr and "Next: custody tape -c" in result.stderr
    assert "empty" in _done("-c", "other.conf", "drive")
    (site.root / "my settings").write_bytes((site.root / "other.conf").read_bytes())
    assert "empty" in _done("-c", "my settings", "drive")
    (site.root / "conf/tape").mkdir()
    (site.root / "conf/tape/lto.conf").write_text(f"[default]\ntape_device = {site.drive}\n")
    assert "empty" in _done("drive")
    assert _done("tapes")  # a question needs no drive


def test_the_old_catalogue_is_taken_over(site: TapeSite) -> None:
    import sqlite3

    database = sqlite3.connect(site.root / "run1.sqlite")
    database.executescript(
        "CREATE TABLE tapes (id integer primary key, name text, serial text, status text, online int);"
        "CREATE TABLE targets (id integer primary key, name text);"
        "CREATE TABLE files (id integer primary key, target_id int, name text, md5sum text, size_kb int);"
        "CREATE TABLE backups (id integer primary key, target_id int, tape_id int, file_number int, status text);"
        "INSERT INTO tapes VALUES (4, 'act1', '', 'open', 1);"
    )
    assert "1 tapes, 0 targets" in _done("import-catalog", "run1.sqlite")
    assert "0 tapes, 0 targets" in _done("import-catalog", "run1.sqlite")
    assert "act1  *   -         4   open" in _done("tapes")
    assert _tape("import-catalog", "tape.conf").exit_code == 1


def test_a_scan_of_a_damaged_tape_is_1_and_a_dry_one_records_nothing(
    site: TapeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    _prepare(site, "a", "b")
    _done("archive", "--repeat")
    lost = Ledger.upgrade(f"sqlite:///{site.root}/another.sqlite")
    monkeypatch.setenv("CUSTODY_LEDGER", lost.url)
    assert "tape T1: 2 new; nothing was put on record" in _done("scan", "--dry-run")
    assert "T1" not in _done("tapes")
    cartridges.flip_bit(site.image("T1"), 2, 9000)
    result = _tape("scan", "T1")
    assert result.exit_code == 1
    assert "file 1: new" in result.stdout and "tape T1: 1 new, 1 damaged" in result.stdout
    assert "custody: tape T1: file 2: damaged" in result.stderr
    assert "T1 is suspect" in _done("status", "T1")
    assert _tape("scan", "T2").exit_code == 1


def test_a_restore_from_a_damaged_tape_is_1_and_names_the_file(site: TapeSite) -> None:
    _prepare(site, "a")
    _done("archive")
    cartridges.flip_bit(site.image("T1"), 1, 9000)
    result = _tape("restore", "--into", os.fsdecode(b"out \xff"), str(site.data / "a"))
    assert result.exit_code == 1
    assert "tape T1, file 1: what the tape gave is not what the catalogue has" in result.stderr
    assert _tape("restore", str(site.data / "a")).exit_code == 2
    assert "# tape T1, suspect" not in _done("restore", "--dry-run", str(site.data / "a"))
    assert "fsf 1" in _done("restore", "--dry-run", "file1")


@pytest.fixture
def slow(site: TapeSite) -> Iterator[TapeSite]:
    """Three targets of 20 blocks for a drive that takes 50 ms a block."""
    site.config = site.config.model_copy(update={"block_size": 1 << 18})
    (site.root / "tape.conf").write_text("[default]\ntape_device = drive0\nblock_size = 256KiB\nbuffer = 1MiB\n")
    site.make_tape("T1")
    for name in ("a", "b", "c"):
        site.make_target(name, files=1, size_bytes=5 << 20)
    site.import_all(*(site.data / name for name in ("a", "b", "c")))
    site.assign()
    cartridges.change_cartridge(site.image("T1"), slow_ms=50)
    yield site


def _wait_for_block(site: TapeSite, process: subprocess.Popen[bytes], size_bytes: int) -> None:
    deadline = time.monotonic() + 30
    while site.image("T1").stat().st_size < size_bytes:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_the_first_interrupt_pauses_behind_the_target(slow: TapeSite) -> None:
    process = _start(slow, "archive", "--repeat", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _wait_for_block(slow, process, 1 << 20)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == Exit.STOPPED, said
    assert b"once more aborts it" in said[1]
    assert sorted(backup.state for backup in slow.backups()) == ["assigned", "assigned", "recorded"]
    assert all(one.is_equal for one in slow.read_back("T1"))


@pytest.mark.slow
@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
def test_the_second_interrupt_or_a_term_aborts_the_target(slow: TapeSite, signals: tuple[signal.Signals, ...]) -> None:
    process = _start(slow, "archive", "--repeat", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _wait_for_block(slow, process, 1 << 20)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    said = process.communicate(timeout=60)
    assert process.returncode == Exit.STOPPED, said
    assert {backup.state for backup in slow.backups()} == {"assigned"}
    cartridges.change_cartridge(slow.image("T1"), slow_ms=None)
    assert [one.outcome for one in slow.archive_all()] == ["recorded"] * 3
    assert all(one.is_equal for one in slow.confirm_all())


def test_interrupts_give_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    with interrupts.held():
        signal.raise_signal(signal.SIGINT)
        assert interrupts.is_pause_asked and not interrupts.stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_who_is_on_record(site: TapeSite) -> None:
    site.make_tape("T1")
    _done("move", "T1", "vault")
    said = _done("history")
    assert WHO in said and f"{os.environ.get('USER', 'root')}" in said
