"""Looking at a crawl disk: what may be packed, and for everything else the reason why not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from custody.drain import markers, tables
from custody.drain.plan import describe
from custody.drain.series import SeriesState, reserved_sources
from custody.drain.survey import check_disk, survey
from custody.faults import Fault, FaultKind
from drain_site import Site, make_site, tree, warc_name


def reasons(site: Site) -> dict[str, str]:
    return {leftover.name: leftover.reason for leftover in survey(site.config).leftovers}


def names(site: Site) -> list[str]:
    return [candidate.warc.name for candidate in survey(site.config).candidates]


def test_a_finished_file_is_a_candidate(disk: Site) -> None:
    path = disk.write(1)
    (candidate,) = survey(disk.config).candidates
    assert candidate.warc.name == path.name
    assert candidate.size_bytes == path.stat().st_size
    assert reasons(disk) == {}


def test_our_own_names_are_not_reported(disk: Site) -> None:
    (disk.job_dir / markers.FINISH_DRAIN).touch()
    (disk.job_dir / "quarantine").mkdir()
    assert survey(disk.config).leftovers == ()


@pytest.mark.parametrize("suffix", [".open", ".tmp", ".part", ".bad", ".lock"])
def test_a_file_in_progress_by_its_name(disk: Site, suffix: str) -> None:
    disk.write(name=warc_name(1) + suffix)
    assert names(disk) == []
    assert reasons(disk) == {warc_name(1) + suffix: "is in progress by its name"}


def _symlink(path: Path) -> None:
    target = path.parent.parent / "elsewhere.warc.gz"
    target.write_bytes(b"x")
    path.symlink_to(target)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _hard_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere.warc.gz"
    target.write_bytes(b"x" * 100)
    os.utime(target, (1, 1))
    path.hardlink_to(target)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_symlink, "symbolic link"),
        (_dangling, "symbolic link"),
        (Path.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (_hard_link, "second name"),
        (Path.touch, "is empty"),
    ],
)
def test_what_only_looks_like_a_warc(disk: Site, make: object, reason: str) -> None:
    path = disk.job_dir / warc_name(1)
    make(path)  # type: ignore[operator]
    os.utime(path, (1, 1), follow_symlinks=False)
    assert names(disk) == []
    assert reason in reasons(disk)[path.name]


@pytest.mark.parametrize(
    "name",
    [
        "WIDE 1.warc.gz",
        'WIDE"1.warc.gz',
        "WIDE'1.warc.gz",
        "WIDE\n1.warc.gz",
        "$(touch x)-20260301110409387-00001-1~h~80.warc.gz",
        "`id`.warc.gz",
        "-rf.warc.gz",
        "-20260301110409387-00001-1~h~80.warc.gz",
        b"WIDE\xff-20260301110409387-00001-1~h~80.warc.gz",
        "k\u00e4se-20260301110409387-00001-1~h~80.warc.gz",
        "\u202egz.craw-20260301110409387-00001-1~h~80.warc.gz",
        ".hidden-20260301110409387-00001-1~h~80.warc.gz",
        "p" * 190 + "-20260301110409387-00001-1~h~80.warc.gz",
    ],
)
def test_a_hostile_name_is_reported_and_left_alone(disk: Site, name: str | bytes) -> None:
    path = os.path.join(os.fsencode(disk.job_dir), os.fsencode(name))
    with open(path, "wb") as stream:
        stream.write(b"x")
    os.utime(path, (1, 1))
    assert names(disk) == []
    (leftover,) = survey(disk.config).leftovers
    assert "name" in leftover.reason
    assert leftover.name.isprintable()
    assert all(line.isprintable() for line in describe(disk.plan()))
    assert os.path.exists(path)


def test_a_name_of_another_pattern_is_listed(disk: Site) -> None:
    disk.write(name="by-hand.warc.gz")
    assert reasons(disk) == {"by-hand.warc.gz": "matches no name pattern of the configuration"}
    lines = "\n".join(describe(disk.plan()))
    assert "by-hand.warc.gz" in lines
    assert "matches no name pattern" in lines


def test_a_young_file_waits(tmp_path: Path) -> None:
    site = make_site(tmp_path, stable_for_s=60)
    site.write(1, age_s=30)
    site.write(2, age_s=61)
    site.write(3, age_s=-3600)  # a clock that went wrong is no reason to take it
    assert names(site) == [warc_name(2)]
    assert set(reasons(site).values()) == {"was written to a moment ago"}


@pytest.mark.parametrize(("mode", "busy"), [("rb", False), ("ab", True), ("r+b", True)])
def test_a_file_that_another_process_has_open(disk: Site, mode: str, busy: bool) -> None:
    path = disk.write(1)
    program = f"import sys; stream = open({str(path)!r}, {mode!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "open\n"
        assert names(disk) == ([] if busy else [path.name])
        assert reasons(disk) == ({path.name: "a program has it open for writing"} if busy else {})
        writer.stdin.close()
    assert names(disk) == [path.name]


def test_a_file_that_goes_while_we_look_is_no_error(disk: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write(1)
    real = os.scandir

    def scandir(directory: Path) -> list[os.DirEntry[str]]:
        entries = list(real(directory))
        (disk.job_dir / warc_name(1)).unlink(missing_ok=True)
        return entries

    monkeypatch.setattr(os, "scandir", scandir)
    found = survey(disk.config)
    assert found.candidates == ()


def test_a_dry_run_writes_nothing(disk: Site) -> None:
    for serial in range(3):
        disk.write(serial)
    disk.plan()
    disk.write(7)
    before, rows = (tree(disk.job_dir), tree(disk.xfer_dir)), disk.row_counts()
    planned = disk.plan(dry_run=True)
    assert [one.names for one in planned.planned] == [(warc_name(7),)]
    assert planned.planned[0].id is None
    assert planned.series_ids == list(planned.resumed) == [1]
    assert (tree(disk.job_dir), tree(disk.xfer_dir)) == before
    assert disk.row_counts() == rows


def test_a_file_is_reserved_once(disk: Site) -> None:
    disk.write(1)
    first = disk.plan()
    disk.write(2)
    second = disk.plan()
    assert [one.names for one in first.planned] == [(warc_name(1),)]
    assert [one.names for one in second.planned] == [(warc_name(2),)]
    assert second.resumed == tuple(first.series_ids)
    assert disk.plan().planned == ()


def test_two_plans_at_once_reserve_no_file_twice(disk: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write(1)
    from custody.drain import plan as module

    real = module.reserved_sources

    refused: list[Fault] = []

    def slow(*arguments: object) -> set[Path]:
        with pytest.raises(Fault) as refusal:
            disk.plan()  # another run, while this one plans
        refused.append(refusal.value)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "reserved_sources", slow)
    assert len(disk.plan().series_ids) == 1
    assert [fault.kind for fault in refused] == [FaultKind.CONFLICT]
    assert disk.row_counts()["drain_file"] == 1


def test_a_disk_with_more_files_than_a_query_takes(disk: Site) -> None:
    assert reserved_sources(disk.ledger, [Path(f"/x/{number}") for number in range(40_000)]) == set()


def test_an_item_that_is_planned_but_not_packed_is_taken(tmp_path: Path) -> None:
    """Compact names of two runs: same second, same host, and the first directory is not there yet."""
    site = make_site(tmp_path, compact_names=True)
    site.write(1)
    first = site.plan().planned[0].item
    site.write(2)
    second = site.plan().planned[0].item
    assert first == "WIDE-20260301110409-crawler07"
    assert second == "WIDE-20260301110409-1-crawler07"


def test_an_item_whose_directory_was_moved_away_is_taken(tmp_path: Path) -> None:
    site = make_site(tmp_path, compact_names=True)
    site.write(1)
    site.do(site.one_series(), "pack")
    (site.xfer_dir / "WIDE-20260301110409-crawler07").rename(tmp_path / "XFER_done")
    site.write(2)
    assert site.plan().planned[0].item == "WIDE-20260301110409-1-crawler07"


def test_the_name_of_a_dropped_series_is_free_again(disk: Site) -> None:
    disk.write(1)
    number = disk.one_series()
    (disk.job_dir / warc_name(1)).unlink()
    assert disk.do(number, "pack").state is SeriesState.DROPPED
    disk.write(1)
    assert disk.plan().planned[0].item == disk.load(number).item


def test_a_series_that_cannot_be_named_stops_no_other(disk: Site) -> None:
    disk.write(name=warc_name(1, prefix="A+B"))
    disk.write(2)
    planned = disk.plan()
    assert [one.names for one in planned.planned] == [(warc_name(2),)]
    (refused,) = planned.refused
    assert refused.kind is FaultKind.CONFIG
    assert "A+B" in str(refused)
    with disk.ledger.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.series)) == 1


def test_files_wait_for_more_until_the_crawl_is_finished(tmp_path: Path) -> None:
    site = make_site(tmp_path, max_wait_s=None)
    site.write(1)
    assert site.plan().waiting == (warc_name(1),)
    (site.job_dir / markers.FINISH_DRAIN).touch()
    assert site.plan().planned[0].names == (warc_name(1),)


def test_files_wait_no_longer_than_configured(tmp_path: Path) -> None:
    site = make_site(tmp_path, max_wait_s=1000)
    site.write(1, age_s=900)
    assert site.plan().waiting == (warc_name(1),)
    site.write(2, age_s=1100)
    assert site.plan().planned[0].names == (warc_name(1), warc_name(2))


def test_the_disk_is_checked(disk: Site) -> None:
    assert check_disk(disk.config).draining is True
    (disk.job_dir / markers.DRAINME).unlink()
    found = check_disk(disk.config)
    assert (found.draining, found.finishing) == (False, False)
    assert 0 <= found.usage.used_pct <= 100


@pytest.mark.parametrize("key", ["job_dir", "xfer_dir"])
def test_a_disk_that_is_not_mounted_is_named(tmp_path: Path, key: str) -> None:
    site = make_site(tmp_path)
    site.values[key] = str(tmp_path / "not-mounted")
    with pytest.raises(Fault) as refusal:
        check_disk(site.config)
    assert refusal.value.kind is FaultKind.CONFIG
    assert key in str(refusal.value)
    assert "not-mounted" in str(refusal.value)


def test_two_file_systems_are_refused(disk: Site) -> None:
    here = disk.job_dir.stat().st_dev
    disk.values["xfer_dir"] = next(path for path in ("/dev/shm", "/var/tmp", "/proc") if os.stat(path).st_dev != here)
    with pytest.raises(Fault, match="another file system"):
        check_disk(disk.config)


def test_the_time_of_the_survey_is_the_clock_s(disk: Site) -> None:
    disk.values["stable_for_s"] = 60
    disk.write(1, age_s=10)
    assert survey(disk.config).candidates == ()
    assert len(survey(disk.config, now_s=time.time() + 60).candidates) == 1


def test_suffix_re_is_read_as_find_reads_it(disk: Site) -> None:
    disk.values["suffix_re"] = r"\.w?arc\(\.gz\)?"
    for serial, suffix in enumerate((".warc.gz", ".warc", ".arc.gz", ".warc.zst", ".wacz")):
        disk.write(name=warc_name(serial, suffix=suffix), content=b"x")
    found = survey(disk.config)
    assert [candidate.warc.suffix for candidate in found.candidates] == [".warc.gz", ".warc", ".arc.gz"]
    assert {leftover.reason for leftover in found.leftovers} == {"matches no name pattern of the configuration"}


def test_an_open_file_nobody_writes_to_is_reported_and_left_alone(disk: Site) -> None:
    disk.values["open_warn_s"] = 3600
    disk.write(name=warc_name(1) + ".open", age_s=60)
    disk.write(name=warc_name(2) + ".open", age_s=3 * 86400)
    assert reasons(disk) == {
        warc_name(1) + ".open": "is in progress by its name",
        warc_name(2)
        + ".open": "is in progress by its name, yet nothing was written to it for 3 days: a dead crawler's?",
    }
    assert survey(disk.config).candidates == ()


def test_draintasker_still_packing_on_the_disk_is_refused(disk: Site) -> None:
    lock = disk.job_dir / "PACKED.open"
    lock.write_text(f"{os.getpid()}\n")
    with pytest.raises(Fault, match="draintasker") as refusal:
        check_disk(disk.config)
    assert refusal.value.next_command == f"end it: kill {os.getpid()}"
    lock.write_text("4194305\n")
    assert check_disk(disk.config).draining


def test_a_time_in_the_future_is_named_and_not_waited_for(disk: Site) -> None:
    ahead, soon = disk.write(1, age_s=-86400), disk.write(2, age_s=-600)
    reasons = {leftover.name: leftover for leftover in survey(disk.config).leftovers}
    assert reasons[ahead.name].reason.startswith("has a time in the future: the clock was set back?")
    assert not reasons[ahead.name].only_waits
    assert reasons[soon.name].only_waits  # two machines whose clocks differ a little
    ahead.touch()
    disk.values["stable_for_s"] = 0
    assert ahead.name in {one.warc.name for one in survey(disk.config, now_s=time.time() + 1).candidates}


def test_what_another_series_holds_is_counted(disk: Site) -> None:
    disk.write(1)
    disk.plan()
    again = disk.plan()
    assert "1 of them are held by series that were planned before" in describe(again)
