"""What extended headers say of the member that follows them: GNU's long names, and the records of pax."""

from __future__ import annotations

from custody.tape.stream.headers import (
    LARGEST_SIZE_BYTES,
    Extent,
    Header,
    pairs,
    pax_records,
    pax_seconds,
    stored_number,
)


class Extensions:
    """Collects extended headers until the member comes, and applies them to its header.

    :ivar start_bytes: offset of the first of them, which is where the member begins.
    :ivar is_open: whether one was seen whose member is still to come.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.start_bytes = -1
        self._global: dict[bytes, bytes] = {}
        self._clear()

    def _clear(self) -> None:
        self._name: bytes | None = None
        self._link: bytes | None = None
        self._records: dict[bytes, bytes] = {}
        self._old_map: list[bytes] = []

    def begin(self, offset_bytes: int) -> None:
        """Note that an extended header begins at an offset."""
        if not self.is_open:
            self.is_open, self.start_bytes = True, offset_bytes

    def clear(self) -> None:
        """Forget all but what holds for the whole archive."""
        if self.is_open:
            self.is_open = False
            self._clear()

    def set_name(self, content: bytes) -> None:
        """A GNU ``L`` header: a name of more than 100 bytes."""
        self._name = content.partition(b"\0")[0]

    def set_link(self, content: bytes) -> None:
        """A GNU ``K`` header: the target of a link, of more than 100 bytes."""
        self._link = content.partition(b"\0")[0]

    def add_records(self, content: bytes) -> None:
        """A pax ``x`` header."""
        for keyword, value in pax_records(content):
            if keyword in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:  # the only ones that come many times
                self._old_map.append(value)
            else:
                self._records[keyword] = value

    def add_global_records(self, content: bytes) -> None:
        """A pax ``g`` header: it holds for all members from here on."""
        self._global.update(pax_records(content))
        self.is_open = self.is_open and self._says_something

    @property
    def _says_something(self) -> bool:
        return bool(self._records or self._old_map or self._name is not None or self._link is not None)

    @property
    def has_global(self) -> bool:
        """Whether records hold for all members."""
        return bool(self._global)

    @property
    def was_pax(self) -> bool:
        """Whether pax records belong to the member."""
        return bool(self._records or self._old_map)

    def apply(self, header: Header) -> None:
        """Put into a header what is known better. ValueError where a record cannot be read."""
        if self._name is not None:
            header.name = self._name
        if self._link is not None:
            header.link = self._link
        records = {**self._global, **self._records} if self._global else self._records
        # an empty value takes a record of the whole archive back
        known = {keyword: value for keyword, value in records.items() if value}
        header.name = known.get(b"GNU.sparse.name") or known.get(b"path") or header.name
        header.link = known.get(b"linkpath", header.link)
        header.uid = stored_number(int(known.get(b"uid", header.uid)))
        header.gid = stored_number(int(known.get(b"gid", header.gid)))
        if b"mtime" in known:
            header.mtime_s = stored_number(pax_seconds(known[b"mtime"]))
        if b"size" in known:
            header.size_bytes = _size(known[b"size"])

    @property
    def is_sparse(self) -> bool:
        """Whether the member is a file with holes, in one of the three ways of pax."""
        return self.map_is_inside or b"GNU.sparse.map" in self._records or bool(self._old_map)

    @property
    def map_is_inside(self) -> bool:
        """Whether the map of the holes comes before the content (version 1.0)."""
        return self._records.get(b"GNU.sparse.major") == b"1"

    @property
    def sparse_map(self) -> list[Extent]:
        """The map of versions 0.0 and 0.1."""
        if self._old_map:
            return pairs(self._old_map)
        text = self._records[b"GNU.sparse.map"]
        return pairs(text.split(b",")) if text else []

    @property
    def sparse_size_bytes(self) -> int:
        """The size of a file with holes, as who reads it sees it."""
        stated = self._records.get(b"GNU.sparse.realsize") or self._records.get(b"GNU.sparse.size")
        if stated is None:
            raise ValueError("is a file with holes whose size is not stated")
        return _size(stated)


def _size(text: bytes) -> int:
    size_bytes = int(text)
    if not 0 <= size_bytes <= LARGEST_SIZE_BYTES:
        raise ValueError(f"states an impossible size of {size_bytes} bytes")
    return size_bytes
