"""
# Minidvodb copy

Brings every merged survey database (minidvodb) to every host that should hold it, once. A copy is built out of sight,
read back whole over there, compared with what was read here, and appears under its name by one rename.

| you want to | do this |
|---|---|
| let copies go to a host | `custody minidvodb add-host HOST --connection ID` |
| have a group on a host | `custody minidvodb add-copy GROUP HOST PATH`, or trigger with `group`, `host` and `path` |
| see where everything stands | `custody minidvodb status`, or the page *Custody* |
| see what would be queued, and why not | set *Dry run* |
| copy one group, host or copy now | trigger with `group`, `host` or `copy` |
| stop a host | `custody minidvodb del-host HOST`; what runs finishes its step |
| stop a stage | `custody minidvodb off queue` (or `load`, `run`); it stays off until `on` |
| try faulted copies again | `custody minidvodb list --faulted`, then `custody minidvodb revert` |
| read full copies again | trigger with `action` = `audit` |
| recover after a crash | trigger again: nothing is sent twice |

On the command line:

    airflow dags trigger minidvodb_copy --conf '{"group": "ThreePi", "host": "ipp022"}'

Marking a task as success by hand publishes nothing: steps go by what the ledger says and by what lies over there.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import TriggerRule, chain, dag, task_group

from custody_airflow.notices import CustodyNotifier
from custody_airflow.operators.common import RETRY_ARGUMENTS
from custody_airflow.operators.minidvodb import (
    AUDIT,
    COPY,
    AuditCopiesOperator,
    ChooseActionOperator,
    CopyDirectoryOperator,
    LoadCopiesOperator,
    PreflightCopyOperator,
    PublishCopyOperator,
    QueueCopiesOperator,
    ReportCopiesOperator,
    VerifyCopyOperator,
)
from custody_airflow.params.minidvodb import PARAMS
from custody_airflow.tags import Tag

# One retry is for a worker that died. What time may mend is tried again by later runs: the ledger knows when.
BY_COPY = "{{ copy }}"


@dag(
    dag_display_name="Minidvodb copy",
    description="Bring merged survey databases to other hosts; nothing is visible there before it is proven equal.",
    doc_md=__doc__,
    schedule="*/15 * * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=4,
    params=PARAMS,
    tags=[Tag.MINIDVODB, Tag.WRITES],
    default_args={"owner": "custody", **RETRY_ARGUMENTS, "retries": 1},
)
def minidvodb_copy():
    """Wire the steps."""
    choose = ChooseActionOperator(task_id="choose", actions={COPY: "queue", AUDIT: "audit"})
    audit = AuditCopiesOperator(task_id="audit", on_failure_callback=CustodyNotifier())
    queue = QueueCopiesOperator(task_id="queue")
    load = LoadCopiesOperator(task_id="load")

    @task_group
    def copy(copy_ids: list[int]):
        chain(
            PreflightCopyOperator(task_id="preflight", copy_ids=copy_ids, map_index_template=BY_COPY),
            CopyDirectoryOperator(
                task_id="transfer", copy_ids=copy_ids, map_index_template=BY_COPY, pool="custody_copy"
            ),
            VerifyCopyOperator(task_id="verify", copy_ids=copy_ids, map_index_template=BY_COPY, pool="custody_copy"),
            PublishCopyOperator(task_id="publish", copy_ids=copy_ids, map_index_template=BY_COPY),
        )

    report = ReportCopiesOperator(
        task_id="report", trigger_rule=TriggerRule.ALL_DONE, on_failure_callback=CustodyNotifier()
    )

    chain(choose, [audit, queue])
    chain(queue, load, copy.expand(copy_ids=load.output), report)


minidvodb_copy()
