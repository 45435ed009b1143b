"""A tape file read back in one pass: what the drive gives is hashed while the drive reads on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from custody.digests import DEFAULT_ALGORITHMS, Progress
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.tape.drives.protocol import Drive, EndOfData
from custody.tape.members import Member
from custody.tape.stream.compose import MANIFEST_NAME, OPENING_NAME
from custody.tape.stream.parse import MemberParser
from custody.tape.stream.ring import Abandoned, Ring
from custody.tape.stream.sinks import ContentSink, FileSink, MemorySink
from custody.tape.stream.spool import ManifestSpool

BLOCK_BYTES = 1 << 20
BUFFER_BYTES = 64 << 20
_LARGEST_OPENING_BYTES = 1 << 20


@dataclass(frozen=True)
class Read:
    """What was read of a tape file.

    :ivar size_bytes: read from the drive.
    :ivar members: that passed whole.
    :ivar is_complete: the end of the archive was seen and the number of bytes is the one that was stated.
    :ivar damage: why it is not complete; the members before it were told nevertheless.
    :ivar ended_at_filemark: the head stands behind the filemark; else it stands within the file or at its end.
    :ivar opening: content of our opening member, where there is one.
    :ivar manifest: the manifest of the tape file, where it was asked for and has passed whole.
    """

    size_bytes: int
    blocks: int
    members: int
    is_complete: bool
    damage: Fault | None
    ended_at_filemark: bool
    opening: bytes | None
    manifest: ManifestSpool | None


def read_tape_file(
    drive: Drive,
    on_member: Callable[[Member], None],
    *,
    limit_bytes: int | None,
    block_bytes: int = BLOCK_BYTES,
    buffer_bytes: int = BUFFER_BYTES,
    algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
    manifest_path: Path | None = None,
    sink_for: Callable[[Member], ContentSink | None] | None = None,
    subject: str = "tape file",
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Read:
    """Read the tape file whose beginning the head stands at, forward only.

    :param on_member: called in this thread with every member that has passed whole.
    :param limit_bytes: what the catalogue says of its length: nothing behind it is read, not even the filemark (some
        drives never come back from there); None reads to the filemark or the end of what is recorded.
    :param block_bytes: the largest block that was written.
    :param manifest_path: where the manifest is put when it passes.
    :param sink_for: as in :class:`~custody.tape.stream.parse.MemberParser`; each member is told before it is asked
        for the next one.

    Damage to the stream is told in the result, with the members before it. Faults: those of the drive and of
    ``on_member``, CANCELLED when ``stop`` is set.
    """
    ring = Ring(max(buffer_bytes, 4 * block_bytes), block_bytes=block_bytes, stop=stop)
    reader = _Reader(drive, ring, block_bytes, limit_bytes, progress)
    own = _OwnMembers(manifest_path, sink_for)
    members = 0

    def tell(member: Member) -> None:
        nonlocal members
        members += 1
        own.note(member)
        on_member(member)

    damage: Fault | None = None
    with (
        MemberParser(
            tell, algorithms, sink_for=own.sink_for, subject=subject, in_batches=sink_for is None, check=ring.check
        ) as parser,
        own,
    ):
        thread = ring.start_hand(reader.run, "tape-read")
        try:
            damage = _parse_all(ring, parser)
        except Abandoned:
            pass  # the reason is in the ring
        except BaseException as error:
            ring.fail(error)
            raise
        finally:
            thread.join()
    if ring.error is not None and damage is None:
        raise ring.error
    damage = damage or reader.shortness(subject)
    return Read(
        reader.size_bytes,
        reader.blocks,
        members,
        damage is None,
        damage,
        reader.ended_at_filemark,
        own.opening,
        own.manifest,
    )


def _parse_all(ring: Ring, parser: MemberParser) -> Fault | None:
    """Feed the parser to the end; the damage it finds, if any. Members told may raise faults of their own."""
    while (view := ring.inspect()) is not None:
        try:
            parser.feed(view)
        except Fault as fault:
            if fault is not parser.damage:
                raise
            ring.fail(Abandoned())  # reading on would tell nothing more
            return fault
        ring.pass_on(len(view))
        ring.give_back(len(view))
    try:
        parser.finish()
    except Fault as fault:
        return fault
    return None


class _Reader:
    """Reads blocks ahead."""

    def __init__(
        self, drive: Drive, ring: Ring, block_bytes: int, limit_bytes: int | None, progress: Progress | None
    ) -> None:
        self.size_bytes = 0
        self.blocks = 0
        self.ended_at_filemark = False
        self._drive = drive
        self._ring = ring
        self._limit_bytes = limit_bytes
        self._progress = progress
        self._block = memoryview(bytearray(block_bytes))

    def run(self) -> None:
        """Read to the limit, the filemark, or the end of what is recorded."""
        while self._limit_bytes is None or self.size_bytes < self._limit_bytes:
            free = self._ring.reserve()
            is_direct = len(free) >= len(self._block)
            target = free[: len(self._block)] if is_direct else self._block
            try:
                count = self._drive.read_block(target)
            except EndOfData:
                break
            if not count:
                self.ended_at_filemark = True
                break
            if is_direct:
                self._ring.commit(count)
            else:
                view = target[:count]
                while view:
                    view = view[self._ring.append(view) :]
            self.size_bytes += count
            self.blocks += 1
            if self._progress:
                self._progress(count)
        self._ring.end_input()

    def shortness(self, subject: str) -> Fault | None:
        """What is wrong with the number of bytes."""
        if self._limit_bytes is None or self.size_bytes == self._limit_bytes:
            return None
        reason = f"has {self.size_bytes} bytes where the catalogue has {self._limit_bytes}"
        return Fault(FaultKind.DATA, subject, reason)


class _OwnMembers:
    """Catches the members of ours while they pass: the opening, which comes first, and the manifest, which is last."""

    def __init__(self, manifest_path: Path | None, sink_for: Callable[[Member], ContentSink | None] | None) -> None:
        self.opening: bytes | None = None
        self.manifest: ManifestSpool | None = None
        self._manifest_path = manifest_path
        self._others = sink_for
        self._memory: MemorySink | None = None
        self._file: FileSink | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def sink_for(self, member: Member) -> ContentSink | None:
        """The sink for a content that begins."""
        self.manifest = None  # another content comes behind it: that one was not ours
        if member.name == OPENING_NAME.encode() and member.size_bytes <= _LARGEST_OPENING_BYTES:
            if member.offset_bytes == 0:
                self._memory = MemorySink()
                return self._memory
        elif member.name == MANIFEST_NAME.encode() and self._manifest_path and not member.is_sparse:
            if self._file:
                self._file.close()
            with os_errors_as_faults(str(self._manifest_path)):
                self._file = FileSink(self._manifest_path.open("wb"), self._manifest_path)
            return self._file
        return self._others(member) if self._others else None

    def note(self, member: Member) -> None:
        """A member has passed whole."""
        if self._memory and member.offset_bytes == 0:
            self.opening = bytes(self._memory.content)
        elif self._file and self._manifest_path and member.name == MANIFEST_NAME.encode():
            self._file.close()
            self._file = None
            self.manifest = ManifestSpool(self._manifest_path)
