"""Every tag a DAG may carry."""

from __future__ import annotations

from enum import StrEnum


class Tag(StrEnum):
    """The first says the subsystem, the others what a run may do."""

    DRAIN = "drain"
    WIKI_DUMP = "wiki_dump"
    MINIDVODB = "minidvodb"
    BITARCHIVE = "bitarchive"
    TAPE = "tape"
    DELETES = "deletes after proof"
    READS = "only reads"
    WRITES = "writes"
