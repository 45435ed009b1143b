"""The catalogue is made again from the tapes alone."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger import tables as shared
from custody.tape import attempts, find, rebuild, report, restore, session, tables, tapes, unfinished
from custody.tape.content import Verdict
from custody.tape.drives import cartridges
from custody.tape.names import escape
from custody.tape.outcome import Outcome
from custody.tape.states import BackupState, TapeState
from custody.tape.stream.source import TarSource
from tape_site import WHO, TapeSite

_UNCERTAIN = {"id", "target_id", "backup_id", "tape_id", "file_id", "live_key", "state_before", "is_online"}
_UNCERTAIN |= {"since", "first_seen"}


def _rows(ledger: Ledger, table: sa.Table, *where: Any) -> list[dict[str, Any]]:
    """The rows of a table without what a rebuilt catalogue need not have: row numbers and times."""
    with ledger.read() as connection:
        found = [dict(row._mapping) for row in connection.execute(sa.select(table).where(*where))]
    kept = [{key: row[key] for key in row if key not in _UNCERTAIN and not key.endswith("_at")} for row in found]
    return sorted(kept, key=lambda row: sorted((key, str(value)) for key, value in row.items()))


def _catalogue(ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    return {
        "tapes": _rows(ledger, tables.tape),
        "targets": _rows(ledger, tables.target),
        "backups": _rows(ledger, tables.backup),
        "members": _rows(ledger, tables.member, tables.member.c.backup_id.is_not(None)),
        "copies": _rows(ledger, shared.copy),
        "files": _rows(ledger, shared.file),
    }


def _scan(site: TapeSite, **options: Any) -> rebuild.Scanned:
    return rebuild.scan_tape(site.ledger, site.config, who=WHO, **options)


def _lose_ledger(site: TapeSite) -> None:
    site.ledger_url = Ledger.upgrade(f"sqlite:///{site.root}/another.sqlite").url


@pytest.fixture
def written(site: TapeSite) -> TapeSite:
    """Three confirmed targets on T1, one of them with every odd thing."""
    site.make_tape("T1")
    site.import_all(site.make_hostile_target(), site.make_target("b"), site.make_target("c"))
    site.assign()
    site.archive_all()
    assert all(one.is_equal for one in site.confirm_all())
    return site


def test_a_lost_catalogue_comes_back_from_the_tape_row_for_row(written: TapeSite) -> None:
    before = _catalogue(written.ledger)
    _lose_ledger(written)
    done = _scan(written)
    assert [one.verdict for one in done.files] == [Verdict.NEW] * 3
    after = _catalogue(written.ledger)
    for what, rows in before.items():
        assert after[what] == rows, what
    assert len(before["members"]) > 20


def test_a_closed_tape_is_known_as_closed_with_its_catalogue(written: TapeSite) -> None:
    written.close("T1")
    before = _catalogue(written.ledger)
    _lose_ledger(written)
    done = _scan(written)
    assert [one.verdict for one in done.files] == [Verdict.NEW] * 3 + [Verdict.CATALOG]
    assert _catalogue(written.ledger)["tapes"] == before["tapes"]
    assert written.tape("T1").state is TapeState.CLOSED
    assert written.tape("T1").catalog_file_number == 4


def test_every_database_gives_the_same_answers(written: TapeSite, any_database: str) -> None:
    def answers() -> list[Any]:
        glob = bytes(written.data) + b"/h*/*"
        below = restore.plan(written.ledger, [bytes(written.data) + b"/?/sub", b"file1"])
        return [
            sorted((one.path, one.state, one.file_number) for one in find.where_is(written.ledger, glob)),
            [one.path for one in find.where_is(written.ledger, b"hostile/back\\slash")],
            [(one.backup.file_number, sorted(one.names), one.trees) for one in below[0].selections],
            report.status(written.ledger, "T1").sums,
            report.unassigned(written.ledger),
            [(one.kind, one.file_number) for one in report.attempts(written.ledger, "T1") if one.kind == "restore"],
            [one.what for one in unfinished.list_unfinished(written.ledger)],
            _catalogue(written.ledger),
        ]

    before = answers()
    written.ledger_url = Ledger.upgrade(any_database).url
    _scan(written)
    assert answers() == before
    assert len(before[0]) > 12


def test_a_second_scan_changes_nothing(written: TapeSite) -> None:
    before = _catalogue(written.ledger)
    for _ in range(2):
        done = _scan(written, name="T1")
        assert [one.verdict for one in done.files] == [Verdict.KNOWN] * 3
    assert _catalogue(written.ledger) == before


def test_a_rebuilt_tape_can_be_written_on_and_confirmed(written: TapeSite) -> None:
    _lose_ledger(written)
    _scan(written)
    tapes.activate_tape(written.ledger, "T1", who=WHO)
    written.import_all(written.make_target("d"))
    written.assign()
    done = written.archive()
    assert (done.outcome, done.backup and done.backup.file_number) == (Outcome.RECORDED, 4)
    assert all(one.is_equal for one in written.confirm_all(retry=True))


def test_a_dry_run_changes_nothing_and_tells_the_same(written: TapeSite) -> None:
    _lose_ledger(written)
    before = _catalogue(written.ledger)
    done = _scan(written, dry_run=True)
    assert [one.verdict for one in done.files] == [Verdict.NEW] * 3
    assert done.tape is None and done.tape_name == "T1"
    assert _catalogue(written.ledger) == before


def test_an_older_copy_of_the_ledger_catches_up(site: TapeSite) -> None:
    """The ledger was put back as of before the archive: its targets are assigned, the tape has them."""
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b"))
    site.assign()
    with sqlite3.connect(site.root / "ledger.sqlite") as connection:
        connection.execute("VACUUM INTO ?", [str(site.root / "older.sqlite")])
    site.archive()
    site.ledger_url = f"sqlite:///{site.root}/older.sqlite"
    _scan(site)
    states = {one.target.name: (one.state, one.file_number) for one in site.backups()}
    assert sorted(states.values(), key=str) == [(BackupState.ASSIGNED, None), (BackupState.CONFIRMED, 1)]
    assert site.archive().outcome is Outcome.RECORDED


@pytest.mark.parametrize("offset_bytes", [0, 200, 3000, 12000])
def test_a_damaged_file_is_told_and_never_recorded(written: TapeSite, offset_bytes: int) -> None:
    """Block 0 is the label, block 2 all of file 2."""
    cartridges.flip_bit(written.image("T1"), 2, offset_bytes)
    _lose_ledger(written)
    done = _scan(written)
    assert [one.verdict for one in done.files][::2] == [Verdict.NEW] * 2
    assert done.files[1].verdict in {Verdict.DAMAGED, Verdict.UNKNOWN}
    assert [one.file_number for one in written.backups() if one.state.is_on_tape] == [1, 3]
    assert {str(one.state) for one in written.backups()} <= {"confirmed", "failed"}
    assert written.tape("T1").state is TapeState.SUSPECT
    with pytest.raises(Fault, match="tape T1: file 2: ") as caught:
        done.require()
    assert caught.value.kind is FaultKind.DATA


def test_what_is_well_in_a_damaged_file_is_found_and_comes_back(written: TapeSite) -> None:
    content = (written.data / "b" / "sub" / "file1").read_bytes()
    raw = bytearray(written.image("T1").read_bytes())
    raw[raw.index(content) + 100] ^= 1
    written.image("T1").write_bytes(bytes(raw))
    _lose_ledger(written)
    for _ in range(2):
        done = _scan(written)
        assert [one.verdict for one in done.files].count(Verdict.DAMAGED) == 1
        (failed,) = (one for one in written.backups() if str(one.state) == "failed")
        assert "file1: its content is different against its manifest" in str(failed.fault_text)
        assert written.tape("T1").state is TapeState.SUSPECT
    name = bytes(written.data / "b" / "sub" / "file0")
    (found,) = find.where_is(written.ledger, name)
    assert (found.tape_name, found.file_number, str(found.state)) == ("T1", failed.file_number, "failed")
    (plan,) = restore.plan(written.ledger, [bytes(written.data / "b")], tape="T1")
    with session.mounted(written.ledger, written.config, plan.tape, who=WHO) as mounted:
        (back,) = restore.restore(mounted, plan, written.root / "out")
    (problem,) = back.problems
    assert "file1" in str(problem)
    out = written.root / "out" / str(written.data / "b" / "sub").lstrip("/")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        f"file{number}": (written.data / "b" / "sub" / f"file{number}").read_bytes() for number in (0, 2)
    }
    raw[raw.index(content[:100]) + 100] ^= 1  # the drive was cleaned
    written.image("T1").write_bytes(bytes(raw))
    _scan(written)
    assert {str(one.state) for one in written.backups()} == {"confirmed"}


def test_a_read_error_costs_one_file_only(written: TapeSite) -> None:
    cartridges.change_cartridge(written.image("T1"), read_error_at_block=2)
    _lose_ledger(written)
    done = _scan(written)
    assert [one.verdict for one in done.files] == [Verdict.NEW, Verdict.DAMAGED, Verdict.NEW]


def test_the_catalogue_of_a_closed_tape_tells_what_a_lost_file_was(written: TapeSite) -> None:
    written.close("T1")
    cartridges.change_cartridge(written.image("T1"), read_error_at_block=2)
    _lose_ledger(written)
    done = _scan(written)
    assert [(one.number, one.target) for one in done.bad] == [(2, str(written.data / "c"))]


def test_a_scan_that_was_killed_is_taken_up_by_the_next(written: TapeSite) -> None:
    written.close("T1")
    before = _catalogue(written.ledger)
    _lose_ledger(written)

    class Killed(BaseException):
        pass

    def kill(found: rebuild.ScannedFile) -> None:
        if found.number == 2:
            raise Killed

    with pytest.raises(Killed):
        _scan(written, tell=kill)
    assert len(written.backups()) == 2
    assert [one.verdict for one in _scan(written).files] == [Verdict.KNOWN] * 2 + [Verdict.NEW, Verdict.CATALOG]
    assert _catalogue(written.ledger) == before


def test_an_unfinished_end_is_told_and_written_over_later(written: TapeSite) -> None:
    image = written.image("T1")
    whole = image.read_bytes()
    written.import_all(written.make_target("d", size_bytes=3 << 20))
    written.assign()
    written.archive()
    grown = image.read_bytes()
    cut = len(whole) + (1 << 20) + 8  # one block of several
    image.write_bytes(grown[:cut] + bytes(4))  # and the filemark that the kernel writes for a killed process
    _lose_ledger(written)
    done = _scan(written)
    assert [one.verdict for one in done.files] == [Verdict.NEW] * 3 + [Verdict.UNFINISHED]
    assert written.tape("T1").state is TapeState.OPEN
    assert len(written.backups()) == 3
    tapes.activate_tape(written.ledger, "T1", who=WHO)
    written.import_all(written.data / "d")
    written.assign()
    done2 = written.archive()
    assert (done2.outcome, done2.backup and done2.backup.file_number) == (Outcome.RECORDED, 4)


def test_what_the_catalogue_has_and_the_tape_has_not_is_told(written: TapeSite) -> None:
    image = written.image("T1")
    with image.open("rb") as stream:
        first = int.from_bytes(stream.read(4), "little") + 8
        stream.seek(first + 4)
        second = int.from_bytes(stream.read(4), "little") + 8
        stream.seek(0)
        content = stream.read(first + 4 + second + 4)
    image.write_bytes(content)
    done = _scan(written, dry_run=True)
    assert [(one.number, one.verdict) for one in done.files] == [
        (1, Verdict.KNOWN),
        (2, Verdict.MISSING),
        (3, Verdict.MISSING),
    ]
    assert written.tape("T1").state is TapeState.OPEN
    assert len(_scan(written).bad) == 2
    assert written.tape("T1").state is TapeState.SUSPECT


def test_a_recorded_file_that_is_cut_short_is_damaged(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a", size_bytes=3 << 20))
    site.assign()
    site.archive()
    with site.image("T1").open("r+b") as stream:
        stream.truncate(5 << 20)
    (found,) = _scan(site).files
    assert (found.verdict, found.target) == (Verdict.DAMAGED, str(site.data / "a"))
    assert site.tape("T1").state is TapeState.SUSPECT


def test_another_manifest_at_a_number_is_a_conflict_that_names_it(written: TapeSite) -> None:
    with written.ledger.begin() as connection:
        connection.execute(
            sa.update(tables.backup).where(tables.backup.c.file_number == 2).values(manifest_sha256="0" * 64)
        )
    before = _catalogue(written.ledger)
    done = _scan(written)
    assert [one.verdict for one in done.files] == [Verdict.KNOWN, Verdict.CONFLICT, Verdict.KNOWN]
    with pytest.raises(Fault, match=r"file 2: conflict .*another manifest") as caught:
        done.require()
    assert caught.value.kind is FaultKind.CONFLICT
    assert _catalogue(written.ledger)["backups"] == before["backups"]


def test_a_file_of_a_later_custody_is_told_and_left_alone(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    with monkeypatch.context() as later:
        later.setattr(attempts, "OPENING_FORMAT", 2)
        site.archive()
    url = f"sqlite:///{site.root}/other.sqlite"
    Ledger.upgrade(url)
    site.ledger_url = url
    done = _scan(site)
    assert [(one.verdict, one.reason) for one in done.files] == [
        (Verdict.UNKNOWN, "was written by a later Custody: update this one")
    ]
    assert site.backups() == []
    assert site.tape("T1").state is TapeState.SUSPECT  # and nothing is written behind it


def test_another_tape_of_the_same_name_is_a_conflict(written: TapeSite) -> None:
    _lose_ledger(written)
    tapes.open_tape(written.ledger, written.config, "T1", who=WHO)
    before = _catalogue(written.ledger)
    with pytest.raises(Fault, match="its name is that of tape T1") as caught:
        _scan(written)
    assert caught.value.kind is FaultKind.CONFLICT
    assert _catalogue(written.ledger) == before


def test_another_tape_than_the_named_one_and_a_blank_one_are_refused(written: TapeSite) -> None:
    with pytest.raises(Fault, match="holds tape T1, not T2") as caught:
        _scan(written, name="T2")
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    written.make_tape("T3", on_record=False)
    with pytest.raises(Fault, match="blank cartridge"):
        _scan(written)


def test_what_is_recorded_and_read_back_is_confirmed(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.archive()
    _scan(site)
    assert [one.state for one in site.backups()] == [BackupState.CONFIRMED]
    with site.ledger.read() as connection:
        assert set(connection.scalars(sa.select(shared.copy.c.state))) == {"proven"}


def _write_plain_tape(site: TapeSite, name: str, *targets: Path) -> None:
    """As tapeop did: a tar archive after the other, blocks of 10 kB, no label."""
    cartridges.make_cartridge(site.image(name))
    with site.image(name).open("wb") as stream:
        for target in targets:
            with TarSource(site.host, bytes(target)) as source:
                content = source.stream.read()
            content += bytes(-len(content) % 10240)
            for start in range(0, len(content), 10240):
                stream.write((10240).to_bytes(4, "little") + content[start : start + 10240])
                stream.write((10240).to_bytes(4, "little"))
            stream.write(bytes(4))
    site.insert(name)


def test_a_tape_without_a_label_is_adopted_under_a_name(site: TapeSite) -> None:
    first, second = site.make_hostile_target(), site.make_target("b")
    _write_plain_tape(site, "OLD", first, second)
    with pytest.raises(Fault, match="without a label") as caught:
        _scan(site)
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    assert "--adopt" in str(caught.value)
    done = _scan(site, adopt_as="OLD1")
    assert [(one.number, one.verdict) for one in done.files] == [(0, Verdict.NEW), (1, Verdict.NEW)]
    tape = site.tape("OLD1")
    block = site.image("OLD").read_bytes()[4 : 4 + 10240]
    assert (tape.label, tape.identity) == ("none", hashlib.sha256(block).hexdigest())
    assert [one.target.name for one in site.backups()] == [escape(bytes(first)), escape(bytes(second))]
    assert {one.state for one in site.backups()} == {BackupState.RECORDED}
    assert [one.verdict for one in _scan(site).files] == [Verdict.KNOWN] * 2


def test_an_adopted_name_is_no_other_tapes(site: TapeSite) -> None:
    site.make_tape("T1")
    _write_plain_tape(site, "OLD", site.make_target("b"))
    for name, kind in (("T1", FaultKind.CONFLICT), ("../x", FaultKind.CONFIG)):
        with pytest.raises(Fault) as caught:
            _scan(site, adopt_as=name)
        assert caught.value.kind is kind


def test_an_adopted_tape_can_be_confirmed(site: TapeSite) -> None:
    _write_plain_tape(site, "OLD", site.make_hostile_target(), site.make_target("b"))
    _scan(site, adopt_as="OLD1")
    for _ in range(2):
        done = site.confirm_all("OLD1", retry=True)
        assert [one.complaints for one in done] == [(), ()]
    assert {one.state for one in site.backups()} == {BackupState.CONFIRMED}
