"""Import and assign: targets, which tape they go to, and what may be changed about that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.tape import archive, assign, report, session, tapes, targets
from custody.tape.config import Fit
from custody.tape.names import escape
from custody.tape.outcome import Outcome
from custody.tape.states import TapeState
from custody.tape.targets import read_list
from tape_site import WHO, TapeSite


def test_a_list_of_paths() -> None:
    assert read_list(b"/data//a/\n\n/data/b\r\n/data/a\n", "list") == [b"/data/a", b"/data/b"]
    assert read_list(b"/data/new\nline\0/data/\xff\0", "list") == [b"/data/new\nline", b"/data/\xff"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"/a\nb\n", "line 2: b is no absolute path"),
        (b"", "names no target"),
        (b"/\n", "names /, which is no target"),
        (b"/.custody/x\n", "names /.custody"),
    ],
)
def test_what_is_no_list(content: bytes, said: str) -> None:
    with pytest.raises(Fault, match=said):
        read_list(content, "list")


def test_a_second_import_makes_no_new_rows(site: TapeSite) -> None:
    paths = [os.fsencode(site.make_target(name)) for name in ("a", "b")]
    first = targets.import_targets(site.ledger, site.config, site.host, paths, who=WHO)
    assert (len(first.new), len(first.known), len(first.to_scan)) == (2, 0, 2)
    for target in first.to_scan:
        targets.scan_target(site.ledger, site.config, site.host, target, who=WHO)
    second = targets.import_targets(site.ledger, site.config, site.host, paths, who=WHO)
    assert (len(second.new), len(second.known), len(second.to_scan)) == (0, 2, 0)
    again = targets.import_targets(site.ledger, site.config, site.host, paths, who=WHO, rescan=True)
    assert len(again.to_scan) == 2


def test_a_target_within_a_target_goes_to_tape_once(site: TapeSite) -> None:
    site.make_tape("T1")
    parent = site.make_target("c")
    (parent / "sub[1]").mkdir()
    (parent / "sub1").mkdir()
    for name in ("sub[1]", "sub1"):
        (parent / name / "data").write_bytes(name.encode())
    site.import_all(parent, parent / "sub[1]")
    site.assign()
    assert len(site.archive_all()) == 2
    assert all(one.is_equal for one in site.confirm_all())
    places = sorted(line.place.partition("/data/")[2] for line in site.ledger.where_is("data"))
    assert places == ["c/sub1/data", "c/sub[1]/data"]


def test_a_missing_target_and_a_plain_file_are_named(site: TapeSite) -> None:
    with pytest.raises(Fault, match="data/gone"):
        site.import_all(site.data / "gone")
    assert site.backups() == []


def test_a_target_that_is_a_link_is_refused(site: TapeSite) -> None:
    link = site.data / "link"
    link.symlink_to(site.make_target("a"))
    with pytest.raises(Fault, match=r"link: is a symbolic link to .*Next: import the path it leads to"):
        site.import_all(link)


def test_tapes_are_opened_once_and_known_by_name_and_serial(site: TapeSite) -> None:
    tapes.open_tape(site.ledger, site.config, "T1", who=WHO, serial="S1")
    tapes.open_tape(site.ledger, site.config, "T2", who=WHO, serial="")
    tapes.open_tape(site.ledger, site.config, "T3", who=WHO, serial="")  # a second tape without a serial number
    for name, serial, said in (("T1", None, "name T1 is tape T1's"), ("T4", "S1", "serial S1 is tape T1's")):
        with pytest.raises(Fault, match=said) as caught:
            tapes.open_tape(site.ledger, site.config, name, who=WHO, serial=serial)
        assert caught.value.kind is FaultKind.CONFLICT
    assert site.tape().name == "T3"
    with pytest.raises(Fault, match="tape T9: is not in the catalogue; there are: T1, T2, T3"):
        tapes.activate_tape(site.ledger, "T9", who=WHO)
    assert site.tape().name == "T3"
    with pytest.raises(Fault, match="is no name of a tape"):
        tapes.open_tape(site.ledger, site.config, "../T1", who=WHO)


def test_reassign_moves_what_is_on_no_tape_and_nothing_else(site: TapeSite) -> None:
    site.make_tape("T1")
    first, second = site.make_target("a"), site.make_target("b")
    site.import_all(first, second)
    site.assign()
    site.archive()
    tapes.open_tape(site.ledger, site.config, "T2", who=WHO)
    with pytest.raises(Fault, match=f"{first}: is recorded on tape T1, file 1: it stays there"):
        assign.reassign(site.ledger, "T2", [str(first)], who=WHO)
    moved = assign.reassign(site.ledger, "T2", who=WHO)
    assert [target.name for target in moved.targets] == [str(second)]
    assert {(Path(one.target.name).name, one.tape_name) for one in site.backups()} == {("a", "T1"), ("b", "T2")}


@pytest.mark.parametrize(
    ("fit", "outcome", "state"),
    [(Fit.SKIP, Outcome.RECORDED, TapeState.OPEN), (Fit.NEXT, Outcome.FULL, TapeState.FULL)],
)
def test_a_target_that_does_not_fit_is_left_for_another_tape(
    site: TapeSite, fit: Fit, outcome: Outcome, state: TapeState
) -> None:
    site.config = site.config.model_copy(update={"fit": fit, "capacity": 2 << 20})
    site.make_tape("T1")
    site.import_all(site.make_target("a", files=1, size_bytes=5 << 20), site.make_target("b"))
    site.assign()
    if fit is Fit.NEXT:
        site.import_all(site.make_target("0", files=1, size_bytes=5 << 20))
    with session.mounted(site.ledger, site.config, site.tape(), who=WHO, write=True) as mounted:
        if fit is Fit.NEXT:
            only = [one.target.id for one in site.backups() if one.target.name.endswith("/a")]
            done = archive.archive_one(mounted, site.host, only=only)
        else:
            done = archive.archive_one(mounted, site.host)
    assert done.outcome is outcome
    assert site.tape().state is state
    if fit is Fit.SKIP:
        assert done.backup is not None
        assert done.backup.target.name.endswith("/b")


def test_a_retired_tape_no_longer_counts(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_target("a"))
    site.assign()
    site.archive()
    site.confirm_all()
    with pytest.raises(Fault, match="holds the only copy on tape of 1 targets"):
        tapes.retire_tape(site.ledger, "T1", who=WHO, reason="dropped")
    tapes.retire_tape(site.ledger, "T1", who=WHO, reason="dropped", force=True)
    assert site.tape("T1").state is TapeState.RETIRED
    site.make_tape("T2")
    site.assign()
    assert site.archive().outcome is Outcome.RECORDED


def test_what_a_full_tape_leaves_over_goes_to_the_next(site: TapeSite) -> None:
    site.make_tape("T1", capacity_bytes=6 << 20)
    site.import_all(*(site.make_target(name, files=1, size_bytes=2 << 20) for name in "abcd"))
    site.assign()
    site.archive_all()
    states = sorted(str(one.state) for one in site.backups())
    assert states == ["assigned", "outstanding", "recorded", "recorded"]
    site.make_tape("T2")
    planned = assign.assign(site.ledger, "T2", who=WHO, dry_run=True)
    done = assign.assign(site.ledger, "T2", who=WHO)
    assert [target.id for target in done.targets] == [target.id for target in planned.targets]
    assert len(done.targets) == 2
    assert len(site.archive_all("T2")) == 2
    assert sorted(one.tape_name for one in site.backups()) == ["T1", "T1", "T2", "T2"]


def test_a_target_that_no_tape_has_can_be_forgotten_and_no_other(site: TapeSite) -> None:
    site.make_tape("T1")
    kept, gone, odd = site.make_target("a"), site.data / "gone", site.make_target("with\nline")
    site.import_all(kept)
    site.assign()
    site.archive()
    site.import_all(odd)
    with pytest.raises(Fault, match=r"data/gone: is not there\. Next: check the path"):
        site.import_all(gone)
    names = [escape(os.fsencode(path)) for path in (kept, gone, odd)]
    assert report.unscanned(site.ledger) == [names[1]]
    with pytest.raises(Fault, match="a: is on the record of tape T1: that is never forgotten"):
        targets.forget_targets(site.ledger, [names[1], names[0]], who=WHO)
    assert report.unscanned(site.ledger) == [names[1]]  # all or nothing
    assert targets.forget_targets(site.ledger, names[1:], who=WHO) == 2
    assert report.unscanned(site.ledger) == []
    assert [one.targets for one in report.unassigned(site.ledger).values()] == [0]
    with pytest.raises(Fault, match="is no target"):
        targets.forget_targets(site.ledger, names[1:], who=WHO)
    site.import_all(odd)  # and it may come back
