"""The old system's catalogue, in both ages of its schema, is taken over as it stands."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.tape import confirm, find, report, tables, tapes
from custody.tape.drives import cartridges
from custody.tape.legacy import UNKNOWN_SIZE, ImportedCatalog, import_catalog
from custody.tape.members import MemberKind
from custody.tape.names import escape
from custody.tape.records import members_of
from custody.tape.session import mounted
from custody.tape.states import BackupState, TapeState
from custody.tape.stream.source import TarSource
from tape_site import WHO, TapeSite

_COMMON = """
CREATE TABLE tapes (id integer primary key autoincrement, name text unique, serial text unique, status text,
                    online integer default 0);
CREATE TABLE files (id integer primary key autoincrement, target_id integer, name text, md5sum char(32),
                    size_kb integer, UNIQUE(target_id, name));
CREATE TABLE backups (id integer primary key autoincrement, target_id integer, tape_id integer,
                      file_number integer default -1, status text);
"""
SEED = _COMMON + "CREATE TABLE targets (id integer primary key autoincrement, name text unique);"
HEAD = (
    _COMMON
    + """CREATE TABLE targets (id integer primary key autoincrement, name text unique, scanned int default 0,
                               parent_id int default null);"""
)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Old:
    """An old catalogue that a test fills."""

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self.database = sqlite3.connect(path)
        self.database.executescript(schema)

    def add(self, table: str, **values: Any) -> int:
        words = ", ".join(values)
        marks = ", ".join("?" for _ in values)
        number = self.database.execute(f"INSERT INTO {table} ({words}) VALUES ({marks})", list(values.values()))
        self.database.commit()
        return int(number.lastrowid or 0)

    def fill(self, *, is_head: bool) -> None:
        self.add("tapes", name="act1", serial="A0001", status="closed")
        self.add("tapes", name="act2", serial=None, status="open", online=1)
        self.add("tapes", name="act3", serial="", status="garbage")
        extra = {"scanned": 1} if is_head else {}
        for name in ("/data/s4/a", "/data/s4/a/child", "/data/s4/b", "/data/s4/c", "/data/s4/d"):
            self.add("targets", name=name, **extra)
        if is_head:
            self.database.execute("UPDATE targets SET parent_id = 1 WHERE id = 2")
            self.database.execute("UPDATE targets SET scanned = 0 WHERE id = 5")
            self.add("files", target_id=1, name="link", md5sum="symlink", size_kb=0)
        for target in (1, 2, 3, 4):
            self.add("files", target_id=target, name="with blank", md5sum=_md5(b"%d" % target), size_kb=4)
        self.add("backups", target_id=1, tape_id=1, file_number=0, status="confirmed")
        self.add("backups", target_id=2, tape_id=1, file_number=1, status="recorded")
        self.add("backups", target_id=3, tape_id=2, file_number=-1, status="assigned")


@pytest.fixture(params=["SEED", "HEAD"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Old:
    catalogue = Old(tmp_path / "run1.sqlite", HEAD if request.param == "HEAD" else SEED)
    catalogue.fill(is_head=request.param == "HEAD")
    return catalogue


def _import(ledger: Ledger, old: Old) -> ImportedCatalog:
    return import_catalog(ledger, old.path, who=WHO, source="mce1")


def _everything(ledger: Ledger) -> list[list[Any]]:
    with ledger.read() as connection:
        return [
            [tuple(row) for row in connection.execute(sa.select(table).order_by(table.c.id))]
            for table in (tables.tape, tables.target, tables.backup, tables.member)
        ]


def test_tapes_keep_their_numbers_and_files_their_numbers(any_ledger: Ledger, tmp_path: Path) -> None:
    old = Old(tmp_path / "run1.sqlite", HEAD)
    old.fill(is_head=True)
    old.database.execute("UPDATE tapes SET id = 7 WHERE id = 3")
    old.database.commit()
    _import(any_ledger, old)
    found = {line.tape.name: line.tape for line in report.tapes(any_ledger)}
    assert {name: (tape.id, tape.state) for name, tape in found.items()} == {
        "act1": (1, TapeState.CLOSED),
        "act2": (2, TapeState.OPEN),
        "act3": (7, TapeState.RETIRED),
    }
    assert [tape.serial for tape in found.values()] == ["A0001", None, None]
    assert [name for name, tape in found.items() if tape.is_online] == ["act2"]
    assert {tape.label for tape in found.values()} == {"none"}
    assert [str(one) for one in report.status(any_ledger, "act1").layout] == ["0 - 0 : confirmed", "1 - 1 : recorded"]
    with any_ledger.begin() as connection:  # the next tape of ours gets a number of its own
        row = {"name": "T1", "state_before": "", "state": "new", "label": "custody", "pool": "default"}
        times = {"opened_at": sa.func.now(), "changed_at": sa.func.now()}
        connection.execute(sa.insert(tables.tape).values(row | times | {"block_bytes": 1}))


def test_what_is_waiting_there_waits_here(ledger_sqlite: Ledger, old: Old) -> None:
    _import(ledger_sqlite, old)
    assert report.status(ledger_sqlite, "act2").sums[BackupState.ASSIGNED].targets == 1
    is_head = "parent_id" in str(
        old.database.execute("SELECT sql FROM sqlite_master WHERE name = 'targets'").fetchone()
    )
    waiting = report.unassigned(ledger_sqlite)["default"]
    assert (waiting.targets, waiting.unknown, waiting.size_bytes) == ((1, 1, 0) if is_head else (2, 2, 0))
    assert report.unscanned(ledger_sqlite) == (["/data/s4/d"] if is_head else [])
    with ledger_sqlite.read() as connection:
        excludes = connection.scalar(sa.select(tables.target.c.excludes).where(tables.target.c.name == "/data/s4/a"))
    assert excludes == (["/data/s4/a/child"] if is_head else [])


def test_files_are_found_by_name_and_md5_and_their_size_is_no_size(ledger_sqlite: Ledger, old: Old) -> None:
    _import(ledger_sqlite, old)
    for text in (b"/data/s4/a/child/with blank", b"md5:" + _md5(b"2").encode(), b"child/with blank"):
        (found,) = find.where_is(ledger_sqlite, text)
        assert (found.tape_name, found.file_number, found.state) == ("act1", 1, "recorded")
        assert found.content.size_bytes == UNKNOWN_SIZE < 0
    (found,) = find.where_is(ledger_sqlite, b"/data/s4/c/with blank")
    assert (found.tape_name, found.state) == (None, find.IMPORTED)
    assert report.status(ledger_sqlite, "act1").total.size_bytes == 0
    assert report.status(ledger_sqlite, "act1").total.unknown == 2


def test_a_second_import_is_no_change(ledger_sqlite: Ledger, old: Old) -> None:
    assert _import(ledger_sqlite, old).is_change
    before = _everything(ledger_sqlite)
    assert not _import(ledger_sqlite, old).is_change
    assert _everything(ledger_sqlite) == before


def test_what_moved_on_over_there_moves_on_here(ledger_sqlite: Ledger, old: Old) -> None:
    _import(ledger_sqlite, old)
    old.database.execute("UPDATE backups SET status = 'recorded', file_number = 0 WHERE id = 3")
    old.database.execute("UPDATE backups SET status = 'confirmed' WHERE id = 2")
    old.database.commit()
    assert _import(ledger_sqlite, old).moved_on == 2
    assert [str(one) for one in report.status(ledger_sqlite, "act1").layout] == ["0 - 1 : confirmed"]
    assert [str(one) for one in report.status(ledger_sqlite, "act2").layout] == ["0 - 0 : recorded"]


def test_names_of_any_bytes_come_over(ledger_sqlite: Ledger, tmp_path: Path) -> None:
    old = Old(tmp_path / "run1.sqlite", HEAD)
    old.add("tapes", name="t", status="open")
    target = old.database.execute("INSERT INTO targets (name, scanned) VALUES (CAST(? AS TEXT), 1)", [b"/d/\xff[1]"])
    names = [b"new\nline", b"\xfe", b"back\\slash", b"*"]
    for name in names:
        old.database.execute(
            "INSERT INTO files (target_id, name, md5sum) VALUES (?, CAST(? AS TEXT), ?)",
            [target.lastrowid, name, _md5(name)],
        )
    old.add("backups", target_id=target.lastrowid, tape_id=1, file_number=0, status="recorded")
    _import(ledger_sqlite, old)
    for name in names:
        (found,) = find.where_is(ledger_sqlite, b"/d/\xff[1]/" + name)
        assert found.content.digests == {"md5": _md5(name)}


def test_a_target_on_two_tapes_counts_on_both(ledger_sqlite: Ledger, old: Old) -> None:
    old.add("backups", target_id=1, tape_id=2, file_number=0, status="recorded")
    _import(ledger_sqlite, old)
    found = find.where_is(ledger_sqlite, b"/data/s4/a/with blank")
    assert [(one.tape_name, one.file_number) for one in found] == [("act1", 0), ("act2", 0)]
    assert not _import(ledger_sqlite, old).is_change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("DROP TABLE backups", "no table backups"),
        ("UPDATE backups SET status = 'lost' WHERE id = 1", "backup 1 has the status 'lost'"),
        ("UPDATE backups SET file_number = 0 WHERE id = 2", "backups 1 and 2 are both file 0 of tape 1"),
        ("UPDATE backups SET file_number = -1 WHERE id = 1", "backup 1 is confirmed as file -1"),
        ("DELETE FROM targets WHERE id = 1", "backup 1 is of target 1, which is not there"),
        ("DELETE FROM tapes WHERE id = 1", "backup 1 is of tape 1, which is not there"),
        ("UPDATE tapes SET status = 'full'", "tape 1 has the status 'full'"),
        ("UPDATE tapes SET name = '../x' WHERE id = 1", "tape 1 has the name '../x'"),
        ("UPDATE targets SET name = 'x' WHERE id = 1", "target 1 has the name 'x', which is no absolute path"),
        ("UPDATE targets SET name = '/data//s4/b/' WHERE id = 1", "targets 1 and 3 are both /data/s4/b"),
        ("UPDATE files SET md5sum = 'xyz' WHERE target_id = 1", "has the md5 sum 'xyz'"),
    ],
)
def test_a_broken_catalogue_is_one_clear_fault_and_nothing_is_taken_over(
    ledger_sqlite: Ledger, old: Old, change: str, complaint: str
) -> None:
    old.database.execute(change)
    old.database.commit()
    with pytest.raises(Fault) as caught:
        _import(ledger_sqlite, old)
    assert caught.value.kind is FaultKind.DATA
    assert complaint in str(caught.value)
    assert str(old.path) in str(caught.value)
    assert _everything(ledger_sqlite) == [[], [], [], []]


def test_what_is_no_catalogue_is_told(ledger_sqlite: Ledger, tmp_path: Path, old: Old) -> None:
    plain, cut = tmp_path / "plain", tmp_path / "cut.sqlite"
    plain.write_bytes(b"no database at all" * 100)
    old.database.close()
    cut.write_bytes(old.path.read_bytes()[:6000])
    (tmp_path / "empty").touch()
    for path in (plain, cut, tmp_path / "empty"):
        before = path.read_bytes()
        with pytest.raises(Fault) as caught:
            import_catalog(ledger_sqlite, path, who=WHO, source="mce1")
        assert caught.value.kind is FaultKind.DATA
        assert path.read_bytes() == before
    with pytest.raises(Fault, match="no such catalogue"):
        import_catalog(ledger_sqlite, tmp_path / "none", who=WHO, source="mce1")


def test_a_tape_of_ours_with_that_name_or_serial_is_a_conflict(site: TapeSite, old: Old) -> None:
    tapes.open_tape(site.ledger, site.config, "act1", who=WHO)
    before = _everything(site.ledger)
    with pytest.raises(Fault, match="tape act1: is in the catalogue already") as caught:
        _import(site.ledger, old)
    assert caught.value.kind is FaultKind.CONFLICT
    assert _everything(site.ledger) == before
    old.database.execute("UPDATE tapes SET name = 'other' WHERE id = 1")
    old.database.commit()
    tapes.set_tape(site.ledger, "act1", who=WHO, serial="A0001")
    with pytest.raises(Fault, match="serial number A0001 is that of tape act1"):
        _import(site.ledger, old)


def test_a_number_that_is_taken_is_another_one_here(site: TapeSite, old: Old) -> None:
    tapes.open_tape(site.ledger, site.config, "T1", who=WHO)
    done = _import(site.ledger, old)
    found = {line.tape.name: line.tape.id for line in report.tapes(site.ledger)}
    assert found["T1"] == 1 and found["act1"] != 1 and found["act2"] == 2
    assert any("act1" in note for note in done.notes)
    assert report.status(site.ledger).tape.name == "T1"  # it stays the active one


def test_a_tape_of_the_old_system_is_confirmed_by_its_md5_sums(site: TapeSite) -> None:
    """A real archive as tapeop wrote it, with a link, a hard link and odd names; then the catalogue knows more."""
    target = site.make_hostile_target()
    for name in ("a second name", "sparse", "fifo"):
        (target / name).unlink()
    with TarSource(site.host, os.fsencode(target)) as source:
        content = source.stream.read()
    content += bytes(-len(content) % 10240)
    cartridges.make_cartridge(site.image("act1"))
    with site.image("act1").open("wb") as stream:
        for start in range(0, len(content), 10240):
            size = (10240).to_bytes(4, "little")
            stream.write(size + content[start : start + 10240] + size)
        stream.write(bytes(4))
    site.insert("act1")
    old = Old(site.root / "run1.sqlite", HEAD)
    old.add("tapes", name="act1", status="open", online=1)
    old.add("targets", name=str(target), scanned=1)
    for directory, _, names in os.walk(os.fsencode(target)):
        for name in names:
            path = directory + b"/" + name
            md5 = "symlink" if os.path.islink(path) else _md5(Path(os.fsdecode(path)).read_bytes())
            relative = os.path.relpath(path, os.fsencode(target))
            old.database.execute(
                "INSERT INTO files (target_id, name, md5sum) VALUES (1, CAST(? AS TEXT), ?)", [relative, md5]
            )
    old.add("backups", target_id=1, tape_id=1, file_number=0, status="recorded")
    import_catalog(site.ledger, old.path, who=WHO, source="localhost")
    (backup,) = site.backups()
    with mounted(site.ledger, site.config, site.tape("act1"), who=WHO) as session:
        done = confirm.confirm_one(session, backup)
    assert done.complaints == ()
    (backup,) = site.backups()
    assert backup.state is BackupState.CONFIRMED
    with site.ledger.read() as connection:
        members = {member.name: member for member in members_of(connection, backup.target.id, backup.id)}
    link = members[os.fsencode(target).lstrip(b"/") + b"/link"]
    assert (link.kind, link.link) == (MemberKind.SYMLINK, b"../some where\n")
    assert all(member.size_bytes >= 0 for member in members.values())
    assert escape(os.fsencode(target)) == backup.target.name
    (again,) = site.confirm_all("act1", retry=True)
    assert again.complaints == ()
