"""The CDX of the old system: ``url ip date mime length file offset md5``, one line a record, for ARC and WARC."""

from __future__ import annotations

import hashlib
import re

from custody.bitarchive.jobs.contract import ArchiveFile, Out, RecordBatchJob, RecordFilter
from custody.bitarchive.records import Record

_BLANK = re.compile(r"\s")


class ExtractCdxJob(RecordBatchJob):
    """CDX lines with the fields A e b m n g v c. Argument: ``no`` leaves the digest (c) out."""

    record_filter = RecordFilter.EXCLUDE_FILE_HEADERS
    _file = ""

    def __init__(self, digest: str = "yes") -> None:
        self._with_digest = digest.lower() not in {"no", "false", "0"}

    def process_file(self, file: ArchiveFile, out: Out) -> bool | None:
        """Remember the name of the file for the lines."""
        self._file = file.name
        return super().process_file(file, out)

    def process_record(self, record: Record, out: Out) -> None:
        """Write one line; requests and metadata of WARC files have none."""
        if not record.is_arc and record.kind not in {"response", "resource", "revisit"}:
            return
        mime = record.mime
        if not record.is_arc and record.holds_http:
            mime = record.read_http().mime
        digest = hashlib.md5(usedforsecurity=False)
        if self._with_digest:
            while block := record.content.read(1 << 16):
                digest.update(block)
        words = (
            record.url,
            record.ip,
            record.date,
            mime.partition(";")[0].strip(),
            str(record.content_length),
            self._file,
            str(record.offset_bytes),
        )
        line = " ".join(_BLANK.sub("%20", word) or "-" for word in words)
        if self._with_digest:
            line += f" {digest.hexdigest()}"
        out.write(line.encode("utf-8", "surrogateescape") + b"\n")
