"""Members put in their places: links, devices, what all of them have, and whether what is there is the same already."""

from __future__ import annotations

import os
import stat

from custody.digests import DEFAULT_ALGORITHMS, Fixity, Match, read_file
from custody.faults import Fault, FaultKind
from custody.tape.members import Member, MemberKind
from custody.tape.names import escape
from custody.tape.stream.tree import Place, Tree, parts_of

Identity = tuple[int, int]
"""Device and inode."""


def identity_of(found: os.stat_result) -> Identity:
    """Which file it is."""
    return found.st_dev, found.st_ino


def is_root() -> bool:
    """Whether owners can be given."""
    return os.geteuid() == 0


def mode_of(member: Member) -> int:
    """The mode to give; set-id is for the owner it was given by."""
    return member.mode if is_root() else member.mode & 0o1777


def set_facts(descriptor: int, member: Member) -> None:
    """Give an open file or directory the owner, mode and time of a member."""
    if is_root():
        os.fchown(descriptor, member.uid, member.gid)
    os.fchmod(descriptor, mode_of(member))
    when = member.mtime_s * 10**9
    os.utime(descriptor, ns=(when, when))


def put_special(member: Member, place: Place, *, overwrite: bool) -> None:
    """Put a symbolic link, fifo or device in its place."""
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
        if is_root():
            os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
        if member.kind is not MemberKind.SYMLINK:
            os.chmod(name, mode_of(member), dir_fd=directory)
        when = member.mtime_s * 10**9
        os.utime(name, ns=(when, when), dir_fd=directory, follow_symlinks=False)
        place.publish(overwrite=overwrite)
    except BaseException:
        place.clear_temporary()
        raise


def put_link(tree: Tree, member: Member, place: Place, known: Identity | None, *, overwrite: bool) -> None:
    """Put a hard link in its place. ``known`` is the file that its first name was restored as, or found to be.

    Faults: CONFIG where it was neither, CONFLICT where it is another file by now.
    """
    if known is None:
        reason = f"is a hard link to {escape(member.link)}, which was not restored"
        raise Fault(FaultKind.CONFIG, place.subject, reason, next_command="ask for both")
    with place.kept() as kept:
        first = tree.place(parts_of(member.link))
        found = first.lstat()
        if found is None or identity_of(found) != known:
            raise Fault(FaultKind.CONFLICT, first.subject, "is not what was restored there: somebody changed it")
        kept.clear_temporary()
        names = {"src_dir_fd": first.directory, "dst_dir_fd": kept.directory}
        os.link(first.name, kept.temporary, follow_symlinks=False, **names)
        if (there := kept.lstat()) is not None and identity_of(there) == known:
            kept.clear_temporary()  # rename would leave both names of one file
        else:
            kept.publish(overwrite=overwrite)


def is_same(member: Member, place: Place, found: os.stat_result) -> bool:
    """Whether what is in the place of a member is the same: a file by its content."""
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


def same_as_first(
    tree: Tree, member: Member, place: Place, found: os.stat_result, known: Identity | None
) -> os.stat_result | None:
    """The first name of a hard link, where what is in the link's place is a file of its own with the same content.

    That is what is left of a restore that was asked for this name alone.
    """
    if known is None or not stat.S_ISREG(found.st_mode):
        return None
    with place.kept() as kept:
        first = tree.place(parts_of(member.link))
        other = first.lstat()
        if other is None or identity_of(other) != known or other.st_size != found.st_size:
            return None
        here = read_file(kept.path(), DEFAULT_ALGORITHMS).fixity
        is_equal = here.compare(read_file(first.path(), DEFAULT_ALGORITHMS).fixity) is Match.EQUAL
        return other if is_equal else None


def have_same_facts(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two files have the same owner, mode and time."""
    facts = [(found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns) for found in (one, other)]
    return facts[0] == facts[1]
