"""Where everything of a wiki lies, and how its files are named.

``<public>/<wiki>/<YYYYMMDD>/<wiki>-<YYYYMMDD>-<dumpname>[part].<kind>[-p<first>p<last>].<compression>``
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import write_atomic
from custody.wiki_dump.farm import Wiki
from custody.wiki_dump.settings import Settings

DATE = re.compile(r"[0-9]{8}")
INPROG = ".inprog"
_NAME = re.compile(
    r"(?P<wiki>[A-Za-z0-9][A-Za-z0-9_-]*?)-(?P<date>[0-9]{8}|latest)-(?P<dump>[a-z0-9_-]+?)(?P<part>[0-9]+)?"
    r"\.(?P<kind>xml|sql|txt|json)(?:-p(?P<first>[0-9]+)p(?P<last>[0-9]+))?\.(?P<compression>gz|bz2|7z)"
)


@dataclass(frozen=True)
class DumpName:
    """The parts of a file's name. ``kind`` is empty for files like ``all-titles.gz``."""

    wiki: str
    date: str
    dump: str
    kind: str
    compression: str
    part: int | None = None
    pages: tuple[int, int] | None = None

    def __str__(self) -> str:
        part = "" if self.part is None else str(self.part)
        kind = f".{self.kind}" if self.kind else ""
        pages = "" if self.pages is None else f"-p{self.pages[0]}p{self.pages[1]}"
        return f"{self.wiki}-{self.date}-{self.dump}{part}{kind}{pages}.{self.compression}"


def parse_name(name: str) -> DumpName | None:
    """Take a content file's name apart; None where it is none. A db name may hold ``_`` and ``-``."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    pages = (int(found["first"]), int(found["last"])) if found["first"] else None
    part = int(found["part"]) if found["part"] else None
    return DumpName(found["wiki"], found["date"], found["dump"], found["kind"], found["compression"], part, pages)


@dataclass(frozen=True)
class Places:
    """The directories of one wiki. Of a private wiki the "public" one lies in the private tree."""

    wiki: Wiki
    public: Path
    private: Path
    temp: Path

    @classmethod
    def of(cls, wiki: Wiki, settings: Settings) -> Places:
        """Where this wiki lies under these settings."""
        private = Path(settings.private) / wiki.name
        public = private if wiki.private else Path(settings.public) / wiki.name
        return cls(wiki, public, private, Path(settings.temp) / wiki.name[0] / wiki.name)

    def run(self, date: str) -> Path:
        """The directory of a run's published files."""
        return self.public / check_date(date)

    def private_run(self, date: str) -> Path:
        """The directory of a run's private files: private tables, logs, the exceptions."""
        return self.private / check_date(date)

    def temp_run(self, date: str) -> Path:
        """The directory of what a run needs only while it works."""
        return self.temp / check_date(date)

    @property
    def latest(self) -> Path:
        """Links to the newest of every file."""
        return self.public / "latest"

    def lock(self, date: str) -> Path:
        """The lock file of a run, for the eyes of others."""
        return self.private / f"lock_{check_date(date)}"

    def dates(self) -> list[str]:
        """The dates of all runs that have a directory, oldest first."""
        try:
            return sorted(
                entry.name for entry in self.public.iterdir() if DATE.fullmatch(entry.name) and entry.is_dir()
            )
        except (FileNotFoundError, NotADirectoryError):
            return []

    def make(self, date: str, *, fileperms: int = 0o640) -> None:
        """Make the directories of a run; those of the private tree are closed to others.

        :param fileperms: of public files; who may read these may enter the directories they lie in.
        """
        for directory in (self.private, self.private_run(date)):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.wiki.private:
            for directory in (self.public.parent, self.public, self.run(date)):
                make_public_directory(directory, fileperms)
        self.temp_run(date).mkdir(mode=0o700, parents=True, exist_ok=True)


def make_public_directory(directory: Path, fileperms: int) -> None:
    """Make a directory that the readers of public files may enter, whatever the umask; one that is there stays."""
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700 | fileperms | (fileperms & 0o444) >> 2)


def write_public(path: Path, content: bytes, fileperms: int) -> None:
    """Write a small file whole, with exactly these permissions, whatever the umask. Faults: by the OS error."""
    write_atomic(path, content, mode=fileperms)
    with os_errors_as_faults(str(path)):
        if stat.S_IMODE(path.stat().st_mode) != fileperms:
            path.chmod(fileperms)


def check_date(date: str) -> str:
    """A date as YYYYMMDD. Faults: CONFIG."""
    from datetime import datetime

    try:
        if DATE.fullmatch(date):
            datetime.strptime(date, "%Y%m%d")
            return date
    except ValueError:
        pass
    raise Fault(FaultKind.CONFIG, f"date {date!r}", "is no date written as YYYYMMDD")
