"""Named configurations: where they lie, what they are called, and what is said of one that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from custody.configs import Shelf, check
from custody.faults import Fault, FaultKind


class Colour(BaseModel):
    model_config = ConfigDict(extra="forbid")

    red: int
    name: str = ""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path))
    (tmp_path / "room").mkdir()
    return Shelf("room", called="colour")


def test_examples_and_hidden_files_are_no_configurations(shelf: Shelf) -> None:
    for name in ("b", "a", "example-c", ".d"):
        (shelf.directory / f"{name}.yml").write_text("red: 1\n")
    (shelf.directory / "e.conf").touch()
    assert shelf.names() == ["a", "b"]
    assert shelf.read_yaml("a") == ({"red": 1}, shelf.directory / "a.yml")


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a\n", "-a"])
def test_what_is_no_name_reads_nothing(shelf: Shelf, name: str) -> None:
    with pytest.raises(Fault, match="is no name of a configuration") as caught:
        shelf.read(name)
    assert caught.value.kind is FaultKind.CONFIG


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"red: [\n", "is no YAML"),
        (b"- red\n", "is no list of `key: value` lines"),
        (b"", "is no list of `key: value` lines"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_file_that_makes_no_sense_is_named(shelf: Shelf, content: bytes, said: str) -> None:
    (shelf.directory / "a.yml").write_bytes(content)
    with pytest.raises(Fault, match=said) as caught:
        shelf.read_yaml("a")
    assert str(shelf.directory / "a.yml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_that_is_not_there_names_those_that_are(shelf: Shelf) -> None:
    with pytest.raises(Fault, match=r"colour a: is not there; there are: none in .*room"):
        shelf.read("a")
    (shelf.directory / "b.yml").touch()
    with pytest.raises(Fault, match="colour a: is not there; there are: b"):
        shelf.read("a")


def test_every_wrong_key_is_told() -> None:
    assert check(Colour, {"red": 1}, "here") == Colour(red=1)
    with pytest.raises(Fault, match=r"here: red: .*; blue: no such key") as caught:
        check(Colour, {"red": "x", "blue": 1}, "here")
    assert caught.value.kind is FaultKind.CONFIG
