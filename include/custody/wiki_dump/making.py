"""Writing a file of a dump under its name with ``.inprog``: compressed, flushed to disk, and put on record as made."""

from __future__ import annotations

import bz2 as bz2_module
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from isal import isal_zlib

from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.wiki_dump import runs
from custody.wiki_dump.bz2.bits import mapped
from custody.wiki_dump.bz2.blocks import Splicer, list_blocks
from custody.wiki_dump.bz2.verify import Tools
from custody.wiki_dump.commands import Command, Feed, Pipeline
from custody.wiki_dump.layout import INPROG
from custody.wiki_dump.runs import FileRow, FileState, Run
from custody.wiki_dump.settings import Settings
from custody.wiki_dump.work import Work

_FALLBACKS = {"sevenzip": ("/usr/bin/7zz", "/usr/bin/7z", "/usr/bin/7za"), "php": ("/usr/local/bin/php",)}
_GZIP_LEVEL = 3


class Sink(Protocol):
    """Takes the bytes of a file."""

    def write(self, data: bytes) -> object:
        """The next bytes."""
        ...


def tool(settings: Settings, name: str) -> str:
    """The path of a program. Faults: CONFIG where it is not there."""
    path = str(getattr(settings, name))
    choices = (path, *_FALLBACKS.get(name, ())) if path == getattr(Settings(), name) else (path,)
    for choice in choices:
        if choice and os.access(choice, os.X_OK):
            return choice
    raise Fault(
        FaultKind.CONFIG, f"tools.{name}", f"{path!r} is no program here", next_command="install it, or name another"
    )


def reading_tools(settings: Settings) -> Tools:
    """What is there to read files back with."""

    def there(name: str) -> str | None:
        try:
            return tool(settings, name)
        except Fault:
            return None

    return Tools(there("lbzip2"), there("sevenzip"))


def directory_of(run: Run, file: FileRow) -> Path:
    """Where a file belongs: what is private never lies in the public tree."""
    private = file.private or run.wiki.private
    directory = run.places.private_run(run.date) if private else run.places.run(run.date)
    root = Path(run.settings.private if private else run.settings.public).resolve()
    if root not in directory.resolve().parents:
        raise Fault(
            FaultKind.CONFIG, str(directory), f"does not lie within {root}", next_command="look for links in it"
        )
    return directory


def path_of(run: Run, file: FileRow) -> Path:
    """Where a file lies at the moment: under its own name, or still under the one it is made with."""
    final = directory_of(run, file) / file.name
    return final if file.state is FileState.PUBLISHED else inprog_of(run, file)


def inprog_of(run: Run, file: FileRow) -> Path:
    """The name it is made under."""
    return directory_of(run, file) / (file.name + INPROG)


def is_made(run: Run, file: FileRow) -> bool:
    """Whether it needs not be made again."""
    if file.state not in {FileState.MADE, FileState.VERIFIED, FileState.PUBLISHED}:
        return False
    try:
        return path_of(run, file).stat().st_size == file.size_bytes
    except FileNotFoundError:
        return file.state is not FileState.PUBLISHED and (directory_of(run, file) / file.name).exists()


@contextmanager
def making(work: Work, file: FileRow) -> Iterator[Making]:
    """Make a file. Leaving the block without an error flushes it and puts it on record with what was counted."""
    path = inprog_of(work.run, file)
    with os_errors_as_faults(str(path)):
        path.unlink(missing_ok=True)
    made = Making(path)
    try:
        yield made
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    with os_errors_as_faults(str(path)):
        path.chmod(0o600 if file.private else work.run.settings.fileperms)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    with work.transaction() as connection:
        runs.set_file(connection, file.id, FileState.MADE, size_bytes=size, counts=made.counts)
        work.event(connection, "made", file=file.name, size_bytes=size, counts=made.counts)
    work.log(f"{file.job}: made {file.name}, {size} bytes")


class Making:
    """A file while it is made. ``counts`` is what its maker counted, to be compared with what is read back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, int] = {}

    def count(self, **more: int) -> None:
        """Add to what was counted."""
        for name, number in more.items():
            self.counts[name] = self.counts.get(name, 0) + number

    @contextmanager
    def gz(self) -> Iterator[GzipSink]:
        """Write it compressed with gzip."""
        with os_errors_as_faults(str(self.path)), self.path.open("wb") as stream:
            sink = GzipSink(stream.write)
            yield sink
            sink.end_member()

    @contextmanager
    def bz2_document(self, settings: Settings, header: bytes, footer: bytes) -> Iterator[Sink]:
        """Write a document as one bz2 stream whose head and closing tag are blocks of their own.

        That is what lets parts be joined later without decompressing them.
        """
        body = self.path.with_name(self.path.name + ".body")
        try:
            with bz2_sink(settings, body) as sink:
                yield sink
            with os_errors_as_faults(str(self.path)), self.path.open("wb") as out, mapped(body) as content:
                splicer = Splicer()
                for small in (header,):
                    _splice_small(splicer, small, out.write)
                for block in list_blocks(content, body) if len(content) > 14 else []:
                    for piece in splicer.add(content, block):
                        out.write(piece)
                _splice_small(splicer, footer, out.write)
                out.write(splicer.finish())
        finally:
            body.unlink(missing_ok=True)

    @contextmanager
    def sevenzip(self, settings: Settings) -> Iterator[Sink]:
        """Write it into a 7z archive, as its only member."""
        member = self.path.name.removesuffix(INPROG).removesuffix(".7z")
        argv = (tool(settings, "sevenzip"), "a", "-t7z", "-bd", "-mx=4", f"-si{member}", "--", str(self.path))
        with Feed(Pipeline((Command(argv),))) as feed:
            yield feed


def _splice_small(splicer: Splicer, text: bytes, write: Callable[[bytes], object]) -> None:
    packed = bz2_module.compress(text)
    for block in list_blocks(packed, Path("head")):
        for piece in splicer.add(packed, block):
            write(piece)


@contextmanager
def bz2_sink(settings: Settings, path: Path) -> Iterator[Sink]:
    """Compress into a file with the configured program, or here where there is none."""
    argv: tuple[str, ...] | None = None
    if settings.lbzip2threads:
        argv = (tool(settings, "lbzip2"), "-n", str(settings.lbzip2threads), "-c")
    elif os.access(settings.bzip2, os.X_OK):
        argv = (settings.bzip2, "-c")
    elif settings.bzip2 != Settings().bzip2:
        tool(settings, "bzip2")
    if argv is not None:
        with Feed(Pipeline((Command(argv),), path)) as feed:
            yield feed
        return
    with os_errors_as_faults(str(path)), bz2_module.open(path, "wb") as stream:
        yield stream


class GzipSink:
    """Gzip, in as many members as its writer asks for."""

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._engine = isal_zlib.compressobj(_GZIP_LEVEL, wbits=31)
        self._is_empty = True
        self.offset = 0

    def write(self, data: bytes) -> int:
        """The next bytes."""
        self._is_empty = self._is_empty and not data
        self._put(self._engine.compress(data))
        return len(data)

    def end_member(self) -> int:
        """End the member, if anything is in it; returns the offset at which the next one begins."""
        if not self._is_empty or not self.offset:
            self._put(self._engine.flush())
            self._engine = isal_zlib.compressobj(_GZIP_LEVEL, wbits=31)
            self._is_empty = True
        return self.offset

    def _put(self, data: bytes) -> None:
        self.offset += len(data)
        self._write(data)
