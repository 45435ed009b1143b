"""MANIFEST: md5sum reads it, it lists every packed file, and none that is not the packed one."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from custody.drain import markers
from custody.drain.series import SeriesState
from custody.faults import Fault, FaultKind
from drain_site import Site, warc_name
from services.need import need


def listed(disk: Site, count: int = 3) -> int:
    for serial in range(count):
        disk.write(serial)
    number = disk.one_series()
    disk.do(number, "pack")
    return number


def test_md5sum_itself_finds_the_manifest_right(disk: Site) -> None:
    series = disk.do(listed(disk), "manifest")
    argv = [need("md5sum", package="coreutils"), "--strict", "-c", "MANIFEST"]
    done = subprocess.run(argv, cwd=series.directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{warc_name(serial)}: OK" for serial in range(3)]


def test_the_format_to_the_byte(disk: Site) -> None:
    series = disk.do(listed(disk), "manifest")
    expected = "".join(f"{disk.originals[warc_name(serial)][0]}  {warc_name(serial)}\n" for serial in range(3))
    assert (series.directory / "MANIFEST").read_text() == expected


def test_our_own_manifest_knows_more(disk: Site) -> None:
    series = disk.do(listed(disk), "manifest")
    entries = json.loads((series.private / "manifest.json").read_text())
    assert [entry["name"] for entry in entries] == [warc_name(serial) for serial in range(3)]
    for entry in entries:
        found = (series.directory / entry["name"]).stat()
        assert (entry["size_bytes"], entry["mtime_ns"], entry["inode"]) == (
            found.st_size,
            found.st_mtime_ns,
            found.st_ino,
        )
        assert entry["source"] == str(disk.job_dir / entry["name"])
        assert (entry["md5"], entry["size_bytes"]) == disk.originals[entry["name"]]


def _grow(path: str) -> None:
    with open(path, "ab") as stream:
        stream.write(b"x")


def _swap(path: str) -> None:
    found = os.stat(path)
    with open(path + ".new", "wb") as stream:
        stream.write(b"x" * found.st_size)
    os.utime(path + ".new", ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(path + ".new", path)


@pytest.mark.parametrize("change", [_grow, _swap, os.unlink])
def test_a_file_that_changed_after_packing_is_never_listed(disk: Site, change: object) -> None:
    number = listed(disk)
    series = disk.load(number)
    path = series.path(series.files[1])
    change(str(path))  # type: ignore[operator]
    with pytest.raises(Fault) as refusal:
        disk.do(number, "manifest")
    assert refusal.value.kind in {FaultKind.DATA, FaultKind.CONFIG}
    assert str(path) in str(refusal.value)
    assert not (series.directory / "MANIFEST").exists()
    assert disk.load(number).state is SeriesState.PACKED
    assert disk.load(number).fault_text == str(refusal.value)


@pytest.mark.parametrize("content", ["", "x", "item 2 99999", "item three 3", "item 3 ²", "\0" * 40, "item 3 4 5"])
def test_a_count_that_is_not_the_packed_one_stops_it(disk: Site, content: str) -> None:
    number = listed(disk)
    series = disk.load(number)
    (series.directory / "PACKED").write_text(content)
    with pytest.raises(Fault) as refusal:
        disk.do(number, "manifest")
    assert refusal.value.kind is FaultKind.DATA
    assert "PACKED" in str(refusal.value)
    assert not (series.directory / "MANIFEST").exists()


def test_a_full_disk_leaves_no_part_of_a_manifest(disk: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    number = listed(disk)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Fault) as refusal:
        disk.do(number, "manifest")
    assert refusal.value.kind is FaultKind.CAPACITY
    monkeypatch.undo()
    series = disk.load(number)
    assert not (series.directory / "MANIFEST").exists()
    assert series.fault is FaultKind.CAPACITY
    assert disk.do(number, "manifest").state is SeriesState.LISTED
    assert markers.read_packed(series.directory)[1] == 3
