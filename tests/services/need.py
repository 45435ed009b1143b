"""What a test needs of the machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Debian keeps servers where an ordinary user's PATH does not look.
_PLACES = ("/usr/sbin", "/sbin", "/usr/local/sbin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))[::-1]))


def need(program: str, *, package: str | None = None) -> str:
    """Return the absolute path of a program, or skip the test and name the Debian package to install.

    With CUSTODY_REQUIRE_SERVICES=1 tests/conftest.py makes a failure of that skip.
    """
    found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(_PLACES))
    if found is None:
        pytest.skip(f"needs {program}: apt-get install {package or program}")
    return found
