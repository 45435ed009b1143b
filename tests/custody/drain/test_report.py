"""Where a drain stands, and when a crawl may be called drained."""

from __future__ import annotations

import pytest

from custody.drain import markers
from custody.drain.report import finish_crawl, list_series, quarantined, stuck, totals
from custody.drain.series import SeriesState
from custody.faults import Fault
from drain_site import Site, warc_name


def test_a_crawl_is_drained_when_nothing_is_left(disk: Site) -> None:
    disk.values["clear_finish_drain"] = True
    flag = disk.job_dir / markers.FINISH_DRAIN
    flag.touch()
    disk.write(1)
    finish = finish_crawl(disk.ledger, "wide", disk.config)
    assert (finish.is_drained, finish.left_files, finish.flag_cleared) == (False, 1, False)
    disk.plan()
    assert finish_crawl(disk.ledger, "wide", disk.config).left_series == 1
    (disk.job_dir / warc_name(1)).unlink()
    disk.do(1, "pack")
    finish = finish_crawl(disk.ledger, "wide", disk.config)
    assert (finish.is_drained, finish.flag_cleared) == (True, True)
    assert not flag.exists()


@pytest.mark.parametrize("how", ["young", "open for writing"])
def test_a_file_that_only_rests_is_left_too(disk: Site, how: str) -> None:
    disk.values |= {"clear_finish_drain": True, "stable_for_s": 60}
    flag = disk.job_dir / markers.FINISH_DRAIN
    flag.touch()
    path = disk.write(1, age_s=0 if how == "young" else 600)
    with path.open("ab" if how != "young" else "rb"):
        finish = finish_crawl(disk.ledger, "wide", disk.config)
    assert not finish.is_drained
    assert not finish.flag_cleared
    assert flag.exists()


def test_lines_totals_and_what_is_stuck(disk: Site) -> None:
    for serial in range(3):
        disk.write(serial)
    number = disk.one_series()
    series = disk.do(number, "pack")
    (series.directory / "PACKED").write_text("x")
    with pytest.raises(Fault) as refusal:
        disk.do(number, "manifest")
    (line,) = list_series(disk.ledger, "wide")
    assert (line.item, line.state, line.files, line.size_bytes) == (
        series.item,
        SeriesState.PACKED,
        3,
        series.size_bytes,
    )
    assert line.fault == str(refusal.value)
    assert stuck([line]) == [line] == list_series(disk.ledger, stuck_only=True)
    assert totals(disk.ledger)["packed"] == (1, 3, series.size_bytes)
    assert list_series(disk.ledger, "narrow") == []


def test_quarantined_files_are_listed_without_their_reasons(disk: Site) -> None:
    path = disk.write(1)
    disk.write(1, content=path.read_bytes()[:-9])
    disk.do(disk.one_series(), "pack")
    assert quarantined(disk.config) == [disk.job_dir / "quarantine" / warc_name(1)]
