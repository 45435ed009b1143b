"""Reading tapes survives a kill at every system call: what was restored is whole, and a scanned catalogue is right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crash.harness import ALL_POINTS, SYSCALLS, DeletedWithoutProof, enumerate_crash_points
from custody.ledger import Ledger
from custody.tape import rebuild, restore
from custody.tape.session import mounted
from empty_ledger import new_ledger
from tape_site import WHO, TapeSite, make_site

pytestmark = [pytest.mark.crash, pytest.mark.service]

POINTS = 8  # of a step, spread over the whole of it
CALLS = (*SYSCALLS, "writev", "pwritev", "symlinkat", "mknodat", "mknod")


def written(directory: Path) -> TapeSite:
    """Two confirmed targets on T1, with links, a fifo and holes among them."""
    directory.mkdir(exist_ok=True)
    site = make_site(directory, new_ledger(f"sqlite:///{directory}/ledger.sqlite"), block_size="64KiB")
    site.make_tape("T1")
    first = site.make_target("a", files=2, size_bytes=100_000)
    os.link(first / "sub" / "file0", first / "second name")
    (first / "link").symlink_to("sub/file1")
    os.mkfifo(first / "fifo")
    with (first / "sparse").open("wb") as stream:
        stream.truncate(1 << 20)
        stream.write(b"an island")
    site.import_all(first, site.make_target("b"))
    site.assign()
    site.archive_all()
    site.confirm_all()
    return site


def without_a_catalogue(directory: Path) -> TapeSite:
    """The same tape, and a ledger that knows nothing of it."""
    site = written(directory)
    site.ledger_url = f"sqlite:///{directory}/second.sqlite"
    Ledger.upgrade(site.ledger_url)
    return site


def restore_all(site: TapeSite) -> None:
    (plan,) = restore.plan(site.ledger, [bytes(site.data)])
    with mounted(site.ledger, site.config, plan.tape, who=WHO) as session:
        for done in restore.restore(session, plan, site.root / "out"):
            done.require()


def scan(site: TapeSite) -> None:
    rebuild.scan_tape(site.ledger, site.config, who=WHO, source=site.host.name).require()


def kinds(root: Path) -> dict[Path, tuple[object, ...]]:
    """Everything below a directory: mode, time, size, and content or link text."""
    found: dict[Path, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        at = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path.relative_to(root)] = (at.st_mode, at.st_mtime_ns // 10**9, content)
    return found


def nothing_half_done_has_a_name(site: TapeSite) -> None:
    """Whatever stands under a name of its own is as it was; the source and the tape are as before."""
    there, source = kinds(site.root / "out" / str(site.data).lstrip("/")), kinds(site.data)
    for path, (mode, _, content) in there.items():
        if path.name.startswith(".custody-"):
            continue
        if path not in source or content != source[path][2]:
            raise DeletedWithoutProof(f"{path} is not what was archived (mode {mode:o})")


def everything_is_back(site: TapeSite) -> None:
    back = site.root / "out" / str(site.data).lstrip("/")
    assert kinds(back) == kinds(site.data)
    assert (back / "a" / "second name").stat().st_ino == (back / "a" / "sub" / "file0").stat().st_ino
    assert site.unfinished_attempts() == []


def what_is_on_record_is_on_tape(site: TapeSite) -> None:
    """No row without its members, none of what the tape does not hold."""
    for one in site.read_back("T1"):
        if not one.is_equal:
            raise DeletedWithoutProof(f"{one.backup.target.name}: {one.complaints}")


def the_catalogue_is_whole(site: TapeSite) -> None:
    old = Ledger(f"sqlite:///{site.root}/ledger.sqlite")
    scanned = site.backups()
    site.ledger_url = old.url
    known = site.backups()
    facts = [
        [(one.target.name, str(one.state), one.file_number, one.members, one.manifest_sha256) for one in backups]
        for backups in (scanned, known)
    ]
    assert facts[0] == facts[1]
    assert [one[1] for one in facts[0]] == ["confirmed", "confirmed"]


@pytest.mark.timeout(0 if ALL_POINTS else 600)
def test_every_crash_point_of_a_restore(tmp_path: Path) -> None:
    report = enumerate_crash_points(
        written,
        restore_all,
        everything_is_back,
        check_after_kill=nothing_half_done_has_a_name,
        syscalls=CALLS,
        at_most=POINTS,
        name="tape restore",
    )
    assert (report.losses, report.unproven_deletions) == ((), 0)
    assert report.killed > 0


@pytest.mark.timeout(0 if ALL_POINTS else 600)
def test_every_crash_point_of_a_scan(tmp_path: Path) -> None:
    report = enumerate_crash_points(
        without_a_catalogue,
        scan,
        the_catalogue_is_whole,
        check_after_kill=what_is_on_record_is_on_tape,
        syscalls=CALLS,
        at_most=POINTS,
        name="tape scan",
    )
    assert (report.losses, report.unproven_deletions) == ((), 0)
    assert report.killed > 0
