"""Many copies on record at once: a tape file holds thousands of files, and a row at a time would take minutes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.digests import Fixity
from custody.ledger.store import CopyState, identity_of, now, place_key
from custody.ledger.tables import copy, file, proof

_ROWS_A_QUERY = 500


@dataclass(frozen=True)
class Stored:
    """One file lying somewhere.

    :param name: base name, escaped where it is not plain UTF-8.
    """

    name: str
    fixity: Fixity
    place: str


def record_copies(
    connection: Connection, things: Iterable[Stored], state: CopyState, *, proof_kind: str | None = None, run: str = ""
) -> int:
    """Put copies on record, or move those that are there to ``state``; with ``proof_kind``, each with its proof.

    A proven copy is not lowered to PRESENT or SENT. Returns their number. Takes part in the caller's transaction.
    """
    source, count = iter(things), 0
    while chunk := list(islice(source, _ROWS_A_QUERY)):
        copies = _copies(connection, chunk, _files(connection, chunk), state)
        count += len(chunk)
        if proof_kind is not None:
            at = now()
            rows = [
                {
                    "copy_id": copies[thing.place],
                    "kind": proof_kind,
                    "compared": {"size_bytes": thing.fixity.size_bytes, "digests": dict(thing.fixity.digests)},
                    "proven_at": at,
                    "run": run,
                }
                for thing in chunk
            ]
            connection.execute(sa.insert(proof), rows)
    return count


def _files(connection: Connection, chunk: Sequence[Stored]) -> dict[tuple[str, str], int]:
    wanted = {(thing.name, identity_of(thing.fixity)): thing for thing in chunk}
    known = _known_files(connection, wanted)
    at = now()
    missing: list[dict[str, Any]] = [
        {
            "name": name,
            "identity": identity,
            "size_bytes": thing.fixity.size_bytes,
            "first_seen": at,
            **{algorithm: thing.fixity.digests.get(algorithm) for algorithm in ("md5", "sha1", "sha256")},
        }
        for (name, identity), thing in wanted.items()
        if (name, identity) not in known
    ]
    if missing:
        connection.execute(sa.insert(file), missing)
        known = _known_files(connection, wanted)
    return known


def _known_files(connection: Connection, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    identities = sorted({identity for _, identity in wanted})
    names = sorted({name for name, _ in wanted})
    query = sa.select(file.c.id, file.c.name, file.c.identity).where(
        file.c.identity.in_(identities), file.c.name.in_(names)
    )
    return {(row.name, row.identity): row.id for row in connection.execute(query)}


def _copies(
    connection: Connection, chunk: Sequence[Stored], files: dict[tuple[str, str], int], state: CopyState
) -> dict[str, int]:
    keys = {place_key(thing.place): thing for thing in chunk}
    known = _known_copies(connection, list(keys))
    at = now()
    missing = []
    for key, thing in keys.items():
        file_id = files[thing.name, identity_of(thing.fixity)]
        if (file_id, key) not in known:
            values = {"file_id": file_id, "place": thing.place, "place_key": key, "state": state, "since": at}
            missing.append(values)
    if missing:
        connection.execute(sa.insert(copy), missing)
        known = _known_copies(connection, list(keys))
    ours = {thing.place: known[files[thing.name, identity_of(thing.fixity)], key] for key, thing in keys.items()}
    keeps = [CopyState.PROVEN] if state in {CopyState.PRESENT, CopyState.SENT} else []
    connection.execute(
        sa.update(copy)
        .where(copy.c.id.in_(list(ours.values())), copy.c.state != state, copy.c.state.not_in(keeps))
        .values(state=state, since=at)
    )
    return ours


def _known_copies(connection: Connection, keys: Sequence[str]) -> dict[tuple[int, str], int]:
    query = sa.select(copy.c.id, copy.c.file_id, copy.c.place_key).where(copy.c.place_key.in_(list(keys)))
    return {(row.file_id, row.place_key): row.id for row in connection.execute(query)}
