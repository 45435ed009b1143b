"""Moving the head over the records of an image, and what the driver remembers of where that ended."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from custody.tape.drives.mtio import Op
from custody.tape.drives.tap import Head, Record, record_at, record_before


class Eof(IntEnum):
    """The driver's end-of-file state. From EOD_1 on it shows as end of data, EARLY as end of tape."""

    NONE = 0
    MARK = 2  # right behind a filemark: an empty read comes before the error
    EARLY = 3  # a block was taken behind early warning: the next one is refused
    EOD_1 = 5  # one was refused: the next one is taken, while there is room
    EOD_2 = 6
    EOD = 7


def space(descriptor: int, head: Head, size: int, op: Op, count: int) -> bool:
    """Move the head; False where the tape ended before ``count`` was reached, which the driver calls EIO."""
    moves: dict[Op, Callable[[int, Head, int, int], bool]] = {
        Op.REW: _rewind,
        Op.LOAD: _rewind,
        Op.FSF: _forward_files,
        Op.FSFM: lambda d, h, s, n: _forward_files(d, h, s, n) and _back_files(d, h, s, 1),
        Op.BSF: _back_files,
        Op.BSFM: lambda d, h, s, n: _back_files(d, h, s, n) and _forward_files(d, h, s, 1),
        Op.FSR: _forward_blocks,
        Op.BSR: _back_blocks,
        Op.EOM: _end_of_data,
        Op.SEEK: _seek,
    }
    return moves[op](descriptor, head, size, count)


def to_end(descriptor: int, head: Head, size: int) -> None:
    """Put the head behind the last whole record, counting what it passes."""
    while record := record_at(descriptor, head.offset, size):
        _pass(head, record)


def ends_with_a_block(descriptor: int, size: int) -> bool:
    """Whether the last thing in an image is a whole block."""
    last = record_before(descriptor, size)
    return last is not None and not last.is_mark and record_at(descriptor, last.start, size) == last


def _pass(head: Head, record: Record) -> None:
    head.offset = record.end
    if record.is_mark:
        head.marks += 1
        head.file += head.file >= 0
        head.block = 0
    else:
        head.blocks += 1
        head.block += head.block >= 0


def _pass_back(head: Head, record: Record) -> None:
    head.offset = record.start
    if record.is_mark:
        head.marks -= 1
    else:
        head.blocks -= 1


def _rewind(descriptor: int, head: Head, size: int, count: int) -> bool:
    head.offset = head.blocks = head.marks = head.file = head.block = 0
    head.eof = Eof.NONE
    return True


def _forward_files(descriptor: int, head: Head, size: int, count: int) -> bool:
    for _ in range(count):
        while (record := record_at(descriptor, head.offset, size)) and not record.is_mark:
            _pass(head, record)
        if record is None:
            head.block, head.eof = -1, Eof.EOD
            return False
        _pass(head, record)
    if count:
        head.block = 0
    head.eof = Eof.MARK
    return True


def _back_files(descriptor: int, head: Head, size: int, count: int) -> bool:
    head.eof = Eof.NONE
    for _ in range(count):
        while (record := record_before(descriptor, head.offset)) and not record.is_mark:
            _pass_back(head, record)
        if record is None:
            head.block = 0
            return False
        _pass_back(head, record)
        head.file -= head.file >= 0
    if count:
        head.block = -1
    return True


def _forward_blocks(descriptor: int, head: Head, size: int, count: int) -> bool:
    head.eof = Eof.NONE
    for _ in range(count):
        record = record_at(descriptor, head.offset, size)
        if record is None:
            head.eof = Eof.EOD
            return False
        _pass(head, record)
        if record.is_mark:
            head.eof = Eof.MARK
            return False
    return True


def _back_blocks(descriptor: int, head: Head, size: int, count: int) -> bool:
    head.eof = Eof.NONE
    for _ in range(count):
        record = record_before(descriptor, head.offset)
        if record is None:
            return False
        _pass_back(head, record)
        if record.is_mark:
            head.file -= head.file >= 0
            head.block = -1
            return False
        head.block -= head.block >= 1
    return True


def _end_of_data(descriptor: int, head: Head, size: int, count: int) -> bool:
    to_end(descriptor, head, size)
    head.block, head.eof = -1, Eof.EOD
    return True


def _seek(descriptor: int, head: Head, size: int, count: int) -> bool:
    _rewind(descriptor, head, size, 0)
    for _ in range(count):
        record = record_at(descriptor, head.offset, size)
        if record is None:
            break
        _pass(head, record)
    is_there = head.blocks + head.marks == count
    if count:
        head.file = head.block = -1
    return is_there
