"""Which kind of member a header tells of."""

from __future__ import annotations

from custody.tape.members import Member, MemberKind
from custody.tape.stream.headers import Header

_KINDS = {
    b"1": MemberKind.HARDLINK,
    b"2": MemberKind.SYMLINK,
    b"3": MemberKind.CHARACTER,
    b"4": MemberKind.BLOCK,
    b"5": MemberKind.DIRECTORY,
    b"6": MemberKind.FIFO,
    b"D": MemberKind.DIRECTORY,
}
_DEVICES = {MemberKind.CHARACTER, MemberKind.BLOCK}


def member_of(header: Header, offset_bytes: int, digests: dict[str, str]) -> Member:
    """The member as its header has it; ``digests`` becomes its own, and may be filled later."""
    kind = _KINDS.get(header.type, MemberKind.FILE)
    if kind is MemberKind.FILE and header.name.endswith(b"/"):
        kind = MemberKind.DIRECTORY  # the way of the oldest tars
    name = header.name.lstrip(b"/") if header.name.startswith(b"/") else header.name
    if kind is MemberKind.DIRECTORY:
        name = name.rstrip(b"/")
    link = b""
    if kind is MemberKind.HARDLINK:
        link = header.link.lstrip(b"/")
    elif kind is MemberKind.SYMLINK:
        link = header.link
    return Member(
        name or b".",
        kind,
        header.size_bytes if kind is MemberKind.FILE else 0,
        header.mode,
        header.uid,
        header.gid,
        header.mtime_s,
        link,
        header.device if kind in _DEVICES else None,
        False,
        offset_bytes,
        digests,
    )
