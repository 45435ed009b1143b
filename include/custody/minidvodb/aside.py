"""A published copy taken out of sight, before it is deleted; and whether two directories are one.

What is deleted must not be what another copy is believed to be: by another name of its machine, a file system that
two machines mount, a bind mount. Nothing of that can be told by names and numbers. So a copy gets a mark, and whoever
sees that mark is the same directory.
"""

from __future__ import annotations

import secrets

from custody.minidvodb import far_scripts as scripts
from custody.minidvodb.far import Far

_PATIENCE_S = 3600


def set_aside(far: Far) -> str | None:
    """Rename the published copy out of sight and put a mark in it; returns the mark, None where there is no copy."""
    mark = f".mark-{secrets.token_hex(16)}"
    done = far.run(scripts.SET_ASIDE, mark, timeout_s=_PATIENCE_S, allow=(scripts.GONE,))
    return mark if done.returncode == 0 else None


def put_back(far: Far) -> str:
    """Undo :func:`set_aside`, now or after a kill; or end a deletion that a kill cut short.

    Returns ``nothing`` where there was nothing to do, ``back`` or ``deleted``. Faults: VERIFY where its name is taken.
    """
    done = far.run(scripts.PUT_BACK, timeout_s=_PATIENCE_S, allow=(scripts.TAKEN,))
    if done.returncode:
        raise far.taken()
    return done.stdout.decode().strip()


def delete(far: Far) -> None:
    """Delete what is set aside; only :mod:`custody.minidvodb.retire` calls it, once the gate has said yes."""
    far.run(scripts.DELETE, timeout_s=_PATIENCE_S)


def forget(far: Far) -> None:
    """Take away the note of a deletion that is on record by now."""
    far.run(scripts.FORGET)


def is_same_directory(one: Far, other: Far) -> bool:
    """Whether two destinations are one directory, by whatever names. Faults: those of the hosts."""
    mark = f".mark-{secrets.token_hex(16)}"
    one.run(scripts.MAKE_MARK, mark)
    try:
        return has_mark(other, mark)
    finally:
        one.run(scripts.DROP_MARK, mark)


def has_mark(far: Far, mark: str) -> bool:
    """Whether a mark is seen there: asked for by its name, which no cache of a network's file system can know yet."""
    return far.run(scripts.HAS_MARK, mark).stdout.startswith(b"yes")
