"""The parser against GNU tar and Python's tarfile, and against every kind of damage."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.faults import Fault, FaultKind
from custody.tape.members import Member, MemberKind
from custody.tape.stream import headers
from custody.tape.stream.parse import MemberParser

Tar = Callable[..., bytes]
FORMATS = {
    "gnu": ["--format=gnu"],
    "gnu sparse": ["--format=gnu", "--sparse"],
    "oldgnu": ["--format=oldgnu", "--sparse"],
    "pax": ["--format=pax"],
    "pax sparse 0.0": ["--format=pax", "--sparse", "--sparse-version=0.0"],
    "pax sparse 0.1": ["--format=pax", "--sparse", "--sparse-version=0.1"],
    "pax sparse 1.0": ["--format=pax", "--sparse", "--sparse-version=1.0"],
    "pax with global records": ["--format=pax", "--pax-option=globexthdr.name=g,uid=4711,comment=x"],
    "blocks of 512": ["--format=gnu", "-b", "1"],
}


def parse(content: bytes, size: int | None = None, algorithms: tuple[str, ...] = ("md5", "sha256")) -> list[Member]:
    """Feed a whole stream, in blocks of one size."""
    found: list[Member] = []
    with MemberParser(found.append, algorithms) as parser:
        for at in range(0, len(content), size or len(content)):
            parser.feed(content[at : at + (size or len(content))])
        parser.finish()
        assert parser.is_complete
        assert parser.payload_bytes is not None
        assert not any(content[parser.payload_bytes :])
        assert parser.offset_bytes == len(content)
    return found


def oracle(content: bytes) -> list[tuple[object, ...]]:
    """What Python's tarfile sees."""
    kinds = {b"1": "hardlink", b"2": "symlink", b"3": "character", b"4": "block", b"5": "directory", b"6": "fifo"}
    found = []
    with tarfile.open(fileobj=io.BytesIO(content), encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            kind = kinds.get(info.type, "file")
            stream = archive.extractfile(info) if kind == "file" else None
            text = stream.read() if stream else b""
            link = os.fsencode(info.linkname) if kind in {"hardlink", "symlink"} else b""
            device = (info.devmajor, info.devminor) if kind in {"character", "block"} else None
            found.append(
                (
                    os.fsencode(info.name),
                    kind,
                    info.size if kind == "file" else 0,
                    info.mode,
                    info.uid,
                    info.gid,
                    int(info.mtime // 1),
                    link,
                    device,
                    hashlib.md5(text).hexdigest() if stream else None,
                    hashlib.sha256(text).hexdigest() if stream else None,
                )
            )
    return found


def told(member: Member) -> tuple[object, ...]:
    digests = member.digests
    return (
        member.name,
        member.kind.value,
        member.size_bytes,
        member.mode,
        member.uid,
        member.gid,
        member.mtime_s,
        member.link,
        member.device,
        digests.get("md5"),
        digests.get("sha256"),
    )


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
def test_every_format_of_gnu_tar_is_understood(shared_tree: Path, tar: Tar, options: list[str]) -> None:
    content = tar(shared_tree, *options)
    found = parse(content)
    assert [told(member) for member in found] == oracle(content)
    by_name = {member.name.rpartition(b"/")[2]: member for member in found}
    assert by_name[b"sparse"].is_sparse is ("sparse" in " ".join(options))
    assert by_name[b"sparse"].digests["sha256"] == hashlib.sha256((shared_tree / "sparse").read_bytes()).hexdigest()
    assert by_name[b"link"].link == b"plain"
    assert len([member for member in found if member.kind is MemberKind.HARDLINK]) == 2


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A directory whose path leaves room in the hundred bytes of an old name."""
    with tempfile.TemporaryDirectory(prefix="t") as home:
        yield Path(home)


@pytest.mark.parametrize("form", ["ustar", "v7"])
def test_the_old_formats_are_understood(short_home: Path, tar: Tar, form: str) -> None:
    target = short_home / "t"
    directory = target / ("d" * 20)
    directory.mkdir(parents=True)
    (directory / "file").write_bytes(b"content")
    os.link(directory / "file", directory / "second")
    os.symlink("file", directory / "link")
    if form == "ustar":
        (target / ("e" * 60)).mkdir()
        (target / ("e" * 60) / ("f" * 90)).write_bytes(b"a name in two parts")
    content = tar(target, f"--format={form}")
    found = parse(content)
    assert [told(member) for member in found] == oracle(content)
    assert len(found) == (7 if form == "ustar" else 5)


def test_offsets_are_those_of_the_first_header(shared_tree: Path, tar: Tar) -> None:
    content = tar(shared_tree, "--format=gnu")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [info.offset for info in archive]
    assert [member.offset_bytes for member in parse(content)] == expected


@pytest.mark.parametrize("form", ["gnu sparse", "pax sparse 1.0", "pax sparse 0.0"])
def test_the_sizes_of_the_blocks_do_not_matter(shared_tree: Path, tar: Tar, form: str) -> None:
    content = tar(shared_tree, *FORMATS[form])
    expected = parse(content)
    for size in (511, 512, 10_240, 1 << 20, 65_537):
        assert parse(content, size) == expected
    dice = random.Random(5)
    found: list[Member] = []
    with MemberParser(found.append) as parser:
        at = 0
        while at < len(content):
            step = dice.choice([1, 7, 100, 512, 5000, 200_000])
            parser.feed(memoryview(content)[at : at + step])
            at += step
        parser.finish()
    assert found == expected


def _small_archive(form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, text in (("a", b"1" * 700), ("d/" + "n" * 120, b""), ("b", b"2" * 512)):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return out.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_cut_at_any_byte_is_noticed(form: int) -> None:
    content = _small_archive(form)
    end = -(-len(content.rstrip(b"\0")) // 512) * 512 + 1024
    assert len(parse(content[:end])) == 3  # the padding behind the end may be missing
    for cut in range(end):
        found: list[Member] = []
        with MemberParser(found.append) as parser:
            parser.feed(content[:cut])
            with pytest.raises(Fault) as caught:
                parser.finish()
        assert caught.value.kind is FaultKind.DATA
        assert f"at byte {cut}" in str(caught.value)
        assert len(found) <= 3


def test_a_flipped_bit_in_any_header_is_noticed_where_it_is() -> None:
    content = _small_archive()
    offsets = [0, 1536]
    for offset in offsets:
        for at in range(offset, offset + 512):
            damaged = bytearray(content)
            damaged[at] ^= 1
            with pytest.raises(Fault) as caught:
                parse(bytes(damaged))
            assert caught.value.kind is FaultKind.DATA
            assert f"at byte {offset}" in str(caught.value)


def test_a_flipped_bit_in_a_content_is_another_digest() -> None:
    content = bytearray(_small_archive())
    before = parse(bytes(content))
    content[512 + 699] ^= 0x80
    after = parse(bytes(content))
    assert before[0].digests != after[0].digests
    assert before[1:] == after[1:]


def test_a_single_block_of_zeros_is_damage() -> None:
    content = _small_archive()
    with pytest.raises(Fault, match=r"single block of zeros .* at byte 2048|single block of zeros"):
        parse(content[:1536] + bytes(512) + content[1536:])


def test_an_error_of_who_listens_is_not_damage() -> None:
    def refuse(member: Member) -> None:
        raise ValueError("mine")

    for content in (_small_archive(), _ending(_header(b"d", b"5", 0))):
        with MemberParser(refuse) as parser, pytest.raises(ValueError, match="mine"):
            parser.feed(content)
        assert parser.damage is None


def _ending(block: bytearray, *more: bytes) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + b"".join(more) + bytes(1024)


def _header(name: bytes, kind: bytes, size: int, link: bytes = b"", magic: bytes = b"ustar\x0000") -> bytearray:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257 : 257 + len(magic)] = magic
    return block


def test_hard_links_with_and_without_their_content() -> None:
    text = b"content" + bytes(505)
    with_content = parse(_ending(_header(b"b", b"1", 7, b"a"), text))
    assert [(member.kind, member.size_bytes) for member in with_content] == [(MemberKind.HARDLINK, 7)]
    assert with_content[0].digests["md5"] == hashlib.md5(b"content").hexdigest()
    follower = _ending(_header(b"c", b"0", 0))
    for magic in (b"ustar\x0000", b"ustar  \0", b""):
        found = parse(_ending(_header(b"b", b"1", 7, b"a", magic))[:512] + follower)
        assert [(member.name, member.kind, member.size_bytes) for member in found] == [
            (b"b", MemberKind.HARDLINK, 0),
            (b"c", MemberKind.FILE, 0),
        ]
        assert found[1].offset_bytes == 512


def test_what_old_and_other_tars_write_is_tolerated() -> None:
    dumped = b"Ya\0Nb\0\0".ljust(512, b"\0")
    content = b"".join(
        [
            _ending(_header(b"VOLUME01", b"V", 0))[:512],
            _ending(_header(b"/dir/", b"D", 7), dumped)[:1024],
            _ending(_header(b"//absolute//", b"5", 0, magic=b""))[:512],
            _ending(_header(b"old directory/", b"\0", 0, magic=b""))[:512],
            _ending(_header(b"contiguous", b"7", 3), b"abc".ljust(512, b"\0")),
        ]
    )
    assert [(member.name, member.kind) for member in parse(content)] == [
        (b"dir", MemberKind.DIRECTORY),
        (b"absolute", MemberKind.DIRECTORY),
        (b"old directory", MemberKind.DIRECTORY),
        (b"contiguous", MemberKind.FILE),
    ]


def _pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    text = b""
    for keyword, value in records:
        bare = len(keyword) + len(value) + 3
        length = bare + len(str(bare + len(str(bare))))
        text += b"%d %s=%s\n" % (length, keyword, value)
    return _ending(_header(b"pax", kind, len(text)), text.ljust(-(-len(text) // 512) * 512, b"\0"))[:-1024]


def test_pax_records_say_it_better() -> None:
    records = _pax(
        (b"path", b"\xff\xfe raw\nname=with=signs"),
        (b"hdrcharset", b"BINARY"),
        (b"uid", b"5000000000"),
        (b"mtime", b"-1.25"),
        (b"size", b"3"),
    )
    whole = _pax((b"gid", b"7"), (b"path", b"no member is called so"), kind=b"g")
    content = whole + records + _ending(_header(b"short", b"0", 0), b"abc".ljust(512, b"\0"))
    (member,) = parse(content)
    assert member.name == b"\xff\xfe raw\nname=with=signs"
    assert (member.uid, member.gid, member.mtime_s, member.size_bytes) == (5_000_000_000, 7, -2, 3)
    assert member.digests["sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert member.offset_bytes == len(whole)


@pytest.mark.parametrize(
    "content",
    [
        _pax((b"path", b"x")),
        _ending(_header(b"x", b"x", 9), b"9 path=x\0".ljust(512, b"\0")),
        _ending(_header(b"x", b"x", 9), b"99 path=x".ljust(512, b"\0")),
        _pax((b"size", b"-1")) + _ending(_header(b"a", b"0", 0)),
        _pax((b"uid", b"9" * 30)) + _ending(_header(b"a", b"0", 0)),
        _pax((b"mtime", b"9" * 30)) + _ending(_header(b"a", b"0", 0)),
        _pax((b"size", b"many")) + _ending(_header(b"a", b"0", 0)),
        _pax((b"size", b"9" * 30)) + _ending(_header(b"a", b"0", 0)),
        _pax((b"GNU.sparse.map", b"5,1,0,1"), (b"GNU.sparse.size", b"9")) + _ending(_header(b"a", b"0", 2)),
        _pax((b"GNU.sparse.map", b"0,9"), (b"GNU.sparse.size", b"5")) + _ending(_header(b"a", b"0", 9)),
        _pax((b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.size", b"5")) + _ending(_header(b"a", b"0", 2)),
        _pax((b"GNU.sparse.map", b"0,1")) + _ending(_header(b"a", b"0", 1)),
        _pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"5"))
        + _ending(_header(b"a", b"0", 512), b"99999\n".ljust(512, b"1")),
        _ending(_header(b"long", b"L", 1 << 30)),
        _ending(_header(b"goes on", b"M", 5)),
        b"no tar at all".ljust(1024, b"."),
    ],
    ids=str,
)
def test_what_cannot_be_true_is_damage(content: bytes) -> None:
    with pytest.raises(Fault) as caught:
        parse(content + bytes(1024))
    assert caught.value.kind is FaultKind.DATA
    assert "at byte" in str(caught.value)


def test_numbers_beyond_eight_gib_and_below_zero() -> None:
    assert headers.number(b"\x80\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00") == 1 << 33
    assert headers.number(b"\xff" * 11 + b"\xfe") == -2
    assert headers.number(b"00000000644\0") == headers.number(b"   644 \0    ") == 0o644
    with pytest.raises(ValueError, match="octal"):
        headers.number(b"12ab\0\0\0\0")


def test_a_sparse_file_of_more_than_eight_gib(tmp_path: Path, tar: Tar) -> None:
    size_bytes = (8 << 30) + 12_345
    target = tmp_path / "t"
    target.mkdir()
    with (target / "huge").open("wb") as stream:
        stream.seek(8 << 30)
        stream.write(b"end")
        stream.truncate(size_bytes)
    content = tar(target, "--format=gnu", "--sparse")
    found = parse(content, algorithms=())
    assert found[1].size_bytes == size_bytes
    assert found[1].is_sparse
    assert len(content) < 100_000


@given(st.binary(min_size=0, max_size=3000), st.integers(1, 700))
def test_no_garbage_ends_in_anything_but_a_fault(garbage: bytes, size: int) -> None:
    content = _small_archive()[:1536] + garbage
    with MemberParser(lambda member: None) as parser, pytest.raises(Fault) as caught:
        for at in range(0, len(content), size):
            parser.feed(content[at : at + size])
        parser.finish()
        if parser.is_complete:  # the garbage happened to be zeros
            raise Fault(FaultKind.DATA, "zeros", "all")
    assert caught.value.kind is FaultKind.DATA


def test_digests_are_those_of_sha256sum(shared_tree: Path, tar: Tar) -> None:
    listed = subprocess.run(
        ["find", str(shared_tree), "-type", "f", "-exec", "sha256sum", "-z", "-b", "{}", "+"],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    expected = {}
    for line in listed.split(b"\0")[:-1]:
        digest, _, name = line.partition(b" *")
        expected[name.lstrip(b"/")] = digest.decode()
    found = {member.name: member for member in parse(tar(shared_tree, "--format=gnu", "--sparse"))}
    files = [member for member in found.values() if member.kind in {MemberKind.FILE, MemberKind.HARDLINK}]
    assert {member.name for member in files} == set(expected)
    for member in files:
        content = found[member.link] if member.kind is MemberKind.HARDLINK else member
        assert content.digests["sha256"] == expected[member.name]
