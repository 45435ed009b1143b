"""Upload: the local file goes only when every replica was read back and found equal."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import sqlalchemy as sa

from bitarchive_samples import sample
from bitarchive_site import FILES, Site
from custody.bitarchive import catalogue, upload
from custody.bitarchive.checksum_replica import ChecksumReplica
from custody.bitarchive.nodes import LocalNode
from custody.bitarchive.states import UploadState
from custody.bitarchive.tables import replica_file
from custody.faults import Fault, FaultKind
from custody.ledger.tables import event

DONE = dict.fromkeys(("ONE", "TWO", "THREE"), UploadState.UPLOAD_COMPLETED)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return sample(tmp_path / "incoming" / "new-1.warc.gz").path


def copies(site: Site, name: str) -> list[Path]:
    return sorted(site.root.glob(f"*/filedir/{name}"))


def test_a_file_is_in_every_replica_before_it_is_deleted_here(site: Site, source: Path) -> None:
    content = source.read_bytes()
    (done,) = upload.upload(site.archive, [source], who="test")
    assert (done.states, done.deleted, done.reason) == (DONE, True, "")
    assert not source.exists()
    assert [path.read_bytes() for path in copies(site, source.name)] == [content] * 2
    assert (site.root / "checksum_THREE.md5").read_text() == f"{source.name}##{hashlib.md5(content).hexdigest()}\n"
    places = {line.place: (line.state, line.proof) for line in site.archive.ledger.where_is(source.name)}
    assert sorted(places.values(), key=str) == [("proven", "readback"), ("proven", "readback"), ("released", None)]
    with site.archive.ledger.read() as connection:
        said = list(connection.scalars(sa.select(event.c.what).where(event.c.subject == source.name)))
    assert said.index("uploaded") < said.index("deleting") < said.index("deleted")


def test_uploading_again_sends_nothing_and_deletes_what_is_equal(site: Site, source: Path, tmp_path: Path) -> None:
    again = tmp_path / "again" / source.name
    again.parent.mkdir()
    again.write_bytes(source.read_bytes())
    upload.upload(site.archive, [source], who="test")
    before = site.digests()
    (done,) = upload.upload(site.archive, [again], who="test")
    assert (done.states, done.deleted) == (DONE, True)
    assert site.digests() == before


def test_a_file_that_an_earlier_run_let_go_is_done_and_one_that_never_was_is_an_error(site: Site, source: Path) -> None:
    upload.upload(site.archive, [source], who="test")
    (done,) = upload.upload(site.archive, [source], who="test")
    assert (done.states, done.deleted) == (DONE, True)
    with pytest.raises(Fault, match="is no file"):
        upload.upload(site.archive, [source.with_name("never.warc")], who="test")
    with pytest.raises(Fault, match="is no file"):
        upload.upload(site.archive, [source.parent / "elsewhere" / source.name], who="test")


def test_other_bytes_under_a_known_name_are_refused_and_kept(site: Site, source: Path, tmp_path: Path) -> None:
    upload.upload(site.archive, [source], who="test")
    before = site.digests()
    other = tmp_path / source.name
    other.write_bytes(b"other bytes")
    (done,) = upload.upload(site.archive, [other], who="test")
    assert "is on record with other bytes" in done.reason
    assert not done.is_complete
    assert other.exists()
    assert site.digests() == before


@pytest.mark.parametrize("bad", ["x.txt", "a b.warc", "none.warc", "dir.warc", "link.warc"])
def test_one_bad_file_stops_all_before_anything_is_sent(site: Site, source: Path, tmp_path: Path, bad: str) -> None:
    path = tmp_path / bad
    if bad == "dir.warc":
        path.mkdir()
    elif bad == "link.warc":
        path.symlink_to(source)
    elif bad != "none.warc":
        path.write_bytes(b"x")
    before = site.digests()
    with pytest.raises(Fault) as caught:
        upload.upload(site.archive, [source, path], who="test")
    assert caught.value.kind is FaultKind.CONFIG
    assert source.exists()
    assert site.digests() == before


def test_a_replica_that_is_down_keeps_the_local_file_and_the_next_try_mends_it(site: Site, source: Path) -> None:
    far = site.root / "far"
    far.rename(site.root / "off")
    (done,) = upload.upload(site.archive, [source], who="test")
    assert done.states == DONE | {"TWO": UploadState.UPLOAD_FAILED}
    assert not done.deleted and source.exists()
    assert "replica TWO" in done.reason
    (site.root / "off").rename(far)
    (done,) = upload.upload(site.archive, [source], who="test")
    assert (done.states, done.deleted) == (DONE, True)


def test_other_bytes_in_a_replica_are_never_overwritten(site: Site, source: Path) -> None:
    stranger = site.root / "far" / "filedir" / source.name
    stranger.write_bytes(b"something else")
    (done,) = upload.upload(site.archive, [source], who="test")
    assert done.states["TWO"] is UploadState.UPLOAD_FAILED
    assert stranger.read_bytes() == b"something else"
    assert source.exists()


def test_another_checksum_in_a_checksum_replica_is_a_conflict(site: Site, source: Path) -> None:
    (site.root / "checksum_THREE.md5").write_text(f"{source.name}##{'0' * 32}\n")
    (done,) = upload.upload(site.archive, [source], who="test")
    assert done.states["THREE"] is UploadState.UPLOAD_FAILED
    assert source.exists()


def test_a_node_that_lies_when_read_back_is_found_out(
    site: Site, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalNode.put

    def forge(node: LocalNode, path: Path, name: str, expected: object) -> None:
        put(node, path, name, expected)  # type: ignore[arg-type]
        if node.name == "far":
            node.path(name).write_bytes(b"\0" * path.stat().st_size)

    monkeypatch.setattr(LocalNode, "put", forge)
    (done,) = upload.upload(site.archive, [source], who="test")
    assert done.states["TWO"] is UploadState.UPLOAD_FAILED
    assert source.exists()


def test_a_local_file_that_changed_meanwhile_stays(site: Site, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prove = catalogue.prove

    def change(*arguments: object) -> None:
        prove(*arguments)  # type: ignore[arg-type]
        source.write_bytes(b"written to")

    monkeypatch.setattr(catalogue, "prove", change)
    (done,) = upload.upload(site.archive, [source], who="test")
    assert not done.deleted
    assert source.read_bytes() == b"written to"


def test_a_run_that_died_after_sending_asks_before_it_sends(site: Site, source: Path) -> None:
    upload.upload(site.archive, [source], who="test", keep=True)
    with site.archive.ledger.begin() as connection:
        connection.execute(sa.update(replica_file).values(upload_state=UploadState.UPLOAD_STARTED))
    inodes = [path.stat().st_ino for path in copies(site, source.name)]
    (done,) = upload.upload(site.archive, [source], who="test")
    assert (done.states, done.deleted) == (DONE, True)
    assert [path.stat().st_ino for path in copies(site, source.name)] == inodes


def test_no_room_anywhere_is_told(site: Site, source: Path) -> None:
    site.reconfigure(min_space_left=10**18)
    (done,) = upload.upload(site.archive, [source], who="test")
    assert "no node has room" in done.reason
    assert source.exists()


def test_a_checksum_file_with_a_torn_line_is_read_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "c.md5"
    path.write_text(f"a.warc##{'a' * 32}\nb.warc##12")
    keeper = ChecksumReplica(path)
    keeper.put("b.warc", "b" * 32)
    keeper.put("b.warc", "b" * 32)
    assert keeper.read().md5 == {"a.warc": "a" * 32, "b.warc": "b" * 32}
    assert path.read_text() == f"a.warc##{'a' * 32}\nb.warc##{'b' * 32}\n"
    with pytest.raises(Fault, match="is on record with md5"):
        keeper.put("a.warc", "b" * 32)
    path.write_text(f"a.warc##{'a' * 32}\na.warc##{'b' * 32}\n")
    with pytest.raises(Fault, match=r"has two checksums for a\.warc"):
        keeper.read()


def test_files_that_lay_there_were_adopted(site: Site) -> None:
    replica = site.archive.config.replica("ONE")
    assert [held.name for held in catalogue.held_by(site.archive, replica)] == list(FILES)
