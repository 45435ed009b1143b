"""The trigger form of drain."""

from __future__ import annotations

from airflow.sdk import Param

_REPLACE = "Instead of the configuration"
_TARGET = "Where to"
_SAFETY = "Safety"


def _text(title: str, description: str, section: str, **schema: object) -> Param:
    return Param(None, type=["null", "string"], title=title, description=description, section=section, **schema)


_DAYS = "How far back an audit looks."

MONITOR_PARAMS = {"days": Param(30, type="integer", minimum=1, title="Days", description=_DAYS)}

PARAMS = {
    "config": Param(
        "all",
        type=["null", "string"],
        title="Configuration",
        description="Name of a file in include/config/drain/ (without .yml); `all` starts one run for each; empty: the "
        "values below are the whole configuration.",
        examples=["all", "wide"],
    ),
    "action": Param(
        "drain",
        type="string",
        enum=["drain", "audit", "restore"],
        values_display={
            "drain": "Drain the disk",
            "audit": "Audit what was drained",
            "restore": "Bring a drained file back",
        },
        title="What to do",
        description="`audit` compares ledger, targets and disk; `restore` fetches one file. Neither deletes anything.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Survey and plan, say in the log of plan_series what would be done, and touch nothing.",
    ),
    "priority": Param(
        0,
        type="integer",
        minimum=0,
        maximum=100,
        title="Priority",
        description="Tasks of a run with more go first. Of the runs that `all` starts, those for disks at their "
        "pressure_pct have the percentage that is in use.",
    ),
    "crawljob": _text("Crawl job", "Name of the crawl.", _REPLACE, pattern="^[-_A-Za-z0-9]+$"),
    "job_dir": _text(
        "Job directory", "Where the crawler writes its WARC files.", _REPLACE, examples=["/1/crawling/wide/warcs"]
    ),
    "xfer_dir": _text(
        "Transfer directory", "Where series are packed; same file system.", _REPLACE, examples=["/1/incoming/wide"]
    ),
    "max_size": _text("Size of an item", "With a unit: 10GiB, 400MB.", _REPLACE, examples=["10GiB"]),
    "WARC_naming": _text(
        "File names", "1, 2, heritrix3, zeno, warcprox, browsertrix, or a pattern of {fields}.", _REPLACE
    ),
    "target": _text("Target", "Which way the files go.", _TARGET, enum=[None, "s3", "ias3", "thumper", "directory"]),
    "bucket": _text("Bucket", "For target s3.", _TARGET),
    "connection": _text("Connection", "Airflow connection of the target.", _TARGET, examples=["custody_s3"]),
    "proof": _text(
        "Proof",
        "The keeper's own listing, or every byte read back and hashed.",
        _SAFETY,
        enum=[None, "listing", "readback"],
    ),
    "grace_s": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        title="Grace (seconds)",
        description="How long a proof must have stood before the local file is deleted.",
        section=_SAFETY,
    ),
    "days": Param(
        30,
        type="integer",
        minimum=1,
        title="Audit: days",
        description=_DAYS,
        section="Audit",
    ),
    "series": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Audit: one series",
        description="Number of a drained series: only that one, and what is equal gets a new proof on record.",
        section="Audit",
    ),
    "file": _text("Restore: file", "Name of the file to bring back.", "Restore"),
    "into": _text(
        "Restore: directory", "Where to put it, on the worker's machine.", "Restore", examples=["/1/restored"]
    ),
}
