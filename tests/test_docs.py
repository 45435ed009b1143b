"""The pages say what is there: links lead somewhere, paths and verbs exist, every key is explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from custody.cli.main import main as custody
from custody.drain.config import Destination, DrainConfig, load

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "include/config/drain").glob("*.yml"))
FOLDERS = ("bin", "dags", "plugins", "include", "tests", "docs", "bench", ".ci")

_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4,}.*$", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_PATH = re.compile(rf"(?:{'|'.join(re.escape(folder) for folder in FOLDERS)})/[\w./*-]*")
_VERB = re.compile(r"(?:^|[ /(])custody ((?:[a-z][a-z-]*)(?: [^\n|;&#<>]*)?)")
_KEY_ROW = re.compile(r"^\| `(\w+)` \| ([^|]+?) \| [^|]+ \|$", re.MULTILINE)

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", path.read_text("utf-8"))


def commands(path: Path) -> Iterator[str]:
    """What a page tells people to type: the lines of its blocks, and what stands in back quotes."""
    text = path.read_text("utf-8")
    for block in _FENCE.findall(text):
        yield from (line.strip() for line in block.splitlines()[1:-1])
    prose = _FENCE.sub("", text)
    yield from (line.strip() for line in _INDENTED.findall(prose))
    yield from _SPAN.findall(prose)


@cache
def anchors(path: Path) -> frozenset[str]:
    """What a link may name behind ``#``, as GitHub makes it of the headings."""
    headings = _HEADING.findall(prose(path))
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def bad_links(path: Path) -> list[str]:
    """Links of a page that lead nowhere in this project."""
    bad = []
    for link in _LINK.findall(prose(path)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            bad.append(link)
    return bad


def bad_paths(text: str) -> list[str]:
    """Paths of this project, in back quotes, that are not there. ``*`` and ``NAME`` stand for any name."""
    found = (_PATH.match(span.replace("NAME", "*")) for span in _SPAN.findall(text))
    return [path[0] for path in found if path and not _is_there(path[0].rstrip("/."))]


def _is_there(path: str) -> bool:
    return any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()


def bad_verbs(line: str) -> list[str]:
    """What is wrong with the calls of ``custody`` in a line: verbs and options that the program does not have."""
    return [f"custody {call}: {wrong}" for call in _VERB.findall(line) if (wrong := _wrong(call.split()))]


def _wrong(words: list[str]) -> str:
    """Follow the verbs, and let the last one read its arguments; what stands for a value need not be one."""
    command: click.Command = custody
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        known = command.get_command(click.Context(command), words[0])
        if known is None:
            return f"no verb {words[0]}"
        command, words = known, words[1:]
    if isinstance(command, click.Group):
        words = [word for word in words if word not in ("--help", "-h")]
        return f"no option {words[0]}" if words else ""
    try:
        command.make_context(command.name, words)
    except click.BadParameter as error:
        return error.format_message() if isinstance(getattr(error.param, "type", None), click.Choice) else ""
    except click.UsageError as error:
        return error.format_message()
    except click.exceptions.Exit:
        return ""  # it was asked for help
    return ""


def shown_default(model: Any, name: str) -> str:
    """A default as the page shows it."""
    field = model.model_fields[name]
    value = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if value is None or (not isinstance(value, bool | int | float) and not value):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value >> 30} GiB" if name == "max_size" else str(value)


def keys() -> dict[str, tuple[str, str]]:
    """Every key of a configuration by the name people write, and its default."""
    return {
        field.alias or name: (name, shown_default(DrainConfig, name))
        for name, field in DrainConfig.model_fields.items()
    }


@page
def test_links_lead_somewhere(path: Path) -> None:
    assert not bad_links(path)


@page
def test_named_files_are_there(path: Path) -> None:
    assert not bad_paths(prose(path))


@page
def test_named_commands_are_there(path: Path) -> None:
    missing = {
        found[0]
        for line in commands(path)
        if (found := re.match(r"(?:\w+=\S+ +)*(bin/[\w.-]+)", line)) and not (ROOT / found[1]).exists()
    }
    assert not missing
    assert not [wrong for line in commands(path) for wrong in bad_verbs(line)]


def test_every_key_of_a_configuration_is_explained() -> None:
    text = (ROOT / "docs/drain.md").read_text("utf-8")
    explained = {row[1]: row[2] for row in _KEY_ROW.finditer(text)}
    known = keys()
    assert not sorted(set(known) - set(explained)), "keys without a line in docs/drain.md"
    wrong = {key: (explained[key], default) for key, (_, default) in known.items() if explained[key] != default}
    assert not wrong, f"defaults in docs/drain.md that are not those of the program (page, program): {wrong}"
    assert set(Destination.model_fields) <= {name for name, _ in known.values()}


def test_no_key_is_explained_that_is_not_there() -> None:
    text = (ROOT / "docs/drain.md").read_text("utf-8")
    section = text.partition("## Configuration")[2].partition("\n## ")[0]
    assert not sorted({row[1] for row in _KEY_ROW.finditer(section)} - set(keys()))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid(path: Path) -> None:
    config = load(str(path))
    assert config.job_dir.is_absolute()
    assert config.xfer_dir.is_absolute()


def test_there_is_an_example_of_every_way() -> None:
    ways = {tuple(str(place.target) for place in load(str(path)).destinations) for path in EXAMPLES}
    assert {("s3",), ("ias3",), ("s3", "thumper")} <= ways


@pytest.mark.parametrize(
    ("line", "is_right"),
    [
        ("custody drain status --stuck", True),
        ("bin/custody where-is NAME --json", True),
        ("docker compose exec worker custody ledger upgrade", True),
        ("custody drain frobnicate", False),
        ("custody drain status --frobnicate", False),
        ("custody frobnicate", False),
    ],
)
def test_the_check_of_verbs_sees_a_mistake(line: str, is_right: bool) -> None:
    assert (not bad_verbs(line)) is is_right


def test_the_check_of_paths_sees_a_mistake(tmp_path: Path) -> None:
    assert bad_paths("`bin/demo` `include/custody/gate.py` `tests/*.py` `docs/nothing.md`") == ["docs/nothing.md"]
    written = tmp_path / "page.md"
    written.write_text("# One two\n[a](#one-two) [b](page.md) [c](#three) [d](other.md) [e](https://example.org)\n")
    assert bad_links(written) == ["#three", "other.md"]
