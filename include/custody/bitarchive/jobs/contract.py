r"""What a batch job is: four hooks, and a fifth for jobs that look at records.

    from custody.bitarchive.jobs import RecordBatchJob, RecordFilter

    class Titles(RecordBatchJob):
        record_filter = RecordFilter.ONLY_HTTP_ENTRIES

        def process_record(self, record, out):
            out.write(record.url.encode() + b"\n")

Each file is a process of its own in a sandbox: ``initialize``, ``process_file``, ``finish``, with fresh state. What is
to be known of all files together is made in ``post_process``, from the output of all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Protocol

from custody.bitarchive.records import Damage, Damaged, Record, read_records

SPOOL_BYTES = 1 << 20


class Out(Protocol):
    """Where a job writes its output."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""
        ...


class RecordError(Exception):
    """A job's own word that one record is no good: the file counts as failed, its other records are still processed."""


@dataclass
class ArchiveFile:
    """The file a job is to process; read-only.

    :param path: where it lies within the sandbox.
    """

    name: str
    path: Path
    size_bytes: int
    problems: list[Problem] = field(default_factory=list)
    records_done: int = 0

    def open(self) -> BinaryIO:
        """The bytes of the file as they lie."""
        return self.path.open("rb")

    def records(self) -> Iterator[Record | Damage]:
        """Every record and damage; a damage at the offset of the record before it takes that record back."""
        return read_records(self.path, name=self.name)


@dataclass(frozen=True)
class Problem:
    """One thing that went wrong with one record.

    :param offset_bytes: where the record begins, -1 where not known.
    :param length_bytes: of a damage; -1 for an error.
    :param error: the exception, or None for a damage.
    """

    offset_bytes: int
    length_bytes: int
    reason: str
    output_offset_bytes: int = -1
    error: BaseException | None = None


class FileBatchJob:
    """A job over files. Arguments come as strings to the constructor."""

    def initialize(self, out: Out) -> None:
        """Before the file. If it raises, the file is not processed, and :meth:`finish` is still called."""

    def process_file(self, file: ArchiveFile, out: Out) -> bool | None:
        """Process a file. ``False`` or an exception: the file has failed; the other files go on."""
        raise NotImplementedError

    def finish(self, out: Out) -> None:
        """After the file, whatever happened before."""

    def post_process(self, source: BinaryIO, out: Out) -> bool | None:
        """Make the result of the outputs of all files (in the order of names). ``False``: keep them as they are."""
        return False


class RecordFilter(Enum):
    """Which records a record job sees."""

    NO_FILTER = "no_filter"
    EXCLUDE_FILE_HEADERS = "exclude_file_headers"
    ONLY_HTTP_ENTRIES = "only_http_entries"
    EXCLUDE_NON_RESPONSE_RECORDS = "exclude_non_response_records"

    def accepts(self, record: Record) -> bool:
        """Whether a record passes."""
        return _FILTERS[self](record)


_FILTERS: dict[RecordFilter, Callable[[Record], bool]] = {
    RecordFilter.NO_FILTER: lambda record: True,
    RecordFilter.EXCLUDE_FILE_HEADERS: lambda record: record.kind not in {"filedesc", "warcinfo"},
    RecordFilter.ONLY_HTTP_ENTRIES: lambda record: record.url.startswith(("http:", "https:")),
    RecordFilter.EXCLUDE_NON_RESPONSE_RECORDS: lambda record: record.kind == "response",
}


class RecordBatchJob(FileBatchJob):
    """A job over the records of files.

    What is written for a record is part of the output once the whole record was read: a record that turns out damaged
    at its end leaves no trace.
    """

    record_filter: RecordFilter | Callable[[Record], bool] = RecordFilter.NO_FILTER

    def process_record(self, record: Record, out: Out) -> None:
        """Process one record. :class:`RecordError` fails the file and goes on; any other exception ends the file."""
        raise NotImplementedError

    def process_file(self, file: ArchiveFile, out: Out) -> bool | None:
        """Hand every record that passes the filter to :meth:`process_record`."""
        chosen = self.record_filter
        accepts = chosen.accepts if isinstance(chosen, RecordFilter) else chosen
        written = 0
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as pending:
            held: Record | None = None
            for item in file.records():
                if isinstance(item, Damage):
                    if held is not None and held.offset_bytes == item.offset_bytes:
                        _forget(pending)
                        file.records_done -= 1
                    if item.length_bytes:
                        file.problems.append(Problem(item.offset_bytes, item.length_bytes, item.reason, written))
                    held = None
                    continue
                written += _commit(pending, out)
                held = item
                if not accepts(item):
                    held = None
                    continue
                file.records_done += 1
                self._one(item, pending, file, written)
            _commit(pending, out)
        return not file.problems

    def _one(self, record: Record, pending: Out, file: ArchiveFile, written: int) -> None:
        try:
            self.process_record(record, pending)
        except Damaged:
            return  # the reader tells of it, with its place, as the next thing
        except RecordError as error:
            file.problems.append(Problem(record.offset_bytes, -1, str(error) or "RecordError", written, error))
        except Exception as error:
            file.problems.append(Problem(record.offset_bytes, -1, str(error), written, error))
            raise


def _commit(pending: tempfile.SpooledTemporaryFile[bytes], out: Out) -> int:
    size = pending.tell()
    if size:
        pending.seek(0)
        shutil.copyfileobj(pending, out)
        _forget(pending)
    return size


def _forget(pending: tempfile.SpooledTemporaryFile[bytes]) -> None:
    pending.seek(0)
    pending.truncate()
