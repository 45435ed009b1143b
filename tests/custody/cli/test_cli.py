"""The command line: what people and programs read, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from custody.cli.main import main
from custody.cli.show import show
from custody.digests import Fixity
from custody.ledger import CopyState, Ledger

FIXITY = Fixity(1234567, {"md5": "a" * 32, "sha256": "b" * 64})


def _custody(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def ledger(ledger_sqlite: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger that the command line finds."""
    monkeypatch.setenv("CUSTODY_LEDGER", ledger_sqlite.url)
    return ledger_sqlite


def _record(ledger: Ledger, name: str, place: str, state: CopyState, *, proven: bool = False) -> None:
    with ledger.begin() as connection:
        copy_id = ledger.record_copy(connection, ledger.record_file(connection, name, FIXITY), place, state)
        if proven:
            ledger.record_proof(connection, copy_id, "listing", FIXITY, "run 1")


def test_a_missing_ledger_is_one_line_with_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path / 'none.sqlite'}")
    result = _custody("where-is", "a.warc.gz")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("custody: ledger sqlite:///")
    assert result.stderr.endswith("Next: custody ledger upgrade\n")


def test_the_named_next_command_works_and_may_be_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path / 'new' / 'ledger.sqlite'}")
    for _ in range(2):
        result = _custody("ledger", "upgrade")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.endswith("ledger.sqlite: up to date\n")
    assert "no file of this name" in _custody("where-is", "x").stderr


def test_where_is_names_every_copy_and_its_proof(ledger: Ledger) -> None:
    _record(ledger, "a.warc.gz", "disk://crawler7/jobs/a.warc.gz", CopyState.PRESENT)
    _record(ledger, "a.warc.gz", "s3://item/a.warc.gz", CopyState.SENT, proven=True)
    result = _custody("where-is", "a.warc.gz")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines() if "a.warc.gz" in line]
    assert [line[2:4] for line in lines] == [
        ["disk://crawler7/jobs/a.warc.gz", "present"],
        ["s3://item/a.warc.gz", "proven"],
    ]
    assert "listing" in lines[1]
    assert "sha256:" + "b" * 64 in result.stdout


def test_where_is_speaks_to_programs(ledger: Ledger) -> None:
    _record(ledger, "a.warc.gz", "s3://item/a.warc.gz", CopyState.SENT, proven=True)
    (line,) = json.loads(_custody("where-is", "--json", "a.warc.gz").stdout)
    assert (line["file"], line["bytes"], line["place"], line["state"], line["proof"], line["identity"]) == (
        "a.warc.gz",
        1234567,
        "s3://item/a.warc.gz",
        "proven",
        "listing",
        "sha256:" + "b" * 64,
    )
    assert datetime.fromisoformat(line["since"]).tzinfo == UTC
    assert datetime.fromisoformat(line["proven"]).tzinfo == UTC


def test_what_is_not_on_record_ends_with_1(ledger: Ledger) -> None:
    result = _custody("where-is", "--json", "b.warc.gz")
    assert (result.exit_code, json.loads(result.stdout)) == (1, [])
    assert result.stderr == "custody: b.warc.gz: no file of this name is on record\n"


def test_a_percent_sign_finds_many(ledger: Ledger) -> None:
    for name in ("a-1.warc.gz", "a-2.warc.gz", "b.warc.gz"):
        _record(ledger, name, f"s3://item/{name}", CopyState.SENT)
    found = json.loads(_custody("where-is", "--json", "a-%").stdout)
    assert [line["file"] for line in found] == ["a-1.warc.gz", "a-2.warc.gz"]


@pytest.mark.parametrize("name", ["[red]x[/red].warc.gz", "[/x].warc.gz", ":tada:.warc.gz", "größe \U0001f4fc", "--x"])
def test_a_name_is_shown_as_it_is(ledger: Ledger, name: str) -> None:
    _record(ledger, name, f"s3://item/{name}", CopyState.SENT)
    result = _custody("where-is", "--", name)
    assert result.exception is None
    assert result.stdout.count(name) == 2


@pytest.mark.parametrize("name", ["new\nline", "\x1b[2Jclears.warc.gz", "\u202egnp.exe"])
def test_a_name_cannot_play_tricks_on_a_terminal(ledger: Ledger, name: str) -> None:
    _record(ledger, name, "s3://item/x", CopyState.SENT)
    out = _custody("where-is", name).stdout
    assert name not in out
    assert repr(name)[1:-1] in out


def test_a_long_place_is_not_cut_where_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    place = "disk://host/" + "/".join(["directory"] * 60)
    show(("place",), [(place,)])
    assert place in capsys.readouterr().out


def test_nothing_at_all_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    show(("a", "b"), [], as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_times_and_gaps_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    show(("since", "proof"), [(datetime(2026, 11, 22, 3, 4, 5, 678, tzinfo=UTC), None)])
    out = capsys.readouterr().out
    assert "2026-11-22 03:04:05" in out
    assert "None" not in out


@pytest.mark.parametrize(
    "words", [["-h"], ["--help"], ["drain", "-h"], ["where-is", "-h"], ["ledger", "upgrade", "-h"]]
)
def test_every_verb_explains_itself(words: Sequence[str]) -> None:
    result = _custody(*words)
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


def test_an_unknown_verb_or_option_ends_with_2(ledger: Ledger) -> None:
    assert _custody("whereis").exit_code == 2
    assert _custody("where-is", "--jason", "x").exit_code == 2
    assert _custody("where-is").exit_code == 2


def test_an_empty_drain_is_no_error(ledger: Ledger) -> None:
    assert _custody("drain", "status").exit_code == 0
    assert json.loads(_custody("drain", "status", "--json").stdout) == []


@pytest.mark.parametrize("verb", ["hold", "release"])
def test_a_series_that_is_not_there_is_one_line(ledger: Ledger, verb: str) -> None:
    result = _custody("drain", verb, "4711")
    assert result.exit_code == 1
    assert result.stderr.startswith("custody: ")
    assert "4711" in result.stderr
    assert result.stderr.count("\n") == 1


def _run_module(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    argv = [sys.executable, "-W", "error::Warning:custody", "-m", "custody.cli", *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_it_answers_without_airflow_and_without_a_traceback(ledger: Ledger) -> None:
    """As a program of its own; what imports Airflow would take seconds and write to its home."""
    _record(ledger, "a.warc.gz", "s3://item/a.warc.gz", CopyState.SENT)
    found = _run_module("where-is", "a.warc.gz", CUSTODY_LEDGER=ledger.url, PYTHONPROFILEIMPORTTIME="1")
    assert found.returncode == 0
    assert "s3://item/a.warc.gz" in found.stdout
    said = found.stderr.splitlines()
    assert [line for line in said if not line.startswith("import time:")] == []
    imported = {line.rpartition("|")[2].strip() for line in said}
    assert "custody.ledger" in imported
    assert not {name for name in imported if name.split(".")[0] == "airflow"}
    broken = _run_module("where-is", "x", CUSTODY_LEDGER="postgresql+psycopg2://u:very-secret@127.0.0.1:1/x")
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr
    assert "very-secret" not in broken.stderr
    assert broken.stderr.startswith("custody: ledger postgresql")
