"""Texts of an earlier dump, taken over only where revision number, length and sha1 are those on record now."""

from __future__ import annotations

from contextlib import ExitStack

from custody.wiki_dump.engine.textpass import Prefetch
from custody.wiki_dump.runs import FileRow
from custody.wiki_dump.work import Work


def prefetch_for(work: Work, file: FileRow, stack: ExitStack) -> Prefetch | None:
    """What an earlier good dump can give for this file; None where there is none or nobody wants it."""
    return None
