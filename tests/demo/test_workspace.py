"""The demo cleans up after itself, and after nobody else; its last check finds every kind of loss."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from custody.drain import config as drain_config
from custody_demo import drain_chapter, drain_check
from custody_demo.drain_check import Place
from custody_demo.processes import StartError
from custody_demo.sample_disk import Fate, SampleDisk, make_sample_disk
from custody_demo.second_machine import SshServer
from custody_demo.workspace import prepare


def test_a_strange_directory_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/letter.txt").write_text("mine")
    with pytest.raises(StartError, match="not empty and not a demo's directory"):
        prepare(tmp_path, Console())
    assert (tmp_path / "store/letter.txt").read_text() == "mine"


def test_a_second_demo_starts_afresh_but_keeps_airflows_home(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    first = prepare(home, Console())
    (first.bucket / "old").write_text("old")
    (home / "ledger.sqlite").write_text("old")
    (home / "airflow").mkdir()
    (home / "airflow/airflow.db").write_text("kept")
    with pytest.raises(StartError, match="in use"):
        prepare(home, Console())
    os.close(first.lock)
    second = prepare(home, Console())
    os.close(second.lock)
    assert list(second.bucket.iterdir()) == []
    assert not (home / "ledger.sqlite").exists()
    assert (home / "airflow/airflow.db").read_text() == "kept"


MACHINE = SshServer("127.0.0.1", 2222, "crawl", Path("/key"), Path("/known_hosts"), "ssh-ed25519 AAAA")


@pytest.mark.parametrize("machine", [None, MACHINE])
def test_the_demos_configurations_are_ones_that_drain_takes(tmp_path: Path, machine: SshServer | None) -> None:
    workspace = replace(prepare(tmp_path / "demo", Console()), second_machine=machine)
    samples = drain_chapter.make_samples(workspace)
    paths = [drain_chapter.write_config(workspace, sample) for sample in samples]
    os.close(workspace.lock)
    wide, archive = (drain_config.load(str(path)) for path in paths)
    for sample, loaded in zip(samples, (wide, archive), strict=True):
        assert (loaded.job_dir, loaded.xfer_dir) == (sample.disk.job_dir, sample.disk.xfer_dir)
        assert len(loaded.destinations) == len(sample.places)
        for place in loaded.destinations:
            assert f"AIRFLOW_CONN_{place.connection_id.upper()}" in workspace.environment()
    assert [str(place.target) for place in wide.destinations] == ["s3"]
    assert [str(place.target) for place in archive.destinations] == ["ias3", *(["thumper"] if machine else [])]
    assert not {each.name for each in samples[0].disk.files} & {each.name for each in samples[1].disk.of(Fate.DRAINED)}


@pytest.fixture
def drained(tmp_path: Path) -> tuple[SampleDisk, Path, Path]:
    """A disk and two places as a faultless drain leaves them."""
    disk = make_sample_disk(tmp_path / "disk", files_per_crawl=2, file_size_bytes=20_000)
    bucket, machine = tmp_path / "bucket", tmp_path / "machine"
    (bucket / "item").mkdir(parents=True)
    for each in disk.of(Fate.DRAINED):
        shutil.move(each.path, bucket / "item" / each.name)
    for each in disk.of(Fate.CUT):
        each.path.rename(each.path.with_name(f"{each.name}.bad"))
    shutil.copytree(bucket, machine)
    return disk, bucket, machine


def _problems(drained: tuple[SampleDisk, Path, Path], *, both: bool = False) -> list[str]:
    disk, bucket, machine = drained
    places = [Place("object store", "in the object store", bucket)]
    if both:
        places.append(Place("second machine", "on the second machine", machine))
    return [found.problem for found in drain_check.look(disk, places) if found.problem]


def test_a_faultless_drain_has_no_problem(drained: tuple[SampleDisk, Path, Path]) -> None:
    assert _problems(drained) == _problems(drained, both=True) == []


def test_a_lost_file_is_found(drained: tuple[SampleDisk, Path, Path]) -> None:
    next(drained[1].rglob("*.warc.gz")).unlink()
    assert _problems(drained) == ["not in the object store with its md5, and not on the disk: LOST"]


def test_a_copy_that_is_missing_on_one_of_two_places_is_found(drained: tuple[SampleDisk, Path, Path]) -> None:
    name = drained[0].of(Fate.DRAINED)[0].name
    (drained[2] / "item" / name).unlink()
    assert _problems(drained, both=True) == ["not on the second machine with its md5, but gone from the disk"]
    (drained[1] / "item" / name).unlink()
    lost = "not in the object store and not on the second machine with its md5, and not on the disk: LOST"
    assert _problems(drained, both=True) == [lost]


def test_a_file_that_is_twice_in_one_place_is_found(drained: tuple[SampleDisk, Path, Path]) -> None:
    shutil.copytree(drained[2] / "item", drained[2] / "other")
    count = len(drained[0].of(Fate.DRAINED))
    assert _problems(drained, both=True) == ["2 times on the second machine"] * count


def test_one_flipped_bit_in_the_store_is_found(drained: tuple[SampleDisk, Path, Path]) -> None:
    path = next(drained[1].rglob("*.warc.gz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert _problems(drained) == ["not in the object store with its md5, and not on the disk: LOST"]


def test_a_file_that_was_not_deleted_is_found(drained: tuple[SampleDisk, Path, Path]) -> None:
    disk, bucket, _ = drained
    path = next(bucket.rglob("*.warc.gz"))
    shutil.copy(path, disk.xfer_dir / path.name)
    assert _problems(drained) == [f"in the object store, but still on the disk: {disk.xfer_dir / path.name}"]


@pytest.mark.parametrize("fate", [Fate.OPEN, Fate.CUT, Fate.UNMATCHED])
def test_a_file_that_should_have_stayed_is_found_in_the_store(
    drained: tuple[SampleDisk, Path, Path], fate: Fate
) -> None:
    disk, bucket, _ = drained
    each = disk.of(fate)[0]
    here = each.path if each.path.exists() else each.path.with_name(f"{each.name}.bad")
    shutil.move(here, bucket / "item" / each.name)
    assert _problems(drained) == [f"should have stayed, but is in the object store: {bucket / 'item' / each.name}"]


def test_a_cut_file_that_was_not_put_aside_and_an_open_one_that_was_moved_are_found(
    drained: tuple[SampleDisk, Path, Path],
) -> None:
    disk, _, _ = drained
    cut, opened = disk.of(Fate.CUT)[0], disk.of(Fate.OPEN)[0]
    cut.path.with_name(f"{cut.name}.bad").rename(cut.path)
    opened.path.rename(disk.xfer_dir / opened.name)
    assert sorted(_problems(drained)) == sorted(
        [f"not put aside: {cut.path}", f"should not have been touched, but is now {disk.xfer_dir / opened.name}"]
    )
