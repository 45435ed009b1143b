"""Where is it: by path, by the end of one, by glob and by digest; on tapes and before."""

from __future__ import annotations

import hashlib
import os

import pytest

from custody.faults import Fault, FaultKind
from custody.tape import find, tapes
from custody.tape.names import escape
from tape_site import HOSTILE_NAMES, WHO, TapeSite


@pytest.fixture
def written(site: TapeSite) -> TapeSite:
    """Two recorded targets on T1, one of them with every odd name."""
    site.make_tape("T1")
    site.import_all(site.make_hostile_target(), site.make_target("b"))
    site.assign()
    site.archive_all()
    return site


def _paths(site: TapeSite, text: bytes) -> list[bytes]:
    return sorted({b"/" + one.member.name for one in find.where_is(site.ledger, text)})


def test_every_odd_name_is_found_by_its_path_its_end_and_as_it_is_printed(written: TapeSite) -> None:
    for name in HOSTILE_NAMES:
        path = bytes(written.data / "hostile") + b"/" + name
        for text in (path, b"hostile/" + name, escape(path).encode(), b"hostile/" + escape(name).encode()):
            assert _paths(written, text) == [path], text


def test_an_answer_tells_tape_number_offset_and_digests(written: TapeSite) -> None:
    tapes.move_tape(written.ledger, "T1", who=WHO, location="vault 2", slot="7")
    path = written.data / "b/sub/file1"
    (found,) = find.where_is(written.ledger, bytes(path))
    assert (found.tape_name, found.file_number, found.state) == ("T1", 1, "recorded")
    assert (found.location, found.slot) == ("vault 2", "7")
    assert found.content.digests["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    image = written.image("T1").read_bytes()
    block = image.index(path.read_bytes()) - 512  # where its header is
    data_start = image.index(b".custody/target.json")
    assert found.member.offset_bytes == block - data_start


def test_digests_are_found_with_and_without_their_name(written: TapeSite) -> None:
    path = written.data / "b/sub/file2"
    content = path.read_bytes()
    for algorithm in ("sha256", "md5"):
        digest = hashlib.new(algorithm, content).hexdigest()
        for text in (f"{algorithm}:{digest}", digest, digest.upper()):
            assert _paths(written, text.encode()) == [bytes(path)]
    with pytest.raises(Fault, match="is no sha256 digest: it has 4 digits") as caught:
        find.where_is(written.ledger, b"sha256:abcd")
    assert caught.value.kind is FaultKind.CONFIG
    assert find.where_is(written.ledger, b"0" * 64) == []


def test_a_hard_link_tells_the_content_behind_it(written: TapeSite) -> None:
    found = find.where_is(written.ledger, b"a second name") + find.where_is(written.ledger, b"hostile/sub/file0")
    content = (written.data / "hostile/sub/file0").read_bytes()
    for one in found:
        assert (one.content.size_bytes, one.content.digests["md5"]) == (
            len(content),
            hashlib.md5(content, usedforsecurity=False).hexdigest(),
        )


def test_globs_match_whole_paths_or_the_ends_of_them(written: TapeSite) -> None:
    below = bytes(written.data)
    assert _paths(written, b"sub/file[01]") == [
        below + tail for tail in (b"/b/sub/file0", b"/b/sub/file1", b"/hostile/sub/file0", b"/hostile/sub/file1")
    ]
    assert _paths(written, below + b"/b/*2") == [below + b"/b/sub/file2"]
    assert _paths(written, b"fil?2") == [below + b"/b/sub/file2", below + b"/hostile/sub/file2"]
    assert _paths(written, b"/b/*2") == []
    assert _paths(written, b"c[1]") == [below + b"/hostile/c[1]"]  # a name that is there comes before a glob
    assert _paths(written, b"%") == []  # no sign of the database's own


def test_pages_are_put_together(written: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = _paths(written, b"*")
    assert everything == [bytes(written.data) + b"/hostile/*"]
    everything = _paths(written, bytes(written.data) + b"/*")
    assert len(everything) > 20
    monkeypatch.setattr(find, "_PAGE_ROWS", 3)
    assert _paths(written, bytes(written.data) + b"/*") == everything
    assert len(find.where_is(written.ledger, bytes(written.data) + b"/*", limit=5)) == 5


def test_what_is_on_no_tape_yet_is_told_from_its_scan(site: TapeSite) -> None:
    site.make_tape("T1")
    path = site.make_target("b") / "sub" / "file1"
    (target_id,) = site.import_all(site.data / "b")
    (found,) = find.where_is(site.ledger, bytes(path))
    assert (found.tape_name, found.state, found.target_id) == (None, find.IMPORTED, target_id)
    site.assign()
    (found,) = find.where_is(site.ledger, bytes(path))
    assert (found.tape_name, found.state, found.is_on_tape) == ("T1", "assigned", False)
    site.archive()
    (found,) = find.where_is(site.ledger, bytes(path))
    assert (found.state, found.is_on_tape) == ("recorded", True)


def test_a_target_without_a_scan_is_found_by_its_path(site: TapeSite) -> None:
    site.config = site.config.model_copy(update={"scan": False})
    path = site.make_target(os.fsdecode(b"odd \xff"))
    site.import_all(path)
    (found,) = find.where_is(site.ledger, os.fsencode(path))
    assert (found.target, found.state) == (escape(os.fsencode(path)), find.IMPORTED)
    assert find.where_is(site.ledger, b"/nothing/like/it") == []
