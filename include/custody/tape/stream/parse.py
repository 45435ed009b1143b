"""A tar stream as it passes: its members and their digests, from blocks of any size, without a copy of the content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from custody.digests import DEFAULT_ALGORITHMS
from custody.faults import Fault, FaultKind
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape
from custody.tape.stream import headers
from custody.tape.stream.extensions import Extensions
from custody.tape.stream.framing import Framing
from custody.tape.stream.hashing import PARALLEL_BYTES, ContentHasher
from custody.tape.stream.headers import BLOCK_BYTES, Extent, Header
from custody.tape.stream.holes import HoleMap
from custody.tape.stream.kinds import member_of
from custody.tape.stream.sinks import ContentSink

_LARGEST_NAME_BYTES = 1 << 20
_LARGEST_EXTENSION_BYTES = 64 << 20
_IGNORED = {b"V", b"N"}  # a volume's name; names in a list of their own, of tars before 1990
_FILES = {b"0", b"\0", b"7", b"S"}


class MemberParser(Framing):
    """Tells the members of a tar stream that is fed to it.

    GNU, ustar, pax and the oldest format, sparse files of all four kinds. The content of sparse files is hashed as who
    reads them sees it, with zeros in their holes.

    :param on_member: called with each member once it has passed whole, in the order of the stream.
    :param algorithms: digests of every content.
    :param sink_for: asked at the beginning of every content (the digests of the member are still empty); where it
        returns a sink, that gets the content too.
    :param subject: what faults are about.
    :param offset_bytes: where in a larger stream this one begins.
    :param in_batches: whether members may be told a little later than they passed, by the end of a :meth:`feed`: small
        contents are hashed on two cores then. Not for who needs them before the next content begins.
    :param check: called in long holes; what it raises ends the work.
    :ivar damage: the DATA fault that was raised because of the stream itself, and not by what it called.

    Everything that a tar would not write is a DATA fault that gives the byte.
    """

    def __init__(
        self,
        on_member: Callable[[Member], None],
        algorithms: Sequence[str] = DEFAULT_ALGORITHMS,
        *,
        sink_for: Callable[[Member], ContentSink | None] | None = None,
        subject: str = "tar stream",
        offset_bytes: int = 0,
        in_batches: bool = True,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(offset_bytes)
        self.damage: Fault | None = None
        self._on_member = on_member
        self._sink_for = sink_for
        self._subject = subject
        self._hasher = ContentHasher(algorithms, check)
        self._extensions = Extensions()
        self._payload: int | None = None
        self._complete = False
        self._in_batches = in_batches
        self._passed: list[Member] = []  # and not told yet
        # of the content that is passing
        self._member: Member | None = None
        self._digests: dict[str, str] = {}
        self._sink: ContentSink | None = None
        self._extents: list[Extent] = []
        self._extent_number = 0
        self._position = 0
        self._stored_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the helper thread of the digests."""
        self._hasher.close()

    @property
    def is_complete(self) -> bool:
        """Whether the two blocks of zeros that end an archive have passed, where a member could have begun."""
        return self._complete

    @property
    def payload_bytes(self) -> int | None:
        """The offset of the first zeros of the end; None as long as there are none."""
        return self._payload

    def feed(self, block: memoryview | bytes) -> None:
        """Look at the next bytes of the stream; they may be reused once this returns."""
        try:
            self._pass(block)
        except Fault as fault:
            if fault is self.damage:
                self._tell()  # what came before it is well
            raise
        self._tell()

    def _tell(self) -> None:
        if self._passed:
            self._hasher.settle()
            passed, self._passed = self._passed, []
            for member in passed:
                self._on_member(member)

    def finish(self) -> None:
        """Say that the stream is over. DATA where it was cut, even where tar itself would not have noticed."""
        self.close()
        if self._complete:
            return
        if self._member is not None:
            where = f"within {escape(self._member.name)}"
        elif self._step != self._at_boundary or self._extensions.is_open:
            where = "within a header"
        else:
            where = "without the zeros that end an archive"
        raise self._damaged(f"ends {where},", self._offset)

    # -- headers -----------------------------------------------------------------------------------------------------

    def _header(self, block: bytes) -> None:
        if block == headers.ZERO_BLOCK:
            self._zeros()
            return
        if self._payload is not None:
            raise self._damaged("has a single block of zeros where an archive ends with two, and goes on,")
        try:
            header = headers.decode(block)
            extension = self._extension_of(header)
            go_on = self._begin(header, block) if extension is None else self._begin_extension(header, *extension)
        except ValueError as error:
            raise self._damaged(str(error)) from error
        go_on()  # outside: a ValueError of whom it calls is not the stream's fault

    def _begin_extension(self, header: Header, limit: int, then: Callable[[bytes], None]) -> Callable[[], None]:
        if header.size_bytes > limit:
            raise ValueError(f"has an extended header of {header.size_bytes} bytes")
        self._extensions.begin(self._unit_offset)
        if not header.size_bytes:
            return lambda: self._extend(then, b"")
        padded = header.size_bytes + -header.size_bytes % BLOCK_BYTES
        return lambda: self._collect(padded, lambda content: self._extend(then, content[: header.size_bytes]))

    def _extension_of(self, header: Header) -> tuple[int, Callable[[bytes], None]] | None:
        if header.type in _FILES:
            return None
        return {
            b"L": (_LARGEST_NAME_BYTES, self._extensions.set_name),
            b"K": (_LARGEST_NAME_BYTES, self._extensions.set_link),
            b"x": (_LARGEST_EXTENSION_BYTES, self._extensions.add_records),
            b"X": (_LARGEST_EXTENSION_BYTES, self._extensions.add_records),
            b"g": (_LARGEST_EXTENSION_BYTES, self._extensions.add_global_records),
        }.get(header.type)

    def _extend(self, then: Callable[[bytes], None], content: bytes) -> None:
        try:
            then(content)
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def _zeros(self) -> None:
        if self._extensions.is_open:
            raise self._damaged("ends after an extended header, without what it was for,")
        if self._payload is None:
            self._payload = self._unit_offset
            self._step = self._at_boundary
        else:
            self._complete = True
            self._step = self._ignoring

    def _begin(self, header: Header, block: bytes) -> Callable[[], None]:
        """Take in a member's header; returns what is to be done next."""
        if header.type == b"M":
            raise ValueError("goes on with a file of another volume")
        if header.type in _IGNORED:
            padded = header.size_bytes + -header.size_bytes % BLOCK_BYTES
            return lambda: self._skip(padded)
        if self._extensions.is_open or self._extensions.has_global:
            offset = self._extensions.start_bytes if self._extensions.is_open else self._unit_offset
            self._extensions.apply(header)
        else:
            offset = self._unit_offset
        self._digests = {}
        self._member = member = member_of(header, offset, self._digests)
        if member.kind is MemberKind.FILE:
            if header.type == b"S" or self._extensions.is_sparse:
                return self._read_map(HoleMap.begin(header, block, self._extensions))
            return lambda: self._begin_content(header.size_bytes)
        if header.type == b"1" and header.size_bytes and header.is_posix:
            return lambda: self._begin_hard_link(header.size_bytes)
        return lambda: self._emit(header.size_bytes if header.type in b"0D\0" else 0)

    # -- content -----------------------------------------------------------------------------------------------------

    def _begin_content(self, size_bytes: int) -> None:
        self._begin_extents([(0, size_bytes)] if size_bytes else [])

    def _begin_extents(self, extents: list[Extent]) -> None:
        self._hasher.begin()
        assert self._member is not None
        self._sink = self._sink_for(self._member) if self._sink_for else None
        self._extents, self._extent_number = extents, 0
        self._position = 0
        self._stored_bytes = sum(length for _, length in extents) if len(extents) != 1 else extents[0][1]
        self._next_extent()

    def _next_extent(self) -> None:
        assert self._member is not None
        if self._extent_number == len(self._extents):
            self._hasher.add_zeros(self._member.size_bytes - self._position)
            self._digests.update(self._hasher.digests())
            self._emit(0, -self._stored_bytes % BLOCK_BYTES)
            return
        offset, self._left = self._extents[self._extent_number]
        self._extent_number += 1
        if offset > self._position:
            self._hasher.add_zeros(offset - self._position)
            self._position = offset
        self._step = self._content

    def _content(self, view: memoryview) -> int:
        used = len(view)
        if used > self._left:
            used = self._left
            view = view[:used]
        if self._sink is not None:
            self._sink.write_at(self._position, view)
        self._left -= used
        if not self._left and not self._position and len(self._extents) == 1 and self._is_small(used):
            self._hasher.add_whole(self._digests, view)
            if not self._in_batches:
                self._hasher.settle()
            self._emit(0, -used % BLOCK_BYTES)
            return used
        self._position += used
        self._hasher.update(view)
        if not self._left:
            self._next_extent()
        return used

    def _is_small(self, used: int) -> bool:
        assert self._member is not None
        return used == self._member.size_bytes and used < PARALLEL_BYTES

    def _emit(self, ignored_bytes: int, padding_bytes: int = 0) -> None:
        member, sink, self._member, self._sink = self._member, self._sink, None, None
        assert member is not None
        self._extensions.clear()
        if ignored_bytes or padding_bytes:
            self._skip(ignored_bytes + -ignored_bytes % BLOCK_BYTES + padding_bytes)
        else:
            self._step = self._at_boundary
        self._passed.append(member)
        if sink is not None or not self._in_batches:
            self._tell()

    # -- hard links and sparse files ---------------------------------------------------------------------------------

    def _begin_hard_link(self, size_bytes: int) -> None:
        """Begin a hard link that states a size: some tars repeat the content, others mean nothing by it."""

        def begin() -> None:
            assert self._member is not None
            self._member = replace(self._member, size_bytes=size_bytes, digests=self._digests)
            self._begin_content(size_bytes)

        def decide(block: bytes) -> None:
            self._unit_offset += BLOCK_BYTES
            if block == headers.ZERO_BLOCK or headers.has_checksum(block):
                self._emit(0)
                self._header(block)
                return
            begin()
            view = memoryview(block)
            while view:
                view = view[self._step(view) :]

        if self._extensions.was_pax:  # pax is exact about sizes
            begin()
        else:
            self._collect(BLOCK_BYTES, decide)

    def _read_map(self, holes: HoleMap) -> Callable[[], None]:
        if holes.needs_block:
            return lambda: self._collect(BLOCK_BYTES, lambda block: self._extend_map(holes, block))
        assert self._member is not None
        extents = holes.extents()
        self._member = replace(self._member, size_bytes=holes.size_bytes, is_sparse=True, digests=self._digests)
        return lambda: self._begin_extents(extents)

    def _extend_map(self, holes: HoleMap, block: bytes) -> None:
        try:
            holes.add(block)
            go_on = self._read_map(holes)
        except ValueError as error:
            raise self._damaged(str(error)) from error
        go_on()

    def _damaged(self, reason: str, offset: int | None = None) -> Fault:
        at = self._unit_offset if offset is None else offset
        self.damage = Fault(FaultKind.DATA, self._subject, f"{reason} at byte {at}")
        return self.damage
