"""
### Drain: empty filling crawler disks into an archive

Packs the finished WARC and ARC files of a crawl disk into items, uploads them, **proves** that the archive stores them,
and only then deletes them. Files that are still being written are never touched; damaged ones go to `quarantine/`.

| you want to | do this |
|---|---|
| drain one disk | trigger with `config` = its name (a file in `include/config/drain/`) |
| drain all disks | trigger with `config` = `all`, or switch the schedule on |
| see what would happen | set *Dry run* |
| pause a disk | remove `DRAINME` from its job directory |
| finish a crawl | `touch FINISH_DRAIN` in its job directory |
| look whether everything drained is still stored | trigger with `action` = `audit`; weekly: switch `drain_monitor` on |
| bring a drained file back | trigger with `action` = `restore`, `file` and `into` |
| know what is stuck | `custody drain status --stuck`, or the page *Custody* |
| recover after a crash | trigger again: every step finds what was done |

On the command line:

    airflow dags trigger drain --conf '{"config": "wide"}'

Marking a task as success by hand does not move a series on: steps go by what the ledger and the archive say.
"""

from __future__ import annotations

from datetime import datetime

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import TriggerRule, chain, dag, task_group

from custody_airflow.notices import CustodyNotifier
from custody_airflow.operators.common import RETRY_ARGUMENTS
from custody_airflow.operators.drain import (
    AUDIT,
    DRAIN,
    RESTORE,
    AuditOperator,
    CheckDiskOperator,
    ChooseOperator,
    CreateItemOperator,
    DeleteProvenOperator,
    FinishCrawlOperator,
    ListConfigurationsOperator,
    ManifestOperator,
    PackOperator,
    PlanSeriesOperator,
    ProveOperator,
    ReportOperator,
    RestoreOperator,
    UploadOperator,
)
from custody_airflow.params.drain import MONITOR_PARAMS, PARAMS
from custody_airflow.tags import Tag

BY_BATCH = "{{ batch }}"


@dag(
    dag_display_name="Drain",
    description="Empty filling crawler disks into an archive; nothing is deleted before it is proven stored.",
    doc_md=__doc__,
    schedule="@hourly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=16,
    params=PARAMS,
    tags=[Tag.DRAIN, Tag.DELETES],
    default_args={"owner": "custody", **RETRY_ARGUMENTS},
)
def drain():
    """Wire the steps."""
    actions = {DRAIN: "check_disk", AUDIT: "audit", RESTORE: "restore"}
    choose = ChooseOperator(task_id="choose", actions=actions, each="list_configurations")
    list_configurations = ListConfigurationsOperator(task_id="list_configurations")
    start_each = TriggerDagRunOperator.partial(
        task_id="start_each", trigger_dag_id="drain", map_index_template="{{ task.conf['config'] }}"
    ).expand(conf=list_configurations.output)
    audit = AuditOperator(task_id="audit", on_failure_callback=CustodyNotifier())
    restore = RestoreOperator(task_id="restore")
    check_disk = CheckDiskOperator(task_id="check_disk")
    plan_series = PlanSeriesOperator(task_id="plan_series")

    @task_group
    def series(series_ids: list[int]):
        chain(
            PackOperator(task_id="pack", series_ids=series_ids, map_index_template=BY_BATCH, pool="custody_disk"),
            ManifestOperator(task_id="manifest", series_ids=series_ids, map_index_template=BY_BATCH),
            CreateItemOperator(task_id="create_item", series_ids=series_ids, map_index_template=BY_BATCH),
            UploadOperator(task_id="upload", series_ids=series_ids, map_index_template=BY_BATCH, pool="custody_upload"),
            ProveOperator(task_id="prove", series_ids=series_ids, map_index_template=BY_BATCH),
            DeleteProvenOperator(task_id="delete", series_ids=series_ids, map_index_template=BY_BATCH),
        )

    finish_crawl = FinishCrawlOperator(task_id="finish_crawl", trigger_rule=TriggerRule.ALL_DONE)
    report = ReportOperator(task_id="report", trigger_rule=TriggerRule.ALL_DONE, on_failure_callback=CustodyNotifier())

    chain(choose, [list_configurations, audit, restore, check_disk])
    chain(list_configurations, start_each)
    chain(check_disk, plan_series, series.expand(series_ids=plan_series.output), finish_crawl, report)


@dag(
    dag_display_name="Drain monitor",
    description="Every week, look whether everything that was drained is still stored; nothing is changed.",
    doc_md="Starts an audit of every configuration, each as a run of `drain` of its own:\n\n"
    "    airflow dags trigger drain_monitor\n",
    schedule="@weekly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=MONITOR_PARAMS,
    render_template_as_native_obj=True,
    tags=[Tag.DRAIN, Tag.READS],
    default_args={"owner": "custody", **RETRY_ARGUMENTS},
)
def drain_monitor():
    """Wire the audit."""
    conf = {"config": "all", "action": AUDIT, "days": "{{ params.days }}"}
    TriggerDagRunOperator(task_id="audit_each", trigger_dag_id="drain", conf=conf)


drain()
drain_monitor()
