"""The trigger form of bitarchive_batch."""

from __future__ import annotations

from airflow.sdk import Param

from custody.bitarchive.index.names import Kind
from custody.bitarchive.jobs.library import LIBRARY

_LIMITS = "Limits"


def _text(title: str, description: str, section: str | None = None, **schema: object) -> Param:
    if section:
        schema["section"] = section
    return Param(None, type=["null", "string"], title=title, description=description, **schema)


def _seconds(title: str, description: str) -> Param:
    return Param(
        None, type=["null", "number"], exclusiveMinimum=0, title=title, description=description, section=_LIMITS
    )


PARAMS = {
    "config": _text("Archive", "Name of a file in include/config/bitarchive/ (without .yml).", examples=["news"]),
    "action": Param(
        "batch",
        type="string",
        enum=["batch", "upload", "missing", "changed", "index"],
        values_display={
            "batch": "Run a job over its files",
            "upload": "Upload files to all replicas",
            "missing": "Find what is missing, and bring it back",
            "changed": "Find what has changed, and ask before it is replaced",
            "index": "Make an index of jobs",
        },
        title="What to do",
        description="`changed` reads every file. What is replaced stays in the attic.",
    ),
    "job": _text(
        "Job",
        "A job of the library, `module:Class`, a .py file (`:Class` where it has several), a .zip, or any program: "
        "paths as the workers see them.",
        examples=list(LIBRARY),
    ),
    "regexp": Param(
        ".*",
        type="string",
        title="Files",
        description="A file's whole base name must match this regular expression.",
        examples=[".*", r"12-.*\.warc\.gz", r".*-metadata-[0-9]+\.w?arc(\.gz)?"],
    ),
    "arguments": Param(
        [],
        type=["array", "string"],
        items={"type": "string"},
        title="Arguments",
        description="For the constructor of the class, or the program: a list, or one text `a##b##c`.",
    ),
    "class_name": _text("Class", "In a zip: package.module.Class.", "Job"),
    "replica": _text("Replica", "Name or id of a bitarchive replica; empty: the archive's own choice.", "Where"),
    "output": _text(
        "Output",
        "Where the result is laid down, as the workers see it; must not be there yet. Empty: below the archive's "
        "work_dir. A partial result gets the ending `.partial`.",
        "Where",
    ),
    "errors": _text("Errors", "Where the list of failed files and exceptions goes; must not be there yet.", "Where"),
    "file_timeout_s": _seconds("Seconds for a file", "Then the job is ended for that file, which has failed."),
    "job_timeout_s": _seconds("Seconds for the job", "Files whose turn does not come before then have failed."),
    "max_exceptions": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=10_000,
        title="Exceptions kept",
        description="How many exceptions of one file are kept with their tracebacks; more are counted.",
        section=_LIMITS,
    ),
    "retry_batch": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Go on with batch",
        description="Number of a batch of this archive: only its files that are not done are processed again.",
        section="Job",
    ),
    "files": Param(
        [],
        type="array",
        items={"type": "string"},
        title="Upload: files",
        description="Paths as the workers see them; all are looked at before the first is sent.",
        section="Upload",
    ),
    "keep": Param(
        False,
        type="boolean",
        title="Upload: keep the local files",
        description="Else each is deleted when every replica has it, read back and equal.",
        section="Upload",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Of what is missing or changed: say in the log what would be done, and mend nothing.",
        section="Preservation",
    ),
    "job_ids": Param(
        [],
        type="array",
        items={"type": "integer", "minimum": 0},
        title="Index: jobs",
        description="Numbers of harvest jobs.",
        section="Index",
    ),
    "index_kind": Param(
        str(Kind.FULL),
        type="string",
        enum=[str(kind) for kind in Kind if not kind.is_of_one_job],
        title="Index: kind",
        description="Full (CDXJ, for the viewer, or as Parquet), CDX of the metadata, or for deduplication.",
        section="Index",
    ),
    "index_processes": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=64,
        title="Index: processes",
        description="Files indexed at a time; empty: as configured, else one for each core.",
        section="Index",
    ),
    "allow_partial": Param(
        False,
        type="boolean",
        title="Index: allow a part",
        description="Where there is no data of some jobs, index the others, under the name of the others.",
        section="Index",
    ),
}
