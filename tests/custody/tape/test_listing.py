"""What is to be imported: typed, from a file, or found below a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.host import LocalHost
from custody.tape import listing


def test_typed_paths_may_hold_any_byte() -> None:
    assert listing.typed(["/data/a ", r"/data/\377\n", r"/data/b\\c", "/data//a/"]) == [
        b"/data/a",
        b"/data/\xff\n",
        b"/data/b\\c",
    ]


@pytest.mark.parametrize(
    ("path", "said"), [("data/a", "no absolute path"), (r"/data/\q", "cannot be read"), ("/", "is no target")]
)
def test_what_is_no_path_is_named(path: str, said: str) -> None:
    with pytest.raises(Fault, match=said) as caught:
        listing.typed([path])
    assert caught.value.kind is FaultKind.CONFIG


def test_directories_below_one(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/2026-\xff\n"
    os.mkdir(odd)
    (tmp_path / "2026-b").mkdir()
    (tmp_path / "other" / "2026-deeper").mkdir(parents=True)
    (tmp_path / "2026-link").symlink_to("other")
    (tmp_path / "2026-file").touch()
    found = listing.below(LocalHost(), str(tmp_path), "2026-*")
    assert found == sorted([odd, os.fsencode(tmp_path / "2026-b")])
    with pytest.raises(Fault, match="holds no directory called 1999"):
        listing.below(LocalHost(), str(tmp_path), "1999")
    with pytest.raises(Fault, match="No such file"):
        listing.below(LocalHost(), str(tmp_path / "nowhere"))


def test_a_list_file_and_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"/a\n/b\r\n\n/a\n")
    assert listing.from_file(path) == [b"/a", b"/b"]
    for none in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Fault, match="is no list of targets"):
            listing.from_file(none)


def test_the_content_of_a_wrong_file_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "shadow"
    path.write_text("/a\nroot:secret-hash:1\n")
    with pytest.raises(Fault) as caught:
        listing.from_file(path)
    assert "line 2 is no absolute path" in str(caught.value)
    assert "secret" not in str(caught.value)
