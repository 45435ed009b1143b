"""Digests of the content of one file after another, large pieces and many small ones on two cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from custody.digests import Hasher

PARALLEL_BYTES = 128 << 10
"""Pieces from here on are worth the handing over to a second thread."""
_BATCH = 32
"""Small contents that are handed over at once."""
_ZEROS = memoryview(bytes(4 << 20))
_Batch = list[tuple[dict[str, str], memoryview]]


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
        self._batch: _Batch = []
        self._batches: deque[_Batch] = deque()
        self._working: Future[None] | None = None
        self.begin()

    def begin(self) -> None:
        """Forget what passed, and begin with the next content."""
        self._hashers = []

    def add_whole(self, digests: dict[str, str], content: memoryview) -> None:
        """Fill in the digests of a small content that is there whole, by :meth:`settle` at the latest.

        The content stays as it is until then. Another content may be passing meanwhile.
        """
        self._batch.append((digests, content))
        if len(self._batch) == _BATCH:
            self._hand_over()

    def settle(self) -> None:
        """Finish what was added whole; both threads take part."""
        if self._batch:
            self._batches.append(self._batch)
            self._batch = []
        self._work()
        if self._working is not None:
            working, self._working = self._working, None
            working.result()

    def _hand_over(self) -> None:
        self._batches.append(self._batch)
        self._batch = []
        if self._working is None or self._working.done():
            if self._working is not None:
                self._working.result()
            self._helper = self._helper or ThreadPoolExecutor(1, "digest")
            self._working = self._helper.submit(self._work)

    def _work(self) -> None:
        while True:
            try:
                batch = self._batches.popleft()
            except IndexError:
                return
            for digests, content in batch:
                hasher = Hasher(self._algorithms)
                hasher.update(content)
                digests.update(hasher.fixity().digests)

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
        self._batches.clear()
        if self._helper:
            self._helper.shutdown()

    def _separate(self) -> list[Hasher]:
        self._hashers = [Hasher((name,)) for name in self._algorithms]
        return self._hashers
