"""Adopt: dumps that lie in the trees without being on record, our own after the ledger was lost or another program's.

What a list beside it names is read whole, compared with every digest that is listed, and only then put on record. A
file that no list names, or that is not what its list says, is named and stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from custody import lease
from custody.digests import Fixity, Match
from custody.faults import Fault, FaultKind
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place
from custody.wiki_dump import claim, lockfile, runs, tables
from custody.wiki_dump.bz2.verify import Verified, verify
from custody.wiki_dump.conf import Conf
from custody.wiki_dump.farm import Wiki, farm_of
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.jobs import OUTPUTS, PRIVATE_TABLES
from custody.wiki_dump.layout import Places, parse_name
from custody.wiki_dump.making import reading_tools
from custody.wiki_dump.runs import ROOM, FileState, Options
from custody.wiki_dump.settings import Settings
from custody.wiki_dump.status import SUMS, JobState, RunState, lost_texts, read_runinfo

_CONTENT = (".gz", ".bz2", ".7z")
_LINE = re.compile(r"([0-9a-f]{32,64})  (\S.*)")
_JOB_OF = {output[0]: job for job, output in OUTPUTS.items() if output[2] != "7z"}
_MULTISTREAM = "pages-articles-multistream"


@dataclass(frozen=True)
class Adopted:
    """What became of one run that was not on record. ``complaints``: what is not on record, and why."""

    wiki: str
    date: str
    state: RunState | None
    files: int
    size_bytes: int
    complaints: tuple[str, ...] = ()


@dataclass
class _Found:
    """A run as it lies there."""

    date: str
    listed: dict[Path, dict[str, str]] = field(default_factory=dict)
    jobs: dict[str, JobState] = field(default_factory=dict)
    job_of: dict[str, str] = field(default_factory=dict)
    is_complete: bool = False
    changed_at: datetime | None = None
    complaints: list[str] = field(default_factory=list)


def adopt(
    ledger: Ledger, config_name: str, config: FarmConfig, *, who: str, wiki: str | None = None
) -> Iterator[Adopted]:
    """Put every run that is not on record there, oldest first; a second call finds nothing to do.

    Faults: CONFIG for lists and keys. What is wrong with one wiki is a complaint and stops no other.
    """
    conf = claim.read_conf(config)
    farm = farm_of(conf)
    for each in [farm.wiki(wiki)] if wiki is not None else farm.wikis:
        try:
            yield from _adopt_wiki(ledger, config_name, config, conf, each, who)
        except (Fault, OSError) as error:
            yield Adopted(each.name, "", None, 0, 0, (str(error),))


def _adopt_wiki(
    ledger: Ledger, config_name: str, config: FarmConfig, conf: Conf, wiki: Wiki, who: str
) -> Iterator[Adopted]:
    settings = conf.of(wiki.name)
    places = Places.of(wiki, settings)
    known = runs.select(ledger, tables.run.c.wiki == wiki.name, limit=10_000)
    on_record = {run.date for run in known if run.places.private == places.private}
    strange = [date for date in places.dates() if date not in on_record]
    if not strange:
        return
    for lock in lockfile.find(places.private):
        if lock.age_s() <= settings.staleage:
            raise Fault(FaultKind.CONFLICT, str(lock.path), f"is held by {lock.owner}", next_command="wait for its end")
    with lease.hold(ledger, runs.lease_name(places), holder=f"adopt {who} {lease.process_identity()}") as held:
        for date in strange:
            found = _look(places, date)
            proven = _prove(found, settings, held)
            with ledger.begin() as connection:
                held.check(connection)
                state = _put(ledger, connection, config_name, config, places, settings, found, proven, who)
            size = sum(each.fixity.size_bytes for each in proven.values())
            yield Adopted(wiki.name, date, state, len(proven), size, tuple(found.complaints))


# -- what lies there ---------------------------------------------------------------------------------------------------


def _look(places: Places, date: str) -> _Found:
    found = _Found(date)
    directories = list(dict.fromkeys((places.run(date), places.private_run(date))))
    for directory in directories:
        _read_lists(found, directory, f"{places.wiki.name}-{date}-")
    public = directories[0]
    on_list = read_runinfo(_text(public / "dumpruninfo.txt"))
    found.jobs = {name: _state(text) for name, text in reversed(on_list.items())}
    status = public / "status.html"
    found.is_complete = "Dump complete" in _text(status) and "failed" not in _text(status)
    try:
        found.changed_at = datetime.fromtimestamp(status.stat().st_mtime, UTC)
    except OSError:
        found.complaints.append(f"{status}: is not there, so nobody knows how far the dump was")
    return found


def _read_lists(found: _Found, directory: Path, prefix: str) -> None:
    """Every list of a directory; where two of them contradict each other, the file is left out."""
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    contents = {name for name in names if name.startswith(prefix) and name.endswith(_CONTENT)}
    listed: dict[str, dict[str, set[str]]] = {}
    for name, algorithm, digest in (*_by_sums(directory, names, prefix), *_by_status(found, directory)):
        listed.setdefault(name, {}).setdefault(algorithm, set()).add(digest)
    for name, digests in sorted(listed.items()):
        if name not in contents:
            if name.startswith(prefix) and "/" not in name:
                found.complaints.append(f"{directory / name}: a list names it, and it is not there")
        elif any(len(values) > 1 for values in digests.values()):
            found.complaints.append(f"{directory / name}: its lists contradict each other")
        else:
            found.listed[directory / name] = {algorithm: next(iter(values)) for algorithm, values in digests.items()}
    for name in sorted(contents - set(listed)):
        found.complaints.append(f"{directory / name}: no list names it, so nobody can tell whether it is whole")


def _by_sums(directory: Path, names: list[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    """File, algorithm and digest out of the lists of checksums."""
    for algorithm in SUMS:
        for name in names:
            if name == f"{prefix}{algorithm}sums.txt" or re.fullmatch(rf"{algorithm}sums-.+\.txt", name):
                for line in _text(directory / name).splitlines():
                    if (parts := _LINE.fullmatch(line)) is not None:
                        yield parts[2], algorithm, parts[1]


def _by_status(found: _Found, directory: Path) -> Iterator[tuple[str, str, str]]:
    """The same out of a ``dumpstatus.json``, which also knows the job of each file; nothing where it is none."""
    try:
        jobs: Any = json.loads(_text(directory / "dumpstatus.json") or "{}").get("jobs", {})
        for job, facts in jobs.items():
            for name, file in facts.get("files", {}).items():
                found.job_of[str(name)] = str(job)
                yield from ((str(name), key, str(file[key])) for key in SUMS if key in file)
    except (ValueError, AttributeError, TypeError):
        return


def _state(text: str) -> JobState:
    try:
        state = JobState(text)
    except ValueError:
        return JobState.FAILED
    return JobState.FAILED if state is JobState.IN_PROGRESS else state


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


# -- what of it is proven ----------------------------------------------------------------------------------------------


def _prove(found: _Found, settings: Settings, held: lease.Held) -> dict[Path, Verified]:
    """Read every listed file to its end; what is not what its list says is a complaint."""
    proven = {}
    for path, digests in found.listed.items():
        held.check()
        try:
            read = verify(path, tools=reading_tools(settings), name=path.name)
        except Fault as fault:
            found.complaints.append(str(fault))
            continue
        match = read.fixity.compare(Fixity(read.fixity.size_bytes, digests))
        if match is Match.EQUAL:
            proven[path] = read
        else:
            found.complaints.append(f"{path}: is {match.value} against its lists")
    return proven


def _job(found: _Found, name: str) -> str | None:
    """The job a file belongs to: as the status says, else by its name."""
    if name in found.job_of:
        return found.job_of[name]
    dump = parse_name(name)
    if dump is None:
        plain = name.rsplit(".", 1)[0].rpartition(f"-{found.date}-")[2]
        return _JOB_OF.get(plain)
    if dump.kind == "sql":
        return f"{dump.dump}table"
    if dump.dump.startswith("stub-"):
        return "xmlstubsdump"
    if dump.dump.startswith(_MULTISTREAM):
        return "articlesmultistreamdump"
    if dump.compression == "7z":
        return "metahistory7zdump"
    return _JOB_OF.get(dump.dump)


# -- on record ---------------------------------------------------------------------------------------------------------


def _put(
    ledger: Ledger,
    connection: Connection,
    config_name: str,
    config: FarmConfig,
    places: Places,
    settings: Settings,
    found: _Found,
    proven: Mapping[Path, Verified],
    who: str,
) -> RunState:
    wiki = places.wiki
    run_id = runs.add(
        *(connection, config_name, wiki, found.date),
        owner=f"adopt {who}",
        token=0,  # of no lease: whoever claims the run takes it over with one
        farm=config.of(wiki.name),
        settings=settings,
        options=Options(),
    )
    lacking = {job for path in found.listed if path not in proven and (job := _job(found, path.name))}
    whole: dict[str, int] = {}
    lost: dict[str, int] = {}
    for path, read in proven.items():
        job = _job(found, path.name)
        if job is not None and job not in lacking:
            whole[job] = whole.get(job, 0) + 1
            lost[job] = lost.get(job, 0) + (0 if found.is_complete else _exceptions(places, found.date, path.name, job))
            _put_file(ledger, connection, run_id, job, path, read, who)
    jobs = {**{job: JobState.DONE for job in whole if job.removesuffix("table") in PRIVATE_TABLES}, **found.jobs}
    states = {job: _state_on_record(state, job, whole, lacking, found) for job, state in jobs.items()}
    runs.put_jobs(connection, run_id, list(jobs), states)
    for job in sorted(lacking & set(jobs)):
        runs.set_job(connection, run_id, job, states[job], note="its files are not what their lists say")
    for job in (job for job in jobs if lost.get(job) and states[job] is JobState.DONE):
        note = f"{lost_texts(lost[job])} could not be had and {'is' if lost[job] == 1 else 'are'} empty here"
        runs.set_job(connection, run_id, job, JobState.DONE, lost=lost[job], note=note)
    is_whole = all(state in {JobState.DONE, JobState.SKIPPED} for state in states.values())
    state = RunState.PARTIAL if JobState.DONE in states.values() else RunState.ABORTED
    if found.is_complete and is_whole and state is RunState.PARTIAL:
        state = RunState.DONE
    moments = {"started_at": found.changed_at} if found.changed_at else {}
    runs.set_run(connection, run_id, state=state, **moments)
    detail = {"state": str(state), "files": len(proven), "complaints": found.complaints[:100]}
    subject = f"{wiki.name} {found.date}"
    ledger.record_event(connection, who=who, room=ROOM, what="adopted", subject=subject, detail=detail)
    return state


def _state_on_record(state: JobState, job: str, whole: Mapping[str, int], lacking: set[str], found: _Found) -> JobState:
    """A job is done where all of its files are proven; one whose files nobody can name is made again."""
    if state is not JobState.DONE:
        return state
    named = {_job(found, path.name) for path in found.listed} | set(found.job_of.values())
    return JobState.DONE if job in whole and job not in lacking and job in named else JobState.FAILED


def _exceptions(places: Places, date: str, name: str, job: str) -> int:
    """How many texts a dump that is not complete lacks, by what was written of it in the private tree."""
    what = "stubs" if job == "xmlstubsdump" else name
    return len(_text(places.private_run(date) / f"exceptions-{what}.txt").splitlines())


def _put_file(
    ledger: Ledger, connection: Connection, run_id: int, job: str, path: Path, read: Verified, who: str
) -> None:
    dump = parse_name(path.name)
    private = job.removesuffix("table") in PRIVATE_TABLES
    pages = dump.pages if dump else None
    part = dump.part if dump else None
    file_id = runs.put_file(connection, run_id, job, path.name, private=private, part=part, pages=pages)
    counts = {name: value for name, value in asdict(read.content).items() if isinstance(value, int)}
    counts["content_bytes"] = counts.pop("size_bytes")
    sums = {name: read.fixity.digests[name] for name in SUMS}
    size = read.fixity.size_bytes
    runs.set_file(connection, file_id, FileState.PUBLISHED, size_bytes=size, counts=counts, **sums)
    number = ledger.record_file(connection, path.name, read.fixity)
    copy_id = ledger.record_copy(connection, number, disk_place(path), CopyState.PRESENT)
    ledger.record_proof(connection, copy_id, "readback", read.fixity, who)
