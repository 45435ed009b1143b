"""The ledger's schema: made, brought up to date, and what is said where it is not."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import custody
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger, schema
from custody.ledger.schema import VERSION_TABLE
from custody.ledger.tables import metadata

TABLE_MODULES = [
    found.name for found in pkgutil.walk_packages(custody.__path__, "custody.") if found.name.endswith(".tables")
]


def test_every_room_with_tables_is_known_here() -> None:
    assert "custody.ledger.tables" in TABLE_MODULES
    assert "custody.drain.tables" in TABLE_MODULES


def test_the_migrated_schema_is_the_one_the_program_declares(any_database: str) -> None:
    for name in TABLE_MODULES:
        importlib.import_module(name)
    ledger = Ledger.upgrade(any_database)
    with ledger.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    ledger.close()


def test_upgrading_again_changes_nothing(any_database: str) -> None:
    ledger = Ledger.upgrade(any_database)
    with ledger.begin() as connection:
        ledger.record_event(connection, who="me", room="drain", what="sent", subject="a")
    again = Ledger.upgrade(any_database)
    with again.read() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM event")) == 1
        assert connection.scalar(sa.text(f"SELECT count(*) FROM {VERSION_TABLE}")) == 1
    assert Ledger.open(again.url)
    again.close()


def _upgrade_at_once(url: str, barrier: multiprocessing.synchronize.Barrier, answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    barrier.wait()
    try:
        Ledger.upgrade(url).close()
        answers.put("done")
    except Exception as error:
        answers.put(repr(error))


def test_several_processes_may_upgrade_at_once(any_database: str) -> None:
    processes = multiprocessing.get_context("fork")
    barrier, answers = processes.Barrier(3), processes.Queue()
    children = [processes.Process(target=_upgrade_at_once, args=(any_database, barrier, answers)) for _ in range(3)]
    for child in children:
        child.start()
    try:
        assert [answers.get(timeout=60) for _ in children] == ["done"] * 3
    finally:
        for child in children:
            child.join(30)
            child.kill()
    ledger = Ledger.open(any_database)
    with ledger.read() as connection:
        assert connection.scalar(sa.text(f"SELECT count(*) FROM {VERSION_TABLE}")) == 1
    ledger.close()


def test_a_missing_schema_names_the_command_that_makes_it(any_database: str) -> None:
    with pytest.raises(Fault, match=r"its schema is missing or old\. Next: custody ledger upgrade$") as caught:
        Ledger.open(any_database)
    assert caught.value.kind is FaultKind.CONFIG
    password = sa.make_url(any_database).password
    assert password is None or password not in str(caught.value)


def test_an_old_schema_names_the_command_that_mends_it(any_ledger: Ledger) -> None:
    with any_ledger.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0001'"))
    with pytest.raises(Fault, match="custody ledger upgrade") as caught:
        Ledger.open(any_ledger.url)
    assert caught.value.kind is FaultKind.CONFIG


@pytest.mark.service
@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_wrong_password_is_no_matter_of_time(server: str, request: pytest.FixtureRequest) -> None:
    url = sa.make_url(request.getfixturevalue(server).url).set(username="custody", password="wrong-and-secret")
    with pytest.raises(Fault, match="refuses who we are") as caught:
        Ledger.open(url.render_as_string(hide_password=False))
    assert caught.value.kind is FaultKind.AUTH
    assert "wrong-and-secret" not in str(caught.value)


@pytest.mark.parametrize("driver", ["postgresql+psycopg2", "mysql+pymysql"])
def test_a_server_that_does_not_answer_is_no_end_and_tells_no_password(driver: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"{driver}://custody:very-secret@127.0.0.1:{taken.getsockname()[1]}/ledger"
        with pytest.raises(Fault, match="does not answer") as caught:
            Ledger.open(url)
    assert caught.value.kind is FaultKind.TRANSIENT
    assert "127.0.0.1" in str(caught.value)
    _tells_no_secret(caught.value, "very-secret")


@pytest.mark.service
@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_wrong_password_is_not_told(server: str, request: pytest.FixtureRequest) -> None:
    url = sa.make_url(request.getfixturevalue(server).url).set(password="very-secret")
    with pytest.raises(Fault, match=r"custody:[*]+@") as caught:
        Ledger.open(url.render_as_string(hide_password=False))
    _tells_no_secret(caught.value, "very-secret")


@pytest.mark.parametrize("url", ["very-secret", "no-such-database://custody:very-secret@host/x"])
def test_what_is_no_url_is_a_fault_without_the_url(url: str) -> None:
    with pytest.raises(Fault) as caught:
        Ledger.open(url)
    assert caught.value.kind is FaultKind.CONFIG
    assert "CUSTODY_LEDGER" in str(caught.value)
    _tells_no_secret(caught.value, "very-secret")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///here.sqlite"])
def test_a_ledger_in_whatever_directory_one_stands_in_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Fault, match="whole path") as caught:
        Ledger.upgrade(url)
    assert caught.value.kind is FaultKind.CONFIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["mysql", "mariadb", "mysql+mysqldb", "postgresql", "postgresql+asyncpg"])
def test_whatever_driver_is_named_the_installed_one_is_used(word: str) -> None:
    with pytest.raises(Fault, match="does not answer") as caught:
        Ledger.open(f"{word}://custody:very-secret@127.0.0.1:1/ledger")
    assert "\n" not in str(caught.value)
    _tells_no_secret(caught.value, "very-secret")


def test_asking_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="custody ledger upgrade"):
        Ledger.open(f"sqlite:///{tmp_path}/not/yet/ledger.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(os.urandom(5000))
    before = (tmp_path / "ledger.sqlite").read_bytes()
    for act in (Ledger.open, Ledger.upgrade):
        with pytest.raises(Fault, match=r"is no whole SQLite database.*Next: put back its last backup") as caught:
            act(f"sqlite:///{tmp_path}/ledger.sqlite")
        assert caught.value.kind is FaultKind.DATA
    assert (tmp_path / "ledger.sqlite").read_bytes() == before


def test_the_ledger_of_a_newer_program_is_left_alone(any_ledger: Ledger) -> None:
    with any_ledger.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0099'"))
    for act in (Ledger.open, Ledger.upgrade):
        with pytest.raises(Fault, match=r"newer Custody \(schema 0099; this one knows \d{4}\)") as caught:
            act(any_ledger.url)
        assert caught.value.kind is FaultKind.CONFIG


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_ledger_that_may_not_be_written_says_whose_right_is_missing() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own is closed to others
        Path(directory).chmod(0o755)
        urls = [f"sqlite:///{directory}/{name}.sqlite" for name in ("first", "second")]
        for url in urls:
            Ledger.upgrade(url).close()
        program = f"""
import os
from custody.ledger import Ledger
Ledger.open({urls[0]!r})  # everything is imported while we are somebody
os.setuid(65534)
Ledger.open({urls[1]!r})
"""
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "cannot be opened" in answer.stderr
    assert "Next: give this user the right to" in answer.stderr


def _tells_no_secret(fault: BaseException | None, secret: str) -> None:
    while fault is not None:
        assert secret not in f"{fault} {fault!r}"
        fault = fault.__cause__


def test_a_sqlite_ledger_lies_where_it_was_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUSTODY_LEDGER", raising=False)
    monkeypatch.setenv("CUSTODY_HOME", str(tmp_path / "not" / "yet"))
    from custody.ledger import default_url

    Ledger.upgrade(default_url()).close()
    assert (tmp_path / "not" / "yet" / "ledger.sqlite").exists()
    monkeypatch.setenv("CUSTODY_LEDGER", "postgresql+psycopg2://x/y")
    assert default_url() == "postgresql+psycopg2://x/y"


def test_the_program_knows_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]


def test_opening_a_ledger_does_not_load_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    Ledger.upgrade(url).close()
    program = f"import sys; from custody.ledger import Ledger; Ledger.open({url!r}); print('alembic' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
