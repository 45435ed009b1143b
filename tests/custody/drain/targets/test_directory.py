"""A second disk of this machine as a target, with a real file system of its own; and what can be wrong with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from custody.drain.config import parse
from custody.drain.series import SeriesState
from custody.drain.targets.directory import MARKER, DirectoryTarget
from custody.faults import Fault, FaultKind
from custody.ledger.store import disk_place
from custody_airflow.hooks.drain import targets_of
from drain_site import Site, check_nothing_lost, fixity, make_site
from services.need import need
from small_disk import mounted


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, made a target."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    with mounted(directory, "size=8m"):
        (directory / MARKER).touch()
        yield directory


@pytest.fixture
def site(tmp_path: Path, elsewhere: Path) -> Site:
    return make_site(tmp_path, target="directory", remote_dir=str(elsewhere), bucket=None)


@pytest.fixture
def target(site: Site) -> DirectoryTarget:
    """As a configuration makes it."""
    (made,) = targets_of(site.config)
    assert isinstance(made, DirectoryTarget)
    return made


def created(site: Site, target: DirectoryTarget) -> int:
    site.write()
    number = site.one_series()
    site.do_until(number, "create_item", target=target)
    return number


def test_a_series_goes_the_whole_way(site: Site, target: DirectoryTarget, elsewhere: Path) -> None:
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    series = site.do_until(number, "delete", target=target)
    assert series.state is SeriesState.CLEAN
    for member in series.files:
        stored = elsewhere / series.item / member.name
        assert fixity(stored) == site.originals[member.name]
        assert stored.stat().st_mtime_ns == member.state.mtime_ns
        assert site.copies()[disk_place(stored)] == "proven"
        assert not series.path(member).exists()
    assert (elsewhere / series.item / "MANIFEST.txt").read_bytes() == (series.directory / "MANIFEST").read_bytes()
    assert sorted(path.name for path in (elsewhere / series.item).iterdir() if path.name.startswith(".")) == []


def test_a_disk_that_is_not_mounted_gets_nothing(site: Site, target: DirectoryTarget, elsewhere: Path) -> None:
    number = created(site, target)
    (elsewhere / MARKER).unlink()
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(Fault, match="holds no CUSTODY_TARGET: its disk is not mounted") as refused:
        site.do(number, "upload", target=target)
    assert refused.value.kind is FaultKind.CONFIG
    assert refused.value.next_command == f"touch {elsewhere}/{MARKER} (once, when the right disk is mounted there)"
    assert sorted(elsewhere.rglob("*")) == before
    check_nothing_lost(site)
    (elsewhere / MARKER).touch()
    assert site.do_until(number, "delete", target=target).state is SeriesState.CLEAN


def test_a_copy_that_is_gone_or_rotten_before_deletion_keeps_the_file(
    site: Site, target: DirectoryTarget, elsewhere: Path
) -> None:
    number = created(site, target)
    series = site.do_until(number, "prove", target=target)
    stored = elsewhere / series.item / series.files[0].name
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    os.utime(stored, ns=(series.files[0].state.mtime_ns,) * 2)
    with pytest.raises(Fault, match="its keeper's record is now different against the manifest"):
        site.do(number, "delete", target=target)
    stored.unlink()
    with pytest.raises(Fault, match="its keeper does not list it now"):
        site.do(number, "delete", target=target)
    check_nothing_lost(site)
    site.take_up(number)
    assert site.do_until(number, "delete", target=target).state is SeriesState.CLEAN
    assert fixity(stored) == site.originals[series.files[0].name]


def test_nothing_is_written_over(site: Site, target: DirectoryTarget, elsewhere: Path) -> None:
    number = created(site, target)
    series = site.load(number)
    foreign = elsewhere / series.item / series.files[0].name
    foreign.write_bytes(b"somebody else's")
    with pytest.raises(Fault, match="other bytes are there already"):
        site.do(number, "upload", target=target)
    assert foreign.read_bytes() == b"somebody else's"
    foreign.unlink()
    foreign.symlink_to(elsewhere / "nowhere")
    with pytest.raises(Fault, match="is no regular file"):
        site.do(number, "upload", target=target)
    check_nothing_lost(site)


def test_an_item_of_somebody_else_is_refused(site: Site, target: DirectoryTarget, elsewhere: Path) -> None:
    site.write()
    number = site.one_series()
    series = site.do_until(number, "manifest", target=target)
    (elsewhere / series.item).mkdir()
    (elsewhere / series.item / "MANIFEST.txt").write_text("another crawl's")
    with pytest.raises(Fault, match="other bytes are there already") as refused:
        site.do(number, "create_item", target=target)
    assert refused.value.kind is FaultKind.NEEDS_HUMAN
    assert (elsewhere / series.item / "MANIFEST.txt").read_text() == "another crawl's"


def test_bytes_that_rotted_here_get_no_name_there(site: Site, target: DirectoryTarget, elsewhere: Path) -> None:
    number = created(site, target)
    series = site.load(number)
    path, state = series.path(series.files[0]), series.files[0].state
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.mtime_ns, state.mtime_ns))
    with pytest.raises(Fault, match="its bytes changed on disk") as refused:
        site.do(number, "upload", target=target)
    assert refused.value.kind is FaultKind.DATA
    assert [path.name for path in (elsewhere / series.item).iterdir()] == ["MANIFEST.txt"]


def test_the_drained_disk_is_no_second_disk(tmp_path: Path) -> None:
    same = tmp_path / "same"
    same.mkdir()
    (same / MARKER).touch()
    site = make_site(tmp_path, target="directory", remote_dir=str(same), bucket=None)
    (target,) = targets_of(site.config)
    with pytest.raises(Fault, match="is on the disk that is drained"):
        target.look("any", ["name"])


def bound(source: Path, onto: Path) -> AbstractContextManager[None]:
    """A file or directory under a second name that is no link."""

    @contextmanager
    def bind() -> Iterator[None]:
        subprocess.run([need("mount"), "--bind", str(source), str(onto)], check=True)
        try:
            yield
        finally:
            subprocess.run([need("umount"), "-l", str(onto)], check=True)

    return bind()


@pytest.mark.parametrize("by", ["symbolic link", "mount", "mount of the item", "mount of the file"])
def test_no_file_is_its_own_proof(site: Site, target: DirectoryTarget, elsewhere: Path, by: str) -> None:
    number = created(site, target)
    series = site.load(number)
    (site.xfer_dir / MARKER).touch()
    there = elsewhere / series.item
    with ExitStack() as mounts:
        if by == "symbolic link":
            (site.root / "link").symlink_to(site.xfer_dir)
            site.values["remote_dir"] = str(site.root / "link")
        elif by == "mount":
            mounts.enter_context(bound(site.xfer_dir, elsewhere))
        elif by == "mount of the item":
            mounts.enter_context(bound(series.directory, there))
        else:
            (there / series.files[0].name).touch()
            mounts.enter_context(bound(series.path(series.files[0]), there / series.files[0].name))
        site.take_up(number)
        (made,) = targets_of(site.config)
        with pytest.raises(Fault, match="is on the disk that is drained") as refused:
            site.do(number, "upload", target=made)
        assert refused.value.kind is FaultKind.CONFIG
        with pytest.raises(Fault, match="is on the disk that is drained"):
            made.read_back(series.item, series.files[0].name)
    check_nothing_lost(site)


@pytest.mark.parametrize("inside", ["job", "xfer/items", "."])
def test_a_drained_directory_is_no_target(tmp_path: Path, inside: str) -> None:
    site = make_site(tmp_path, target="directory", remote_dir=str(tmp_path / inside), bucket=None)
    with pytest.raises(Fault, match="lies in a directory that is drained, or around one"):
        parse(site.values, "the test")


def test_a_full_disk_over_there_is_a_matter_of_capacity_and_is_not_left_full(tmp_path: Path, site: Site) -> None:
    small = tmp_path / "small"
    small.mkdir()
    site.values["remote_dir"] = str(small)
    with mounted(small, "size=256k"):
        (small / MARKER).touch()
        (target,) = targets_of(site.config)
        site.write(size_bytes=600_000)
        number = site.one_series()
        with pytest.raises(Fault, match="No space left on device") as full:
            site.do_until(number, "upload", target=target)
        assert full.value.kind is FaultKind.CAPACITY
        assert [path.name for path in (small / site.load(number).item).iterdir()] == ["MANIFEST.txt"]
        check_nothing_lost(site)
