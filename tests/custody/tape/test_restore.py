"""What was archived comes back, whole or in parts, from the right tape, proven, and nothing else is touched."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.tape import assign, restore, tables, tapes
from custody.tape.catalog import set_tape_state
from custody.tape.drives import cartridges
from custody.tape.restore import Restored
from custody.tape.session import mounted
from custody.tape.states import TapeState
from tape_site import HOSTILE_NAMES, WHO, TapeSite

TWO_POOLS = {"pools": "default offsite"}


@pytest.fixture
def written(site: TapeSite) -> TapeSite:
    """Three confirmed targets on T1, one of them with every odd thing."""
    _write(site)
    return site


def _write(site: TapeSite) -> None:
    site.make_tape("T1")
    site.import_all(site.make_hostile_target(), site.make_target("b"), site.make_target("c"))
    site.assign()
    site.archive_all()
    assert all(one.is_equal for one in site.confirm_all())


def _restore(site: TapeSite, *patterns: bytes, tape: str | None = None, overwrite: bool = False) -> list[Restored]:
    done = []
    for plan in restore.plan(site.ledger, patterns, tape=tape):
        with mounted(site.ledger, site.config, plan.tape, who=WHO) as session:
            done += restore.restore(session, plan, site.root / "out", overwrite=overwrite)
    return done


def _problems(done: list[Restored]) -> list[Fault]:
    return [fault for one in done for fault in one.problems]


def _facts(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything below a directory by relative name: kind, mode, owner, time, content or link text, and its links."""
    found: dict[bytes, tuple[object, ...]] = {}
    groups: dict[int, bytes] = {}
    for directory, subdirectories, names in os.walk(bytes(root)):
        subdirectories.sort()
        for name in sorted(subdirectories + names):
            path = directory + b"/" + name
            at = os.lstat(path)
            relative = os.path.relpath(path, bytes(root))
            content: object = None
            if stat.S_ISREG(at.st_mode):
                content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(at.st_mode):
                content = os.readlink(path)
            first = groups.setdefault(at.st_ino, relative)
            found[relative] = (
                stat.S_IFMT(at.st_mode),
                stat.S_IMODE(at.st_mode),
                at.st_uid,
                int(at.st_mtime),
                content,
                first,
            )
    return found


def _back(site: TapeSite, name: str = "") -> Path:
    return site.root / "out" / str(site.data / name).lstrip("/")


def test_a_whole_target_comes_back_as_it_was(written: TapeSite) -> None:
    (done,) = _restore(written, bytes(written.data / "hostile"))
    assert done.problems == ()
    assert done.unverified == 0
    assert _facts(_back(written, "hostile")) == _facts(written.data / "hostile")
    assert (_back(written, "hostile") / "sparse").stat().st_blocks < (3 << 20) // 512
    assert not (written.root / "out" / ".custody").exists()


def test_a_directory_above_targets_means_all_of_them_by_file_number(written: TapeSite) -> None:
    (plan,) = restore.plan(written.ledger, [bytes(written.data)])
    assert [one.backup.file_number for one in plan.selections] == [1, 2, 3]
    assert all(one.is_whole for one in plan.selections)
    assert _problems(_restore(written, bytes(written.data))) == []
    assert _facts(_back(written)) == _facts(written.data)


def test_single_members_come_back_alone_whatever_their_names(written: TapeSite) -> None:
    out = written.root / "out"
    for name in HOSTILE_NAMES:
        assert _problems(_restore(written, bytes(written.data / "hostile") + b"/" + name)) == []
        assert list(_facts(_back(written, "hostile"))) == [name]
        shutil.rmtree(out)


def test_a_hard_link_comes_with_its_content_and_without_its_first_name(written: TapeSite) -> None:
    names = (b"hostile/sub/file0", b"hostile/a second name")
    for number, name in enumerate(names):
        out = written.root / f"out{number}"
        (plan,) = restore.plan(written.ledger, [bytes(written.data) + b"/" + name])
        with mounted(written.ledger, written.config, plan.tape, who=WHO) as session:
            (done,) = restore.restore(session, plan, out)
        assert (done.problems, done.restored) == ((), 1)
        files = [path for path in out.rglob("*") if path.is_file()]
        assert [os.fsencode(path.relative_to(out)) for path in files] == [
            bytes(written.data).lstrip(b"/") + b"/" + name
        ]
        assert files[0].read_bytes() == (written.data / "hostile/sub/file0").read_bytes()
        assert not list(out.rglob("sub")) or name.startswith(b"hostile/sub")


def test_globs_and_digests_find_members(written: TapeSite) -> None:
    wanted = (written.data / "b/sub/file1").read_bytes()
    digests = (hashlib.sha256(wanted).hexdigest(), hashlib.md5(wanted, usedforsecurity=False).hexdigest())
    for pattern in (f"sha256:{digests[0]}", digests[1], f"{written.data}/b/*1", "b/sub/file1"):
        (plan,) = restore.plan(written.ledger, [pattern.encode()])
        (selection,) = plan.selections
        assert [name.rpartition(b"/")[2] for name in selection.names] == [b"file1"], pattern
    (plan,) = restore.plan(written.ledger, [b"c[1]"])
    assert [name[-4:] for name in plan.selections[0].names] == [b"c[1]"]  # a name before it is a glob
    (plan,) = restore.plan(written.ledger, [bytes(written.data) + b"/*/sub/file[12]"])
    assert [len(one.names) for one in plan.selections] == [2, 2, 2]


def test_what_no_tape_has_is_told(written: TapeSite) -> None:
    with pytest.raises(Fault, match="no such thing: is on no tape") as caught:
        restore.plan(written.ledger, [bytes(written.data / "b"), b"no such thing"])
    assert caught.value.kind is FaultKind.CONFIG
    with pytest.raises(Fault, match="is not on tape T9; it is on tape T1"):
        restore.plan(written.ledger, [bytes(written.data / "b")], tape="T9")


def test_nothing_is_overwritten_unless_asked(written: TapeSite) -> None:
    mine = _back(written, "b") / "sub" / "file1"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    (problem,) = _problems(_restore(written, bytes(written.data / "b")))
    assert problem.kind is FaultKind.CONFLICT
    assert str(mine) in str(problem) and "tape T1, file 1" in str(problem)
    assert mine.read_bytes() == b"mine"
    assert (mine.parent / "file0").exists()
    assert _problems(_restore(written, bytes(written.data / "b"), overwrite=True)) == []
    assert mine.read_bytes() == (written.data / "b/sub/file1").read_bytes()


def test_a_second_restore_finds_everything_there(written: TapeSite) -> None:
    _restore(written, bytes(written.data / "hostile"))
    before = _facts(_back(written))
    (done,) = _restore(written, bytes(written.data / "hostile"))
    assert done.problems == ()
    assert done.size_bytes == 0 and done.already_there > 0
    assert _facts(_back(written)) == before


def test_a_planted_link_leads_nowhere(written: TapeSite) -> None:
    outside = written.root / "outside"
    outside.mkdir()
    _back(written).mkdir(parents=True)
    (_back(written) / "b").symlink_to(outside)
    assert _problems(_restore(written, bytes(written.data / "b")))
    assert list(outside.iterdir()) == []


def _damage(site: TapeSite, name: str, target: str) -> str:
    """Flip a bit in the content of a file on a tape; its path, as restored."""
    content = (site.data / target / "sub/file1").read_bytes()
    image = site.image(name)
    raw = bytearray(image.read_bytes())
    at = raw.index(content)
    raw[at + 100] ^= 1
    image.write_bytes(bytes(raw))
    return str(_back(site, target) / "sub/file1")


def test_other_bytes_than_the_catalogue_has_are_not_restored(written: TapeSite) -> None:
    path = _damage(written, "T1", "b")
    problems = _problems(_restore(written, bytes(written.data)))
    (problem,) = problems
    assert problem.kind is FaultKind.DATA
    assert path in str(problem) and "tape T1, file 1" in str(problem)
    assert not Path(path).exists()
    assert sorted(one.name for one in Path(path).parent.iterdir()) == ["file0", "file2"]
    assert _facts(_back(written, "c")) == _facts(written.data / "c")
    with written.ledger.read() as connection:
        table = tables.attempt
        rows = connection.execute(sa.select(table.c.file_number, table.c.result).where(table.c.kind == "restore")).all()
    assert [tuple(row) for row in rows] == [(1, "failed"), (2, "done"), (3, "done")]


def test_a_read_error_costs_its_file_only(written: TapeSite) -> None:
    cartridges.change_cartridge(written.image("T1"), read_error_at_block=1)
    done = _restore(written, bytes(written.data))
    assert [bool(one.problems) for one in done] == [True, False, False]
    assert done[0].problems[0].kind is FaultKind.DATA
    assert _facts(_back(written, "c")) == _facts(written.data / "c")


def test_a_stop_leaves_no_half_file(written: TapeSite) -> None:
    (plan,) = restore.plan(written.ledger, [bytes(written.data / "b")])
    stop = threading.Event()
    stop.set()
    with mounted(written.ledger, written.config, plan.tape, who=WHO) as session, pytest.raises(Fault) as caught:
        restore.restore(session, plan, written.root / "out", stop=stop)
    assert caught.value.kind is FaultKind.CANCELLED
    assert [path for path in (written.root / "out").rglob("*") if path.is_file()] == []


@pytest.fixture
def twice(tmp_path: Path, site: TapeSite) -> TapeSite:
    """Target b on T1 (confirmed) and on T2 of another pool (recorded)."""
    site.config = site.config.model_copy(update={"pools": ("default", "offsite")})
    site.make_tape("T1")
    site.import_all(site.make_target("b"))
    site.assign("T1")
    site.archive("T1")
    site.confirm_all("T1")
    cartridges.make_cartridge(site.image("T2"))
    site.insert("T2")
    tapes.open_tape(site.ledger, site.config, "T2", who=WHO, pool="offsite")
    assign.assign(site.ledger, "T2", who=WHO)
    site.archive("T2")
    return site


def _planned(site: TapeSite, tape: str | None = None) -> list[str]:
    return [plan.tape.name for plan in restore.plan(site.ledger, [bytes(site.data / "b")], tape=tape)]


def test_a_confirmed_copy_comes_first_and_a_suspect_tape_last(twice: TapeSite) -> None:
    assert _planned(twice) == ["T1"]  # although T2 is the active one
    assert _planned(twice, "T2") == ["T2"]
    with twice.ledger.begin() as connection:
        set_tape_state(connection, twice.tape("T1").id, TapeState.SUSPECT, reason="a test")
    assert _planned(twice) == ["T2"]


def test_a_damaged_copy_names_the_other_tape(twice: TapeSite) -> None:
    _damage(twice, "T1", "b")
    twice.insert("T1")
    (problem,) = _problems(_restore(twice, bytes(twice.data / "b")))
    assert f"custody tape restore --tape T2 --into {twice.root}/out {twice.data}/b" in str(problem)
    twice.insert("T2")
    assert _problems(_restore(twice, bytes(twice.data / "b"), tape="T2")) == []
    assert _facts(_back(twice, "b")) == _facts(twice.data / "b")


def test_a_retired_tape_is_used_only_by_its_name(twice: TapeSite) -> None:
    for name in ("T1", "T2"):
        tapes.retire_tape(twice.ledger, name, who=WHO, reason="a test", force=True)
    with pytest.raises(Fault, match="restore --tape T1") as caught:
        _planned(twice)
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    assert _planned(twice, "T1") == ["T1"]


def test_the_plain_commands_do_the_same(written: TapeSite) -> None:
    """mt and dd are stood in for by the image; tar and the shell are the real ones."""
    odd = bytes(written.data / "hostile")
    (plan,) = restore.plan(
        written.ledger, [odd + b"/new\nline", odd + b"/back\\slash", odd + b"/\xff\xfe", odd + b"/a second name"]
    )
    (text,) = restore.commands(written.ledger, plan, "/dev/nst7")
    lines = text.splitlines()
    assert lines[:2] == ["mt -f /dev/nst7 rewind", "mt -f /dev/nst7 fsf 3"]
    content = _file_on(written.image("T1"), 3)
    out = written.root / "by hand"
    out.mkdir()
    (written.root / "file1").write_bytes(content)
    command = lines[2].replace("dd if=/dev/nst7", f"dd status=none if={written.root}/file1")
    subprocess.run(["bash", "-c", command], cwd=out, check=True)
    there = set(_facts(out / str(written.data / "hostile").lstrip("/")))
    asked = {b"new\nline", b"back\\slash", b"\xff\xfe", b"a second name"}
    assert asked <= there <= asked | {b"sub", b"sub/file0"}  # whose name tar met first has the content


def _file_on(image: Path, number: int) -> bytes:
    content, seen = b"", 0
    with image.open("rb") as stream:
        while seen <= number:
            length = int.from_bytes(stream.read(4), "little")
            if not length:
                seen += 1
                continue
            block = stream.read(length + length % 2)[:length]
            stream.read(4)
            if seen == number:
                content += block
    return content


@pytest.mark.parametrize("alone", ["sub/file0", "a second name"])  # one of them is the first in the archive
def test_a_hard_link_that_was_restored_alone_is_a_link_again_in_the_whole(written: TapeSite, alone: str) -> None:
    whole = bytes(written.data / "hostile")
    for name in (whole + b"/" + alone.encode(), whole):
        assert _problems(_restore(written, name)) == []
    assert _facts(_back(written, "hostile")) == _facts(written.data / "hostile")
    mine = _back(written, "hostile") / alone
    shutil.copyfile(mine, mine.with_name("copy"))  # the same bytes, of another time: it stays
    os.replace(mine.with_name("copy"), mine)
    before = mine.stat()
    assert _problems(_restore(written, whole)) == []
    assert (mine.stat().st_ino, mine.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    mine.unlink()
    mine.write_bytes(b"mine")
    problems = _problems(_restore(written, whole))
    assert "exists, and is not the same" in str(problems[0])
    assert mine.read_bytes() == b"mine"


def test_a_tape_that_cannot_be_read_at_all_names_the_other_one(twice: TapeSite) -> None:
    (plan,) = restore.plan(twice.ledger, [bytes(twice.data / "b")])
    with pytest.raises(Fault) as caught, mounted(twice.ledger, twice.config, plan.tape, who=WHO):
        pass
    named = restore.with_others(twice.ledger, plan, caught.value)
    assert "holds tape T2" in str(named) and "lies on tape T2 as well" in str(named)
    assert str(named).endswith("or restore it from tape T2")
    tapes.retire_tape(twice.ledger, "T2", who=WHO, reason="a test", force=True)
    assert restore.with_others(twice.ledger, plan, caught.value) is caught.value
