"""The trash: what was let go lies there for a while, and no longer."""

from __future__ import annotations

import os

import pytest

from custody.drain import trash
from custody.host import DiskUsage, LocalHost
from drain_site import WHO, Site


@pytest.fixture
def drained(site: Site) -> Site:
    """Two files, drained into the trash for an hour."""
    site.values["undo_s"] = 3600
    for serial in range(2):
        site.write(serial)
    site.do_until(site.one_series(), "delete")
    return site


def lying(site: Site) -> list[str]:
    return sorted(path.name for path in site.xfer_dir.glob("*/.custody/trash/*"))


def test_a_deleted_file_lies_in_the_trash_and_is_on_record_there(drained: Site) -> None:
    assert lying(drained) == sorted(drained.originals)
    for name in drained.originals:
        states = sorted(line.state for line in drained.ledger.where_is(name))
        assert states == ["present", "proven", "released"]


def test_it_is_emptied_when_its_time_is_over(drained: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trash.empty(drained.ledger, "wide", drained.config, who=WHO) == []
    later = os.stat(next(drained.xfer_dir.glob("*/.custody/trash/*"))).st_ctime + 3601
    monkeypatch.setattr("custody.drain.trash.time.time", lambda: later)
    gone = trash.empty(drained.ledger, "wide", drained.config, who=WHO)
    assert sorted(path.name for path in gone) == sorted(drained.originals)
    assert lying(drained) == []
    for name in drained.originals:
        assert sorted(line.state for line in drained.ledger.where_is(name)) == ["proven", "released", "released"]
    assert len(drained.events("empty trash")) == 2


def test_under_pressure_the_oldest_goes_first_and_no_more_than_needed(
    drained: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_pct = iter([99, 50])

    def usage(self: LocalHost, path: object) -> DiskUsage:
        return DiskUsage(100, 100 - next(used_pct), 100, 100)

    monkeypatch.setattr(LocalHost, "disk_usage", usage)
    oldest = min(drained.xfer_dir.glob("*/.custody/trash/*"), key=lambda path: path.lstat().st_ctime)
    assert trash.empty(drained.ledger, "wide", drained.config, who=WHO) == [oldest]
    assert len(lying(drained)) == 1
