"""A result laid down where the caller wants it: whole, or not at all, and never over something."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

from custody.bitarchive.batch.accounts import Account
from custody.bitarchive.states import BatchState
from custody.digests import read_file
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import fsync_directory, rename_noclobber


def check_target(target: Path) -> None:
    """Look whether a result can be laid down there, before anything runs. Faults: CONFIG."""
    if target.exists() or target.is_symlink():
        raise Fault(FaultKind.CONFIG, str(target), "is there already; nothing is overwritten")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise Fault(FaultKind.CONFIG, str(parent), "is no directory", next_command=f"mkdir -p {parent}")
    if not os.access(parent, os.W_OK):
        raise Fault(FaultKind.CONFIG, str(parent), "cannot be written to", next_command="make it writable")


def partial_of(target: Path) -> Path:
    """What a partial result is called."""
    return target.with_name(target.name + ".partial")


def publish_output(found: Account, target: Path) -> Path | None:
    """Lay the result where the caller wants it; a partial one as ``NAME.partial``. Nothing is overwritten.

    Faults: CONFLICT where something is there already; what is there with equal bytes is taken as done.
    """
    if found.output is None:
        return None
    if found.state is not BatchState.COMPLETE:
        target = partial_of(target)
    with os_errors_as_faults(str(target)):
        if target.is_file() and read_file(target, ("sha256",)).fixity == read_file(found.output, ("sha256",)).fixity:
            return target
        with found.output.open("rb") as source:
            _lay_down(iter(lambda: source.read(1 << 20), b""), target)
    return target


def publish_text(text: str, target: Path) -> None:
    """Lay down a text where nothing is, or the same. Faults: CONFLICT."""
    content = text.encode("utf-8", "backslashreplace")
    with os_errors_as_faults(str(target)):
        if target.is_file() and target.read_bytes() == content:
            return
        _lay_down([content], target)


def _lay_down(content: Iterable[bytes], target: Path) -> None:
    if target.exists() or target.is_symlink():  # said before gigabytes are written
        raise Fault(FaultKind.CONFLICT, str(target), "is there already; nothing is overwritten")
    temporary = target.with_name(f".custody-{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as out:
            out.writelines(content)
            out.flush()
            os.fsync(out.fileno())
        rename_noclobber(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(target.absolute().parent)
