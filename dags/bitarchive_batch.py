"""
### Bitarchive: any program over all WARC and ARC files of an archive

Runs a job (a Python class, a zip of them, or any program) over every file of a replica whose name matches, each file in
a sandbox of its own, and gives one output in the order of the names, with an honest account of every file.

| you want to | do this |
|---|---|
| count types | trigger with `config` = the archive, `job` = `Mimetypes` |
| run your own class | `job` = `/jobs/titles.py`, arguments as a list or `a##b##c` |
| run a program | `job` = its path; it gets the file's path and the arguments, its standard output is the output |
| only some files | `regexp`, matched against the whole base name |
| see what failed | `custody bitarchive account ARCHIVE BATCH --failed`, or the log of `report` |
| process only failed files again | clear the failed bucket with what follows it, or trigger with `retry_batch` |
| upload files | `action` = `upload`, `files` |
| look whether all replicas are whole | `action` = `missing` (names, fast) or `changed` (reads everything) |
| make an index for the viewer | `action` = `index`, `job_ids` |
| stop it | mark the task as failed: its processes end at once |

On the command line:

    airflow dags trigger bitarchive_batch --conf '{"config": "news", "job": "Mimetypes"}'

Files of a node that is down are named as unreachable; a result that lacks any file ends in `.partial`, and the run
fails.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import TriggerRule, chain, dag, task_group

from custody_airflow.notices import CustodyNotifier
from custody_airflow.operators.bitarchive import (
    BatchReportOperator,
    CollectOperator,
    ListExpectedFilesOperator,
    PostProcessOperator,
    ResolveJobOperator,
    RunOnBucketOperator,
)
from custody_airflow.operators.bitarchive_files import (
    BringBackOperator,
    BuildIndexOperator,
    ChooseActionOperator,
    CorrectOperator,
    FindChangedOperator,
    FindMissingOperator,
    UploadFilesOperator,
)
from custody_airflow.operators.common import RETRY_ARGUMENTS
from custody_airflow.params.bitarchive import PARAMS
from custody_airflow.tags import Tag

FIRST = {
    "batch": "resolve_job",
    "upload": "upload_files",
    "missing": "preserve.find_missing",
    "changed": "preserve.find_changed",
    "index": "build_index",
}
"""The task that begins each action of the form."""


@dag(
    dag_display_name="Bitarchive batch",
    description="Any program over all WARC and ARC files of an archive; every file is accounted for.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params=PARAMS,
    tags=[Tag.BITARCHIVE, Tag.WRITES, Tag.DELETES],
    default_args={"owner": "custody", **RETRY_ARGUMENTS},
)
def bitarchive_batch():
    """Wire the steps."""
    choose = ChooseActionOperator(task_id="choose", actions=FIRST)
    resolve_job = ResolveJobOperator(task_id="resolve_job")
    list_expected_files = ListExpectedFilesOperator(task_id="list_expected_files")
    run_on_bucket = RunOnBucketOperator.partial(
        task_id="run_on_bucket", map_index_template="{{ bucket }}", pool="custody_batch"
    ).expand(bucket=list_expected_files.output)
    collect = CollectOperator(task_id="collect", trigger_rule=TriggerRule.ALL_DONE)
    post_process = PostProcessOperator(task_id="post_process")
    report = BatchReportOperator(
        task_id="report", trigger_rule=TriggerRule.ALL_DONE, on_failure_callback=CustodyNotifier()
    )
    upload_files = UploadFilesOperator(task_id="upload_files", pool="custody_upload")
    build_index = BuildIndexOperator(task_id="build_index", pool="custody_disk")

    @task_group
    def preserve():
        find_missing = FindMissingOperator(task_id="find_missing")
        BringBackOperator.partial(
            task_id="bring_back", map_index_template="{{ task.lacking['replica'] }}", pool="custody_upload"
        ).expand(lacking=find_missing.output)
        find_changed = FindChangedOperator(task_id="find_changed", pool="custody_disk")
        CorrectOperator.partial(
            task_id="correct", map_index_template="{{ task.finding['name'] }} in {{ task.finding['replica'] }}"
        ).expand(finding=find_changed.output)

    chain(choose, [resolve_job, upload_files, preserve(), build_index])
    chain(resolve_job, list_expected_files, run_on_bucket, collect, post_process, report)


bitarchive_batch()
