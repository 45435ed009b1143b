"""The status files that the world reads: dumpruninfo, dumpstatus.json, report.json, checksums, run page, status line.

Pure text in, pure text out; :mod:`custody.wiki_dump.shelf` writes them. Shapes are those of version 0.8.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

VERSION = "0.8"
SUMS = ("md5", "sha1", "sha256")
_INFO = re.compile(r"name:(?P<name>[^;]+); status:(?P<status>[a-z-]+); updated:(?P<updated>.*)")


class JobState(StrEnum):
    """Where a job stands, in the words of the old status files."""

    WAITING = "waiting"
    IN_PROGRESS = "in-progress"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_over(self) -> bool:
        """Whether nobody works on it any more."""
        return self is not RunState.RUNNING


@dataclass(frozen=True)
class FileLine:
    """A published file as the status files name it."""

    name: str
    size_bytes: int
    sums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobLine:
    """A job as the status files name it; ``files`` only where they are published."""

    name: str
    title: str
    state: JobState
    updated: datetime
    files: tuple[FileLine, ...] = ()
    note: str = ""
    private: bool = False


def stamp(moment: datetime) -> str:
    """A moment as the old files have it, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def runinfo_text(jobs: Iterable[JobLine]) -> str:
    """``dumpruninfo.txt``: one line a job, those of later in the run first."""
    lines = [f"name:{job.name}; status:{job.state}; updated:{stamp(job.updated)}" for job in jobs]
    return "".join(f"{line}\n" for line in reversed(lines))


def runinfo_json(jobs: Iterable[JobLine]) -> bytes:
    """``dumpruninfo.json``."""
    return _json({"jobs": {job.name: {"status": str(job.state), "updated": stamp(job.updated)} for job in jobs}})


def read_runinfo(text: str) -> dict[str, str]:
    """Job states of a ``dumpruninfo.txt``; lines that are none are left out."""
    found = (_INFO.fullmatch(line.strip()) for line in text.splitlines())
    return {line["name"]: line["status"] for line in found if line}


def dumpstatus(jobs: Iterable[JobLine], url: str) -> dict[str, Any]:
    """``dumpstatus.json``. :param url: root-relative address of the run's directory."""
    return {
        "version": VERSION,
        "jobs": {
            job.name: {"status": str(job.state), "updated": stamp(job.updated)}
            | ({"files": {line.name: _file_json(line, url) for line in job.files}} if job.files else {})
            for job in jobs
        },
    }


def report_json(jobs: Iterable[JobLine], url: str) -> dict[str, Any]:
    """``report.json``: the files of every job, without its state."""
    return {
        "version": VERSION,
        "jobs": {
            job.name: {
                "files": {line.name: {"size": line.size_bytes, "url": f"{url}/{line.name}"} for line in job.files}
            }
            for job in jobs
        },
    }


def _file_json(line: FileLine, url: str) -> dict[str, Any]:
    return {"size": line.size_bytes, "url": f"{url}/{line.name}", **{name: line.sums[name] for name in SUMS}}


def sums_text(algorithm: str, files: Iterable[FileLine]) -> str:
    """``<hex>  <name>`` a line, sorted by name: what md5sum -c reads."""
    return "".join(f"{line.sums[algorithm]}  {line.name}\n" for line in sorted(files, key=lambda line: line.name))


def sums_json(algorithm: str, files: Iterable[FileLine]) -> bytes:
    """The same for programs."""
    content = {line.name: {algorithm: line.sums[algorithm]} for line in sorted(files, key=lambda line: line.name)}
    return _json({"version": VERSION, algorithm: content})


def summary(state: RunState, jobs: Sequence[JobLine]) -> str:
    """The words for a run: ``Dump complete``, ``Partial dump, 2 items failed``, ``dump aborted``."""
    failed = sum(job.state is JobState.FAILED for job in jobs)
    tail = f", {failed} item{'s' if failed > 1 else ''} failed" if failed else ""
    words = {
        RunState.RUNNING: "Dump in progress",
        RunState.DONE: "Dump complete",
        RunState.PARTIAL: "Partial dump",
        RunState.FAILED: "dump aborted",
        RunState.ABORTED: "dump aborted",
    }
    return words[state] + tail


def lost_texts(count: int) -> str:
    """``1 text``, ``2 texts``."""
    return f"{count} text{'' if count == 1 else 's'}"


def status_line(
    wiki: str, date: str, state: RunState, jobs: Sequence[JobLine], at: datetime, *, labels: str = "", link: str | None
) -> str:
    """``status.html``: one list item, which the index page is made of."""
    css = {RunState.RUNNING: "in-progress", RunState.DONE: "done"}.get(state, "partial-dump")
    if state in {RunState.ABORTED, RunState.FAILED}:
        css = "failed"
    name = html.escape(wiki)
    anchor = f'<a href="{html.escape(link)}">{name}</a>' if link else name
    detail = "" if state.is_over else _current(jobs)
    text = f"<span class='{css}'>{summary(state, jobs)}</span>"
    return f"<li>{stamp(at)} {anchor}{labels}: {text}{detail}</li>\n"


def _current(jobs: Sequence[JobLine]) -> str:
    working = [html.escape(job.title) for job in jobs if job.state is JobState.IN_PROGRESS]
    return f"\n<ul><li class='in-progress'>{', '.join(working)}</li></ul>" if working else ""


def run_page(
    wiki: str, date: str, state: RunState, jobs: Sequence[JobLine], at: datetime, *, notice: str, previous: str | None
) -> str:
    """``index.html`` of a run, what people look at."""
    rows = "\n".join(_job_item(job) for job in reversed(jobs))
    before = f'<p><a href="../{previous}/">Last dumped on {_day(previous)}</a></p>' if previous else ""
    told = f'<p class="notice">{html.escape(notice)}</p>' if notice else ""
    name = html.escape(wiki)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{name} dump progress on {date}</title><style>{_STYLE}</style></head>
<body>
<h1>{name} dump progress on {date}</h1>
<p class="status"><span class="{
        "in-progress" if not state.is_over else "done" if state is RunState.DONE else "failed"
    }">{summary(state, jobs)}</span></p>
<p class="updated">{stamp(at)} (UTC)</p>
{told}{before}
<p>Verify downloaded files against the
<a href="{name}-{date}-md5sums.txt">md5</a>, <a href="{name}-{date}-sha1sums.txt">sha1</a> and
<a href="{name}-{date}-sha256sums.txt">sha256</a> checksums. Every file here was read back before it was published.</p>
<ul>
{rows}
</ul>
</body>
</html>
"""


def _job_item(job: JobLine) -> str:
    files = "".join(
        f'<li class="file"><a href="{name}">{name}</a> {size_text(line.size_bytes)}</li>'
        for line in job.files
        for name in (html.escape(line.name),)
    )
    title = html.escape(job.title)
    shown = " <big><b>" + title + "</b></big>" if job.state is JobState.IN_PROGRESS else f" {title}"
    note = f'<ul><li class="detail">{html.escape(job.note)}</li></ul>' if job.note else ""
    listing = f"<ul>{files}</ul>" if files else ""
    private = " (private)" if job.private else ""
    return (
        f"<li class='{job.state}'><span class='updates'>{stamp(job.updated)}</span> "
        f"<span class='status'>{job.state}</span> <span class='title'>{shown}{private}</span>{note}{listing}</li>"
    )


_STYLE = """
body{font:16px/1.5 sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#202122;background:#fff}
li{margin:.2em 0}.updates{color:#54595d;font-variant-numeric:tabular-nums}.done .status{color:#14866d}
.in-progress .status,span.in-progress{color:#36c;font-weight:600}
.failed .status,span.failed,.partial-dump{color:#b32424;font-weight:600}
.waiting,.skipped,.missing{color:#54595d}.notice{border-left:4px solid #ac6600;padding:.3em 1em}
@media(prefers-color-scheme:dark){body{background:#101418;color:#eaecf0}a{color:#88a3e8}}
"""


def size_text(size_bytes: int) -> str:
    """A size as the old pages have it: ``1.6 MB``, powers of 1024."""
    value, unit = float(size_bytes), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def index_page(items: Sequence[str], headline: str, *, other: tuple[str, str], at: datetime) -> str:
    """``index.html`` or ``index-bydb.html``: all wikis. :param other: address and words of the other order."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Database dumps</title><style>{_STYLE}</style></head>
<body>
<h1>Database backup dumps</h1>
<p class="status">{html.escape(headline)}</p>
<p class="updated">{stamp(at)} (UTC) · <a href="{other[0]}">{other[1]}</a></p>
<ul>
{"".join(items)}</ul>
</body>
</html>
"""


def _day(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=True).encode() + b"\n"
