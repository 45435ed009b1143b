"""What a file of the archive may be called.

A name is one path component that every shell, list and header carries unharmed. What else lies in a directory of a node
is listed as a stranger and never touched.
"""

from __future__ import annotations

import re
from functools import cache

from custody.faults import Fault, FaultKind

MAX_NAME_BYTES = 255
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~=+,@%-]*")
_SUFFIX = re.compile(r"\.w?arc(\.gz)?$", re.IGNORECASE)
MAX_PATTERN_CHARS = 1000


def is_name(name: str) -> bool:
    """Whether a file of the archive may have this name: portable characters, .arc or .warc, with or without .gz."""
    return len(name) <= MAX_NAME_BYTES and bool(_NAME.fullmatch(name)) and bool(_SUFFIX.search(name))


def check_name(name: str) -> str:
    """Refuse what is no name of an archive file: a path, ``..``, blanks, another ending. Faults: CONFIG."""
    if not is_name(name):
        reason = "is no name of an archive file (one component of A-Z a-z 0-9 . _ ~ = + , @ % -, .arc or .warc[.gz])"
        raise Fault(FaultKind.CONFIG, repr(name), reason)
    return name


def is_arc(name: str) -> bool:
    """Whether a name says ARC and not WARC."""
    return name.lower().removesuffix(".gz").endswith(".arc")


@cache
def pattern_of(regexp: str) -> re.Pattern[str]:
    """Compile the pattern of a batch, which a whole base name must match. Faults: CONFIG."""
    try:
        if len(regexp) > MAX_PATTERN_CHARS:
            raise ValueError(f"is longer than {MAX_PATTERN_CHARS} characters")
        return re.compile(regexp)
    except (re.error, ValueError, RecursionError, OverflowError) as error:
        raise Fault(FaultKind.CONFIG, f"regexp {regexp[:80]!r}", f"is no regular expression: {error}") from error
