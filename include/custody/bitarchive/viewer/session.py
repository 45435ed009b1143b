"""What one user sees and collects: the current index, whether missing URLs are recorded, and which were."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from custody.faults import os_errors_as_faults
from custody.publish import write_atomic

MAX_RECORDED = 1_000_000


@dataclass
class State:
    """The state of one session.

    :param label: what the user called the index.
    :param asked, got, missing_jobs: job ids.
    :param index: path of the current CDXJ; empty where none was chosen.
    :param collection: name of it at pywb.
    """

    recording: bool = False
    missing: list[str] = field(default_factory=list)
    label: str = ""
    asked: list[int] = field(default_factory=list)
    got: list[int] = field(default_factory=list)
    missing_jobs: list[int] = field(default_factory=list)
    index: str = ""
    collection: str = ""

    def note_missing(self, url: str) -> bool:
        """Remember a URL that was not found, if asked to; returns whether anything changed."""
        if not self.recording or url in self.missing or len(self.missing) >= MAX_RECORDED:
            return False
        self.missing.append(url)
        return True


class Sessions:
    """Every session, on disk: a restart loses none, and two processes agree."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, user: str) -> State:
        """The state of a user; a fresh one for a user nobody has seen."""
        try:
            return State(**json.loads(self._path(user).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return State()

    @contextmanager
    def change(self, user: str) -> Iterator[State]:
        """Change the state of a user, one at a time."""
        path = self._path(user)
        with os_errors_as_faults(str(path)):
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            state = self.read(user)
            yield state
            write_atomic(path, json.dumps(asdict(state)).encode(), mode=0o600)
        finally:
            os.close(descriptor)

    def _path(self, user: str) -> Path:
        return self._directory / f"{hashlib.sha256(user.encode()).hexdigest()[:32]}.json"
