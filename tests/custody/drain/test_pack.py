"""Packing: what is good goes into its item whole, what is not stays or is set aside, and nothing is overwritten."""

from __future__ import annotations

import gzip
import json
import os
import time

import pytest

from custody import publish
from custody.drain import markers, plan, reserve
from custody.drain.pack import strangers
from custody.drain.series import SeriesState
from custody.faults import Fault, FaultKind
from drain_site import Site, check_nothing_lost, fixity, make_site, warc_name


def test_packed_is_one_line_in_draintasker_s_format(disk: Site) -> None:
    for serial in range(3):
        disk.write(serial)
    series = disk.do(disk.one_series(), "pack")
    assert series.state is SeriesState.PACKED
    assert (series.directory / "PACKED").read_text() == f"{series.item} 3 {series.size_bytes}\n"
    assert markers.read_packed(series.directory) == (series.item, 3, series.size_bytes)
    assert series.item == "WIDE-20260301110409387-00000-00002-crawler07"
    assert series.directory == disk.xfer_dir / series.item
    check_nothing_lost(disk)


def test_digests_come_from_the_read_that_packed(disk: Site) -> None:
    path = disk.write(1)
    known = disk.originals[path.name]
    (member,) = disk.do(disk.one_series(), "pack").files
    assert member.fixity is not None
    assert (member.fixity.digests["md5"], member.fixity.size_bytes) == known
    assert len(member.fixity.digests["sha256"]) == 64


def test_packing_keeps_the_inode_and_the_time(disk: Site) -> None:
    path = disk.write(1)
    before = path.stat()
    series = disk.do(disk.one_series(), "pack")
    after = series.path(series.files[0]).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not path.exists()


def compact_pair(site: Site) -> tuple[str, str]:
    """W1: two names that differ only in what a compact name leaves out."""
    first = warc_name(7, pid=1)
    second = warc_name(7, pid=2)
    site.write(name=first)
    site.write(name=second)
    return first, second


def test_compact_names_that_collide_keep_both_files(tmp_path: object) -> None:
    site = make_site(tmp_path, compact_names=True)  # type: ignore[arg-type]
    first, second = compact_pair(site)
    site.write(8)
    series = site.do(site.one_series(), "pack", "manifest")
    assert {member.name for member in series.files} == {first, second, "WIDE-20260301110409-00008.warc.gz"}
    assert markers.read_packed(series.directory)[1] == 3
    assert len((series.directory / "MANIFEST").read_text().splitlines()) == 3
    check_nothing_lost(site)


def test_a_full_name_may_be_the_compact_name_of_another(tmp_path: object) -> None:
    """Three names of an odd pattern, of which one is, in full, what another one is called for short."""
    site = make_site(tmp_path, compact_names=True, WARC_naming="{serial}-{timestamp}-{prefix}", mix_crawls=True)  # type: ignore[arg-type]
    names = [
        "7-20200101000000-1.warc.gz",
        "1-20200101000000-7.warc.gz",
        "1-20200101000000001-7.warc.gz",
    ]
    for name in names:
        site.write(name=name)
    series = site.do(site.one_series(), "pack", "manifest")
    assert {member.name for member in series.files} == set(names)
    check_nothing_lost(site)


def damaged(site: Site, serial: int) -> str:
    path = site.write(serial)
    content = path.read_bytes()[:-20]
    return site.write(serial, content=content).name


def test_a_damaged_file_is_set_aside_whole_with_the_reason(disk: Site) -> None:
    bad = damaged(disk, 1)
    disk.write(2)
    series = disk.do(disk.one_series(), "pack")
    assert [member.name for member in series.files] == [warc_name(2)]
    aside = disk.job_dir / "quarantine" / bad
    assert fixity(aside) == disk.originals[bad]
    reason = json.loads(aside.with_name(f"{bad}.reason.json").read_text())
    assert reason["file"] == str(disk.job_dir / bad)
    assert "cut inside" in reason["reason"]
    assert reason["found_by"] == "tests"
    (event,) = disk.events("quarantine")
    assert (event.subject, event.result) == (bad, "data")
    check_nothing_lost(disk)


def test_a_second_damaged_file_of_a_name_does_not_push_the_first_away(disk: Site) -> None:
    for _ in range(3):
        bad = damaged(disk, 1)
        disk.do(disk.plan().series_ids[-1], "pack")
    assert sorted(path.name for path in (disk.job_dir / "quarantine").iterdir()) == sorted(
        f"{bad}{number}{end}" for number in ("", ".1", ".2") for end in ("", ".reason.json")
    )


def test_a_series_of_damaged_files_is_dropped(disk: Site) -> None:
    damaged(disk, 1)
    series = disk.do(disk.one_series(), "pack", "manifest", "create_item", "upload", "prove", "delete")
    assert series.state is SeriesState.DROPPED
    assert not series.directory.exists()
    assert disk.plan().series_ids == []


def test_without_the_check_a_damaged_file_is_packed_with_its_digests(disk: Site) -> None:
    disk.values["verify_gzip"] = False
    bad = damaged(disk, 1)
    (member,) = disk.do(disk.one_series(), "pack").files
    assert member.fixity is not None
    assert member.fixity.digests["md5"] == disk.originals[bad][0]


def grow(site: Site) -> None:
    with (site.job_dir / warc_name(1)).open("ab") as stream:
        stream.write(b"more")


def replace(site: Site) -> None:
    """Other bytes of the same size, under the same name, with the same time."""
    path = site.job_dir / warc_name(1)
    found = path.stat()
    other = path.with_suffix(".other")
    other.write_bytes(b"x" * found.st_size)
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.rename(path)


def touch(site: Site) -> None:
    (site.job_dir / warc_name(1)).touch()


def remove(site: Site) -> None:
    (site.job_dir / warc_name(1)).unlink()


@pytest.mark.parametrize("change", [grow, replace, touch, remove])
def test_a_file_that_changed_since_it_was_planned_stays_where_it_is(disk: Site, change: object) -> None:
    disk.write(1)
    disk.write(2)
    number = disk.one_series()
    change(disk)  # type: ignore[operator]
    series = disk.do(number, "pack")
    assert [member.name for member in series.files] == [warc_name(2)]
    assert (disk.job_dir / warc_name(1)).exists() is (change is not remove)
    assert not (series.directory / warc_name(1)).exists()
    (event,) = disk.events("leave")
    assert event.subject == warc_name(1)


def test_a_file_that_somebody_opened_for_writing_since_stays(disk: Site) -> None:
    disk.write(1)
    number = disk.one_series()
    with (disk.job_dir / warc_name(1)).open("ab"):
        assert disk.do(number, "pack").state is SeriesState.DROPPED
    assert disk.plan().planned[0].names == (warc_name(1),)


def test_a_file_that_changes_while_it_is_read_leaves_the_series_and_stays_where_it_is(
    disk: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write(1, content=bytes(3 << 20))
    number = disk.one_series()
    from custody.drain import pack as module

    real = module.blocks

    def blocks(descriptor: int) -> object:
        for number, block in enumerate(real(descriptor)):
            if not number:
                grow(disk)
            yield block

    monkeypatch.setattr(module, "blocks", blocks)
    monkeypatch.setattr(module, "checker_for", lambda suffix: (_Anything(), _Anything()))
    assert disk.do(number, "pack").state is SeriesState.DROPPED
    (left,) = disk.events("leave")
    assert left.detail["reason"] == "grew while it was read"
    assert (disk.job_dir / warc_name(1)).exists()
    assert [path.name for path in disk.xfer_dir.iterdir()] == [reserve.NAME]


class _Anything:
    count = 1

    def feed(self, block: object) -> None: ...

    def close(self) -> None: ...


def test_a_file_that_changes_after_the_plan_to_move_it_is_left_and_the_rest_goes_on(
    disk: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for serial in range(3):
        disk.write(serial)
    number = disk.one_series()
    real = publish.RenamePlan.record

    def record(plan: publish.RenamePlan) -> None:
        real(plan)
        raise KeyboardInterrupt  # the machine goes down here

    monkeypatch.setattr(publish.RenamePlan, "record", record)
    with pytest.raises(KeyboardInterrupt):
        disk.do(number, "pack")
    monkeypatch.undo()
    grow(disk)
    disk.originals[warc_name(1)] = fixity(disk.job_dir / warc_name(1))
    series = disk.do(number, "pack", "manifest")
    assert [member.name for member in series.files] == [warc_name(0), warc_name(2)]
    assert (disk.job_dir / warc_name(1)).exists()
    check_nothing_lost(disk)
    assert warc_name(1) in [name for one in disk.plan().planned for name in one.names]


def test_a_foreign_file_in_the_item_s_directory_stops_it(disk: Site) -> None:
    path = disk.write(1)
    number = disk.one_series()
    directory = disk.load(number).directory
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(Fault) as refusal:
        disk.do(number, "pack")
    assert refusal.value.kind is FaultKind.NEEDS_HUMAN
    assert str(directory) in str(refusal.value)
    assert path.exists()
    (directory / "notes.txt").unlink()
    assert disk.do(number, "pack").state is SeriesState.PACKED


def test_another_file_of_the_same_name_in_the_item_is_never_overwritten(disk: Site) -> None:
    disk.write(1)
    number = disk.one_series()
    series = disk.load(number)
    series.private.mkdir(parents=True)
    (series.directory / warc_name(1)).write_bytes(b"somebody else's")
    with pytest.raises(Fault) as refusal:
        disk.do(number, "pack")
    assert refusal.value.kind is FaultKind.CONFLICT
    assert (series.directory / warc_name(1)).read_bytes() == b"somebody else's"
    assert fixity(disk.job_dir / warc_name(1)) == disk.originals[warc_name(1)]


def test_the_plan_of_another_series_is_not_carried_out(disk: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that both took the same item: the second must not take the first one's files for its own."""
    disk.write(1)
    disk.write(2, host="other")
    first, second = disk.plan().series_ids
    directory = disk.do(first, "pack").directory
    import sqlalchemy as sa

    from custody.drain import tables

    with disk.ledger.begin() as connection:
        values = {"item": disk.load(first).item, "directory": str(directory)}
        connection.execute(sa.update(tables.series).where(tables.series.c.id == second).values(values))
    packed = (directory / "PACKED").read_bytes()
    with pytest.raises(Fault) as refusal:
        disk.do(second, "pack")
    assert refusal.value.kind is FaultKind.NEEDS_HUMAN
    assert (directory / "PACKED").read_bytes() == packed
    assert disk.do(first, "manifest").state is SeriesState.LISTED
    check_nothing_lost(disk)


def test_arc_and_zstd_are_packed_by_their_own_checks_whatever_the_pattern_is_now(disk: Site) -> None:
    body = b"1 0 X\nURL\n"
    arc = f"filedesc://x.arc 0.0.0.0 20260301110409 text/plain {len(body)}\n".encode() + body + b"\n"
    name = warc_name(1, suffix=".arc.gz")
    disk.write(name=name, content=gzip.compress(arc))
    number = disk.one_series()
    disk.values["WARC_naming"] = "warcprox"
    disk.take_up(number)
    assert [member.name for member in disk.do(number, "pack").files] == [name]


def test_strangers_are_reported_and_left(disk: Site) -> None:
    disk.write(1)
    series = disk.do(disk.one_series(), "pack", "manifest")
    (series.directory / "core.1234").write_bytes(b"x")
    assert strangers(series) == ["core.1234"]


def test_packing_twice_is_packing_once(disk: Site) -> None:
    disk.write(1)
    number = disk.one_series()
    first = disk.do(number, "pack")
    events = len(disk.events())
    time.sleep(0.01)
    assert disk.do(number, "pack") == first
    assert len(disk.events()) == events


def test_the_plan_says_what_was_reserved(disk: Site) -> None:
    disk.write(1)
    assert plan.plan_series(disk.ledger, "wide", disk.config, who="me").planned[0].names == (warc_name(1),)
    (event,) = disk.events("plan")
    assert (event.who, event.detail["files"]) == ("me", 1)
