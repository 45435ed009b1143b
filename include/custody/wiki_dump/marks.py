"""Whether a wiki has changed since it was dumped, without reading it whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from custody.wiki_dump.engine.rows import Address, opened

LAST = {"last_revision": ("revision", "rev_id"), "last_log": ("logging", "log_id")}
"""Name on record, then table and column: whatever is edited, moved, deleted or hidden makes one of them grow."""


def mark_of(address: Address) -> dict[str, str]:
    """The highest numbers of a wiki's revisions and log entries. Faults: those of the database."""
    found = {}
    with opened(address) as rows:
        for name, (table, column) in LAST.items():
            sql = f"SELECT {rows.number(f'MAX({column})')} FROM {table}"  # noqa: S608 - names from above
            value = next(iter(rows.query(sql)))[0]
            found[name] = (value or b"0").decode()
    return found


def is_unchanged(on_record: Mapping[str, Any], found: Mapping[str, str]) -> bool:
    """Whether a dump's mark is the wiki's mark now; what was not put on record is not unchanged."""
    return all(on_record.get(name) == found[name] for name in LAST)
