"""A tape file in one pass: what is read from the source is hashed, noted in the manifest and written, once."""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from custody.digests import DEFAULT_ALGORITHMS, Progress
from custody.faults import Fault, os_errors_as_faults
from custody.tape.drives.protocol import Drive, EndOfTape
from custody.tape.members import Member
from custody.tape.stream.compose import END_OF_ARCHIVE, MANIFEST_NAME, member_blocks
from custody.tape.stream.parse import MemberParser
from custody.tape.stream.ring import Ring
from custody.tape.stream.spool import ManifestSpool

OwnMember = tuple[str, bytes | Path]
"""Name and content of a member of ours."""
BLOCK_BYTES = 1 << 20
BUFFER_BYTES = 256 << 20
_LOOK_EVERY_MS = 200


@dataclass(frozen=True)
class Written:
    """What the drive has taken of a tape file.

    :ivar size_bytes: accepted by the drive; with ``is_end_of_tape`` a beginning only.
    :ivar manifest: every member but those of the tail, in their order; with ``is_end_of_tape`` also some whose bytes
        are not on the tape.
    :ivar members: their number.
    :ivar rate_bytes_s: from the first block to the last.
    :ivar underruns: how often the drive had to wait for the source once it ran.
    """

    size_bytes: int
    blocks: int
    members: int
    manifest: ManifestSpool
    is_end_of_tape: bool
    rate_bytes_s: float
    underruns: int


def manifest_tail(spool: ManifestSpool) -> Iterable[OwnMember]:
    """The usual end of a tape file: the manifest."""
    yield MANIFEST_NAME, spool.path


def write_tape_file(
    drive: Drive,
    source: IO[bytes],
    *,
    spool_path: Path,
    head: Sequence[OwnMember],
    tail: Callable[[ManifestSpool], Iterable[OwnMember]] = manifest_tail,
    block_bytes: int = BLOCK_BYTES,
    buffer_bytes: int = BUFFER_BYTES,
    high_water: float = 0.9,
    algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
    source_ended: Callable[[], None] = lambda: None,
    subject: str = "tar stream",
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Written:
    """Write one tape file where the head stands: ``head``, the source's members just as they come, ``tail``, the end.

    :param source: a tar stream that nobody has read from yet.
    :param spool_path: where the manifest is written.
    :param high_water: the drive starts, and starts again after an under-run, when this share of the buffer is full.
    :param source_ended: called at the end of the source before anything is said of its completeness; what it raises
        (tar's exit status) counts.
    :param progress: called with the bytes of every block that the drive has taken.

    At the end a filemark is written, which flushes the drive. When the drive refuses a block nothing but the
    filemark is tried any more. Faults: DATA where the source is no whole tar stream, CANCELLED when ``stop`` is set,
    and those of the drive and of ``source_ended``; no filemark is written then, and closing the drive ends the file.
    """
    ring = Ring(buffer_bytes, block_bytes=block_bytes, high_water=high_water, stop=stop)
    with (
        ManifestSpool.create(spool_path) as spool,
        MemberParser(spool.add, algorithms, subject=subject, check=ring.check) as parser,
    ):

        def fill() -> None:
            for piece in (piece for name, content in head for piece in member_blocks(name, content)):
                _append_all(ring, piece)
            _copy_source(ring, source, subject)
            ring.end_input()

        def inspect() -> None:
            while (view := ring.inspect()) is not None:
                parser.feed(view)
                ring.pass_on(len(view), hold_from=parser.payload_bytes)
                if parser.is_complete and parser.payload_bytes is not None:
                    ring.cut(parser.payload_bytes)  # at once: the filler may be waiting for room
                    break
            ring.wait_for_input_end()
            source_ended()
            parser.finish()
            assert parser.payload_bytes is not None
            spool.close()
            _add_tail(ring, tail(spool), parser.payload_bytes, subject)
            ring.end()

        threads = [ring.start_hand(fill, "tape-fill"), ring.start_hand(inspect, "tape-inspect")]
        taken = _Taken()
        try:
            _take_all(drive, ring, taken, progress)
        except BaseException as error:
            ring.fail(error)
        finally:
            for thread in threads:
                thread.join()
        if ring.error is not None and not isinstance(ring.error, EndOfTape):
            raise ring.error
        is_end_of_tape = _end_file(drive, taken.is_end_of_tape)
    return Written(
        taken.size_bytes,
        taken.blocks,
        spool.members,
        spool,
        is_end_of_tape,
        taken.size_bytes / max(taken.took_s, 1e-9),
        ring.counts.underruns,
    )


def _append_all(ring: Ring, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[ring.append(view) :]


def _copy_source(ring: Ring, source: IO[bytes], subject: str) -> None:
    """Read a source to its end into the ring; one that says nothing keeps nobody from stopping."""
    try:
        descriptor = source.fileno()
    except (OSError, io.UnsupportedOperation):
        descriptor = -1
    poll = select.poll()
    if descriptor >= 0:
        poll.register(descriptor, select.POLLIN)
    with os_errors_as_faults(subject):
        while True:
            free = ring.reserve()
            if descriptor < 0:
                count = source.readinto(free)  # type: ignore[attr-defined]
            else:
                while not poll.poll(_LOOK_EVERY_MS):
                    ring.check()
                count = os.readv(descriptor, [free])
            if not count:
                return
            ring.commit(count)


def _add_tail(ring: Ring, members: Iterable[OwnMember], offset_bytes: int, subject: str) -> None:
    def note(member: Member) -> None:
        """They are not in the manifest: one of them is the manifest."""

    with MemberParser(note, (), subject=subject, offset_bytes=offset_bytes) as parser:

        def add(piece: bytes) -> None:
            view = memoryview(piece)
            while view:
                view = view[ring.append(view) :]
                while (fresh := ring.inspect_now()) is not None:
                    parser.feed(fresh)
                    ring.pass_on(len(fresh))

        for name, content in members:
            for piece in member_blocks(name, content):
                add(piece)
        add(END_OF_ARCHIVE)
        parser.finish()


@dataclass
class _Taken:
    size_bytes: int = 0
    blocks: int = 0
    took_s: float = 0.0
    is_end_of_tape: bool = False


def _take_all(drive: Drive, ring: Ring, taken: _Taken, progress: Progress | None) -> None:
    began: float | None = None
    while (block := ring.take()) is not None:
        began = began or time.monotonic()
        try:
            drive.write_block(block)
        except EndOfTape as error:
            taken.is_end_of_tape = True
            ring.fail(error)
            break
        count = len(block)
        taken.size_bytes += count
        taken.blocks += 1
        ring.give_back(count)
        if progress:
            progress(count)
    taken.took_s = time.monotonic() - began if began else 0.0


def _end_file(drive: Drive, is_end_of_tape: bool) -> bool:
    """Write the filemark; whether the end of the tape was reached, be it only by that."""
    if is_end_of_tape:
        with suppress(EndOfTape, Fault):  # behind the physical end there is no room for a mark either
            drive.write_filemarks(1)
        return True
    try:
        drive.write_filemarks(1)
    except EndOfTape:
        return True
    return False
