"""A member of a tape file: what tar can hold, with the digests of its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class MemberKind(StrEnum):
    """The kinds of members that tar knows."""

    FILE = "file"
    HARDLINK = "hardlink"
    SYMLINK = "symlink"
    DIRECTORY = "directory"
    FIFO = "fifo"
    CHARACTER = "character"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Member:
    """One member. Names are bytes: whatever the file system allows.

    :param name: as in the archive: without a leading slash, directories without a trailing one.
    :param size_bytes: of the content as a reader sees it, holes included; 0 for everything but a FILE, and a HARDLINK
        of the few tars that repeat the content with every name.
    :param link: text of a symbolic link, or name (as in the archive) of the first of several hard links.
    :param device: major and minor number of a device node.
    :param is_sparse: stored with its holes left out.
    :param offset_bytes: where its first header begins within the tape file; -1 where not known (a scan).
    :param digests: of the content, lower-case hexadecimal by algorithm.
    """

    name: bytes
    kind: MemberKind
    size_bytes: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    link: bytes = b""
    device: tuple[int, int] | None = None
    is_sparse: bool = False
    offset_bytes: int = -1
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)
