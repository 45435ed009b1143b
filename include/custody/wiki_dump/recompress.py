"""What is made of content files that are there: 7z, multistream with its index, abstracts, and parts joined."""

from __future__ import annotations

import bz2 as bz2_module
import gzip
import html
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from custody.digests import BLOCK_BYTES
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.wiki_dump import runs
from custody.wiki_dump.bz2.bits import mapped
from custody.wiki_dump.bz2.blocks import Splicer, as_stream, list_blocks
from custody.wiki_dump.bz2.verify import decompressed
from custody.wiki_dump.engine.siteinfo import FOOTER
from custody.wiki_dump.jobs import OUTPUTS, STUBS, Job, Stage
from custody.wiki_dump.layout import DumpName
from custody.wiki_dump.making import is_made, making, path_of
from custody.wiki_dump.ranges import StubIndex
from custody.wiki_dump.runs import FileRow
from custody.wiki_dump.steps import begin, file_name, index_path, jobs_to_do, planned
from custody.wiki_dump.work import Work

PAGES_A_STREAM = 100
_AT_ONCE = 4
_PAGE_END = b"  </page>\n"
_PAGE_ID = re.compile(rb"  <page>\n    <title>([^<]*)</title>\n    <ns>(-?\d+)</ns>\n    <id>(\d+)</id>")


def plan_recombine(work: Work) -> list[str]:
    """The jobs that join parts and are still to be done."""
    return [job.name for job in jobs_to_do(work, Stage.RECOMBINE) if _is_ready(work, job)]


def plan_recompress(work: Work) -> list[int]:
    """The numbers of the files that are still to be made of others."""
    found = []
    for job in jobs_to_do(work, Stage.RECOMPRESS):
        if not _is_ready(work, job):
            continue
        for file in _targets(work, job):
            if not is_made(work.run, file):
                found.append(file.id)
    return found


def _is_ready(work: Work, job: Job) -> bool:
    """Whether the files it is made of are all there."""
    assert job.needs is not None
    files = _sources(work, job.needs)
    return bool(files) and all(is_made(work.run, file) for file in files)


def _sources(work: Work, job: str) -> list[FileRow]:
    with work.ledger.read() as connection:
        found = runs.files_of(connection, work.run.id, job)
    return sorted(found, key=lambda file: (file.part or 0, file.first_page or 0))


def _targets(work: Work, job: Job) -> list[FileRow]:
    assert job.needs is not None
    run = work.run
    if job.name == "metahistory7zdump":
        found = []
        for file in _sources(work, job.needs):
            name = file.name.removesuffix(".bz2") + ".7z"
            pages = (file.first_page or 0, file.last_page or 0)
            found.append(planned(work, job, name, part=file.part, pages=pages))
        return found
    if job.name == "articlesmultistreamdump":
        names = (("pages-articles-multistream", "xml"), ("pages-articles-multistream-index", "txt"))
        return [planned(work, job, file_name(run, dump, kind, "bz2")) for dump, kind in names][:1]
    return [planned(work, job, file_name(run, *OUTPUTS[job.name]))]


def make_recompressed(work: Work, file_id: int) -> FileRow:
    """Make one file of others."""
    file = runs.load_file(work.ledger, file_id)
    if is_made(work.run, file):
        return file
    begin(work, file.job)
    job = next(job for job in jobs_to_do(work, Stage.RECOMPRESS) if job.name == file.job)
    if job.name == "metahistory7zdump":
        _make_7z(work, file)
    elif job.name == "articlesmultistreamdump":
        _make_multistream(work, job, file)
    else:
        _make_abstracts(work, job, file)
    return runs.load_file(work.ledger, file_id)


def plain_text(work: Work, file: FileRow) -> Iterator[bytes]:
    """The content of a bz2 file of this run."""
    path = path_of(work.run, file)
    with os_errors_as_faults(str(path)), path.open("rb") as stream:
        yield from decompressed(iter(lambda: stream.read(BLOCK_BYTES), b""), file.name, str(path))


def _make_7z(work: Work, file: FileRow) -> None:
    source = next(each for each in _sources(work, "metahistorybz2dump") if each.name[:-4] == file.name[:-3])
    with making(work, file) as made, made.sevenzip(work.run.settings) as sink:
        for name in ("pages", "revisions"):
            made.count(**{name: int(source.counts[name])})
        for chunk in plain_text(work, source):
            sink.write(chunk)
            work.heartbeat.advance(bytes=len(chunk))


def pages_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """A document: its head, each page, and the closing tag."""
    rest, has_head = b"", False
    for chunk in chunks:
        rest += chunk
        if not has_head:
            at = rest.find(b"</siteinfo>\n")
            if at < 0:
                continue
            yield rest[: at + 12]
            rest, has_head = rest[at + 12 :], True
        *pages, rest = rest.split(_PAGE_END)
        for page in pages:
            yield page + _PAGE_END
    yield rest


def _all_pages(work: Work, job: str) -> Iterator[bytes]:
    """The pages of all files of a job in order: one head, one closing tag."""
    for number, file in enumerate(_sources(work, job)):
        document = pages_of(plain_text(work, file))
        head = next(document)
        if number == 0:
            yield head
        for page in document:
            if page.startswith(b"  <page>"):
                yield page
    yield FOOTER


def multistream(document: Iterator[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Streams of a multistream file, each with the index lines of its pages, without their offset.

    :param document: its head, its pages, its closing tag.
    """
    yield bz2_module.compress(next(document)), []
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        last = b""
        while batch := list(islice(document, PAGES_A_STREAM * _AT_ONCE)):
            if not batch[-1].startswith(b"  <page>"):
                last = batch.pop()
            streams = [batch[at : at + PAGES_A_STREAM] for at in range(0, len(batch), PAGES_A_STREAM)]
            packed = pool.map(lambda pages: bz2_module.compress(b"".join(pages)), streams)
            for pages, content in zip(streams, packed, strict=True):
                yield content, [_index_line(page) for page in pages]
        yield bz2_module.compress(last), []


def _index_line(page: bytes) -> bytes:
    found = _PAGE_ID.match(page)
    if found is None:
        raise Fault(FaultKind.DATA, "dump", f"holds a page without title or number: {page[:80]!r}")
    return b"%b:%b" % (found[3], found[1])


def _make_multistream(work: Work, job: Job, file: FileRow) -> None:
    index = planned(work, job, file_name(work.run, "pages-articles-multistream-index", "txt", "bz2"))
    with making(work, index) as index_made, making(work, file) as made:
        offset = 0
        with (
            os_errors_as_faults(str(made.path)),
            made.path.open("wb") as out,
            bz2_module.open(index_made.path, "wb") as lines,
        ):
            for stream, titles in multistream(_all_pages(work, "articlesdump")):
                out.write(stream)
                lines.write(b"".join(b"%d:%b\n" % (offset, title) for title in titles))
                offset += len(stream)
                made.count(pages=len(titles), revisions=len(titles))
                index_made.count(lines=len(titles))
                work.heartbeat.advance(bytes=len(stream))
        check_index(made.path, index_made.path)


def check_index(multi: Path, index: Path) -> int:
    """Look whether each stream that the index names begins with the page it says; returns the number of streams.

    Faults: DATA.
    """
    streams = 0
    last = -1
    with mapped(multi) as data, bz2_module.open(index) as lines:
        for line in lines:
            if line.count(b":") < 2 or not line.split(b":")[0].isdigit():
                raise Fault(FaultKind.DATA, str(index), f"holds a line that is none: {line[:80]!r}")
            offset, page_id, _ = line.split(b":", 2)
            if int(offset) == last:
                continue
            last, streams = int(offset), streams + 1
            engine = bz2_module.BZ2Decompressor()
            try:
                start = engine.decompress(data[last : last + 1_000_000], 8192)
            except (OSError, ValueError) as error:
                raise Fault(FaultKind.DATA, str(index), f"names byte {last}, where no stream begins") from error
            found = _PAGE_ID.match(start)
            if found is None or found[3] != page_id:
                raise Fault(
                    FaultKind.DATA, str(index), f"names page {page_id.decode()} at byte {last}, which is not there"
                )
    return streams


def make_recombined(work: Work, job_name: str) -> int:
    """Join the parts of a job to one file for each of its outputs, without compressing anything again."""
    job = next((job for job in jobs_to_do(work, Stage.RECOMBINE) if job.name == job_name), None)
    if job is None:
        return 0
    assert job.needs is not None
    begin(work, job.name)
    if job.needs == "xmlstubsdump":
        for kind in STUBS:
            parts = [file for file in _sources(work, job.needs) if f"-{kind}" in file.name]
            _join(work, job, parts, _whole_name(work, kind, "gz"))
        return len(STUBS)
    _join(work, job, _sources(work, job.needs), _whole_name(work, OUTPUTS[job.needs][0], "bz2"))
    return 1


def _whole_name(work: Work, dump: str, compression: str) -> str:
    return str(DumpName(work.run.wiki.name, work.run.date, dump, "xml", compression))


def _join(work: Work, job: Job, parts: list[FileRow], name: str) -> None:
    if any(file.name == name for file in parts):  # nothing was divided
        return
    file = planned(work, job, name)
    if is_made(work.run, file):
        return
    with making(work, file) as made:
        for count in ("pages", "revisions"):
            made.count(**{count: sum(int(part.counts.get(count, 0)) for part in parts)})
        with os_errors_as_faults(str(made.path)), made.path.open("wb") as out:
            chunks = _joined_gz(work, parts) if name.endswith(".gz") else _joined_bz2(work, parts)
            for chunk in chunks:
                out.write(chunk)
                work.heartbeat.advance(bytes=len(chunk))


def _joined_gz(work: Work, parts: list[FileRow]) -> Iterator[bytes]:
    """The head of the first, the members of all, a closing tag."""
    for number, part in enumerate(parts):
        groups = StubIndex.load(index_path(work.run, part.name)).groups
        path = path_of(work.run, part)
        with path.open("rb") as stream:
            if number == 0:
                head = next(pages_of(decompressed(iter(lambda: stream.read(BLOCK_BYTES), b""), part.name, str(path))))
                yield _one_member(head)
            if not groups:
                continue
            stream.seek(groups[0].offset)
            left = groups[-1].end - groups[0].offset
            while left:
                block = stream.read(min(BLOCK_BYTES, left))
                if not block:
                    raise Fault(FaultKind.DATA, str(path), "is shorter than its index says")
                left -= len(block)
                yield block
    yield _one_member(FOOTER)


def _one_member(text: bytes) -> bytes:
    return gzip.compress(text, mtime=0)


def _joined_bz2(work: Work, parts: list[FileRow]) -> Iterator[bytes]:
    """One single stream: the blocks of every part, but the head of the first only and the closing tag of the last."""
    splicer = Splicer()
    for number, part in enumerate(parts):
        path = path_of(work.run, part)
        with mapped(path) as data:
            blocks = list_blocks(data, path)
            ends = (blocks[0], blocks[-1])
            head, tail = (bz2_module.decompress(as_stream(data, end.start, end.end, end.crc)) for end in ends)
            if not head.endswith(b"</siteinfo>\n") or tail != FOOTER:
                raise Fault(FaultKind.DATA, part.name, "has no blocks of its own for head and end: make it again")
            first = 0 if number == 0 else 1
            last = len(blocks) if number == len(parts) - 1 else len(blocks) - 1
            for block in blocks[first:last]:
                yield from splicer.add(data, block)
    yield splicer.finish()


_SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)
_MARKUP = re.compile(r"\{\{[^{}]*\}\}|\{\|.*?\|\}|<[^<>]*>|'{2,}|\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", re.DOTALL)
_HEADING = re.compile(r"^==+\s*(.+?)\s*==+\s*$", re.MULTILINE)
_TEXT = re.compile(rb"<text [^>]*>(.*?)</text>", re.DOTALL)
MAX_ABSTRACT = 1024


def abstract_of(page: bytes, base: str) -> str | None:
    """``<doc>`` of an article: its first sentence and its sections; None for what is no article."""
    found, text = _PAGE_ID.match(page), _TEXT.search(page)
    if found is None or found[2] != b"0" or b"\n    <redirect " in page or text is None:
        return None
    title = html.unescape(found[1].decode())
    wiki = html.unescape(text[1].decode("utf-8", "replace"))
    plain = wiki
    for _ in range(8):
        shorter = _MARKUP.sub(lambda match: match[1] or "", plain)
        if shorter == plain:
            break
        plain = shorter
    lead = _HEADING.split(plain, maxsplit=1)[0].strip()
    sentence = _SENTENCE.match(lead)
    abstract = (sentence[1] if sentence else lead)[:MAX_ABSTRACT]
    url = f"{base.rpartition('/')[0]}/{title.replace(' ', '_')}"
    links = "".join(
        f'<sublink linktype="nav"><anchor>{html.escape(each)}</anchor>'
        f"<link>{html.escape(url + '#' + each.replace(' ', '_'))}</link></sublink>\n"
        for each in _HEADING.findall(wiki)
    )
    return (
        f"<doc>\n<title>{html.escape(title)}</title>\n<url>{html.escape(url)}</url>\n"
        f"<abstract>{html.escape(abstract)}</abstract>\n<links>\n{links}</links>\n</doc>\n"
    )


def _make_abstracts(work: Work, job: Job, file: FileRow) -> None:
    from custody.wiki_dump.engines import site_of

    base = site_of(work).base
    with making(work, file) as made, made.gz() as sink:
        sink.write(b"<feed>\n")
        for page in _all_pages(work, "articlesdump"):
            doc = abstract_of(page, base)
            if doc:
                sink.write(doc.encode("utf-8", "replace"))
                made.count(docs=1)
        sink.write(b"</feed>\n")
