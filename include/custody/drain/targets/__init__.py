"""Where a drain goes. One small interface: make the item, put a file, look at what is stored.

What a target says of a file is a :class:`Fixity`: its size and the digests it states. A target that states no digest
proves nothing; it is never asked to guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from custody import gate
from custody.digests import FileState, Fixity, Hasher, Progress
from custody.gate import Verdict


@dataclass(frozen=True)
class Item:
    """What a series is at the target: its identifier, what is said of it, and its size as a hint."""

    identifier: str
    metadata: Mapping[str, str | list[str]] = field(default_factory=dict)
    size_hint_bytes: int = 0


@dataclass(frozen=True)
class Outgoing:
    """A file about to be sent: where it lies, and what its manifest says of it."""

    path: Path
    name: str
    fixity: Fixity
    state: FileState


@dataclass(frozen=True)
class Receipt:
    """What came of sending a file.

    :param url: where it can be asked for.
    :param read: size and digests of the bytes that were read for sending.
    :param stated: what the server said it received.
    :param status: HTTP status or the like, for the log.
    """

    url: str
    read: Fixity
    stated: Fixity
    status: int
    duration_s: float


class Target(Protocol):
    """One place to drain to."""

    def place(self, item: str, name: str) -> str:
        """The ledger's name of a file there."""
        ...

    def url(self, item: str, name: str) -> str:
        """Where a person finds a file there."""
        ...

    def create(self, item: Item, manifest: bytes, earlier: Sequence[bytes] = ()) -> None:
        """Make the item, its manifest first; harmless where it is there and ours.

        A manifest that is there is replaced only where it is one of the ``earlier`` ones of this item.

        Faults: CONFIG for a missing bucket, AUTH, TRANSIENT, THROTTLED.
        """
        ...

    def put(self, item: Item, outgoing: Outgoing, progress: Progress | None = None) -> Receipt:
        """Send one file in one read that hashes it again. Faults: as :meth:`create`, and DATA for refused bytes."""
        ...

    def look(self, item: str, names: Sequence[str]) -> dict[str, Fixity | None]:
        """What is stored under these names now; None where nothing is."""
        ...

    def read_back(
        self, item: str, name: str, progress: Progress | None = None, into: IO[bytes] | None = None
    ) -> Fixity:
        """Read every stored byte and hash it (md5, sha256), writing it ``into`` a file if one is given."""
        ...

    def finish(self, item: Item, names: Sequence[str]) -> None:
        """Do what is to be done once, after every file of the item is proven; harmless where it was done already."""
        ...


def may_write_manifest(manifest: bytes, earlier: Sequence[bytes], there: Fixity | None) -> Verdict:
    """Whether a manifest may go where another lies: the gate's answer for one of ours, old or new."""
    verdicts = [gate.may_overwrite(fixity_of(content), there) for content in (manifest, *earlier)]
    return next((verdict for verdict in verdicts if verdict.allowed), verdicts[0])


def fixity_of(content: bytes) -> Fixity:
    """Size and digests of some bytes."""
    hasher = Hasher()
    hasher.update(content)
    return hasher.fixity()


@runtime_checkable
class Settling(Protocol):
    """A target that takes a file first and stores it later."""

    def settle(self, item: str) -> None:
        """Make sure that it has no work under way on the item.

        Faults: THROTTLED while there is some, NEEDS_HUMAN where some has failed.
        """
        ...


@runtime_checkable
class Markable(Target, Protocol):
    """A target in whose items an empty file can be made for a moment, to see who else sees it."""

    def mark(self, item: str, name: str) -> None:
        """Make an empty file of this name, where the item is there."""
        ...

    def unmark(self, item: str, prefix: str) -> None:
        """Take away the empty files whose names begin so."""
        ...
