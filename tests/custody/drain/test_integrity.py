"""Whole files pass, damaged ones are named, in blocks of any size.

What the bytes of a file cannot tell is said in the names of the tests that show it.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import random
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from custody.drain.integrity import Damaged, check_wacz, checker_for

THIRD_PARTY = Path(__file__).parents[4] / "shared" / "data" / "warc"
needs_samples = pytest.mark.skipif(not THIRD_PARTY.is_dir(), reason="the third-party samples are not on this machine")

dice = random.Random(5)
BODIES = [b"short", b"", dice.randbytes(3000), b"text " * 2000, b"WARC/1.0\r\n\r\n" * 3, b"\r\n\r\n\n"]


def warc_record(body: bytes, number: int, *, digest: bool = True) -> bytes:
    label = base64.b32encode(hashlib.sha1(body).digest()).decode()
    head = f"WARC/1.0\r\nWARC-Type: resource\r\nWARC-Record-ID: <urn:test:{number}>\r\n"
    head += f"WARC-Block-Digest: sha1:{label}\r\n" if digest else ""
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def arc_record(body: bytes, number: int) -> bytes:
    if number == 0:
        body = b"1 0 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n"
        return f"filedesc://sample.arc 0.0.0.0 20260301110409 text/plain {len(body)}\n".encode() + body + b"\n"
    return f"http://a.example/{number} 192.0.2.1 20260301110409 text/html {len(body)}\n".encode() + body + b"\n"


def zstd_dictionary() -> zstandard.ZstdCompressionDict:
    samples = [warc_record(dice.randbytes(50) + b"a common phrase of all records" * 3, number) for number in range(200)]
    return zstandard.train_dictionary(2000, samples)


DICTIONARY = zstd_dictionary()


def dictionary_frame(content: bytes) -> bytes:
    return b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def zstd(data: bytes, *, known: zstandard.ZstdCompressionDict | None = None, checksum: bool = True) -> bytes:
    return zstandard.ZstdCompressor(dict_data=known, write_checksum=checksum).compress(data)


WARCS = [warc_record(body, number) for number, body in enumerate(BODIES)]
ARCS = [arc_record(body, number) for number, body in enumerate(BODIES)]

# the members (or records) of a file of each kind, by a name that begins with its suffix
KINDS: dict[str, list[bytes]] = {
    ".warc": WARCS,
    ".arc": ARCS,
    ".warc.gz": [gzip.compress(record, mtime=0) for record in WARCS],
    ".arc.gz": [gzip.compress(record, mtime=0) for record in ARCS],
    ".warc.zst": [zstd(record) for record in WARCS],
    ".arc.zst": [zstd(record) for record in ARCS],
    ".warc.zst with dictionary": [
        dictionary_frame(DICTIONARY.as_bytes()),
        *(zstd(record, known=DICTIONARY) for record in WARCS),
    ],
    ".warc.zst with compressed dictionary": [
        dictionary_frame(zstd(DICTIONARY.as_bytes())),
        *(zstd(record, known=DICTIONARY) for record in WARCS),
    ],
    ".warc.zst without checksums": [zstd(record, checksum=False) for record in WARCS],
}
COMPRESSED = [kind for kind in KINDS if kind.split()[0].endswith((".gz", ".zst"))]


def suffix_of(kind: str) -> str:
    return kind.split()[0]


def check(kind: str, content: bytes, block_bytes: int | None = None) -> int:
    """Records of a whole file; raises Damaged."""
    checker, records = checker_for(suffix_of(kind))
    step = block_bytes or max(1, len(content))
    for start in range(0, len(content), step):
        checker.feed(memoryview(content)[start : start + step])
    checker.close()
    return records.count


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """A checker that never comes back would hold the disk's pool for ever."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError("the checker does not come back")

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_bytes", [None, 1, 7, 1000])
def test_a_whole_file_passes(kind: str, block_bytes: int | None) -> None:
    assert check(kind, b"".join(KINDS[kind]), block_bytes) == len(BODIES)


@given(st.sampled_from(sorted(KINDS)), st.lists(st.integers(1, 4000), min_size=1, max_size=30), st.integers(0, 10**6))
def test_the_answer_does_not_hang_on_the_size_of_the_blocks(kind: str, steps: list[int], damage: int) -> None:
    content = bytearray(b"".join(KINDS[kind]))
    if damage % 3:
        content[damage % len(content)] ^= 0x21
    if damage % 5 == 0:
        del content[damage % len(content) :]

    def outcome(sizes: list[int]) -> tuple[bool, int]:
        checker, records = checker_for(suffix_of(kind))
        try:
            start = 0
            while start < len(content):
                size = sizes[start % len(sizes)]
                checker.feed(bytes(content[start : start + size]))
                start += size
            checker.close()
        except Damaged:
            return False, 0
        return True, records.count

    assert outcome(steps) == outcome([len(content) or 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_inside_a_record_or_member_is_damaged(kind: str) -> None:
    parts = KINDS[kind]
    content = b"".join(parts)
    ends = {sum(map(len, parts[:number])) for number in range(len(parts) + 1)}
    slack = 4 if kind == ".warc" else 1 if kind == ".arc" else 0  # the empty lines behind a record carry nothing
    last = len(content)
    for cut in [*range(1, last, max(1, last // 400)), *range(last - 40, last)]:
        if any(end - slack <= cut <= end for end in ends):
            continue
        with pytest.raises(Damaged):
            check(kind, content[:cut])


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_at_a_members_end_is_not_detected_but_the_record_count_is_reported(kind: str) -> None:
    parts = KINDS[kind]
    missing = 2
    assert check(kind, b"".join(parts[:-missing])) == len(BODIES) - missing


def test_a_cut_in_the_empty_lines_behind_the_last_record_is_not_detected() -> None:
    assert check(".warc", b"".join(WARCS)[:-3]) == len(BODIES)


def inflated(kind: str, content: bytes) -> bytes:
    """What a plain decompressor makes of it: some bytes of a header change nothing."""
    if kind.split()[0].endswith(".gz"):
        return gzip.decompress(content)
    known = DICTIONARY if "dictionary" in kind else None
    decompressor = zstandard.ZstdDecompressor(dict_data=known)
    return decompressor.stream_reader(content, read_across_frames=True).read()


@pytest.mark.parametrize("kind", [kind for kind in COMPRESSED if "without" not in kind])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_one_flipped_byte_in_compressed_data_is_damage_unless_it_changes_nothing(kind: str, flip: int) -> None:
    parts = KINDS[kind]
    content = bytearray(b"".join(parts))
    original = inflated(kind, bytes(content))
    start = len(parts[0]) if "dictionary" in kind else 0
    missed, found = [], 0
    for offset in [*range(start, len(content), 23), *range(start, start + 64)]:
        content[offset] ^= flip
        try:
            with no_longer_than(20):
                check(kind, bytes(content))
        except Damaged:
            found += 1
        else:
            if inflated(kind, bytes(content)) != original:
                missed.append(offset)
        content[offset] ^= flip
    assert missed == []
    assert found > 100


@pytest.mark.parametrize("kind", [".warc", ".warc.zst without checksums"])
def test_a_flipped_byte_of_a_block_is_damage_where_block_digests_are_all_there_is(kind: str) -> None:
    body = dice.randbytes(2000)
    for offset in range(0, 2000, 37):
        record = bytearray(warc_record(body, 1))
        record[len(record) - 4 - 2000 + offset] ^= 0x10
        content = bytes(record) if kind == ".warc" else zstd(bytes(record), checksum=False)
        with pytest.raises(Damaged, match="digest"):
            check(kind, content)


def test_a_flipped_byte_of_an_uncompressed_block_without_digest_is_not_detected() -> None:
    record = warc_record(b"page " * 100, 1, digest=False)
    assert check(".warc", record.replace(b"page", b"pbge", 1)) == 1


def test_a_damaged_dictionary_is_damage_and_never_an_error_of_ours() -> None:
    for kind in ("dictionary", "compressed dictionary"):
        parts = KINDS[f".warc.zst with {kind}"]
        content = bytearray(b"".join(parts))
        for offset in range(len(parts[0])):
            for flip in (0x01, 0xFF):
                content[offset] ^= flip
                try:
                    with no_longer_than(20):
                        check(".warc.zst", bytes(content))
                except Damaged:
                    pass
                content[offset] ^= flip


@pytest.mark.parametrize("suffix", [".warc", ".arc", ".warc.gz", ".arc.gz", ".warc.zst"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\r\n\r\n",
        b"\0" * 5000,
        b"WARC/1.0",
        b"WARC/1.0\r\n\r\n",
        b"These are notes of the operator.\nSecond line 12\n",
        b"a b c d 5\n12345\n",
        b"%PDF-1.4\n" + dice.randbytes(3000),
        gzip.compress(b"not a record", mtime=0),
        zstd(b"not a record"),
        b"PK\x03\x04" + dice.randbytes(300),
        b"filedesc://x 0 0 0 " + b"9" * 5000 + b"\n",
        b"WARC/1.0\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"filedesc://x 0 0 0 -5\n",
        "filedesc://x 0 0 0 ²\n".encode(),
        b"WARC/1.0\r\nContent-Length: -5\r\n\r\n",
        b"x" * (3 << 20),
        b"WARC/" + b"x" * (3 << 20),
    ],
)
def test_what_is_no_archive_file_is_damaged(suffix: str, content: bytes) -> None:
    with pytest.raises(Damaged):
        check(suffix, content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [b"garbage", b"garbage\n", b"\0" * 600, b"\x1f\x8b", b"\x28\xb5\x2f\xfd\x00"])
def test_garbage_behind_the_last_record_is_damage(kind: str, garbage: bytes) -> None:
    with pytest.raises(Damaged):
        check(kind, b"".join(KINDS[kind]) + garbage)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_file_of_the_other_compression_is_damaged(kind: str) -> None:
    other = ".warc.zst" if kind.endswith(".gz") else ".warc.gz"
    with pytest.raises(Damaged):
        check(suffix_of(kind), b"".join(KINDS[other]))
    with pytest.raises(Damaged):
        check(suffix_of(kind), b"".join(WARCS))


def test_a_dictionary_of_gigabytes_is_not_collected_in_memory() -> None:
    checker, _ = checker_for(".warc.zst")
    with pytest.raises(Damaged, match="dictionary"):
        checker.feed(b"\x5d\x2a\x4d\x18\xff\xff\xff\xff" + b"x" * 100)


def test_a_record_may_span_members_and_a_member_may_hold_records() -> None:
    middle = len(WARCS[2]) // 2
    split = gzip.compress(WARCS[2][:middle]) + gzip.compress(WARCS[2][middle:])
    together = gzip.compress(WARCS[0] + WARCS[1])
    assert check(".warc.gz", together + split) == 3
    with pytest.raises(Damaged, match="inside record"):
        check(".warc.gz", together + gzip.compress(WARCS[2][:middle]))


def test_the_place_of_the_damage_is_named() -> None:
    with pytest.raises(Damaged, match=r"member at offset \d+"):
        check(".warc.gz", b"".join(KINDS[".warc.gz"])[:-5])
    with pytest.raises(Damaged, match=r"record 6: .* bytes are missing"):
        check(".warc", b"".join(WARCS)[:-6])


@given(st.binary(max_size=300), st.sampled_from([".warc", ".arc", ".warc.gz", ".arc.gz", ".warc.zst"]))
def test_any_bytes_are_judged_and_nothing_else_is_raised(content: bytes, suffix: str) -> None:
    with contextlib.suppress(Damaged):
        assert check(suffix, content) > 0


WHOLE = {
    "jwat-warc/IAH-20080430204825-00000-blackbook.warc.gz": 822,
    "jwat-arc/IAH-20080430204825-00000-blackbook.arc.gz": 300,
    "pywb/warcs/iana.warc.gz": 343,
    "pywb/warcs/dupes.warc.gz": 25,
    "pywb/warcs/example.warc.gz": 6,
    "pywb/warcs/example.arc": 2,
    "pywb/warcs/example.arc.gz": 2,
    "netarchivesuite/fyensdk.arc": 190,
    "netarchivesuite/12345-metadata-4.arc": 19,
    "jwat-warc/valid-warcfile-contenttype-continuation.warc": 1,
    "jwat-warc/valid-warcfile-duplicate-concurrentto.warc": 1,
    "jwat-warc/valid-warcfile-non-warc-headers.warc": 1,
    "jwat-warc/valid-warcfile-upper-lower-case.warc": 5,
}
BROKEN = [
    "jwat-warc/invalid-warcfile-record-then-garbage.warc",
    "jwat-warc/invalid-warcfile-lonely-monkeys.warc",
    "jwat-warc/invalid-warcfile-fields-missing.warc",
    "jwat-arc/invalid-arcfile-record-then-garbage.arc",
]


def sample(name: str) -> bytes:
    path = THIRD_PARTY / name
    if not path.is_file():
        pytest.skip(f"{name} is not on this machine")
    return path.read_bytes()


def kind_of(name: str) -> str:
    return name[name.rindex(".arc" if ".arc" in name else ".warc") :]


@needs_samples
@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_of_others_pass(name: str) -> None:
    assert check(kind_of(name), sample(name)) == WHOLE[name]


@needs_samples
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_of_others_do_not(name: str) -> None:
    with pytest.raises(Damaged):
        check(kind_of(name), sample(name))


@needs_samples
@pytest.mark.parametrize("name", [name for name in WHOLE if name.endswith(".gz")])
def test_a_cut_in_a_file_of_others_is_found(name: str) -> None:
    content = sample(name)
    with pytest.raises(Damaged):
        check(kind_of(name), content[: len(content) - 9])


def wacz(path: Path, *, with_datapackage: bool = True) -> Path:
    """A small WACZ: what counts is its table of contents and the checksums of its members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.warc.gz", bytes(range(256)) * 40)
        if with_datapackage:
            archive.writestr("datapackage.json", "{}")
    return path


def test_a_whole_wacz_passes(tmp_path: Path) -> None:
    check_wacz(wacz(tmp_path / "a.wacz"))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda content: content[:40] + bytes([content[40] ^ 255]) + content[41:], "broken|no whole zip"),
        (lambda content: content[:-30], "is no whole zip file"),
        (lambda content: b"no zip at all", "is no whole zip file"),
    ],
)
def test_a_damaged_wacz_is_told(tmp_path: Path, harm: Callable[[bytes], bytes], said: str) -> None:
    path = wacz(tmp_path / "a.wacz")
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(Damaged, match=said):
        check_wacz(path)


def test_a_zip_without_a_datapackage_is_no_wacz(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=r"no datapackage\.json"):
        check_wacz(wacz(tmp_path / "a.wacz", with_datapackage=False))
