"""The jobs that come with Custody, by the names the old system had for them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import BinaryIO
from urllib.parse import urlsplit

from custody.bitarchive.jobs.cdx import ExtractCdxJob
from custody.bitarchive.jobs.contract import ArchiveFile, FileBatchJob, Out, RecordBatchJob, RecordFilter
from custody.bitarchive.records import Record
from custody.digests import Hasher, blocks, reading

COUNT = re.compile(rb"(.*)\t([0-9]+)\t([0-9]+)\n", re.DOTALL)


class ChecksumJob(FileBatchJob):
    """``name##digest`` for each file. Argument: md5 (default), sha1, sha256 or xxh128."""

    def __init__(self, algorithm: str = "md5") -> None:
        self._algorithm = algorithm
        Hasher((algorithm,))

    def process_file(self, file: ArchiveFile, out: Out) -> None:
        """Read the file once."""
        hasher = Hasher((self._algorithm,))
        with reading(file.path) as descriptor:
            for block in blocks(descriptor):
                hasher.update(block)
        out.write(f"{file.name}##{hasher.fixity().digests[self._algorithm]}\n".encode())


class FileListJob(FileBatchJob):
    """The name of each file."""

    def process_file(self, file: ArchiveFile, out: Out) -> None:
        """One line."""
        out.write(file.name.encode() + b"\n")


class GetFileJob(FileBatchJob):
    """The bytes of each file, one after the other."""

    def process_file(self, file: ArchiveFile, out: Out) -> None:
        """Copy."""
        with reading(file.path) as descriptor:
            for block in blocks(descriptor):
                out.write(bytes(block))


class GetMetadataJob(RecordBatchJob):
    """The contents of records whose URL and content type match. Arguments: URL pattern, type pattern (whole match)."""

    def __init__(self, url: str = ".*", mime: str = ".*") -> None:
        self._url = re.compile(url)
        self._mime = re.compile(mime)

    def process_record(self, record: Record, out: Out) -> None:
        """Copy the content of a match."""
        if self._url.fullmatch(record.url) and self._mime.fullmatch(record.mime):
            while block := record.content.read(1 << 16):
                out.write(block)


class CrawlLogLinesJob(RecordBatchJob):
    """The lines of crawl logs (in metadata files) that match. Argument: a pattern for the whole line."""

    _log = re.compile(r"metadata://[^/]*/crawl/logs/crawl\.log.*")

    def __init__(self, pattern: str = ".*") -> None:
        self._pattern = re.compile(pattern.encode())

    def process_record(self, record: Record, out: Out) -> None:
        """Filter the lines of a crawl log."""
        if not self._log.fullmatch(record.url):
            return
        rest = b""
        while block := record.content.read(1 << 16):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._keep(line, out)
        if rest:
            self._keep(rest, out)

    def _keep(self, line: bytes, out: Out) -> None:
        if self._pattern.fullmatch(line.rstrip(b"\r")):
            out.write(line + b"\n")


class HarvestedUrlsForDomainJob(CrawlLogLinesJob):
    """The lines of crawl logs whose URL (field 4) or referrer (field 6) lies in a domain. Argument: the domain."""

    def __init__(self, domain: str) -> None:
        super().__init__()
        self._domain = domain.lower().lstrip(".")

    def _keep(self, line: bytes, out: Out) -> None:
        words = line.decode("utf-8", "replace").split()
        if any(self._is_inside(words[number]) for number in (3, 5) if number < len(words)):
            out.write(line + b"\n")

    def _is_inside(self, url: str) -> bool:
        try:
            host = (urlsplit(url).hostname or "").lower()
        except ValueError:
            return False
        return host == self._domain or host.endswith("." + self._domain)


def mime_of(record: Record) -> str:
    """What a record holds: the type its server stated; of ARC that of its line; without parameters."""
    if record.is_arc:
        return record.mime.partition(";")[0].strip().lower() or "unknown"
    if record.holds_http:
        return record.read_http().mime or "unknown"
    return record.mime.partition(";")[0].strip().lower() or "unknown"


class MimeCountJob(RecordBatchJob):
    """How many records and bytes of each content type: ``type TAB records TAB bytes``, of all files together."""

    record_filter = RecordFilter.ONLY_HTTP_ENTRIES

    def __init__(self) -> None:
        self._counts: dict[bytes, tuple[int, int]] = {}

    def process_record(self, record: Record, out: Out) -> None:
        """Count a response."""
        if record.kind not in {"response", "resource", "revisit"}:
            return
        length = record.content_length
        out.write(b"%s\t1\t%d\n" % (_one_field(mime_of(record)), length))

    def post_process(self, source: BinaryIO, out: Out) -> bool:
        """Add up."""
        counts: dict[bytes, tuple[int, int]] = {}
        for line in source:
            if found := COUNT.fullmatch(line):
                records, size = counts.get(found[1], (0, 0))
                counts[found[1]] = records + int(found[2]), size + int(found[3])
        for mime, (records, size) in sorted(counts.items()):
            out.write(b"%s\t%d\t%d\n" % (mime, records, size))
        return True


class _SearchJob(RecordBatchJob):
    """Lines ``url TAB type TAB date TAB file TAB offset`` of what matches."""

    record_filter = RecordFilter.EXCLUDE_FILE_HEADERS
    _file = ""

    def process_file(self, file: ArchiveFile, out: Out) -> bool | None:
        """Remember the name of the file for the lines."""
        self._file = file.name
        return super().process_file(file, out)

    def _write(self, record: Record, mime: str, out: Out) -> None:
        fields = (record.url, mime, record.date, self._file, str(record.offset_bytes))
        out.write(b"\t".join(map(_one_field, fields)) + b"\n")


class UrlSearchJob(_SearchJob):
    """Records whose URL matches. Argument: a pattern for the whole URL."""

    def __init__(self, url: str) -> None:
        self._url = re.compile(url)

    def process_record(self, record: Record, out: Out) -> None:
        """Write a match."""
        if record.kind != "request" and self._url.fullmatch(record.url):
            self._write(record, mime_of(record), out)


class MimeSearchJob(_SearchJob):
    """Records whose content type matches. Argument: a pattern for the whole type."""

    def __init__(self, mime: str) -> None:
        self._mime = re.compile(mime)

    def process_record(self, record: Record, out: Out) -> None:
        """Write a match."""
        if record.kind != "request" and self._mime.fullmatch(mime := mime_of(record)):
            self._write(record, mime, out)


class UrlAndMimeSearchJob(_SearchJob):
    """Records whose URL and content type match. Arguments: two patterns."""

    def __init__(self, url: str, mime: str) -> None:
        self._url = re.compile(url)
        self._mime = re.compile(mime)

    def process_record(self, record: Record, out: Out) -> None:
        """Write a match."""
        if record.kind == "request" or not self._url.fullmatch(record.url):
            return
        if self._mime.fullmatch(mime := mime_of(record)):
            self._write(record, mime, out)


class DuplicatesJob(_SearchJob):
    """Payloads that are there more than once: ``sha1 TAB url TAB type TAB date TAB file TAB offset``, sorted."""

    def process_record(self, record: Record, out: Out) -> None:
        """Digest a response's payload."""
        if record.kind not in {"response", "resource"}:
            return
        mime = mime_of(record)
        if record.is_arc and record.holds_http:
            record.read_http()
        digest = hashlib.sha1(usedforsecurity=False)
        while block := record.content.read(1 << 16):
            digest.update(block)
        out.write(digest.hexdigest().encode() + b"\t")
        self._write(record, mime, out)

    def post_process(self, source: BinaryIO, out: Out) -> bool:
        """Keep the digests that come twice or more."""
        lines = sorted(source)
        for number, line in enumerate(lines):
            near = lines[number - 1 : number] + lines[number + 1 : number + 2]
            if any(other[:41] == line[:41] for other in near):
                out.write(line)
        return True


def _one_field(text: str) -> bytes:
    return re.sub(r"[\t\r\n]", " ", text).encode("utf-8", "surrogateescape")


LIBRARY: dict[str, Callable[..., FileBatchJob]] = {
    "ChecksumJob": ChecksumJob,
    "FileListJob": FileListJob,
    "GetFileBatchJob": GetFileJob,
    "GetMetadataArchiveBatchJob": GetMetadataJob,
    "CrawlLogLinesMatchingRegexp": CrawlLogLinesJob,
    "HarvestedUrlsForDomainBatchJob": HarvestedUrlsForDomainJob,
    "ArchiveExtractCDXJob": ExtractCdxJob,
    "Mimetypes": MimeCountJob,
    "URLsearch": UrlSearchJob,
    "MimeSearch": MimeSearchJob,
    "UrlAndMimeSearch": UrlAndMimeSearchJob,
    "DeduplicationFinder": DuplicatesJob,
}
"""The jobs by name."""
