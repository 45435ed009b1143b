"""A file is never taken for its own copy, by whatever way it is reached; nor one copy for two."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from custody.drain.series import SeriesState
from custody.drain.targets.thumper import ThumperTarget
from custody.drain.witness import MARK
from custody.faults import Fault, FaultKind
from custody.host import SshHost, SshTarget
from drain_site import STEPS, WHO, Site, check_nothing_lost, make_site
from services.need import need
from services.ssh import SshServer

pytestmark = pytest.mark.service


@pytest.fixture
def thumper(sshd: SshServer) -> Callable[[Path], ThumperTarget]:
    """A directory as a second machine has it: this one, by ssh."""
    need("rsync")
    way = SshTarget(sshd.host, sshd.host_key, user=sshd.user, port=sshd.port, key_file=sshd.key_file)
    return lambda directory: ThumperTarget(SshHost(way), directory, port=sshd.port)


@pytest.fixture
def another_way(tmp_path: Path) -> Iterator[Callable[[str, Path], Path]]:
    """Another path of a directory: itself, by a link, by a mount."""
    mounts: list[Path] = []

    def make(kind: str, directory: Path) -> Path:
        if kind == "itself":
            return directory
        way = tmp_path / kind
        if kind == "link":
            way.symlink_to(directory)
            return way
        way.mkdir()
        if subprocess.run(["mount", "--bind", str(directory), str(way)], capture_output=True, check=False).returncode:
            pytest.skip("mounting takes root")
        mounts.append(way)
        return way

    yield make
    for way in mounts:
        subprocess.run(["umount", str(way)], check=True)


def _site(tmp_path: Path, remote: Path, **values: object) -> Site:
    (tmp_path / "site").mkdir()
    site = make_site(tmp_path / "site", target="thumper", bucket=None, remote_dir=str(remote), **values)
    for serial in range(2):
        site.write(serial)
    return site


def _refused(site: Site, number: int, *targets: ThumperTarget) -> Fault:
    with pytest.raises(Fault, match="by another way: what it holds is no second copy; nothing is let go") as caught:
        for step in STEPS.values():
            step(site.ledger, number, who=WHO, targets=targets)
    assert caught.value.kind is FaultKind.CONFIG
    assert site.load(number).state is SeriesState.UPLOADED
    assert "proven" not in site.copies().values()
    check_nothing_lost(site)
    assert not list(site.xfer_dir.rglob(f"{MARK}*"))
    return caught.value


@pytest.mark.parametrize("kind", ["itself", "link", "mount"])
def test_the_drained_directory_is_no_second_machine(
    kind: str, tmp_path: Path, thumper: Callable[[Path], ThumperTarget], another_way: Callable[[str, Path], Path]
) -> None:
    site = _site(tmp_path, tmp_path / "site" / "xfer")
    number = site.one_series()
    fault = _refused(site, number, thumper(another_way(kind, site.xfer_dir)))
    assert f"is {site.load(number).directory} by another way" in str(fault)


@pytest.mark.parametrize("kind", ["link", "mount"])
def test_two_destinations_in_one_directory_are_one_copy(
    kind: str, tmp_path: Path, thumper: Callable[[Path], ThumperTarget], another_way: Callable[[str, Path], Path]
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    also = [{"target": "thumper", "connection": "second", "remote_dir": str(tmp_path / kind)}]
    site = _site(tmp_path, remote, connection="first", also=also)
    _refused(site, site.one_series(), thumper(remote), thumper(another_way(kind, remote)))
    assert not list(remote.rglob(f"{MARK}*"))


def test_a_target_that_became_the_drained_directory_after_its_proof_lets_nothing_go(
    tmp_path: Path, thumper: Callable[[Path], ThumperTarget]
) -> None:
    remote, way = tmp_path / "remote", tmp_path / "way"
    remote.mkdir()
    way.symlink_to(remote)
    site = _site(tmp_path, way)
    number, target = site.one_series(), thumper(way)
    site.do_until(number, "prove", target=target)
    way.unlink()
    way.symlink_to(site.xfer_dir)
    with pytest.raises(Fault, match="by another way"):
        site.do(number, "delete", target=target)
    check_nothing_lost(site)


def test_marks_of_a_killed_process_are_swept_away(tmp_path: Path, thumper: Callable[[Path], ThumperTarget]) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    site = _site(tmp_path, remote)
    number, target = site.one_series(), thumper(remote)
    series = site.do_until(number, "upload", target=target)
    (series.directory / f"{MARK}0123456789abcdef").touch()
    assert site.do_until(number, "delete", target=target).state is SeriesState.CLEAN
    assert not [name for name in os.listdir(series.directory) if name.startswith(MARK)]
