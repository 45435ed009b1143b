"""The states of tapes and of backups, and which may follow which."""

from __future__ import annotations

from enum import StrEnum

NOTHING = ""
"""The state before the first."""


class TapeState(StrEnum):
    """What may be done with a tape. Only LABELLED and OPEN are written to."""

    NEW = "new"  # on record; its cartridge has no label yet
    LABELLED = "labelled"
    OPEN = "open"
    FULL = "full"  # the drive refused a block
    CLOSED = "closed"
    SUSPECT = "suspect"  # what lies on it is not what the catalog says, or it gave an I/O error
    RETIRED = "retired"  # "garbage" in the old catalog

    @property
    def is_writable(self) -> bool:
        """Whether anything may still be written to it."""
        return self in {TapeState.NEW, TapeState.LABELLED, TapeState.OPEN}


class BackupState(StrEnum):
    """How far one copy of one target on one tape is. A target without a live backup is merely imported."""

    ASSIGNED = "assigned"
    WRITING = "writing"
    RECORDED = "recorded"
    CONFIRMED = "confirmed"
    OUTSTANDING = "outstanding"  # the tape ended under it: it waits for another tape
    FAILED = "failed"  # drifted at the source, or found different on the tape
    RELEASED = "released"  # history: this tape no longer counts for the target

    @property
    def is_on_tape(self) -> bool:
        """Whether the catalog says that the tape holds it."""
        return self in {BackupState.RECORDED, BackupState.CONFIRMED}


class AttemptResult(StrEnum):
    """How one go at a tape file ended."""

    INTENT = "intent"  # written before the first byte goes to tape; what is still so after a crash is looked at
    DONE = "done"
    ADOPTED = "adopted"  # found whole on the tape after a crash
    TRUNCATED = "truncated"  # the tape ended
    ABORTED = "aborted"  # stopped on purpose or cut off; what lies there is to be written over
    FAILED = "failed"


_T = TapeState
TAPE_TRANSITIONS: frozenset[tuple[str, str]] = frozenset(
    {
        *((NOTHING, state) for state in TapeState),  # a rebuilt or imported catalog begins anywhere
        (_T.NEW, _T.LABELLED),
        (_T.NEW, _T.OPEN),
        (_T.NEW, _T.CLOSED),
        (_T.NEW, _T.RETIRED),
        (_T.LABELLED, _T.OPEN),
        (_T.LABELLED, _T.CLOSED),
        (_T.LABELLED, _T.FULL),
        (_T.OPEN, _T.FULL),
        (_T.OPEN, _T.CLOSED),
        (_T.FULL, _T.CLOSED),
        *((state, _T.SUSPECT) for state in TapeState if state is not _T.RETIRED),
        *((state, _T.RETIRED) for state in TapeState if state is not _T.RETIRED),
        *((_T.SUSPECT, state) for state in (_T.OPEN, _T.FULL, _T.CLOSED)),
    }
)

_B = BackupState
BACKUP_TRANSITIONS: frozenset[tuple[str, str]] = frozenset(
    {
        *((NOTHING, state) for state in (_B.ASSIGNED, _B.RECORDED, _B.CONFIRMED)),
        (_B.ASSIGNED, _B.WRITING),
        (_B.ASSIGNED, _B.RELEASED),
        (_B.ASSIGNED, _B.ASSIGNED),  # to another tape
        (_B.WRITING, _B.RECORDED),
        (_B.WRITING, _B.ASSIGNED),  # cut off before the end: it will be written again
        (_B.WRITING, _B.OUTSTANDING),
        (_B.WRITING, _B.FAILED),
        (_B.OUTSTANDING, _B.ASSIGNED),
        (_B.OUTSTANDING, _B.RELEASED),
        (_B.FAILED, _B.ASSIGNED),
        (_B.FAILED, _B.RELEASED),
        (_B.FAILED, _B.CONFIRMED),  # read again, and found well
        (_B.FAILED, _B.FAILED),
        (_B.RECORDED, _B.CONFIRMED),
        (_B.RECORDED, _B.FAILED),
        (_B.CONFIRMED, _B.CONFIRMED),
        (_B.CONFIRMED, _B.FAILED),
        (_B.CONFIRMED, _B.RELEASED),  # its tape is retired
        (_B.RECORDED, _B.RELEASED),
    }
)
