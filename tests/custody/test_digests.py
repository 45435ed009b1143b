"""Digests of one read, and what a comparison may conclude from them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from custody.digests import BLOCK_BYTES, FileState, Fixity, Hasher, Match, blocks, read_file, reading
from custody.faults import Fault, FaultKind

ALGORITHMS = ("md5", "sha1", "sha256", "xxh128")


def _expected(content: bytes) -> dict[str, str]:
    return {
        "md5": hashlib.md5(content).hexdigest(),
        "sha1": hashlib.sha1(content).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "xxh128": xxhash.xxh3_128(content).hexdigest(),
    }


@given(st.lists(st.binary(max_size=200)))
def test_digests_of_a_stream_do_not_depend_on_how_it_is_cut(parts: list[bytes]) -> None:
    hasher = Hasher(ALGORITHMS)
    for part in parts:
        hasher.update(memoryview(part))
    whole = b"".join(parts)
    assert hasher.fixity() == Fixity(len(whole), _expected(whole))


def test_digests_can_be_asked_for_on_the_way() -> None:
    hasher = Hasher(["md5"])
    hasher.update(b"one")
    assert hasher.fixity() == Fixity(3, {"md5": hashlib.md5(b"one").hexdigest()})
    hasher.update(b"two")
    assert hasher.fixity() == Fixity(6, {"md5": hashlib.md5(b"onetwo").hexdigest()})


def test_an_unknown_algorithm_is_refused_by_name() -> None:
    with pytest.raises(Fault, match=r"crc32: is no digest Custody knows: md5") as caught:
        Hasher(["md5", "crc32"])
    assert caught.value.kind is FaultKind.CONFIG


@pytest.mark.parametrize(
    ("ours", "theirs", "match"),
    [
        (Fixity(3, {"md5": "aa"}), Fixity(3, {"md5": "aa"}), Match.EQUAL),
        (Fixity(3, {"md5": "aa"}), Fixity(3, {"md5": "bb"}), Match.DIFFERENT),
        (Fixity(3, {"md5": "aa"}), Fixity(4, {"md5": "aa"}), Match.DIFFERENT),
        (Fixity(3, {"md5": "aa"}), Fixity(4), Match.DIFFERENT),
        (Fixity(3, {"md5": "aa"}), Fixity(3, {"sha1": "aa"}), Match.UNVERIFIED),
        (Fixity(3, {"md5": "aa"}), Fixity(3), Match.UNVERIFIED),
        (Fixity(3), Fixity(3), Match.UNVERIFIED),
        (Fixity(0), Fixity(0), Match.UNVERIFIED),
        (Fixity(3, {"md5": "aa", "sha1": "cc"}), Fixity(3, {"md5": "aa"}), Match.EQUAL),
        (Fixity(3, {"md5": "aa", "sha1": "cc"}), Fixity(3, {"md5": "aa", "sha1": "dd"}), Match.DIFFERENT),
        (Fixity(3, {"md5": "aa", "sha1": "cc"}), Fixity(3, {"sha1": "cc", "sha256": "ee"}), Match.EQUAL),
        # a digest that is there in name only is not known
        (Fixity(3, {"md5": ""}), Fixity(3, {"md5": ""}), Match.UNVERIFIED),
        (Fixity(3, {"md5": ""}), Fixity(3, {"md5": "aa"}), Match.UNVERIFIED),
        (Fixity(3, {"md5": None}), Fixity(3, {"md5": None}), Match.UNVERIFIED),  # type: ignore[dict-item]
        (Fixity(3, {"md5": "aa", "sha1": ""}), Fixity(3, {"md5": "aa", "sha1": "cc"}), Match.EQUAL),
    ],
)
def test_what_a_comparison_concludes(ours: Fixity, theirs: Fixity, match: Match) -> None:
    assert ours.compare(theirs) is match
    assert theirs.compare(ours) is match


FIXITIES = st.builds(
    Fixity,
    st.integers(0, 2),
    st.dictionaries(st.sampled_from(ALGORITHMS), st.sampled_from(["aa", "bb", ""]), max_size=3),
)


@given(FIXITIES, FIXITIES)
def test_equal_needs_equal_sizes_a_shared_digest_and_no_contradiction(ours: Fixity, theirs: Fixity) -> None:
    shared = [name for name in ALGORITHMS if ours.digests.get(name) and theirs.digests.get(name)]
    is_equal = (
        ours.size_bytes == theirs.size_bytes
        and bool(shared)
        and all(ours.digests[name] == theirs.digests[name] for name in shared)
    )
    assert (ours.compare(theirs) is Match.EQUAL) is is_equal


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 7])
def test_a_file_is_read_once_and_whole(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "a.warc.gz"
    content = os.urandom(size_bytes)
    path.write_bytes(content)
    steps: list[int] = []
    found = read_file(path, ALGORITHMS, progress=steps.append)
    assert found.fixity == Fixity(size_bytes, _expected(content))
    assert found.state == FileState.of_path(path) == FileState.of(path.stat())
    assert sum(steps) == size_bytes


def test_by_default_a_file_gets_what_targets_and_manifests_ask_for(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff")
    path.write_bytes(b"x")
    assert set(read_file(path).fixity.digests) == {"md5", "sha256"}


def test_blocks_share_one_buffer(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abcdefg")
    with reading(path) as descriptor:
        assert [bytes(block) for block in blocks(descriptor, 3)] == [b"abc", b"def", b"g"]


@pytest.mark.parametrize("kind", ["link", "directory", "fifo", "missing"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "link":
        (tmp_path / "real").write_bytes(b"x")
        path.symlink_to("real")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # an open that waits for a writer would hang here
    with pytest.raises(Fault) as caught:
        read_file(path)
    assert caught.value.kind is FaultKind.CONFIG
    assert str(path) in str(caught.value)
    assert caught.value.next_command


def test_a_file_that_grows_meanwhile_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"x" * 10)

    def grow(_count: int) -> None:
        with path.open("ab") as stream:
            stream.write(b"y")

    with pytest.raises(Fault, match=r"a\.warc\.gz: changed while it was being read") as caught, reading(path) as fd:
        for block in blocks(fd, 4):
            grow(len(block))
            if os.fstat(fd).st_size > 20:
                break
    assert caught.value.kind is FaultKind.DATA


def test_a_file_rewritten_in_place_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"x" * 10)
    os.utime(path, ns=(1, 1))

    def rewrite(_count: int) -> None:
        path.write_bytes(b"y" * 10)

    with pytest.raises(Fault) as caught:
        read_file(path, progress=rewrite)
    assert caught.value.kind is FaultKind.DATA


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    before = set(os.listdir("/proc/self/fd"))
    read_file(path)
    with pytest.raises(Fault):
        read_file(tmp_path)
    with pytest.raises(KeyError), reading(path):
        raise KeyError
    assert set(os.listdir("/proc/self/fd")) == before
