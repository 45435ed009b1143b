"""People's own tools on the embedded drive: what Custody writes they read, and the other way round."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from custody.tape.drives import EndOfData, ImageDrive
from custody.tape.drives.cartridges import change_cartridge
from custody.tape.drives.changer import unload
from services.need import need

ROOT = Path(__file__).parents[4]
BLOCK = 1 << 20

pytestmark = pytest.mark.service


def tar_of(members: dict[str, bytes]) -> bytes:
    """An archive as Python writes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_tape_file(drive: ImageDrive, archive: bytes) -> None:
    for at in range(0, len(archive), BLOCK):
        drive.write_block(archive[at : at + BLOCK])
    drive.write_filemarks()


def read_tape_file(drive: ImageDrive) -> bytes:
    buffer = memoryview(bytearray(BLOCK))
    found = b""
    while length := drive.read_block(buffer):
        found += buffer[:length]
    return found


def position(shimmed, mt: str = "mt-st") -> tuple[int, int]:
    said = shimmed.must(mt, "-f", shimmed.node, "status").decode()
    found = re.search(r"File number=(-?\d+), block number=(-?\d+)", said)
    found = found or re.search(r"file number = (-?\d+)\nblock number = (-?\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])


def test_the_conformance_suite_runs_on_the_st_drive_over_the_shim(shimmed) -> None:
    """The same tests, in a process to which the node is a character device with major 9 and minor 128."""
    environment = shimmed.environment | {
        "CUSTODY_TAPE_RIG": "shim",
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("include", "tests")),
    }
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest"]
    argv += [f"--basetemp={shimmed.drive.parent / 'base'}", str(Path(__file__).with_name("test_conformance.py"))]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    last = done.stdout.strip().splitlines()[-1]
    found = re.match(r"(\d+) passed in", last)
    assert found and int(found[1]) >= 45, last


def test_a_label_and_two_archives_are_listed_and_extracted_with_mt_dd_and_tar(shimmed, tmp_path: Path) -> None:
    need("mt-st")
    small, large = {"a/1": b"one", "a/2": os.urandom(5000)}, {"b": os.urandom(1_300_000)}
    with ImageDrive(str(shimmed.drive), writable=True) as drive:
        write_tape_file(drive, tar_of({".custody/label.json": b'{"volume": "T1"}'}))
        write_tape_file(drive, tar_of(small))
        write_tape_file(drive, tar_of(large))
    node = shimmed.node
    shimmed.must("mt-st", "-f", node, "rewind")
    assert shimmed.must("tar", "-b", "2048", "-xOf", node, ".custody/label.json") == b'{"volume": "T1"}'
    shimmed.must("mt-st", "-f", node, "asf", "1")
    assert shimmed.must("tar", "-b", "2048", "-tf", node).decode().split() == ["a/1", "a/2"]
    shimmed.must("mt-st", "-f", node, "asf", "2")
    done = shimmed.shell(f"dd if=$T bs=1M status=none | tar -C {tmp_path} -xf -")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b").read_bytes() == large["b"]
    assert position(shimmed) == (3, 0)
    shimmed.must("mt-st", "-f", node, "bsfm", "2")
    assert position(shimmed) == (2, 0)


def test_what_tar_dd_and_a_shell_write_is_read_by_the_drive(shimmed) -> None:
    source = shimmed.drive.parent / "source"
    source.mkdir()
    (source / "x").write_bytes(os.urandom(300_000))
    done = shimmed.shell(
        f"set -e; tar -C {source} -c x >$T; tar -C {source} -b 512 -cf $T x;"
        f" tar -C {source} -c x | dd of=$T bs=256k iflag=fullblock status=none"
    )
    assert done.returncode == 0, done.stderr
    assert position(shimmed) == (3, 0)
    with ImageDrive(str(shimmed.drive)) as drive:
        assert drive.status().file_number == 3
        drive.rewind()
        for _ in range(3):
            with tarfile.open(fileobj=io.BytesIO(read_tape_file(drive))) as archive:
                member = archive.extractfile("x")
                assert member is not None and member.read() == (source / "x").read_bytes()
        with pytest.raises(EndOfData):
            read_tape_file(drive)
    assert not shimmed.node.exists(), "nobody wrote a plain file"


def test_both_kinds_of_mt_tell_the_same_position(shimmed) -> None:
    need("mt-gnu", package="cpio")
    shimmed.must("dd", f"of={shimmed.node}", "bs=1000", "iflag=fullblock", stdin=bytes(1000))
    assert position(shimmed, "mt-st") == position(shimmed, "mt-gnu") == (1, 0)
    assert b"EOF ONLINE IM_REP_EN" in shimmed.must("mt-st", "-f", shimmed.node, "status")


def test_dd_at_the_end_of_a_tape(shimmed) -> None:
    done = shimmed.run("dd", f"of={shimmed.node}", "bs=64k", "iflag=fullblock", stdin=bytes(3_000_000))
    assert done.returncode == 1 and b"No space left on device" in done.stderr
    assert position(shimmed) == (1, 0), "the mark at close found room"


def test_dd_with_too_small_a_block(shimmed) -> None:
    shimmed.must("dd", f"of={shimmed.node}", "bs=64k", "iflag=fullblock", stdin=bytes(65536))
    shimmed.must("mt-st", "-f", shimmed.node, "rewind")
    done = shimmed.run("dd", f"if={shimmed.node}", "bs=4k", "count=1")
    assert done.returncode == 1 and b"Cannot allocate memory" in done.stderr


def test_a_shell_that_holds_the_drive_keeps_others_out(shimmed) -> None:
    done = shimmed.shell("exec 9<$T; mt-st -f $T status")
    assert done.returncode and b"Device or resource busy" in done.stderr
    holder = shimmed.shell("exec 9<$T; exec sleep 60 <&- >&- 2>&- & echo $!")
    pid = int(holder.stdout)
    try:
        from custody.faults import Fault, FaultKind

        with pytest.raises(Fault) as caught:
            ImageDrive(str(shimmed.drive))
        assert caught.value.kind is FaultKind.CONFLICT
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_protected_or_missing_cartridge_is_what_the_tools_say(shimmed) -> None:
    change_cartridge(shimmed.drive.parent / "A.tap", write_protected=True)
    assert b"Read-only file system" in shimmed.shell("echo x >$T").stderr
    assert b"WR_PROT" in shimmed.must("mt-st", "-f", shimmed.node, "status")
    unload(shimmed.drive)
    assert b"No medium found" in shimmed.run("dd", f"if={shimmed.node}", "of=/dev/null").stderr
    assert b"DR_OPEN" in shimmed.must("mt-st", "-f", shimmed.node, "status")


def test_a_source_that_dies_leaves_a_file_that_looks_whole(shimmed) -> None:
    """Why no exit status of a pipe is ever taken for a proof."""
    done = shimmed.shell("{ head -c 200000 /dev/zero; kill -KILL $BASHPID; } | dd of=$T bs=10k iflag=fullblock")
    assert done.returncode == 0
    assert position(shimmed) == (1, 0)
