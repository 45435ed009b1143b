"""The states of this room, with the words of the old system where it had them."""

from __future__ import annotations

from enum import StrEnum


class UploadState(StrEnum):
    """How far a file is on its way into one replica."""

    UPLOAD_STARTED = "UPLOAD_STARTED"
    DATA_UPLOADED = "DATA_UPLOADED"
    UPLOAD_COMPLETED = "UPLOAD_COMPLETED"  # read back from the replica and found equal
    UPLOAD_FAILED = "UPLOAD_FAILED"
    UNKNOWN = "UNKNOWN_UPLOAD_STATE"


class FilelistStatus(StrEnum):
    """What the last list of a replica's files said of one file."""

    NONE = "NO_FILELIST_STATUS"
    MISSING = "MISSING"
    OK = "OK"


class ChecksumStatus(StrEnum):
    """What the vote on the last checksums said of one file in one replica."""

    UNKNOWN = "UNKNOWN"
    CORRUPT = "CORRUPT"
    OK = "OK"


class BatchState(StrEnum):
    """Where a batch stands."""

    RUNNING = "running"
    COMPLETE = "complete"  # every expected file was processed without failure
    PARTIAL = "partial"  # some were not
    NONE = "none"  # nothing matched, or no file was processed
    CANCELLED = "cancelled"

    @property
    def exit_status(self) -> int:
        """The status a command ends with: 0 complete, 2 partial, 3 nothing."""
        return {BatchState.COMPLETE: 0, BatchState.NONE: 3}.get(self, 2)


class FileState(StrEnum):
    """What became of one expected file of a batch."""

    EXPECTED = "expected"
    DONE = "done"
    DAMAGED = "damaged"  # processed, but some of its records could not be read; what was read is in the output
    FAILED = "failed"
    MISSING = "missing"  # its node answers, and has no such file
    UNREACHABLE = "unreachable"  # its node does not answer

    @property
    def was_processed(self) -> bool:
        """Whether the job saw the file."""
        return self in {FileState.DONE, FileState.DAMAGED, FileState.FAILED}

    @property
    def has_output(self) -> bool:
        """Whether its part belongs to the output."""
        return self in {FileState.DONE, FileState.DAMAGED}
