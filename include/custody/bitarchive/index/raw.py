"""What the metadata files of a job hold: crawl log, CDX and reports, all taken out in one pass."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from custody.bitarchive.records import Damage, Record, read_records
from custody.bitarchive.records.model import Content
from custody.faults import Fault, FaultKind

MAX_RAW_BYTES = 2 << 30
_CRAWL_LOG = re.compile(r"metadata://[^/]*/crawl/logs/crawl\.log.*")
_CDX = re.compile(r"metadata://[^/]*/crawl/index/cdx.*")
_REPORT = re.compile(r"metadata://[^/]*/crawl/(?P<path>(?:reports|setup|logs)/[^?#]+).*")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")


@dataclass
class Raw:
    """The lines of crawl log and CDX, sorted, without line ends; and each report by its name in the tar."""

    crawl_log: list[bytes] = field(default_factory=list)
    cdx: list[bytes] = field(default_factory=list)
    reports: dict[str, tuple[int, bytes]] = field(default_factory=dict)


def read_raw(files: Iterable[tuple[str, Path]]) -> Raw:
    """Read metadata files, each by its name and where it lies. Faults: DATA where one is damaged."""
    raw = Raw()
    for name, path in files:
        for item in read_records(path, name=name):
            if isinstance(item, Damage):
                if item.length_bytes:
                    raise Fault(FaultKind.DATA, name, f"is damaged at offset {item.offset_bytes}: {item.reason}")
            else:
                _take(raw, name, item)
    raw.crawl_log.sort(key=by_url)
    raw.cdx.sort()
    return raw


def _take(raw: Raw, name: str, record: Record) -> None:
    if _CRAWL_LOG.fullmatch(record.url):
        raw.crawl_log += lines_of(_read_whole(name, record.content))
    elif _CDX.fullmatch(record.url):
        raw.cdx += lines_of(_read_whole(name, record.content))
    elif found := _REPORT.fullmatch(record.url):
        member = _free(raw, f"{name}/{_fit(found['path'])}")
        raw.reports[member] = (_epoch_s(record.date), _read_whole(name, record.content))


def _fit(path: str) -> str:
    """A path that leads nowhere else, whatever a crawler wrote."""
    words = (_UNFIT.sub("_", word).lstrip(".-") for word in path.split("/"))
    return "/".join(word[:100] or "_" for word in words)[:200]


def _free(raw: Raw, member: str) -> str:
    names = (member if number == 1 else f"{member}~{number}" for number in range(1, len(raw.reports) + 2))
    return next(name for name in names if name not in raw.reports)


def _epoch_s(date: str) -> int:
    try:
        return max(0, int(datetime.strptime(date, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()))
    except ValueError:
        return 0


def tar_of(reports: dict[str, tuple[int, bytes]]) -> Iterator[bytes]:
    """The reports as a tar; the same reports give the same bytes."""
    for member, (epoch_s, content) in sorted(reports.items()):
        info = tarfile.TarInfo(member)
        info.size, info.mtime, info.mode = len(content), epoch_s, 0o644
        head = io.BytesIO()
        with tarfile.open(fileobj=head, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info, io.BytesIO(content))
            length = tar.offset
        yield head.getvalue()[:length]
    yield bytes(2 * tarfile.BLOCKSIZE)


def _read_whole(name: str, content: Content) -> bytes:
    """A log, CDX or report, held in memory; what inflates to more than any real one is refused."""
    parts, size = [], 0
    while block := content.read(1 << 20):
        parts.append(block)
        size += len(block)
        if size > MAX_RAW_BYTES:
            raise Fault(FaultKind.DATA, name, f"holds a record of more than {MAX_RAW_BYTES} bytes")
    return b"".join(parts)


def lines_of(content: bytes) -> list[bytes]:
    """Its lines, without their ends; empty ones are left out."""
    return [line for line in content.replace(b"\r\n", b"\n").split(b"\n") if line]


def by_url(line: bytes) -> tuple[bytes, bytes]:
    """The order of a crawl log, as ``sort -k 4b``: from the fourth word on, then the whole line."""
    words = line.split(None, 3)
    return (words[3] if len(words) > 3 else b"", line)
