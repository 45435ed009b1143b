"""What a run of a job means for its file. A job is a stranger: what it says of itself is taken with care."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from custody.bitarchive.batch.memory import LOOK_EVERY_S
from custody.bitarchive.batch.watch import Ended
from custody.bitarchive.states import FileState

KEPT = 10_000
KEPT_CHARS = 4_000_000
_KEYS = (
    "file",
    "offset_bytes",
    "length_bytes",
    "output_offset_bytes",
    "class",
    "message",
    "traceback",
    "phase",
    "reason",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    state: FileState
    records: int = 0
    damages: int = 0
    output_bytes: int = 0
    output_sha256: str | None = None
    error_class: str = ""
    message: str = ""
    offset_bytes: int = -1
    detail: dict[str, Any] | None = None


def judge(ended: Ended, name: str, is_program: bool, isolation: str) -> Outcome:
    """What a run of the job means for its file."""
    tail = clean(ended.stderr_tail.strip(), 8000)
    detail: dict[str, Any] = {
        "stderr": tail[-4000:],
        "wall_s": round(ended.wall_s, 3),
        "isolation": isolation,
        "memory": f"watched every {LOOK_EVERY_S:g} s",
        "memory_peak_bytes": ended.memory_peak_bytes,
    }
    if ended.stopped:
        kind = "Timeout" if "within" in ended.stopped else "Limit"
        return Outcome(FileState.FAILED, error_class=kind, message=f"{name}: the job {ended.stopped}", detail=detail)
    if is_program and ended.returncode == 0:
        return Outcome(
            FileState.DONE, output_bytes=ended.output_bytes, output_sha256=ended.output_sha256, detail=detail
        )
    if is_program or ended.result is None or ended.returncode:
        last = tail.splitlines()[-1:] or ["without a word"]
        message = f"{name}: the job ended with status {ended.returncode}: {last[0]}"
        return Outcome(FileState.FAILED, error_class="Crash", message=message, detail=detail)
    result = ended.result
    detail |= {
        "exceptions": _kept(result.exceptions),
        "exceptions_dropped": _number(result.exceptions_dropped),
        "damages": _kept(result.damages),
    }
    first = (result.exceptions or [{}])[0]
    if result.ok:
        state = FileState.DONE
    elif (result.keep_output and result.damages and not result.exceptions) or (
        result.keep_output and result.exceptions
    ):
        state = FileState.DAMAGED
    else:
        state = FileState.FAILED
    error_class, message = str(first.get("class", "")), str(first.get("message", ""))
    offset = first.get("offset_bytes", -1)
    if state is FileState.DAMAGED and not result.exceptions:
        damage = result.damages[0]
        error_class, offset = "Damaged", damage["offset_bytes"]
        count = len(result.damages)
        places = "damaged" if count == 1 else f"{count} damages; the first"
        message = f"{places} at offset {offset}: {damage.get('reason')}"
    elif state is FileState.FAILED and not result.exceptions:
        error_class, message = "False", f"{name}: the job said that it failed"
    keeps = state.has_output
    return Outcome(
        state,
        records=_number(result.records),
        damages=len(result.damages),
        output_bytes=ended.output_bytes if keeps else 0,
        output_sha256=ended.output_sha256 if keeps else None,
        error_class=error_class,
        message=message,
        offset_bytes=_number(offset),
        detail=detail,
    )


def clean(text: object, most: int) -> str:
    """Text that every database takes: UTF-8, without zero bytes, and not more than so many characters."""
    return str(text)[:most].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _number(value: Any) -> int:
    """A number that fits into a column, else -1."""
    return int(value) if isinstance(value, int) and -1 <= value < 1 << 62 else -1


def _kept(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is kept of exceptions or damages: known keys, numbers and text, and not more than a row can hold."""
    kept, left = [], KEPT_CHARS
    for entry in entries[:KEPT]:
        values: dict[str, Any] = {}
        for key in _KEYS:
            if isinstance(value := entry.get(key), int):
                values[key] = _number(value)
            elif value is not None:
                values[key] = clean(value, min(8000, left))
                left -= len(values[key])
            elif key in entry:
                values[key] = None
        kept.append(values)
        if left <= 0:
            break
    return kept
