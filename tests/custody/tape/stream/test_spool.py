"""The manifest: lines that hold any name, and come back as they were."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.faults import Fault, FaultKind
from custody.tape.members import Member, MemberKind
from custody.tape.stream.spool import ManifestSpool, from_line, to_line

NUMBERS = st.integers(0, 1 << 62)
MEMBERS = st.builds(
    Member,
    name=st.binary(min_size=1),
    kind=st.sampled_from(MemberKind),
    size_bytes=NUMBERS,
    mode=st.integers(0, 0o7777),
    uid=NUMBERS,
    gid=NUMBERS,
    mtime_s=st.integers(-(1 << 62), 1 << 62),
    link=st.binary(),
    device=st.none() | st.tuples(NUMBERS, NUMBERS),
    is_sparse=st.booleans(),
    offset_bytes=st.integers(-1, 1 << 62),
    digests=st.dictionaries(st.sampled_from(["md5", "sha256"]), st.text("0123456789abcdef", min_size=32)),
)


@given(MEMBERS)
def test_a_line_is_one_line_and_gives_the_member_back(member: Member) -> None:
    line = to_line(member)
    assert line.count(b"\n") == 1
    assert len(line.decode().splitlines()) == 1  # also for readers that know of more line ends than one
    assert from_line(line) == member


def test_names_are_readable_in_it(odd_names: list[bytes]) -> None:
    shown = [json.loads(to_line(Member(name, MemberKind.FILE)))["name"] for name in odd_names]
    assert "new\\nline" in shown
    assert "größe \U0001f4fc" in shown
    assert "\\377\\376 not utf-8" in shown


def test_members_come_back_in_their_order_as_often_as_wanted(tmp_path: Path, odd_names: list[bytes]) -> None:
    members = [Member(name, MemberKind.FILE, number, digests={"md5": "ab"}) for number, name in enumerate(odd_names)]
    with ManifestSpool.create(tmp_path / "manifest") as spool:
        for member in members:
            spool.add(member)
        assert list(spool) == members  # while it is being written too
    assert list(spool) == list(spool) == members
    assert list(ManifestSpool(tmp_path / "manifest")) == members
    assert spool.members == len(members)


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"name":"a"}', b'{"name":"\\\\q","kind":"file"}', b"\xff"])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(to_line(Member(b"a", MemberKind.FILE)) + line + b"\n")
    with pytest.raises(Fault, match="line 2 is no line of a manifest") as caught:
        list(ManifestSpool(path))
    assert caught.value.kind is FaultKind.DATA
    assert str(path) in str(caught.value)


def test_a_full_disk_is_a_fault_that_names_the_file() -> None:
    with pytest.raises(Fault) as caught, ManifestSpool.create(Path("/dev/full")) as spool:
        for number in range(20_000):
            spool.add(Member(b"name %d" % number, MemberKind.FILE))
    assert caught.value.kind is FaultKind.CAPACITY
    assert "/dev/full" in str(caught.value)


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with ManifestSpool.create(tmp_path / "manifest") as spool:
            for number in range(20_000):
                spool.add(Member(b"%0400d" % number, MemberKind.FILE))
        assert sum(1 for _ in spool) == 20_000
        assert (tmp_path / "manifest").stat().st_size > 8_000_000
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
