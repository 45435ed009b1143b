"""A disk without a free byte is what a drain is for: it is drained, or it says what is in the way and loses nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody.drain import reserve
from custody.drain.delete import delete_proven
from custody.drain.series import SeriesState
from custody.faults import Fault, FaultKind
from drain_site import STEPS, WHO, Site, Store, check_is_clean, check_nothing_lost, make_site
from services.need import need
from small_disk import fill, mounted


@pytest.fixture
def small(tmp_path: Path, store: Store) -> Iterator[Site]:
    """A crawl disk of 12 MB with two files on it; the ledger lies elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "size=12m"):
        site = make_site(disk, store)
        shutil.move(disk / "ledger.sqlite", tmp_path / "ledger.sqlite")
        site.url = f"sqlite:///{tmp_path}/ledger.sqlite"
        for serial in range(2):
            site.write(serial, size_bytes=100_000)
        yield site


def test_a_full_disk_is_drained_with_the_room_that_was_kept_for_it(small: Site) -> None:
    number = small.one_series()
    kept = small.xfer_dir / reserve.NAME
    assert kept.stat().st_blocks * 512 >= kept.stat().st_size == (12 << 20) // reserve.SHARE
    filler = fill(small.root)
    small.do_until(number, "delete")
    check_is_clean(small, [number])
    assert not kept.exists()
    filler.unlink()
    small.plan()
    assert kept.exists()


def test_without_that_room_every_step_says_so_and_goes_on_when_there_is_some(small: Site) -> None:
    number = small.one_series()
    (small.xfer_dir / reserve.NAME).unlink()
    for step in STEPS:
        filler = fill(small.root)
        if step != "delete":
            with pytest.raises(Fault, match="No space left on device") as full:
                small.do(number, step)
            assert full.value.kind is FaultKind.CAPACITY
            check_nothing_lost(small)
            filler.unlink()
        small.do(number, step)  # and what frees the disk does not wait for room on it
    check_is_clean(small, [number])


def test_a_deletion_that_could_not_be_noted_on_the_disk_is_understood_after_a_crash(
    small: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = small.one_series()
    small.do_until(number, "prove")
    (small.xfer_dir / reserve.NAME).unlink()
    fill(small.root)

    def die(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("custody.drain.delete._release", die)  # after the file is gone, before that is on record
        small.do(number, "delete")
    assert len(small.on_disk()) == 1
    assert delete_proven(small.ledger, number, who=WHO, targets=[small.target]).state is SeriesState.CLEAN
    assert (len(small.events("deleted")), small.events("missing")) == (2, [])


def test_a_full_target_does_not_cost_the_reserve(small: Site) -> None:
    number = small.one_series()
    small.do_until(number, "create_item")
    target = small.target

    def refuse(*_arguments: object) -> None:
        raise Fault(FaultKind.CAPACITY, "s3://archive", "the server refused it: 507")

    target.put = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(Fault, match="507"):
        small.do(number, "upload", target=target)
    assert (small.xfer_dir / reserve.NAME).exists()


def test_a_disk_that_cannot_be_written_keeps_everything_and_is_named(small: Site) -> None:
    number = small.one_series()
    for step in STEPS:
        remount = [need("mount"), "-o", "remount,ro", str(small.root)]
        subprocess.run(remount, check=True)
        try:
            with pytest.raises(Fault, match="Read-only file system") as refused:
                small.do(number, step)
            assert refused.value.kind is FaultKind.CONFIG
            check_nothing_lost(small)
        finally:
            subprocess.run([*remount[:2], "remount,rw", remount[3]], check=True)
        small.do(number, step)
    check_is_clean(small, [number])
