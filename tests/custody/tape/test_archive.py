"""Archive on a virtual drive, with real tar: what goes to tape, what does not, and what is said of it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger.tables import event
from custody.tape import archive, assign, session, tables, tapes
from custody.tape.drives import cartridges
from custody.tape.drives.image import ImageDevice
from custody.tape.outcome import Outcome
from custody.tape.states import AttemptResult, BackupState, TapeState
from tape_site import WHO, TapeSite


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _attempts(site: TapeSite) -> list[tuple[int, str]]:
    with site.ledger.read() as connection:
        rows = connection.execute(sa.select(tables.attempt).order_by(tables.attempt.c.id))
        return [(row.file_number, row.result) for row in rows if row.kind == "write"]


def _states(site: TapeSite) -> list[tuple[str, int | None]]:
    return [(str(one.state), one.file_number) for one in site.backups()]


def test_a_target_goes_to_tape_and_is_confirmed(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_hostile_target())
    site.assign()
    assert site.archive().outcome is Outcome.RECORDED
    assert _states(site) == [("recorded", 1)]
    assert [one.complaints for one in site.confirm_all()] == [()]
    assert _states(site) == [("confirmed", 1)]
    assert site.tape().state is TapeState.OPEN
    assert site.archive().outcome is Outcome.NO_WORK
    [found] = site.ledger.where_is("file0")
    assert (found.state, found.place.startswith("tape://T1/1/")) == ("proven", True)


def test_targets_follow_each_other_by_name(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(*(site.make_target(name) for name in ("b", "c", "a")))
    site.assign()
    assert len(site.archive_all()) == 3
    names = [Path(one.target.name).name for one in site.backups()]
    assert list(zip(names, (one.file_number for one in site.backups()), strict=True)) == [("a", 1), ("b", 2), ("c", 3)]
    assert len(site.confirm_all()) == 3


def test_a_wrong_cartridge_is_refused_and_not_touched(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.archive_all()
    tapes.open_tape(site.ledger, site.config, "T2", who=WHO)
    site.import_all(site.make_target("b"))
    site.assign()
    before = _sha256(site.image("T1"))
    with pytest.raises(
        Fault, match=r"holds tape T1 .* and a new tape must be blank|holds tape T1 .*, not tape T2"
    ) as caught:
        site.archive("T2")
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    assert _sha256(site.image("T1")) == before
    assert [state for state, _ in _states(site)] == ["assigned", "recorded"]


def test_a_foreign_tape_is_refused_and_not_touched(site: TapeSite) -> None:
    site.make_tape("T1")
    with site.image("T1").open("wb") as stream:
        stream.write((4).to_bytes(4, "little") + b"mine" + (4).to_bytes(4, "little") + bytes(4))
    site.import_all(site.make_target("a"))
    site.assign()
    before = _sha256(site.image("T1"))
    with pytest.raises(Fault, match=r"no tar archive.*must be blank; nothing was written"):
        site.archive()
    assert _sha256(site.image("T1")) == before


def test_an_empty_drive_a_missing_one_and_a_plain_file_are_told_apart(site: TapeSite, tmp_path: Path) -> None:
    site.make_tape("T1", load=False)
    site.import_all(site.make_target("a"))
    site.assign()
    said = []
    plain = tmp_path / "nst0"
    plain.write_bytes(b"precious")
    for device in (site.drive, tmp_path / "nowhere", plain):
        site.config = site.config.model_copy(update={"tape_device": str(device)})
        with pytest.raises(Fault) as caught:
            site.archive()
        said.append(str(caught.value))
        assert str(device) in said[-1]
    assert len(set(said)) == 3
    assert plain.read_bytes() == b"precious"
    assert _states(site) == [("assigned", None)]


def test_a_write_protected_tape_is_found_before_anything_is_read(site: TapeSite) -> None:
    site.make_tape("T1")
    cartridges.change_cartridge(site.image("T1"), write_protected=True)
    site.import_all(site.make_target("a"))
    site.assign()
    with pytest.raises(Fault, match="protect") as caught:
        site.archive()
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    assert _attempts(site) == []


def test_the_end_of_a_tape_loses_nothing_and_the_next_takes_over(site: TapeSite) -> None:
    site.make_tape("T1", capacity_bytes=6 << 20)
    site.import_all(*(site.make_target(name, files=2, size_bytes=1 << 20) for name in ("a", "b", "c")))
    site.assign()
    done = site.archive_all()
    assert [one.outcome for one in done] == [Outcome.RECORDED] * 2
    assert site.tape().state is TapeState.FULL
    assert sorted(state for state, _ in _states(site)) == ["outstanding", "recorded", "recorded"]
    assert _attempts(site)[-1] == (3, AttemptResult.TRUNCATED)
    assert all(one.is_equal for one in site.confirm_all())
    with pytest.raises(Fault, match="is full: nothing more is written to it"):
        site.archive()
    site.make_tape("T2")
    site.assign()
    assert len(site.archive_all()) == 1
    assert all(one.is_equal for one in site.confirm_all())
    assert [state for state, _ in _states(site)] == ["confirmed"] * 3


def test_a_tape_without_a_capacity_refuses_at_a_block_and_no_block_is_lost(site: TapeSite) -> None:
    site.make_tape("T1")
    cartridges.change_cartridge(site.image("T1"), no_space_at_block=3)
    site.import_all(site.make_target("a", files=1, size_bytes=4 << 20))
    site.assign()
    assert site.archive().outcome is Outcome.FULL
    assert _states(site) == [("outstanding", None)]


@pytest.mark.parametrize("change", ["changed", "new", "missing"])
def test_a_source_that_drifted_is_named_and_not_recorded(site: TapeSite, change: str) -> None:
    site.make_tape("T1")
    directory = site.make_target("a")
    site.import_all(directory)
    site.assign()
    match change:
        case "changed":
            (directory / "sub" / "file1").write_bytes(b"other")
        case "new":
            (directory / "sub" / "file9").write_bytes(b"more")
        case "missing":
            (directory / "sub" / "file1").unlink()
    with pytest.raises(Fault, match=f"is not what was scanned: .*{change}.*file[19]") as caught:
        site.archive()
    assert caught.value.kind is FaultKind.DATA
    assert _states(site) == [("failed", None)]
    site.import_again(directory)
    assign.reassign(site.ledger, None, [os.fsdecode(os.fsencode(directory))], who=WHO)
    assert site.archive().outcome is Outcome.RECORDED
    assert _states(site) == [("recorded", 1)]
    assert all(one.is_equal for one in site.confirm_all())


def test_a_target_that_is_gone_fails_alone(site: TapeSite) -> None:
    site.make_tape("T1")
    gone = site.make_target("a")
    site.import_all(gone, site.make_target("b"))
    site.assign()
    shutil.rmtree(gone)
    with pytest.raises(Fault, match="is not there"):
        site.archive()
    assert site.archive().outcome is Outcome.RECORDED
    assert sorted(_states(site), key=str) == [("failed", None), ("recorded", 1)]


def test_something_unknown_behind_the_last_file_stops_everything(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.archive()
    with site.image("T1").open("ab") as stream:
        stream.write((4).to_bytes(4, "little") + b"mine" + (4).to_bytes(4, "little") + bytes(4))
    site.import_all(site.make_target("b"))
    site.assign()
    before = _sha256(site.image("T1"))
    with pytest.raises(Fault, match=r"file 2 holds something .* nothing was written") as caught:
        site.archive()
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    assert _sha256(site.image("T1")) == before
    assert site.tape().state is TapeState.SUSPECT
    with pytest.raises(Fault, match="T1: is suspect: file 2 holds something"):
        site.close()
    tapes.trust_tape(site.ledger, "T1", TapeState.CLOSED, who=WHO, reason="looked at")
    assert site.tape("T1").state is TapeState.CLOSED


def test_a_tape_that_ends_before_the_catalogue_says_is_suspect(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b"))
    site.assign()
    site.archive_all()
    image = site.image("T1").read_bytes()
    site.image("T1").write_bytes(image[: len(image) // 3])
    site.import_all(site.make_target("c"))
    site.assign()
    with pytest.raises(Fault, match="ends before file"):
        site.archive()
    assert site.tape().state is TapeState.SUSPECT


def test_a_closed_tape_is_never_written(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.archive()
    site.confirm_all()
    closed = site.close()
    assert closed.state is TapeState.CLOSED
    assert closed.catalog_file_number == 2
    before = _sha256(site.image("T1"))
    tapes.activate_tape(site.ledger, "T1", who=WHO)
    with pytest.raises(Fault, match="is closed"):
        site.assign()
    with pytest.raises(Fault, match="is closed: nothing more is written to it"):
        site.archive()
    assert _sha256(site.image("T1")) == before
    assert all(one.is_equal for one in site.confirm_all(retry=True))


def test_closing_waits_for_the_confirmation_unless_forced(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b"))
    site.assign()
    site.archive()
    with pytest.raises(Fault, match="1 targets on it are not confirmed") as caught:
        site.close()
    assert "--force" in (caught.value.next_command or "")
    assert site.close(force=True).state is TapeState.CLOSED
    assert sorted(_states(site), key=str) == [("recorded", 1), ("released", None)]
    with site.ledger.read() as connection:
        assert [Path(one.name).name for one in assign.unassigned(connection, "default")] == ["b"]


def test_a_stop_in_the_middle_leaves_the_target_to_be_written_again(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a", files=4, size_bytes=2 << 20))
    site.assign()
    stop = threading.Event()
    with session.mounted(site.ledger, site.config, site.tape(), who=WHO, write=True) as mounted:
        done = archive.archive_one(mounted, site.host, stop=stop, progress=lambda count: stop.set())
    assert done.outcome is Outcome.STOPPED
    assert _states(site) == [("assigned", None)]
    assert _attempts(site) == [(1, AttemptResult.ABORTED)]
    assert site.archive().outcome is Outcome.RECORDED
    assert _states(site) == [("recorded", 1)]
    assert all(one.is_equal for one in site.confirm_all())


def test_an_error_of_the_drive_makes_the_tape_suspect_and_the_target_waits(site: TapeSite) -> None:
    site.make_tape("T1")
    cartridges.change_cartridge(site.image("T1"), write_error_at_block=2)
    site.import_all(site.make_target("a", files=1, size_bytes=4 << 20))
    site.assign()
    with pytest.raises(Fault) as caught:
        site.archive()
    assert caught.value.kind is FaultKind.DATA
    assert site.tape().state is TapeState.SUSPECT
    assert _states(site) == [("assigned", None)]


def test_two_copies_in_two_pools(site: TapeSite) -> None:
    site.config = site.config.model_copy(update={"pools": ("onsite", "offsite")})
    site.import_all(site.make_target("a"))
    for name, pool in (("ON1", "onsite"), ("OFF1", "offsite")):
        cartridges.make_cartridge(site.image(name))
        site.insert(name)
        tapes.open_tape(site.ledger, site.config, name, who=WHO, pool=pool)
        site.assign()
        assert site.archive().outcome is Outcome.RECORDED
        assert all(one.is_equal for one in site.confirm_all())
    assert {(one.tape_name, one.state) for one in site.backups()} == {
        ("ON1", BackupState.CONFIRMED),
        ("OFF1", BackupState.CONFIRMED),
    }
    assert len(site.ledger.where_is("file0")) == 2


def test_encryption_that_a_pool_demands_is_looked_for_before_the_label(site: TapeSite) -> None:
    site.make_tape("T1")
    cartridges.change_cartridge(site.image("T1"), encryption="off")
    site.config = site.config.model_copy(update={"encryption": "required"})
    site.import_all(site.make_target("a"))
    site.assign()
    with pytest.raises(Fault, match="demands encryption, and the drive says off; nothing was written"):
        site.archive()
    assert site.image("T1").stat().st_size == 0


def test_a_drive_that_asks_for_cleaning_is_not_written_with(site: TapeSite) -> None:
    site.make_tape("T1")
    cartridges.change_cartridge(site.image("T1"), alerts=(20,))
    site.import_all(site.make_target("a"))
    site.assign()
    with pytest.raises(Fault, match="TapeAlert 20") as caught:
        site.archive()
    assert "cleaning" in (caught.value.next_command or "")
    assert site.image("T1").stat().st_size == 0


@pytest.mark.parametrize(("low_rate", "warnings"), [(1, 0), (10**15, 1)])
def test_a_source_too_slow_for_the_drive_is_a_warning(site: TapeSite, low_rate: int, warnings: int) -> None:
    site.config = site.config.model_copy(update={"low_rate": low_rate})
    site.make_tape("T1")
    site.import_all(site.make_target("a", files=1, size_bytes=site.config.buffer + (1 << 20)))
    site.assign()
    assert site.archive().outcome is Outcome.RECORDED
    with site.ledger.read() as connection:
        told = sa.select(event.c.result).where(event.c.what == "too slow for the drive")
        assert list(connection.scalars(told)) == ["warning"] * warnings


def test_another_tape_of_the_same_name_is_told_apart(site: TapeSite, tmp_path: Path) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b"))
    site.assign()
    site.archive()
    site.insert("T1")
    mine = site.image("T1").read_bytes()
    uuid = site.tape("T1").uuid or ""
    other = "0" * 8 + uuid[8:]
    site.image("T1").write_bytes(mine.replace(uuid.encode(), other.encode()))  # somebody labelled it anew
    with pytest.raises(Fault, match=rf"another tape that is called T1: its label is {other}, not {uuid}") as caught:
        site.archive()
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    assert "custody tape scan" in str(caught.value)
    assert _states(site) == [("assigned", None), ("recorded", 1)]
    site.image("T1").write_bytes(mine)
    assert site.archive().outcome is Outcome.RECORDED


def test_a_cartridge_that_is_swapped_behind_the_label_is_not_written_to(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.make_tape("T2", load=False)
    with session.mounted(site.ledger, site.config, site.tape("T1"), who=WHO, write=True) as mounted:
        with pytest.raises(Fault, match="another process has it"):
            site.insert("T2")
        (site.drive / "loaded").unlink()  # by force
        (site.drive / "loaded").symlink_to("../shelf/T2.tap")
        assert archive.archive_one(mounted, site.host).outcome is Outcome.RECORDED
    assert site.image("T2").stat().st_size == 0
    with pytest.raises(Fault, match="blank"):
        site.confirm_all("T1")
    site.insert("T1")
    assert all(one.is_equal for one in site.confirm_all("T1"))


def test_one_cartridge_is_in_one_drive(site: TapeSite) -> None:
    site.make_tape("T1")
    cartridges.make_drive(site.root / "drive1")
    (site.root / "drive1" / "loaded").symlink_to("../shelf/T1.tap")
    second = site.config.model_copy(update={"tape_device": str(site.root / "drive1")})
    with (
        session.mounted(site.ledger, site.config, site.tape("T1"), who=WHO, write=True),
        pytest.raises(Fault, match="another process has it") as caught,
        session.mounted(site.ledger, second, site.tape("T1"), who=WHO, write=True),
    ):
        pass
    assert caught.value.kind is FaultKind.CONFLICT


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENODEV, "there is no drive behind it"), (errno.EIO, "could not write")]
)
def test_a_drive_that_goes_in_the_middle_leaves_the_target_waiting(
    site: TapeSite, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b", files=4, size_bytes=2 << 20))
    site.assign()
    site.archive()
    left = iter(range(3))

    def write(self: ImageDevice, block: memoryview) -> int:
        if next(left, None) is None:
            raise OSError(number, os.strerror(number))
        return real(self, block)

    real = ImageDevice.write
    with monkeypatch.context() as unplugged:
        unplugged.setattr(ImageDevice, "write", write)
        with pytest.raises(Fault, match=said):
            site.archive()
    assert _states(site) == [("assigned", None), ("recorded", 1)]
    assert site.tape("T1").state is TapeState.SUSPECT
    with pytest.raises(Fault, match="is suspect"):
        site.archive()
    tapes.trust_tape(site.ledger, "T1", TapeState.OPEN, who=WHO, reason="the cable is in again")
    assert [one.outcome for one in site.archive_all()] == [Outcome.RECORDED]
    assert _states(site) == [("recorded", 1), ("recorded", 2)]
    assert all(one.is_equal for one in site.confirm_all())
