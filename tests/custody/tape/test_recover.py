"""After a crash: what is whole on the tape is adopted, everything else is written over, and nothing counts twice."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.tape import archive, close, tables
from custody.tape.drives import cartridges
from custody.tape.outcome import Outcome
from custody.tape.states import AttemptResult, TapeState
from tape_site import TapeSite


def _in_a_child(work: Callable[[], object]) -> int:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def _results(site: TapeSite) -> list[tuple[int, str]]:
    with site.ledger.read() as connection:
        rows = connection.execute(sa.select(tables.attempt).where(tables.attempt.c.kind == "write"))
        return [(row.file_number, row.result) for row in rows]


def _prepare(site: TapeSite) -> None:
    site.config = site.config.model_copy(update={"block_size": 65536})
    site.make_tape("T1")
    site.import_all(site.make_target("a"), site.make_target("b", files=3, size_bytes=100_000))
    site.assign()
    assert site.archive().outcome is Outcome.RECORDED


def _is_well(site: TapeSite) -> None:
    assert [(str(one.state), one.file_number) for one in site.backups()] == [("recorded", 1), ("recorded", 2)]
    assert all(one.is_equal for one in site.confirm_all())
    assert site.unfinished_attempts() == []


@pytest.mark.parametrize("how", ["kill_after_block", "power_cut_after_block"])
@pytest.mark.parametrize("block", [0, 1, 3])
def test_a_writer_that_dies_leaves_a_target_to_be_written_again(site: TapeSite, how: str, block: int) -> None:
    _prepare(site)
    first = 2  # the label, and the first target's one block
    cartridges.change_cartridge(site.image("T1"), **{how: first + block})
    assert _in_a_child(site.archive) == -9
    assert {str(one.state) for one in site.backups()} == {"recorded", "writing"}
    assert site.archive().outcome is Outcome.RECORDED
    assert _results(site) == [(1, "done"), (2, AttemptResult.ABORTED), (2, "done")]
    _is_well(site)


def test_what_was_whole_when_the_crash_came_is_adopted(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepare(site)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "finish", lambda *arguments: os._exit(9))
        assert _in_a_child(site.archive) == 9
    image = site.image("T1").read_bytes()
    assert site.archive().outcome is Outcome.NO_WORK
    assert site.image("T1").read_bytes() == image
    assert _results(site) == [(1, "done"), (2, AttemptResult.ADOPTED)]
    _is_well(site)


def test_what_was_whole_and_rotted_since_is_written_again(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepare(site)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "finish", lambda *arguments: os._exit(9))
        assert _in_a_child(site.archive) == 9
    cartridges.flip_bit(site.image("T1"), block=4, offset_bytes=3000)
    assert site.archive().outcome is Outcome.RECORDED
    assert _results(site) == [(1, "done"), (2, AttemptResult.ABORTED), (2, "done")]
    _is_well(site)


def test_a_crash_and_another_cartridge_in_the_drive(site: TapeSite) -> None:
    _prepare(site)
    cartridges.change_cartridge(site.image("T1"), kill_after_block=4)
    assert _in_a_child(site.archive) == -9
    site.make_tape("T2", on_record=False)
    with pytest.raises(Fault, match="holds a blank cartridge, not tape T1") as caught:
        site.archive("T1")
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    assert site.image("T2").stat().st_size == 0
    site.insert("T1")
    assert site.archive("T1").outcome is Outcome.RECORDED
    _is_well(site)


def test_a_flipped_bit_is_named_by_the_confirmation(site: TapeSite) -> None:
    _prepare(site)
    site.archive()
    cartridges.flip_bit(site.image("T1"), block=4, offset_bytes=3000)
    first, second = site.confirm_all()
    assert first.is_equal
    assert len(second.complaints) >= 1
    assert "file" in second.complaints[0]
    assert [str(one.state) for one in site.backups()] == ["confirmed", "failed"]
    assert {line.state for line in site.ledger.where_is("file1")} >= {"lost"}
    cartridges.flip_bit(site.image("T1"), block=4, offset_bytes=3000)
    assert all(one.is_equal for one in site.confirm_all(retry=True))
    assert [str(one.state) for one in site.backups()] == ["confirmed", "confirmed"]


def test_a_first_member_that_rotted_is_named_by_the_confirmation(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.archive()
    image = site.image("T1")
    well = image.read_bytes()
    assert well.count(b'"file_number": 1,') == 1
    for before, after, said in (
        (b'"file_number": 1,', b'"file_number": 3,', "its first member says 3 instead of 1"),
        (b'"attempt": ', b'"attempt"; ', "its first member, which says what it is, cannot be understood"),
    ):
        image.write_bytes(well.replace(before, after))
        (confirmed,) = site.confirm_all(retry=True)
        assert confirmed.complaints == (said,)
    image.write_bytes(well)
    (confirmed,) = site.confirm_all(retry=True)
    assert confirmed.is_equal


def test_a_label_that_was_written_before_a_crash_is_known_again(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    cartridges.change_cartridge(site.image("T1"), kill_after_block=0)
    assert _in_a_child(site.archive) == -9
    assert site.tape().state is TapeState.NEW
    assert site.archive().outcome is Outcome.RECORDED
    assert all(one.is_equal for one in site.confirm_all())


def test_closing_that_was_cut_off_behind_its_catalogue_can_be_done_again(
    site: TapeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    _prepare(site)
    site.archive()
    site.confirm_all()
    with monkeypatch.context() as patch:
        patch.setattr(close, "release_assigned", lambda *arguments, **options: os._exit(9))
        assert _in_a_child(site.close) == 9
    assert site.tape("T1").state is TapeState.OPEN
    closed = site.close()
    assert (closed.state, closed.catalog_file_number) == (TapeState.CLOSED, 3)


def test_a_tape_is_used_on_after_closing_was_cut_off(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepare(site)
    site.archive()
    site.confirm_all()
    with monkeypatch.context() as patch:
        patch.setattr(close, "release_assigned", lambda *arguments, **options: os._exit(9))
        assert _in_a_child(site.close) == 9
    site.import_all(site.make_target("c"))
    site.assign()
    assert site.archive().outcome is Outcome.RECORDED
    assert site.tape("T1").catalog_file_number is None
    assert [one.is_equal for one in site.confirm_all()] == [True]
    assert [one.file_number for one in site.backups()] == [1, 2, 3]
    assert site.close().catalog_file_number == 4
