"""Which names a pattern means: a regular expression of a stranger, which may never come to an end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from custody.bitarchive.names import pattern_of
from custody.faults import Fault, FaultKind

EVERYTHING = ".*"
TIMEOUT_S = 20.0
_PLAIN = re.compile(r"(?:[A-Za-z0-9_~=,@%-]|\\[.+-])*(?:\.\*)?")
_PROGRAM = (
    "import json, re, sys\n"
    "regexp, names = json.load(sys.stdin)\n"
    "pattern = re.compile(regexp)\n"
    "json.dump([number for number, name in enumerate(names) if pattern.fullmatch(name)], sys.stdout)\n"
)


def matching(regexp: str, names: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> list[str]:
    """The names that a pattern matches as a whole, in their order.

    Some patterns take for ever on a name of thirty letters, and nothing stops the search but the end of its process: so
    it has one of its own. Faults: CONFIG for a bad pattern, or one that takes longer.
    """
    pattern = pattern_of(regexp)
    if regexp == EVERYTHING:
        return list(names)
    if _PLAIN.fullmatch(regexp):  # no choice, no repetition in a repetition: it is quick
        return [name for name in names if pattern.fullmatch(name)]
    argv = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    try:
        done = subprocess.run(
            argv, input=json.dumps([regexp, list(names)]).encode(), capture_output=True, timeout=timeout_s, check=True
        )
    except subprocess.TimeoutExpired:
        reason = f"takes more than {timeout_s:g} s for {len(names)} names; it repeats what it repeats, like (a+)+"
        raise Fault(FaultKind.CONFIG, f"regexp {regexp[:80]!r}", reason, next_command="write it simpler") from None
    except (subprocess.CalledProcessError, OSError) as error:
        raise Fault(FaultKind.TRANSIENT, f"regexp {regexp[:80]!r}", f"could not be tried ({error})") from error
    return [names[number] for number in json.loads(done.stdout)]
