"""The nine commands, without the HTTP around them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from custody.bitarchive import get
from custody.bitarchive.archive import Archive
from custody.bitarchive.index.build import Indexes
from custody.bitarchive.index.names import Kind
from custody.bitarchive.viewer.session import Sessions, State
from custody.faults import Fault, FaultKind, os_errors_as_faults

MAX_SIZE_IN_BROWSER = 10_000_000
BLOCK_BYTES = 1 << 18
Parameters = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Answer:
    """What a command answers: a redirect, a text, or a stream of bytes."""

    status: int = 200
    text: str | None = None
    location: str | None = None
    stream: Iterator[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class WrongParameter(Exception):
    """A parameter is missing, repeated or no number; said in one line."""


class Commands:
    """The commands on one archive.

    :param home: ``viewer`` below the archive's ``work_dir``: sessions, and the collections of pywb.
    :param replay_url: where pywb listens, for people to read.
    """

    def __init__(self, archive: Archive, home: Path, replay_url: str) -> None:
        self._archive = archive
        self.sessions = Sessions(home / "sessions")
        self.collections = home / "pywb" / "collections"
        self._replay_url = replay_url
        self.by_name: dict[str, Callable[[str, Parameters, str], Answer]] = {
            "startRecordingURIs": self._start,
            "stopRecordingURIs": self._stop,
            "clearRecordedURIs": self._clear,
            "getRecordedURIs": self._recorded,
            "changeIndex": self._change_index,
            "getStatus": self._status,
            "getFile": self._file,
            "getRecord": self._record,
            "getMetadata": self._metadata,
        }

    def run(self, name: str, user: str, parameters: Parameters, byte_range: str = "") -> Answer:
        """Run a command. Raises WrongParameter; faults keep their kind; KeyError for an unknown command."""
        return self.by_name[name](user, parameters, byte_range)

    def _start(self, user: str, parameters: Parameters, _range: str) -> Answer:
        target = _return_url(parameters)
        with self.sessions.change(user) as state:
            state.recording = True
        return Answer(303, location=target)

    def _stop(self, user: str, parameters: Parameters, _range: str) -> Answer:
        target = _return_url(parameters)
        with self.sessions.change(user) as state:
            state.recording = False
        return Answer(303, location=target)

    def _clear(self, user: str, parameters: Parameters, _range: str) -> Answer:
        target = _return_url(parameters)
        with self.sessions.change(user) as state:
            state.missing = []
        return Answer(303, location=target)

    def _recorded(self, user: str, parameters: Parameters, _range: str) -> Answer:
        _allow(parameters)
        return Answer(text="".join(f"{url}\n" for url in sorted(self.sessions.read(user).missing)))

    def _change_index(self, user: str, parameters: Parameters, _range: str) -> Answer:
        _allow(parameters, "jobID", "label", "returnURL")
        target = _return_url(parameters)
        label = _single(parameters, "label")
        words = parameters.get("jobID", ())
        if not words:
            raise WrongParameter("parameter jobID is missing")
        jobs = [_number("jobID", word) for word in words]
        found = Indexes(self._archive).get(Kind.FULL, jobs, allow_partial=True)
        collection = self._publish(found.item.path, found.item.sha256)
        with self.sessions.change(user) as state:
            state.label = label
            state.asked = sorted(set(jobs))
            state.got = list(found.item.job_ids)
            state.missing_jobs = list(found.missing)
            state.index = str(found.item.path)
            state.collection = collection
        return Answer(303, location=target)

    def _publish(self, index: Path, sha256: str) -> str:
        """Give an index to pywb, under a name that says its content."""
        name = f"{index.name.removesuffix('-cache')}-{sha256[:12]}"
        directory = self.collections / name / "indexes"
        target = directory / "index.cdxj"
        with os_errors_as_faults(str(target)):
            if not target.exists():
                directory.mkdir(parents=True, exist_ok=True)
                temporary = directory / f".index.{os.getpid()}.tmp"
                shutil.copyfile(index, temporary)
                temporary.replace(target)
        return name

    def _status(self, user: str, parameters: Parameters, _range: str) -> Answer:
        _allow(parameters, "locale")
        if len(parameters.get("locale", ())) > 1:
            raise WrongParameter("parameter locale is given more than once")
        return Answer(text=describe(self.sessions.read(user), self._replay_url))

    def _file(self, _user: str, parameters: Parameters, byte_range: str) -> Answer:
        _allow(parameters, "arcFile")
        name = _single(parameters, "arcFile")
        held, _, _ = get.locate(self._archive, name)
        size = held.fixity.size_bytes
        start, end = _range(byte_range, size)
        headers = {
            "Content-Type": "application/octet-stream" if size > MAX_SIZE_IN_BROWSER else "text/plain",
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Length": str(end - start),
            "Accept-Ranges": "bytes",
            "X-Content-Type-Options": "nosniff",
        }
        if byte_range:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        status = 206 if byte_range else 200
        return Answer(status, stream=self._bytes(name, start, end), headers=headers)

    def _bytes(self, name: str, start: int, end: int) -> Iterator[bytes]:
        left = end - start
        with get.open_file(self._archive, name, start=start) as (stream, _):
            while left > 0 and (block := stream.read(min(BLOCK_BYTES, left))):
                left -= len(block)
                yield block

    def _record(self, _user: str, parameters: Parameters, _range: str) -> Answer:
        _allow(parameters, "arcFile", "arcOffset")
        name = _single(parameters, "arcFile")
        offset = _number("arcOffset", _single(parameters, "arcOffset"))
        opened = get.open_record(self._archive, name, offset)
        record = opened.__enter__()

        def blocks() -> Iterator[bytes]:
            try:
                while block := record.content.read(BLOCK_BYTES):
                    yield block
            finally:
                opened.__exit__(None, None, None)

        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(record.content_length),
            "X-Content-Type-Options": "nosniff",
        }
        return Answer(stream=blocks(), headers=headers)

    def _metadata(self, _user: str, parameters: Parameters, _range: str) -> Answer:
        _allow(parameters, "jobID")
        job = _number("jobID", _single(parameters, "jobID"))
        get.metadata_files(self._archive, job)
        headers = {"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff"}
        return Answer(stream=get.get_metadata(self._archive, job), headers=headers)


def describe(state: State, replay_url: str) -> str:
    """The status of a session, for people."""
    lines = [
        f"Recording of missing URIs is {'on' if state.recording else 'off'}.",
        f"{len(state.missing)} missing URIs are recorded.",
    ]
    if not state.collection:
        return "\n".join([*lines, "No index is chosen.", ""])
    lines.append(f"Index '{state.label}' of jobs {', '.join(map(str, state.got))}.")
    if state.missing_jobs:
        asked, missing = (", ".join(map(str, ids)) for ids in (state.asked, state.missing_jobs))
        lines.append(f"PARTIAL: asked for jobs {asked}; there is no data of jobs {missing}.")
    return "\n".join([*lines, f"Replay: {replay_url}/{state.collection}/", ""])


def _allow(parameters: Parameters, *names: str) -> None:
    for name in parameters:
        if name not in names:
            known = ", ".join(names) or "none"
            raise WrongParameter(f"parameter {name!r} is not known here; known: {known}")


def _single(parameters: Parameters, name: str) -> str:
    values = parameters.get(name, ())
    if len(values) != 1 or not values[0]:
        raise WrongParameter(f"parameter {name} is {'given more than once' if len(values) > 1 else 'missing'}")
    return values[0]


def _number(name: str, word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise WrongParameter(f"parameter {name} is no number: {word[:40]!r}")
    return int(word)


def _return_url(parameters: Parameters) -> str:
    url = _single(parameters, "returnURL")
    parts = urlsplit(url)
    if not url.isprintable() or " " in url or parts.scheme not in {"", "http", "https"} or url.startswith("//"):
        raise WrongParameter("parameter returnURL is no http address")
    return url


def _range(text: str, size: int) -> tuple[int, int]:
    """Start and end (behind the last byte) of an HTTP Range. Faults: CONFIG where it cannot be."""
    if not text:
        return 0, size
    unit, _, span = text.partition("=")
    first, dash, last = span.partition("-")
    numbers = all(not word or (word.isascii() and word.isdigit() and len(word) < 19) for word in (first, last))
    if unit.strip() == "bytes" and dash and numbers and (first or last):
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start < end:
            return start, end
    raise Fault(FaultKind.CONFIG, f"Range {text[:60]!r}", f"is outside of the {size} bytes, or no single range")
