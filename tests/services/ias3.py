"""The demo's stand-in for archive.org, with keys of its own: what tests look for in logs must be found nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from custody_demo.archive_org import serve
from custody_demo.archive_org_store import ACCESS_KEY, ACCOUNT, Archive

__all__ = ["ACCESS_KEY", "ACCOUNT", "SECRET_KEY", "Archive", "run_ias3"]

SECRET_KEY = "SecretThatMustNeverBeSeen"


@contextmanager
def run_ias3() -> Iterator[Archive]:
    """A stand-in on a free port of the loopback, in threads of this process."""
    with serve(Archive(SECRET_KEY)) as archive:
        yield archive
