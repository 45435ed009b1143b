"""A signed list of checksums: what nobody signed is found, and a crash is not taken for a forgery."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bitarchive_samples import sample
from bitarchive_site import FILES, Site
from custody.bitarchive import preserve, upload
from custody.bitarchive.checksum_replica import ChecksumReplica
from custody.bitarchive.config import parse
from custody.faults import Fault, FaultKind

MD5 = {f"{number}.warc": f"{number:032x}" for number in range(4)}


def make_key(path: Path) -> Path:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)], check=True)
    return path


@pytest.fixture
def signed(tmp_path: Path) -> ChecksumReplica:
    """Four lines, each signed."""
    made = ChecksumReplica(tmp_path / "list.md5", make_key(tmp_path / "key.pem"))
    for name, md5 in MD5.items():
        made.put(name, md5)
    return made


def test_the_list_is_the_old_one_and_every_line_is_signed(signed: ChecksumReplica, tmp_path: Path) -> None:
    signed.put("1.warc", MD5["1.warc"])
    assert signed.path.read_text() == "".join(f"{name}##{md5}\n" for name, md5 in MD5.items())
    assert len((tmp_path / "list.md5.sig").read_text().splitlines()) == len(MD5)
    assert signed.read().md5 == ChecksumReplica(signed.path).read().md5 == MD5


@pytest.mark.parametrize("how", ["changed", "added", "taken out", "exchanged", "signatures gone", "another key"])
def test_what_was_not_signed_by_us_is_found(signed: ChecksumReplica, tmp_path: Path, how: str) -> None:
    lines = signed.path.read_bytes().splitlines(keepends=True)
    beside = tmp_path / "list.md5.sig"
    if how == "changed":
        lines[2] = lines[2].replace(b"0##", b"0##").replace(b"2\n", b"3\n")
    elif how == "added":
        lines.append(b"9.warc##" + b"9" * 32 + b"\n")
    elif how == "taken out":
        del lines[1]
    elif how == "exchanged":
        lines[0], lines[1] = lines[1], lines[0]
    elif how == "signatures gone":
        beside.unlink()
    else:
        made = ChecksumReplica(tmp_path / "forged.md5", make_key(tmp_path / "other.pem"))
        for name in MD5:
            made.put(name, "f" * 32)
        lines = [made.path.read_bytes()]
        (tmp_path / "forged.md5.sig").replace(beside)
    signed.path.write_bytes(b"".join(lines))
    for act in (signed.read, lambda: signed.put("5.warc", "5" * 32)):
        with pytest.raises(Fault, match=r"that are not signed|another key") as caught:
            act()
        assert caught.value.kind is FaultKind.DATA
    assert signed.path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("written", [0, 7, 38])
def test_a_put_that_was_killed_is_done_again(signed: ChecksumReplica, written: int) -> None:
    before = signed.path.read_bytes()
    signed.put("new.warc", "a" * 32)
    signed.path.write_bytes(
        before + b"new.warc##" + b"a" * (written - 10) if written > 10 else before + b"new.war"[:written]
    )
    assert signed.read().md5 == MD5
    signed.put("other.warc", "b" * 32)
    signed.put("new.warc", "a" * 32)
    assert signed.read().md5 == {**MD5, "other.warc": "b" * 32, "new.warc": "a" * 32}


def test_a_torn_signature_is_written_again(signed: ChecksumReplica, tmp_path: Path) -> None:
    before, beside = signed.path.read_bytes(), tmp_path / "list.md5.sig"
    signed.put("new.warc", "a" * 32)
    signed.path.write_bytes(before)
    beside.write_bytes(beside.read_bytes()[:-30])
    signed.put("new.warc", "a" * 32)
    assert signed.read().md5 == {**MD5, "new.warc": "a" * 32}


def test_a_key_that_is_none_is_refused_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    with pytest.raises(Fault, match=r"Next: openssl genpkey -algorithm ed25519 -out .*/key"):
        ChecksumReplica(tmp_path / "list", tmp_path / "key")
    with pytest.raises(Fault, match="No such file"):
        ChecksumReplica(tmp_path / "list", tmp_path / "none")


def test_a_replica_signs_its_lines_and_an_old_list_is_signed_when_the_catalogue_agrees(
    site: Site, tmp_path: Path
) -> None:
    values = site.archive.config.model_dump()
    values["replicas"][2]["signing_key"] = str(make_key(tmp_path / "key.pem"))
    site.archive.config = parse(values, "test")
    replica = site.archive.config.replica("THREE")
    (done,) = upload.upload(site.archive, [sample(tmp_path / "n-1.warc").path], who="test")
    assert done.is_complete, done.reason
    assert (site.root / "checksum_THREE.md5.sig").read_bytes().count(b"\n") == 1
    path = site.root / "checksum_THREE.md5"
    path.write_bytes(path.read_bytes() + f"{FILES[0]}##{'0' * 32}\n".encode())
    with pytest.raises(Fault, match="Next: look at them, then custody bitarchive check sign"):
        preserve.find_missing(site.archive, replica, who="test")
    keeper = ChecksumReplica.of(replica)
    with pytest.raises(Fault, match=r"the catalogue does not; nothing was signed"):
        keeper.sign(lambda _name: "1" * 32)
    assert keeper.sign(keeper_md5 := ChecksumReplica(path).read().md5.get) == 2
    assert set(keeper.read().md5) == {"n-1.warc", FILES[0]} and keeper_md5(FILES[0]) == "0" * 32
