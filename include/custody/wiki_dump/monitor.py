"""The monitor: stale locks become "dump aborted", status files are put right, the index pages are written anew.

A lock is stale when nobody touched it for ``reporting.staleage`` seconds and no lease in the ledger is alive. All of it
goes by the file's own name and content, never by what a path happens to contain.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custody import lease
from custody.faults import Fault, from_os_error
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.wiki_dump import choose, claim, lockfile, runs, servers, shelf, status, tables
from custody.wiki_dump.conf import Conf
from custody.wiki_dump.farm import Wiki, farm_of
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.layout import INPROG, Places, make_public_directory, write_public
from custody.wiki_dump.lockfile import LockFile
from custody.wiki_dump.privacy import refuse_exposed
from custody.wiki_dump.runs import ROOM, FileState, Run
from custody.wiki_dump.settings import Settings
from custody.wiki_dump.status import JobState, RunState


@dataclass(frozen=True)
class WikiLine:
    """A wiki as the index shows it. ``broken`` says why it could not be looked at."""

    wiki: Wiki
    key: tuple[int, str, float]
    item: str
    is_running: bool
    broken: str = ""


@dataclass(frozen=True)
class Sweep:
    """What one sweep found and did."""

    wikis: int
    running: int
    aborted: tuple[str, ...]
    broken: tuple[str, ...]


def sweep(ledger: Ledger, config: FarmConfig, *, who: str) -> Sweep:
    """Look at every wiki of the farm once. Faults: CONFIG for lists and keys; those of one wiki stop no other."""
    conf = claim.read_conf(config)
    settings = conf.of()
    farm = farm_of(conf)
    aborted: list[str] = []
    lines = []
    for wiki in farm.wikis:
        try:
            own = conf.of(wiki.name)
            places = Places.of(wiki, own)
            aborted += abort_stale(ledger, places, own, who=who)
            _mend_status(ledger, places)
            refuse_exposed(wiki, own)
            lines.append(_line(places))
        except (OSError, Fault) as error:
            fault = from_os_error(error) if isinstance(error, OSError) else error
            lines.append(_broken(wiki, fault))
    _write_index(settings, conf, lines)
    broken = tuple(f"{line.wiki.name}: {line.broken}" for line in lines if line.broken)
    return Sweep(len(lines), sum(line.is_running for line in lines), tuple(aborted), broken)


# -- stale locks ------------------------------------------------------------------------------------------------------


def abort_stale(ledger: Ledger, places: Places, settings: Settings, *, who: str) -> list[str]:
    """End what nobody works on any more; returns ``wiki date`` of each."""
    found = []
    for lock in lockfile.find(places.private):
        if lock.age_s() <= settings.staleage or _is_held(ledger, places):
            continue
        date = lock.date or (places.dates() or [""])[-1]
        run = _run_of(ledger, places, date)
        if run is not None:
            _abort_run(ledger, run, lock, who)
        if not lockfile.take_away(lock):
            continue  # its owner came back, or another monitor was quicker
        if run is None and date:
            _correct_files(places, settings, date)
        found.append(f"{places.wiki.name} {date}".strip())
        with ledger.begin() as connection:
            detail = {"owner": lock.owner, "age_s": round(lock.age_s())}
            ledger.record_event(
                *(connection,), who=who, room=ROOM, what="aborted", subject=f"{places.wiki.name} {date}", detail=detail
            )
    return found


def _mend_status(ledger: Ledger, places: Places) -> None:
    """A run that is over, and whose files say otherwise: its end found no room to write them."""
    dates = places.dates()
    if not dates or "Dump in progress" not in _read(places.run(dates[-1]) / "status.html"):
        return
    found = runs.select(ledger, tables.run.c.wiki == places.wiki.name, tables.run.c.date == dates[-1])
    for run in found:
        if run.places.private == places.private and run.state.is_over:
            shelf.write_status(ledger, run.id)


def _is_held(ledger: Ledger, places: Places) -> bool:
    name = runs.lease_name(places)
    return name in lease.holders(ledger, [name])


def _run_of(ledger: Ledger, places: Places, date: str) -> Run | None:
    found = runs.select(ledger, tables.run.c.wiki == places.wiki.name, tables.run.c.date == date)
    return next((run for run in found if run.places.private == places.private and not run.state.is_over), None)


def _abort_run(ledger: Ledger, run: Run, lock: LockFile, who: str) -> None:
    """Fence its owner out, then settle the record, the status files and what it left half done."""
    taken = lease.take(ledger, run.lease_name, holder=who)
    try:
        with ledger.begin() as connection:
            lease.check(connection, taken)
            for job in runs.jobs_of(connection, run.id):
                if job.state is JobState.IN_PROGRESS:
                    runs.set_job(connection, run.id, job.name, JobState.FAILED, note="it was aborted")
            half_done = [
                file
                for file in runs.files_of(connection, run.id)
                if file.state in {FileState.PLANNED, FileState.MADE, FileState.VERIFIED}
            ]
            for file in half_done:
                if file.state is not FileState.PLANNED:
                    runs.set_file(connection, file.id, FileState.PLANNED)
            said = f"its worker ({lock.owner}) gave no sign of life for {lock.age_s():.0f} s"
            runs.set_run(connection, run.id, state=RunState.ABORTED, fault="transient", fault_text=said)
        for directory in {run.places.run(run.date), run.places.private_run(run.date)}:
            _drop_inprog(directory)
        shelf.write_status(ledger, run.id)
    finally:
        lease.give_back(ledger, taken)
    servers.give_back(ledger, run.owner)


def _drop_inprog(directory: Path) -> None:
    for path in directory.glob("*" + INPROG + "*"):
        path.unlink(missing_ok=True)


def _correct_files(places: Places, settings: Settings, date: str) -> None:
    """The status files of a run that the ledger does not know: another program's."""
    directory = places.run(date)
    if not directory.is_dir():
        return
    with shelf.alone(places.private):
        info = directory / "dumpruninfo.txt"
        text = _read(info)
        jobs = _lines_of(text)
        mode = settings.fileperms
        if jobs:
            write_public(info, re.sub(r"status:in-progress;", "status:failed;", text).encode(), mode)
            write_public(directory / "dumpruninfo.json", status.runinfo_json(jobs), mode)
        _correct_dumpstatus(directory / "dumpstatus.json", mode)
        line = status.status_line(
            *(places.wiki.name, date, RunState.ABORTED, jobs, now()),
            labels=shelf.labels(places.wiki),
            link=None if places.wiki.private else f"{places.wiki.name}/{date}",
        )
        write_public(directory / "status.html", line.encode(), mode)
        _drop_inprog(directory)


def _lines_of(text: str) -> list[status.JobLine]:
    found = []
    for name, state in status.read_runinfo(text).items():
        known = JobState(state) if state in set(JobState) else JobState.FAILED
        known = JobState.FAILED if known is JobState.IN_PROGRESS else known
        found.append(status.JobLine(name, name, known, now()))
    return found[::-1]


def _correct_dumpstatus(path: Path, mode: int) -> None:
    with suppress(ValueError, AttributeError, OSError):
        content = json.loads(path.read_bytes())
        for job in content["jobs"].values():
            if job.get("status") == JobState.IN_PROGRESS:
                job["status"] = str(JobState.FAILED)
        write_public(path, json.dumps(content).encode() + b"\n", mode)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


# -- the index --------------------------------------------------------------------------------------------------------


def _line(places: Places) -> WikiLine:
    wiki = places.wiki
    past = choose.past_of(places)
    running = bool(lockfile.find(places.private))
    if past.rank == 0:
        return WikiLine(wiki, (0, "", 0.0), shelf.never_dumped(wiki), running)
    text = _read(places.run(past.date) / "status.html")
    if wiki.private:
        text = re.sub(r"<a [^>]*>(.*?)</a>", r"\1", text)
    if "<li>" not in text:
        shown = html.escape(wiki.name) + shelf.labels(wiki)
        text = f"<li>{shown}: <span class='failed'>missing status record</span></li>\n"
    return WikiLine(wiki, (1, past.date, past.age_key), text, running)


def _broken(wiki: Wiki, fault: Fault) -> WikiLine:
    reason = fault.reason
    words = f"<span class='failed'>cannot be looked at: {html.escape(reason)}</span>"
    item = f"<li>{html.escape(wiki.name)}: {words}</li>\n"
    return WikiLine(wiki, (2, "", 0.0), item, is_running=False, broken=str(fault))


def _write_index(settings: Settings, conf: Conf, lines: Sequence[WikiLine]) -> None:
    public = Path(settings.public)
    make_public_directory(public, settings.fileperms)
    headline = _headline(conf, lines)
    at = now()
    by_name = settings.index.replace(".html", "") + "-bydb.html"
    by_age = sorted(lines, key=lambda line: (line.key, line.wiki.name), reverse=True)
    sorted_by_name = sorted(lines, key=lambda line: line.wiki.name)
    mode = settings.fileperms
    pages = (
        (settings.index, by_age, (by_name, "sorted by name")),
        (by_name, sorted_by_name, (settings.index, "sorted by date")),
    )
    for name, order, other in pages:
        page = status.index_page([line.item for line in order], headline, other=other, at=at)
        write_public(public / name, page.encode("utf-8", "replace"), mode)
    wikis = {line.wiki.name: found for line in sorted_by_name if (found := _status_of(line, conf)) is not None}
    write_public(public / "index.json", json.dumps({"wikis": wikis}).encode() + b"\n", mode)


def _headline(conf: Conf, lines: Sequence[WikiLine]) -> str:
    if any(line.is_running for line in lines):
        return "Dumps are in progress..."
    said = _read(conf.path.parent / claim.MAINTENANCE).strip()
    return said or "Dump process is idle."


def _status_of(line: WikiLine, conf: Conf) -> Any:
    """``dumpstatus.json`` of a wiki's newest run; nothing of a private one."""
    if line.wiki.private or line.broken:
        return None
    places = Places.of(line.wiki, conf.of(line.wiki.name))
    dates = places.dates()
    if not dates:
        return {}
    try:
        return json.loads((places.run(dates[-1]) / "dumpstatus.json").read_bytes())
    except (OSError, ValueError):
        return {}
