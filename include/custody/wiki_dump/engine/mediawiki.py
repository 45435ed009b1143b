"""The engine ``mediawiki``: a wiki's own scripts, dumpBackup and dumpTextPass, as xmldumps-backup ran them."""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from custody.faults import Fault, FaultKind
from custody.wiki_dump.bz2.verify import decompressed
from custody.wiki_dump.commands import Command, Pipeline, Progress, run
from custody.wiki_dump.engine.siteinfo import FOOTER, SiteInfo, from_header
from custody.wiki_dump.engine.stubs import Oddity, PageStub
from custody.wiki_dump.engine.textpass import Prefetch, Tally

_PAGE_END = b"  </page>\n"
_HEAD = re.compile(
    rb"  <page>\n    <title>.*?</title>\n    <ns>(-?\d+)</ns>\n    <id>(\d+)</id>\n(?:    <redirect .*?/>\n)?"
)
_REVISION = re.compile(rb"    <revision>\n      <id>(\d+)</id>\n.*?    </revision>\n", re.DOTALL)
_LOST = re.compile(rb'<text bytes="([1-9]\d*)" sha1="[^"]+"(?: xml:space="preserve")? />')
_BYTES = re.compile(rb'<text bytes="(\d+)"')
_BLOCK_BYTES = 1 << 20


class MediaWikiEngine:
    """See :class:`custody.wiki_dump.engine.base.Engine`.

    :param argv: php, the script's directory is ``scripts``; ``--conf`` names the wiki.
    :param temp: directory for what goes from one script to the next.
    :param progress: told when their output grows.
    """

    def __init__(
        self,
        php: str,
        scripts: Path,
        local_settings: str,
        wiki: str,
        temp: Path,
        no_progress_s: float,
        progress: Progress,
    ) -> None:
        self._php, self._scripts, self._settings, self._wiki, self._temp = php, scripts, local_settings, wiki, temp
        self._no_progress_s, self._progress = no_progress_s, progress
        self.oddities: list[Oddity] = []
        for script in ("dumpBackup.php", "dumpTextPass.php"):
            if not (scripts / script).is_file():
                raise Fault(FaultKind.CONFIG, str(scripts / script), "is not there", next_command="check wiki.dir")
        self.site = self._read_site()

    def _command(self, script: str, *arguments: str) -> Command:
        return Command((self._php, str(self._scripts / script), "--conf", self._settings, "--quiet", *arguments))

    def _run(self, command: Command, watched: Path) -> None:
        """Run a script for as long as its output grows."""
        pipeline = Pipeline((command,), no_progress_s=self._no_progress_s, watched=watched)
        run(pipeline, progress=self._progress)

    def _read_site(self) -> SiteInfo:
        ended = run(
            Pipeline((self._command("dumpBackup.php", "--full", "--stub", "--start=1", "--end=1"),), timeout_s=300)
        )
        header, found, _ = ended.stdout.partition(b"</siteinfo>\n")
        if not found:
            raise Fault(FaultKind.DATA, f"dumpBackup.php of {self._wiki}", "writes no head of a document")
        self._header = header + found
        return from_header(self._header, self._wiki)

    def snapshot(self) -> dict[str, str]:
        """There is none: MediaWiki reads page after page."""
        return {"engine": self.site.generator}

    def pages(self) -> Iterator[PageStub]:
        """See :class:`Engine`: one pass with two outputs, all revisions and the latest ones."""
        history, current = self._temp / "mw-history.xml.gz", self._temp / "mw-current.xml.gz"
        try:
            command = self._command(
                *("dumpBackup.php", "--full", "--stub", f"--output=gzip:{history}"),
                *("--output=gzip:" + str(current), "--filter=latest"),
            )
            self._run(command, history)
            latest = {}
            waiting = _pages_of(current)
            for page in _pages_of(history):
                head = _HEAD.match(page)
                if head is None:
                    raise Fault(FaultKind.DATA, "dumpBackup.php", f"wrote a page we cannot read: {page[:80]!r}")
                stub = PageStub(int(head[2]), int(head[1]), head[0])
                for found in _REVISION.finditer(page, head.end()):
                    stub.revisions.append(found[0])
                stub.size_bytes = sum(int(size) for size in _BYTES.findall(page))
                for other in waiting:
                    other_head = _HEAD.match(other)
                    revision = _REVISION.search(other)
                    if other_head and revision:
                        latest[int(other_head[2])] = revision[0]
                        if int(other_head[2]) >= stub.page_id:
                            break
                stub.latest = latest.pop(stub.page_id, None)
                if stub.latest is None:
                    self.oddities.append(Oddity(stub.page_id, 0, "the latest revision of the page is not there"))
                yield stub
        finally:
            history.unlink(missing_ok=True)
            current.unlink(missing_ok=True)

    def fill(self, stubs: Iterable[bytes], tally: Tally, *, prefetch: Prefetch | None = None) -> Iterator[bytes]:
        """See :class:`Engine`. A text that MediaWiki wrote as empty though it has bytes on record counts as lost."""
        work = Path(tempfile.mkdtemp(prefix="textpass-", dir=self._temp))
        stub, out = work / "stub.xml.gz", work / "text.xml.gz"
        try:
            with gzip.open(stub, "wb", compresslevel=1) as stream:
                for chunk in (self._header, *stubs, FOOTER):
                    stream.write(chunk)
            arguments = (f"--stub=gzip:{stub}", f"--output=gzip:{out}", "--full")
            command = self._command("dumpTextPass.php", *arguments)
            self._run(command, out)
            for page in _pages_of(out):
                tally.revisions += page.count(b"\n    <revision>\n")
                for found in _REVISION.finditer(page):
                    if (lost := _LOST.search(found[0])) is not None:
                        tally.lost.append(
                            Oddity(0, int(found[1]), f"MediaWiki gave none of its {lost[1].decode()} bytes")
                        )
                yield page
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _pages_of(path: Path) -> Iterator[bytes]:
    """The pages of a gzip document, one by one. Faults: DATA where it is cut."""

    def blocks() -> Iterator[bytes]:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block

    rest = b""
    started = False
    for plain in decompressed(blocks(), path.name, str(path)):
        rest += plain
        if not started:
            at = rest.find(b"</siteinfo>\n")
            if at < 0:
                continue
            rest, started = rest[at + 12 :], True
        *pages, rest = rest.split(_PAGE_END)
        for page in pages:
            yield page + _PAGE_END
    if rest.strip() != FOOTER.strip():
        raise Fault(FaultKind.DATA, str(path), "does not end with </mediawiki>")


@contextmanager
def mediawiki_engine(
    php: str, directory: str, local_settings: str, wiki: str, temp: Path, no_progress_s: float, progress: Progress
) -> Iterator[MediaWikiEngine]:
    """An engine on a wiki's own scripts. Faults: CONFIG, DATA."""
    settings = local_settings.replace("{wiki}", wiki)
    yield MediaWikiEngine(php, Path(directory) / "maintenance", settings, wiki, temp, no_progress_s, progress)
