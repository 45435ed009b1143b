"""A tape survives a kill at every system call of archive, confirm and close: one row, one file number, all there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.harness import ALL_POINTS, SYSCALLS, DeletedWithoutProof, enumerate_crash_points
from custody.tape.states import TapeState
from empty_ledger import new_ledger
from tape_site import TapeSite, make_site

pytestmark = [pytest.mark.crash, pytest.mark.service]

POINTS = 14  # of a step, spread over the whole of it


@dataclass(frozen=True)
class Case:
    """A step, and what was done before it."""

    before: Callable[[TapeSite], object]
    step: Callable[[TapeSite], object]
    ends_as: TapeState


def archive_first(site: TapeSite) -> None:
    site.archive()


def archive_and_confirm(site: TapeSite) -> None:
    site.archive_all()
    site.confirm_all()


CASES = {
    "first archive": Case(lambda site: None, TapeSite.archive, TapeState.OPEN),
    "next archive": Case(archive_first, TapeSite.archive, TapeState.OPEN),
    "confirm": Case(TapeSite.archive_all, TapeSite.confirm_all, TapeState.OPEN),
    "close": Case(archive_and_confirm, lambda site: site.close("T1"), TapeState.CLOSED),
}


def nothing_recorded_is_missing(site: TapeSite) -> None:
    """What the catalogue calls recorded or confirmed is on the tape; the source is never touched."""
    on_tape = [one for one in site.backups() if one.state.is_on_tape]
    numbers = Counter(one.file_number for one in on_tape)
    if any(count > 1 for count in numbers.values()):
        raise DeletedWithoutProof(f"two targets at one file number: {numbers}")
    for one in site.read_back("T1"):
        if not one.is_equal:
            raise DeletedWithoutProof(f"{one.backup.target.name}: {one.complaints}")


def everything_is_there_once(site: TapeSite, ends_as: TapeState) -> None:
    """After the rest of the path: every target confirmed once, at consecutive file numbers."""
    if site.tape("T1").state is not TapeState.CLOSED:
        site.archive_all("T1")
        site.confirm_all("T1")
    assert [(str(one.state), one.file_number) for one in site.backups()] == [("confirmed", 1), ("confirmed", 2)]
    nothing_recorded_is_missing(site)
    assert site.tape("T1").state is ends_as
    assert site.unfinished_attempts() == []


@pytest.mark.timeout(0 if ALL_POINTS else 600)
@pytest.mark.parametrize("name", CASES)
def test_every_crash_point_of(name: str, tmp_path: Path) -> None:
    case = CASES[name]

    def prepare(directory: Path) -> TapeSite:
        directory.mkdir(exist_ok=True)
        site = make_site(directory, new_ledger(f"sqlite:///{directory}/ledger.sqlite"), block_size="64KiB")
        site.config = site.config.model_copy(update={"scan": False})
        site.make_tape("T1")
        site.import_all(site.make_target("a", files=2, size_bytes=100_000), site.make_target("b"))
        site.assign()
        case.before(site)
        return site

    new_ledger(f"sqlite:///{tmp_path}/warm.sqlite").close()  # made once, here, and copied by every child
    report = enumerate_crash_points(
        prepare,
        case.step,
        lambda site: everything_is_there_once(site, case.ends_as),
        check_after_kill=nothing_recorded_is_missing,
        syscalls=(*SYSCALLS, "writev", "pwritev"),
        at_most=POINTS,
        name=f"tape {name}",
    )
    assert report.losses == ()
    assert report.unproven_deletions == 0
    assert report.killed > 0
