"""Rows for people or for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime

import click
from rich import box
from rich.console import Console
from rich.table import Table


def show(headings: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool = False) -> None:
    """Print rows as a table for people, or as JSON for programs."""
    if as_json:
        content = [dict(zip(headings, (_plain(value) for value in row), strict=True)) for row in rows]
        click.echo(json.dumps(content, indent=1))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    # a pipe has no width: one row is one line there; and a name is text, never markup
    width = None if sys.stdout.isatty() else 1 << 16
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = "" if value is None else str(value)
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
