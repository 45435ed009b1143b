"""Names that are restored only for their content: the first name of a hard link that nobody asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from custody.faults import Fault
from custody.tape.stream.tree import Parts, parts_of

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Borrowed:
    """First names that come into a directory with the links that need them, and go again.

    :param links: by the name that was asked for, the first name, which was not.
    :ivar firsts: the names to be extracted as well.
    """

    def __init__(self, into: Path, links: Mapping[bytes, bytes]) -> None:
        self.firsts = frozenset(links.values())
        self._into = into
        self._were_there: dict[Parts, int] = {}
        for first in self.firsts:
            with suppress(Fault):  # a name that leads out is refused where it is extracted
                parts = parts_of(first)
                if (depth := self._depth(parts)) < len(parts):
                    self._were_there[parts] = depth

    def _depth(self, parts: Parts) -> int:
        """How many parts of a name are there already."""
        descriptor = os.open(self._into, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            for depth, part in enumerate(parts):
                try:
                    os.lstat(part, dir_fd=descriptor)
                except OSError:
                    return depth
                if depth == len(parts) - 1:
                    break
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=descriptor)
                except OSError:
                    return depth + 1
                os.close(descriptor)
                descriptor = below
        finally:
            os.close(descriptor)
        return len(parts)

    def give_back(self) -> int:
        """Take away the first names that were not there before, and directories made for them; returns how many."""
        return sum(self._take_away(parts, depth) for parts, depth in self._were_there.items())

    def _take_away(self, parts: Parts, depth: int) -> bool:
        opened: list[int] = []
        try:
            opened.append(os.open(self._into, _DIRECTORY & ~os.O_NOFOLLOW))
            for part in parts[:-1]:
                opened.append(os.open(part, _DIRECTORY, dir_fd=opened[-1]))
            if os.lstat(parts[-1], dir_fd=opened[-1]).st_nlink < 2:
                return False  # its content is nowhere else: it stays
            os.unlink(parts[-1], dir_fd=opened[-1])
            with suppress(OSError):  # not empty: others need it
                for level in range(len(parts) - 2, depth - 1, -1):
                    os.rmdir(parts[level], dir_fd=opened[level])
        except OSError:
            return False
        finally:
            for descriptor in opened:
                os.close(descriptor)
        return True
