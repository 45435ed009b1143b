"""Restore: members of a tape file back into a directory, each proven while it is written."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from custody.digests import DEFAULT_ALGORITHMS, Fixity, Match, Progress, read_file
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.tape.drives.protocol import Drive
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape
from custody.tape.stream.parse import ContentSink
from custody.tape.stream.read import BLOCK_BYTES, Read, read_tape_file
from custody.tape.stream.tree import Parts, Place, Tree, parts_of

Identity = tuple[int, int]
"""Device and inode."""


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
        self._is_root = os.geteuid() == 0
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
            self._put_link(member, place)
        else:
            self._put_special(member, place)

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
        self._set_facts(sink.descriptor, member)
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

    def _put_link(self, member: Member, place: Place) -> None:
        known = self._restored.get(member.link)
        if known is None:
            reason = f"is a hard link to {escape(member.link)}, which was not restored"
            raise Fault(FaultKind.CONFIG, place.subject, reason, next_command="ask for both")
        held = os.dup(place.directory)
        try:
            first = self._tree.place(parts_of(member.link))
            found = first.lstat()
            if found is None or (found.st_dev, found.st_ino) != known:
                raise Fault(FaultKind.CONFLICT, first.subject, "is not what was restored there: somebody changed it")
            place = Place(held, place.name, place.subject)
            place.clear_temporary()
            names = {"src_dir_fd": first.directory, "dst_dir_fd": held}
            os.link(first.name, place.temporary, follow_symlinks=False, **names)
            if (there := place.lstat()) is not None and (there.st_dev, there.st_ino) == known:
                place.clear_temporary()  # rename would leave both names of one file
            else:
                place.publish(overwrite=self._overwrite)
        finally:
            os.close(held)
        self.result.restored += 1

    def _put_special(self, member: Member, place: Place) -> None:
        place.clear_temporary()
        name, directory = place.temporary, place.directory
        if member.kind is MemberKind.SYMLINK:
            os.symlink(member.link, name, dir_fd=directory)
        elif member.kind is MemberKind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=directory)
        else:
            kind = stat.S_IFCHR if member.kind is MemberKind.CHARACTER else stat.S_IFBLK
            os.mknod(name, 0o600 | kind, os.makedev(*(member.device or (0, 0))), dir_fd=directory)
        try:
            if self._is_root:
                os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
            if member.kind is not MemberKind.SYMLINK:
                os.chmod(name, self._mode(member), dir_fd=directory)
            when = member.mtime_s * 10**9
            os.utime(name, ns=(when, when), dir_fd=directory, follow_symlinks=False)
            place.publish(overwrite=self._overwrite)
        except BaseException:
            place.clear_temporary()
            raise
        self.result.restored += 1

    def _compare(self, member: Member, place: Place, found: os.stat_result) -> None:
        """Something is in the place of a member: the same, as after a run that was ended early, or a CONFLICT."""
        if not self._is_same(member, place, found):
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

    def _is_same(self, member: Member, place: Place, found: os.stat_result) -> bool:
        if member.kind is MemberKind.HARDLINK and not member.digests:
            return self._restored.get(member.link) == (found.st_dev, found.st_ino)
        if member.kind in {MemberKind.FILE, MemberKind.HARDLINK}:
            if not stat.S_ISREG(found.st_mode) or found.st_size != member.size_bytes:
                return False
            reading = read_file(place.path(), tuple(member.digests))
            return reading.fixity.compare(Fixity(member.size_bytes, member.digests)) is Match.EQUAL
        if member.kind is MemberKind.SYMLINK:
            is_link = stat.S_ISLNK(found.st_mode)
            return is_link and os.readlink(place.name, dir_fd=place.directory) == member.link
        if member.kind is MemberKind.FIFO:
            return stat.S_ISFIFO(found.st_mode)
        is_kind = stat.S_ISCHR if member.kind is MemberKind.CHARACTER else stat.S_ISBLK
        return is_kind(found.st_mode) and (os.major(found.st_rdev), os.minor(found.st_rdev)) == member.device

    # -- what all have -----------------------------------------------------------------------------------------------

    def _remember(self, member: Member, found: os.stat_result) -> None:
        self._restored[member.name] = (found.st_dev, found.st_ino)

    def _mode(self, member: Member) -> int:
        return member.mode if self._is_root else member.mode & 0o1777  # set-id is for the owner it was given by

    def _set_facts(self, descriptor: int, member: Member) -> None:
        if self._is_root:
            os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, self._mode(member))
        when = member.mtime_s * 10**9
        os.utime(descriptor, ns=(when, when))

    def finish_directories(self) -> None:
        """Give directories what they had, the deepest first, and flush those in which names were made."""
        for parts in sorted({*self._directories, *self._tree.touched}, key=len, reverse=True):
            try:
                with os_errors_as_faults(self._tree.subject(parts)):
                    descriptor = self._tree.enter(parts)
                    if parts in self._directories and parts:
                        self._set_facts(descriptor, self._directories[parts])
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
