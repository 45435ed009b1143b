"""What is sent, by which mover, how fast; what is taken up again; and what arrives wrong."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.faults import Fault
from custody.ledger.store import now
from custody.minidvodb import destination, movers, room
from custody.minidvodb.codes import CopyFault, FaultCode, code_of
from custody.minidvodb.destination import Settings, Window
from custody.minidvodb.dvo import check
from custody.minidvodb.far import Far, Space
from custody.minidvodb.manifest import (
    DIRECTORY,
    FILE,
    LINK,
    Entry,
    Manifest,
    Snapshot,
    differences,
    digest_file,
    take_snapshot,
)
from custody.minidvodb.movers.stream import PART_BYTES, header, partition
from custody.minidvodb.ssh import SharedSshHost
from custody.minidvodb.step import Work
from custody_demo.minidvodb_sample import BROKEN, T0, T2, Shape, make
from minidvodb_rig import Rig, tree_of, visible

TOOLS = frozenset({"rsync", "tar", "xxh128"})


def entry(path: bytes, size: int) -> Entry:
    return Entry(FILE, path, 0o644, size, 1)


def test_what_was_cut_goes_by_rsync_and_all_else_by_stream(local_rig: Rig) -> None:
    big = {b"%d" % n: entry(b"%d" % n, 512 << 20) for n in range(4)}
    small = {b"%d" % n: entry(b"%d" % n, 25_000) for n in range(2_000)}
    whole, half, little = entry(b"1", 512 << 20), entry(b"1", 256 << 20), entry(b"1", 1000)
    cases = ((big, {}, "stream"), (small, {}, "stream"), (big, {b"1": whole}, "stream"), (big, {b"1": half}, "rsync"))
    for entries, staged, wanted in (*cases, (big, {b"1": little}, "stream")):
        profile = movers.profile_of(entries, staged)
        assert movers.choose(profile, Settings()) == wanted
        assert movers.choose(profile, Settings(mover="stream")) == "stream"
    movers.demand_tools(TOOLS, Settings())
    movers.demand_tools(TOOLS - {"xxh128"}, Settings(digest="sha256"))
    for tools in ({"tar"}, {"rsync", "xxh128"}, {"rsync", "tar"}):
        with pytest.raises(CopyFault, match="has") as raised:
            movers.demand_tools(frozenset(tools), Settings())
        assert raised.value.code is FaultCode.CONFIG
    copy_id = local_rig.one()
    copy = local_rig.do(copy_id)
    assert copy.row["mover"] == "stream"
    assert copy.row["profile"]["files"] == copy.row["files"] == 11
    assert copy.row["profile"]["mean_bytes"] == round(copy.row["bytes"] / 11)


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_what_was_cut_off_is_taken_up_inside_the_file(rig: Rig, mover: str) -> None:
    """Killed at 60 %, the second run sends no more than what was missing, whichever mover began."""
    source = rig.make(shape=Shape(2, 60_000))  # two files of 11 MB
    rig.host(mover=mover, max_rate=5_000_000)
    (copy_id,) = rig.queue()
    rig.do(copy_id, "preflight")
    size = rig.load(copy_id).row["bytes"]
    moved = 0

    class Enough(Exception):
        pass

    def advance(work: Work, count: int) -> None:
        nonlocal moved
        moved += count
        if moved > size * 0.6:
            raise Enough

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "advance", advance)
        with pytest.raises(Enough):
            rig.do(copy_id, "transfer")
    rig.set(copy_id, step="checked")
    destination.put(rig.ledger, "ipp022", who="test", settings={"mover": None, "max_rate": None})
    copy = rig.do(copy_id)
    assert copy.state == "full"
    assert tree_of(rig.remote / source.name) == tree_of(source)
    assert copy.row["mover"] == "rsync"
    assert 0 < copy.row["sent_bytes"] < 0.45 * size


def test_a_large_database_is_divided_evenly_and_a_small_one_not() -> None:
    tree = [Entry("d", b".", 0o755, 0, 0), Entry("d", b"n", 0o555, 0, 0), Entry("l", b"n/link", 0, 0, 0, b"9")]
    files = [entry(b"n/%d" % n, (1 + n % 3) * PART_BYTES) for n in range(12)]
    parts = partition([*tree, *files], 3)
    assert sorted(one.path for part in parts for one in part if one.kind == FILE) == sorted(one.path for one in files)
    sizes = [sum(one.size_bytes for one in part) for part in parts]
    assert max(sizes) - min(sizes) <= PART_BYTES
    assert [[one.path for one in part if one.kind != FILE] for part in parts][1:] == [[b".", b"n"]] * 2
    assert parts[0][:3] == tree
    for few in (files[:1], [entry(b"%d" % n, 1000) for n in range(1000)], []):
        assert len(partition([*tree, *few], 3)) == 1
    assert len(partition([*tree, *files], 1)) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_parts_of_a_database_go_side_by_side(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, fails: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a directory that may not be written to, once it is there."""
    monkeypatch.setattr("custody.minidvodb.movers.stream.PART_BYTES", 200_000)
    source = rig.make(shape=Shape(regions=30, detections=300))
    (source / "n0000").chmod(0o555)
    rig.host(streams=3)
    (copy_id,) = rig.queue()
    lines: list[object] = []
    another = SharedSshHost.another

    def counted(host: SharedSshHost) -> SharedSshHost:
        lines.append(another(host))
        if fails and len(lines) == 2:
            monkeypatch.setattr(lines[-1], "address", "127.0.0.1.invalid")
        return lines[-1]  # type: ignore[return-value]

    monkeypatch.setattr(SharedSshHost, "another", counted)
    rig.do(copy_id, "preflight")
    if fails:
        with pytest.raises(Fault) as raised:
            rig.do(copy_id, "transfer")
        assert "another of its streams" not in str(raised.value)
        assert visible(rig.remote) == []
        monkeypatch.setattr(SharedSshHost, "another", another)
    copy = rig.do(copy_id)
    assert copy.state == "full"
    assert tree_of(rig.remote / source.name) == tree_of(source)
    if not fails:
        assert len(lines) == 2
        assert copy.row["bytes"] < copy.row["sent_bytes"]


def test_what_arrived_is_not_sent_again(local_rig: Rig) -> None:
    local_rig.make()
    local_rig.host(mover="stream")
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight", "transfer")
    first = local_rig.load(copy_id).row["sent_bytes"]
    (local_rig.remote / f".incoming/ThreePi.1.{copy_id}/n0000/0000.cpm").unlink()
    (local_rig.remote / f".incoming/ThreePi.1.{copy_id}/n0000/stranger").touch()
    local_rig.set(copy_id, step="checked")
    copy = local_rig.do(copy_id)
    assert copy.row["sent_bytes"] < first / 2
    assert sorted(os.listdir(local_rig.remote / "ThreePi.1/n0000")) == ["0000.cpm", "0000.cpn", "0000.cps", "0000.cpt"]


def test_rot_over_there_is_found_and_sent_once_more(local_rig: Rig) -> None:
    source = local_rig.make()
    local_rig.host()
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight", "transfer")
    victim = local_rig.remote / f".incoming/ThreePi.1.{copy_id}/n0000/0000.cpm"
    status = victim.stat()
    victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    os.utime(victim, ns=(status.st_mtime_ns, status.st_mtime_ns))
    local_rig.do(copy_id, "verify")
    assert local_rig.events("verify")[-1].detail["sent_again"] == 1
    assert local_rig.do(copy_id).state == "full"
    assert tree_of(local_rig.remote / source.name) == tree_of(source)


@pytest.mark.parametrize("name", ["newer", "same size and time", "stale", "renamed"])
def test_what_the_old_copier_left_there_is_never_called_full(local_rig: Rig, name: str) -> None:
    """Its -u kept newer files, its quick check kept rot, and it deleted nothing."""
    source = local_rig.make()
    local_rig.host()
    (copy_id,) = local_rig.queue()
    subprocess.run(["cp", "-a", str(source), str(local_rig.remote)], check=True)
    victim = local_rig.remote / "ThreePi.1/n0000/0000.cpm"
    status = victim.stat()
    if name == "stale":
        (victim.parent / "0099.cpt").touch()
    elif name == "renamed":
        victim.rename(victim.with_name("0099.cpm"))
    else:
        victim.write_bytes(victim.read_bytes()[::-1])
        if name != "newer":
            os.utime(victim, ns=(status.st_mtime_ns, status.st_mtime_ns))
    with pytest.raises(Fault) as raised:
        local_rig.do(copy_id)
    assert code_of(raised.value) is FaultCode.VERIFY
    assert local_rig.load(copy_id).state == "new"


def test_between_verification_and_publication_nothing_may_touch_it(local_rig: Rig) -> None:
    source = local_rig.make()
    local_rig.host()
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight", "transfer", "verify")
    victim = local_rig.remote / f".incoming/ThreePi.1.{copy_id}/n0000/0000.cpm"
    status = victim.stat()
    victim.write_bytes(victim.read_bytes())  # the very same bytes, but who knows
    os.utime(victim, ns=(status.st_mtime_ns, status.st_mtime_ns))
    with pytest.raises(Fault, match="not the one that was verified"):
        local_rig.do(copy_id, "publish")
    assert visible(local_rig.remote) == []
    assert local_rig.load(copy_id).step == "sent"
    assert local_rig.do(copy_id).state == "full"
    assert tree_of(local_rig.remote / source.name) == tree_of(source)


@pytest.mark.parametrize("mover", ["rsync", "stream"])
def test_a_cap_holds(rig: Rig, mover: str) -> None:
    rig.make(shape=Shape(4, 6_000))  # 4.5 MB
    rig.host(mover=mover, max_rate=2_000_000)
    (copy_id,) = rig.queue()
    rig.do(copy_id, "preflight")
    began = time.monotonic()
    rig.do(copy_id, "transfer")
    assert time.monotonic() - began > 0.8 * rig.load(copy_id).row["bytes"] / 2_000_000


@pytest.mark.slow
def test_a_cap_may_change_while_a_copy_runs(local_rig: Rig) -> None:
    local_rig.make(shape=Shape(4, 6_000))  # 4.5 MB
    local_rig.host(mover="stream", max_rate=300_000)
    (copy_id,) = local_rig.queue()
    local_rig.do(copy_id, "preflight")
    asked = 0

    def rate_at(settings: Settings, at: datetime) -> int | None:
        nonlocal asked
        asked += 1
        return 300_000 if asked <= 2 else None  # the window closes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settings, "rate_at", rate_at)
        began = time.monotonic()
        local_rig.do(copy_id, "transfer")
    assert asked > 2
    assert time.monotonic() - began < 0.8 * local_rig.load(copy_id).row["bytes"] / 300_000


def test_a_mini_that_another_check_refuses_is_not_published(local_rig: Rig) -> None:
    copy_id = local_rig.one(dvoverify="/bin/false")
    with pytest.raises(Fault, match="/bin/false does not accept it"):
        local_rig.do(copy_id)
    assert visible(local_rig.remote) == []


# -- pure parts ----------------------------------------------------------------------------------------------------


def test_reservations_of_others_count(local_rig: Rig) -> None:
    for number in (1, 2):
        local_rig.make(f"ThreePi.{number}")
    local_rig.host()
    first, second = local_rig.queue()
    local_rig.do(first, "preflight")
    assert local_rig.load(first).row["reserved_bytes"] >= local_rig.load(first).row["bytes"]
    local_rig.set(first, reserved_bytes=1 << 50)
    with pytest.raises(Fault) as raised:
        local_rig.do(second, "preflight")
    assert code_of(raised.value) is FaultCode.NO_SPACE
    assert "are reserved for other copies" in str(raised.value)
    local_rig.set(first, reserved_at=now() - timedelta(days=2))  # nobody works on it any more
    local_rig.do(second, "preflight")
    local_rig.do(first)
    assert local_rig.load(first).row["reserved_bytes"] == 0


@given(
    sizes=st.lists(st.integers(0, 10**7), max_size=20),
    staged=st.lists(st.integers(0, 10**7), max_size=20),
    block=st.sampled_from([512, 4096, 65536]),
)
def test_what_is_needed_is_never_less_than_what_will_be_written(
    sizes: list[int], staged: list[int], block: int
) -> None:
    entries = {b"%d" % n: entry(b"%d" % n, size) for n, size in enumerate(sizes)}
    there = {b"%d" % n: entry(b"%d" % n, size) for n, size in enumerate(staged) if n < len(sizes)}
    need, inodes = room.need_of(entries.values(), there, block)
    after = sum(-(-size // block) * block for size in sizes)
    before = sum(-(-min(one.size_bytes, sizes[int(path)]) // block) * block for path, one in there.items())
    assert need >= after - before
    assert inodes == len(entries) - len(there)


def test_room_is_refused_with_numbers() -> None:
    space = Space(4096, 100 << 20, 50 << 20, 50 << 20, 100, 10)
    room.demand("x", Settings(), space, 50 << 20, 10, (0, 0))
    for size, inodes, reserved, code in (
        ((50 << 20) + 1, 1, (0, 0), FaultCode.NO_SPACE),
        (40 << 20, 1, (11 << 20, 0), FaultCode.NO_SPACE),
        (1, 11, (0, 0), FaultCode.NO_INODES),
        (1, 6, (0, 5), FaultCode.NO_INODES),
    ):
        with pytest.raises(CopyFault) as raised:
            room.demand("x", Settings(), space, size, inodes, reserved)
        assert raised.value.code is code
    with pytest.raises(CopyFault):
        room.demand("x", Settings(max_used_pct=49.9), space, 1, 1, (0, 0))
    room.demand("x", Settings(max_used_pct=50), space, 1, 1, (0, 0))


names = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name and b"/" not in name)


@given(st.dictionaries(names, st.tuples(st.integers(0, 2**63), st.integers(-(2**62), 2**62)), max_size=8), names)
def test_a_manifest_is_read_back_as_it_was_written(found: dict[bytes, tuple[int, int]], target: bytes) -> None:
    entries: Snapshot = {b".": Entry(DIRECTORY, b".", 0o755, 0, 0), b"l": Entry(LINK, b"l", 0, 0, 0, target)}
    entries |= {b"d/" + path: Entry(FILE, b"d/" + path, 0o640, size, time) for path, (size, time) in found.items()}
    digests = {path: f"{number:032x}" for number, path in enumerate(entries) if entries[path].kind == FILE}
    manifest = Manifest(entries, digests, "xxh128")
    again = Manifest.parse(manifest.text(), "x")
    assert (again.entries, again.digests, again.algorithm) == (entries, digests, "xxh128")
    assert again.text() == manifest.text()
    assert differences(manifest, entries, digests) == {}


@pytest.mark.parametrize(
    "text", [b"", b"junk", b"custody minidvodb manifest 1\n", b"custody minidvodb manifest 1\nalgorithm x\nf\n"]
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(CopyFault):
        Manifest.parse(text, "x")


def test_a_missing_digest_is_never_equal() -> None:
    one = entry(b"a", 3)
    manifest = Manifest({b"a": one}, {b"a": "0" * 32}, "xxh128")
    assert differences(manifest, {b"a": one}, {}) == {b"a": "could not be read"}
    assert differences(manifest, {b"a": one}, {b"a": ""}) == {b"a": "could not be read"}
    assert differences(manifest, {}, {b"a": "0" * 32}) == {b"a": "is missing"}


def test_a_file_that_is_not_the_one_that_was_seen_is_not_read(tmp_path: Path) -> None:
    source = make(tmp_path / "a")
    entries = take_snapshot(source)
    (source / "SkyTable.fits").write_bytes(b"other")
    with pytest.raises(CopyFault) as raised:
        digest_file(os.fsencode(source), entries[b"SkyTable.fits"], "xxh128")
    assert raised.value.code is FaultCode.SOURCE_CHANGED


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "locked"])
def test_a_broken_database_is_told_by_its_headers(tmp_path: Path, name: str) -> None:
    source = make(tmp_path / "a")
    check(source, take_snapshot(source))
    BROKEN[name](source)
    with pytest.raises(CopyFault) as raised:
        check(source, take_snapshot(source))
    assert raised.value.code is FaultCode.SOURCE_INVALID


def test_the_same_seed_makes_the_same_database(tmp_path: Path) -> None:
    first, second, other = (make(tmp_path / name, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    contents = [{path.name: path.read_bytes() for path in root.rglob("*.c*")} for root in (first, second, other)]
    assert contents[0] == contents[1] != contents[2]
    assert T2.regions * 4 == 20_000
    assert T0.regions == 2


def test_tar_itself_unpacks_what_we_pack(tmp_path: Path) -> None:
    sizes = [0, 8**11 - 1, 8**11, 2**40]
    for size, name in itertools.product(sizes, [b"a", b"a" * 100, b"a" * 101, b"\xff\n"]):
        block = header(name, b"0", 0o644, size=size, mtime_ns=1_700_000_000_000_000_001)
        assert len(block) % 512 == 0
    stream = header(b"n" * 150, b"0", 0o600, size=3, mtime_ns=1_700_000_000_123_456_789) + b"abc".ljust(512, b"\0")
    done = subprocess.run(
        ["tar", "-xp", "-C", str(tmp_path)], input=stream + bytes(1024), check=True, capture_output=True
    )
    status = (tmp_path / ("n" * 150)).stat()
    assert (status.st_size, status.st_mtime_ns, status.st_mode & 0o777) == (3, 1_700_000_000_123_456_789, 0o600)
    assert not done.stderr


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("08:00-18:00", "2026-11-22T08:00", "2026-11-22T18:00"),
        ("22:00-06:00", "2026-11-22T05:59", "2026-11-22T06:00"),
        ("Mon-Fri 20:00-06:00", "2026-11-21T05:00", "2026-11-22T21:00"),
        ("Fri-Mon 00:00-24:00", "2026-11-22T23:59", "2026-11-24T00:00"),
        ("Sat 10:00-11:00", "2026-11-21T10:30", "2026-11-22T10:30"),
    ],
)
def test_windows(text: str, inside: str, outside: str) -> None:
    window = Window.parse(text)
    assert window.contains(datetime.fromisoformat(inside))
    assert not window.contains(datetime.fromisoformat(outside))


@pytest.mark.parametrize("text", ["", "8-18", "Xyz 08:00-18:00", "08:00-25:00", "Mon Fri 08:00-18:00", "08:60-09:00"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError):
        Window.parse(text)


def test_removal_reaches_nothing_outside_of_the_staging_directory(local_rig: Rig) -> None:
    copy_id = local_rig.one()
    local_rig.do(copy_id, "preflight", "transfer")
    copy = local_rig.load(copy_id)
    outside = local_rig.remote / "keep"
    outside.touch()
    far = Far(local_rig.reach(copy.destination), copy.path, copy.name, copy.id)
    far.remove_staged([b".", b"../../keep", b"/etc/custody", b"n0000/../../../keep", b"-rf", b"SkyTable.fits"])
    assert outside.exists()
    assert not (local_rig.remote / f".incoming/ThreePi.1.{copy_id}/SkyTable.fits").exists()
    assert (local_rig.remote / f".incoming/ThreePi.1.{copy_id}/Images.dat").exists()
