"""Restore: members of a tape file back into a directory, each proven while it is written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from custody.digests import DEFAULT_ALGORITHMS, Fixity, Match, Progress
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.tape.drives.protocol import Drive
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape
from custody.tape.stream.putting import (
    Identity,
    have_same_facts,
    identity_of,
    is_same,
    put_link,
    put_special,
    same_as_first,
    set_facts,
)
from custody.tape.stream.read import BLOCK_BYTES, Read, read_tape_file
from custody.tape.stream.sinks import ContentSink
from custody.tape.stream.tree import Parts, Place, Tree, parts_of


@dataclass
class Extracted:
    """What became of the members that were wanted.

    :ivar restored: members put in their place, and ``already_there`` that were found there with the same content.
    :ivar unverified: files among them that nobody had a digest of to compare with.
    :ivar problems: what was not restored and why, a fault each.
    :ivar read: how the tape file was read; None as long as it is being read.
    """

    restored: int = 0
    already_there: int = 0
    size_bytes: int = 0
    unverified: int = 0
    problems: list[Fault] = field(default_factory=list)
    read: Read | None = None


def extract(
    drive: Drive,
    wanted: Callable[[bytes], bool],
    into: Path,
    *,
    limit_bytes: int | None,
    expected: Callable[[bytes], Mapping[str, str] | None] = lambda name: None,
    overwrite: bool = False,
    block_bytes: int = BLOCK_BYTES,
    subject: str = "tape file",
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Extracted:
    """Read the tape file the head stands at, and put the members that are wanted below ``into``.

    :param wanted: asked with every member's name.
    :param into: an existing directory. No name leads out of it and no symbolic link in it is followed.
    :param expected: the digests that the catalogue has of a name.
    :param overwrite: replace files that are there; else each is a CONFLICT among the problems, unless it is the same.

    Mode and time of everything are restored, the owner when root. What cannot be restored is among the problems and
    the rest goes on; a full disk (CAPACITY), a stop and faults of the drive end it, and are raised.
    """
    with os_errors_as_faults(str(into)):
        restorer = _Restorer(Tree(into), wanted, expected, overwrite)
    try:
        read = read_tape_file(
            drive,
            restorer.finish,
            limit_bytes=limit_bytes,
            block_bytes=block_bytes,
            algorithms=DEFAULT_ALGORITHMS,
            sink_for=restorer.begin,
            subject=subject,
            progress=progress,
            stop=stop,
        )
        restorer.drop_open_file()
        restorer.finish_directories()
    finally:
        restorer.close()
    restorer.result.read = read
    return restorer.result


class _FileSink:
    """A file that is being written; holes stay holes."""

    def __init__(self, parts: Parts, place: Place) -> None:
        self.parts = parts
        self.subject = place.subject
        self.descriptor = place.open_temporary()

    def write_at(self, offset_bytes: int, piece: memoryview) -> None:
        """See ContentSink."""
        with os_errors_as_faults(self.subject):
            while piece:
                count = os.pwrite(self.descriptor, piece, offset_bytes)
                piece, offset_bytes = piece[count:], offset_bytes + count


class _Restorer:
    def __init__(
        self,
        tree: Tree,
        wanted: Callable[[bytes], bool],
        expected: Callable[[bytes], Mapping[str, str] | None],
        overwrite: bool,
    ) -> None:
        self.result = Extracted()
        self._tree = tree
        self._wanted = wanted
        self._expected = expected
        self._overwrite = overwrite
        self._sink: _FileSink | None = None
        self._has_failed = False
        self._restored: dict[bytes, Identity] = {}
        self._directories: dict[Parts, Member] = {}

    # -- while the tape file passes ----------------------------------------------------------------------------------

    def begin(self, member: Member) -> ContentSink | None:
        """Open a file for a content that begins, where it is wanted and nothing is in its place."""
        self.drop_open_file()
        self._has_failed = False
        if not self._wanted(member.name):
            return None
        try:
            with os_errors_as_faults(escape(member.name)):
                parts = self._parts(member)
                place = self._tree.place(parts)
                if self._overwrite or place.lstat() is None:
                    self._sink = _FileSink(parts, place)
        except Fault as fault:
            self._note(fault)
            self._has_failed = True
        return self._sink

    def finish(self, member: Member) -> None:
        """A member has passed whole: put it in its place."""
        if not self._wanted(member.name) or self._has_failed:
            self._has_failed = False
            return
        try:
            with os_errors_as_faults(escape(member.name)):
                self._put(member)
        except Fault as fault:
            self._note(fault)
        except (OverflowError, ValueError) as error:  # a time, an owner or a link text that no system takes
            self._note(Fault(FaultKind.DATA, escape(member.name), f"cannot be restored: {error}"))
        finally:
            self.drop_open_file()

    def _put(self, member: Member) -> None:
        if member.kind is MemberKind.DIRECTORY:
            parts = parts_of(member.name)
            self._tree.enter(parts)
            self._directories[parts] = member
            self.result.restored += 1
            return
        place = self._tree.place(self._parts(member))
        if self._sink is not None:
            self._put_file(member, place, self._sink)
        elif (found := place.lstat()) is not None and not self._overwrite:
            self._compare(member, place, found)
        elif member.kind is MemberKind.HARDLINK:
            put_link(self._tree, member, place, self._restored.get(member.link), overwrite=self._overwrite)
            self.result.restored += 1
        else:
            put_special(member, place, overwrite=self._overwrite)
            self.result.restored += 1

    def _note(self, fault: Fault) -> None:
        if fault.kind in {FaultKind.CAPACITY, FaultKind.CANCELLED}:
            raise fault  # nothing after it would fare better
        self.result.problems.append(fault)

    def _parts(self, member: Member) -> Parts:
        parts = parts_of(member.name)
        if not parts:
            raise Fault(FaultKind.DATA, escape(member.name), "is no name of a file")
        return parts

    # -- the kinds of members ----------------------------------------------------------------------------------------

    def _put_file(self, member: Member, place: Place, sink: _FileSink) -> None:
        self._verify(member, place.subject)
        os.ftruncate(sink.descriptor, member.size_bytes)
        set_facts(sink.descriptor, member)
        os.fsync(sink.descriptor)
        place.publish(overwrite=self._overwrite)
        self._remember(member, os.fstat(sink.descriptor))
        os.close(sink.descriptor)
        self._sink = None
        self.result.restored += 1
        self.result.size_bytes += member.size_bytes

    def _verify(self, member: Member, subject: str) -> None:
        known = self._expected(member.name)
        match = Fixity(member.size_bytes, known or {}).compare(Fixity(member.size_bytes, member.digests))
        if match is Match.DIFFERENT:
            reason = "what the tape gave is not what the catalogue has: it was not restored"
            raise Fault(FaultKind.DATA, subject, reason, next_command="restore it from another copy")
        self.result.unverified += match is Match.UNVERIFIED

    def _compare(self, member: Member, place: Place, found: os.stat_result) -> None:
        """Something is in the place of a member: the same, as after a run that was ended early, or a CONFLICT."""
        if member.kind is MemberKind.HARDLINK and not member.digests:
            known = self._restored.get(member.link)
            same = known == identity_of(found)
            if not same and (first := same_as_first(self._tree, member, place, found, known)) is not None:
                if have_same_facts(first, found):  # restored alone: it is a link again; nobody can tell the difference
                    put_link(self._tree, member, self._tree.place(self._parts(member)), known, overwrite=True)
                same = True
        else:
            same = is_same(member, place, found)
        if not same:
            raise Fault(
                FaultKind.CONFLICT,
                place.subject,
                "exists, and is not the same",
                next_command="move it aside, restore into another directory, or allow overwriting",
            )
        if member.kind is MemberKind.FILE:
            self._verify(member, place.subject)
            self._remember(member, found)
        self.result.already_there += 1

    # -- what all have -----------------------------------------------------------------------------------------------

    def _remember(self, member: Member, found: os.stat_result) -> None:
        self._restored[member.name] = identity_of(found)

    def finish_directories(self) -> None:
        """Give directories what they had, the deepest first, and flush those in which names were made."""
        for parts in sorted({*self._directories, *self._tree.touched}, key=len, reverse=True):
            try:
                with os_errors_as_faults(self._tree.subject(parts)):
                    descriptor = self._tree.enter(parts)
                    if parts in self._directories and parts:
                        set_facts(descriptor, self._directories[parts])
                    os.fsync(descriptor)
            except Fault as fault:
                self._note(fault)

    def drop_open_file(self) -> None:
        """Take away a file whose content did not come whole or is not the right one."""
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            with suppress(Fault, OSError):
                self._tree.place(sink.parts).clear_temporary()
        finally:
            os.close(sink.descriptor)

    def close(self) -> None:
        """Leave nothing open or unfinished."""
        self.drop_open_file()
        self._tree.close()
