"""The trigger forms of wiki_dump and wiki_dump_monitor."""

from __future__ import annotations

from airflow.sdk import Param

_JOBS = "Jobs"
_TEXT = "Text of earlier dumps"
_NOTICE = "Notice"

CONFIG = Param(
    "all",
    type="string",
    title="Farm",
    description="Name of a file in include/config/wiki_dump/ (without .yml); `all` starts one run for each.",
    examples=["all", "farm"],
)


def _text(title: str, description: str, section: str | None = None, **schema: object) -> Param:
    return Param(None, type=["null", "string"], title=title, description=description, section=section, **schema)


def _switch(title: str, description: str, section: str | None = None, *, value: bool = False) -> Param:
    return Param(value, type="boolean", title=title, description=description, section=section)


PARAMS = {
    "config": CONFIG,
    "wiki": _text(
        "Wiki", "Db name of the wiki to dump; empty: never dumped first, then failed or partial, then the oldest."
    ),
    "date": _text("Date", "YYYYMMDD, or `last`; empty: today (UTC).", pattern="^([0-9]{8}|last)$"),
    "cutoff": _text("Cut-off", "Leave out wikis dumped on this day (YYYYMMDD, or `today`) or later."),
    "dry_run": _switch("Dry run", "Say which wiki would be dumped and which jobs; touch nothing."),
    "priority": Param(
        0,
        type="integer",
        minimum=0,
        maximum=100,
        title="Priority",
        description="Tasks of a run with more go first. Of the runs that `all` starts, one whose next wiki was never "
        "dumped has 100, and each other one the more the older that wiki's last dump is.",
    ),
    "job": _text("Only these jobs", "Names parted by commas; `tables` is all of them.", _JOBS, examples=["tables"]),
    "restartfrom": _text("From this job on", "Do this job and all after it.", _JOBS),
    "skipjobs": _text("Without these jobs", "Names parted by commas.", _JOBS, examples=["metahistory7zdump"]),
    "skipdone": _switch("Leave done jobs alone", "Jobs that are named and done are not made again.", _JOBS),
    "noop": _switch("Only lists and links", "Make no file; write status files, checksums and links again.", _JOBS),
    "redo": _switch("Again", "Take up a dump of this date though it is complete.", _JOBS),
    "prefetch": _switch("Use earlier text", "Where revision, length and sha1 are the same.", _TEXT, value=True),
    "prefetchdate": _text("From the dump of", "YYYYMMDD; empty: the newest good one.", _TEXT, pattern="^[0-9]{8}$"),
    "addnotice": _text("Put up a notice", "Text on the page of the run; it stays for later runs of it.", _NOTICE),
    "delnotice": _switch("Take the notice down", "Of the run's page.", _NOTICE),
}

MONITOR_PARAMS = {"config": CONFIG}
