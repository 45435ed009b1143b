"""Names of any bytes as text, and back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.tape.names import escape, unescape


@given(st.binary(max_size=300))
def test_every_name_comes_back(name: bytes) -> None:
    text = escape(name)
    assert unescape(text) == name
    assert text.isprintable()


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_two_names_are_two_texts(one: bytes, other: bytes) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain name", "plain name"),
        (b"a\nb", "a\\nb"),
        (b"a\\b", "a\\\\b"),
        (b"\xff", "\\377"),
        ("gr\u00fcn".encode(), "gr\u00fcn"),
        (b"\x1b[31m", "\\033[31m"),
    ],
)
def test_the_text_is_what_tar_lists(tmp_path: Path, name: bytes, text: str) -> None:
    assert escape(name) == text
    path = bytes(tmp_path) + b"/" + name
    with open(path, "wb"):
        pass
    archive = subprocess.run(
        ["tar", "--no-unquote", "-C", tmp_path, "-cf", "-", "--", name], capture_output=True, check=True
    )
    listed = subprocess.run(
        ["tar", "-tf", "-"], input=archive.stdout, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert listed.stdout.decode() == text + "\n"


@pytest.mark.parametrize("text", ["\\", "a\\", "\\q", "\\9", "\\38"])
def test_a_text_that_nobody_escaped_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="backslash"):
        unescape(text)
