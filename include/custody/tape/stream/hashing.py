"""Digests of the content of one file after another, large pieces on two cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from custody.digests import Hasher

PARALLEL_BYTES = 128 << 10
"""Pieces from here on are worth the handing over to a second thread."""
_ZEROS = memoryview(bytes(4 << 20))


class ContentHasher:
    """Digests of one stream at a time; hashlib lets other threads run while it works, so two cores are used.

    :param algorithms: as in :class:`~custody.digests.Hasher`.
    :param check: called now and then in long work; what it raises ends it.
    """

    def __init__(self, algorithms: Sequence[str], check: Callable[[], None] = lambda: None) -> None:
        self._algorithms = tuple(algorithms)
        self._check = check
        self._helper: ThreadPoolExecutor | None = None
        self._hashers: list[Hasher] = []
        self.begin()

    def begin(self) -> None:
        """Forget what passed, and begin with the next content."""
        self._hashers = []

    def of_whole(self, content: memoryview) -> dict[str, str]:
        """The digests of a small content that is there whole."""
        hasher = Hasher(self._algorithms)
        hasher.update(content)
        return dict(hasher.fixity().digests)

    def update(self, piece: memoryview) -> None:
        """Add the next piece; it may be reused once this returns."""
        hashers = self._hashers or self._separate()
        if len(piece) < PARALLEL_BYTES or len(hashers) < 2:
            for hasher in hashers:
                hasher.update(piece)
            return
        self._helper = self._helper or ThreadPoolExecutor(1, "digest")
        first = self._helper.submit(hashers[0].update, piece)
        try:
            for hasher in hashers[1:]:
                hasher.update(piece)
        finally:
            first.result()

    def add_zeros(self, count: int) -> None:
        """Add a hole, as who reads the file sees it."""
        while count > 0:
            self._check()
            self.update(_ZEROS[: min(count, len(_ZEROS))])
            count -= len(_ZEROS)

    def digests(self) -> dict[str, str]:
        """Lower-case hexadecimal by algorithm."""
        found: dict[str, str] = {}
        for hasher in self._hashers or self._separate():
            found.update(hasher.fixity().digests)
        return found

    def close(self) -> None:
        """End the helper thread."""
        if self._helper:
            self._helper.shutdown()

    def _separate(self) -> list[Hasher]:
        self._hashers = [Hasher((name,)) for name in self._algorithms]
        return self._hashers
