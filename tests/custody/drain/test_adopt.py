"""Directories that are not on record: draintasker's in every state, and our own after the ledger was lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from custody.drain import markers
from custody.drain.adopt import adopt, strange_directories
from custody.drain.series import SeriesState
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from drain_site import WHO, Site, check_is_clean, check_nothing_lost, warc_name

ITEM = "WIDE-20260301110409387-00000-00002-crawler07"
LEGACY_STATES: dict[str, dict[str, str]] = {
    "mv failed midway": {},
    "packed": {"PACKED": "{item} 3 9000\n"},
    "hashing was killed": {"PACKED": "{item} 3 9000\n", "MANIFEST.open": "{md5s}"},
    "hashed": {"PACKED": "{item} 3 9000\n", "MANIFEST": "{md5s}"},
    "upload was killed": {"PACKED": "", "MANIFEST": "{md5s}", "BUCKET_OK": "{item}\n", "LAUNCH.open": "log\n"},
    "waits for a retry": {"PACKED": "", "MANIFEST": "{md5s}", "RETRY": "4102444800\n", "LAUNCH.open": "", "TASK": "x"},
    "stopped by an error": {"PACKED": "", "MANIFEST": "{md5s}", "ERROR": "Bad ETag\n", "LAUNCH.open": "", "TASK": "x"},
    "empty manifest": {"PACKED": "", "MANIFEST": "", "LAUNCH.open": ""},
    "claims success, nothing is stored": {"PACKED": "", "MANIFEST": "{md5s}", "SUCCESS": "x\n", "TOMBSTONE": "x\n"},
    "cleaning failed": {"PACKED": "", "MANIFEST": "{md5s}", "SUCCESS": "x\n", "CLEAN.err": "x\n"},
    "md5sum was off": {"PACKED": "", "MANIFEST": "{dashes}"},
}


def legacy(site: Site, state: dict[str, str], names: tuple[int, ...] = (0, 1, 2)) -> Path:
    """A directory as draintasker left it."""
    directory = site.xfer_dir / ITEM
    directory.mkdir()
    for serial in names:
        site.write(serial).rename(directory / warc_name(serial))
    md5s = "".join(f"{md5}  {name}\n" for name, (md5, _) in sorted(site.originals.items()))
    dashes = "".join(f"-  {name}\n" for name in sorted(site.originals))
    for marker, content in state.items():
        (directory / marker).write_text(content.format(item=ITEM, md5s=md5s, dashes=dashes))
    return directory


@pytest.mark.parametrize("state", LEGACY_STATES)
def test_a_tree_of_draintasker_is_taken_over_and_finished(site: Site, state: str) -> None:
    legacy(site, LEGACY_STATES[state])
    planned = site.plan()
    (taken,) = planned.adopted
    assert (taken.item, taken.files) == (ITEM, 3)
    (number,) = planned.series_ids
    assert site.load(number).state is SeriesState.PLANNED
    site.do_until(number, "delete")
    check_is_clean(site, [number])
    assert site.plan().series_ids == []


def test_a_tombstone_of_another_program_is_no_reason_to_delete(site: Site) -> None:
    directory = legacy(site, LEGACY_STATES["claims success, nothing is stored"])
    for name in site.originals:
        (directory / f"{name}.tombstone").write_text(f"http://www.archive.org/download/{ITEM}/{name}\n")
    (number,) = site.plan().series_ids
    with pytest.raises(Fault) as refused:
        site.do(number, "delete")
    assert refused.value.kind is FaultKind.NEEDS_HUMAN
    check_nothing_lost(site)


def test_a_file_that_is_not_what_its_manifest_says_stops_the_series(site: Site) -> None:
    directory = legacy(site, LEGACY_STATES["hashed"])
    path = directory / warc_name(1)
    site.write(7, name="other.warc.gz").replace(path)
    (number,) = site.plan().series_ids
    with pytest.raises(Fault, match="is not what the MANIFEST beside it says") as stopped:
        site.do(number, "pack")
    assert stopped.value.kind is FaultKind.DATA
    assert path.exists()


def test_a_file_beside_a_short_manifest_is_sent_too_and_reported(site: Site) -> None:
    directory = legacy(site, LEGACY_STATES["hashed"], names=(0, 1))
    short = (directory / "MANIFEST").read_text().splitlines()[0]
    (directory / "MANIFEST").write_text(short + "\n")
    (number,) = site.plan().series_ids
    site.do_until(number, "delete")
    check_is_clean(site, [number])
    assert site.events("adopt")[0].detail["not_in_manifest"] == [warc_name(1)]


def test_a_cleaned_tree_is_only_put_on_record(site: Site) -> None:
    legacy(site, {"PACKED": "", "MANIFEST": "", "SUCCESS": "x", "CLEAN": "x"}, names=())
    planned = site.plan()
    assert planned.series_ids == []
    assert [one.state for one in planned.adopted] == [SeriesState.CLEAN]
    assert site.plan().adopted == ()


def test_other_directories_are_left_alone(site: Site) -> None:
    for name in ("lost+found", ".Trash", "notes"):
        (site.xfer_dir / name).mkdir()
    (site.xfer_dir / "link").symlink_to(site.job_dir)
    assert strange_directories(site.ledger, site.config) == []


@pytest.mark.parametrize("last", ["plan", "pack", "manifest", "create_item", "upload", "prove", "delete"])
def test_a_lost_ledger_is_made_again_from_what_lies_beside_the_data(site: Site, last: str) -> None:
    for serial in range(3):
        site.write(serial)
    number = site.one_series()
    if last != "plan":
        site.do_until(number, last)
    known = {name: site.ledger.where_is(name) for name in site.originals}
    site.ledger.close()
    Path(site.root / "ledger.sqlite").unlink()
    Ledger.upgrade(site.url)

    planned = site.plan()
    if last == "delete":
        assert planned.series_ids == []
        (again,) = [one.series_id for one in planned.adopted]
        for name, before in known.items():
            found = {(line.place, line.state, line.identity) for line in site.ledger.where_is(name)}
            assert found == {(line.place, line.state, line.identity) for line in before}
    else:
        (again,) = planned.series_ids
        site.do_until(again, "delete")
    check_is_clean(site, [again])


def test_adopting_twice_finds_nothing_the_second_time(site: Site) -> None:
    legacy(site, LEGACY_STATES["packed"])
    assert len(adopt(site.ledger, "wide", site.config, who=WHO)) == 1
    assert adopt(site.ledger, "wide", site.config, who=WHO) == []
    assert (site.xfer_dir / ITEM / markers.PRIVATE).is_dir()
