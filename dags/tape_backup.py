"""
### Tape backup: directories to tape, proven and found again

Imports directories as targets, scans them, assigns them to a tape, asks for the cartridge, writes a tape file for each,
**reads every file back and compares it**, and goes on with the next tape when one is full.

| you want to | do this |
|---|---|
| back up directories | trigger with `targets`, or `find_below`; `tapes` = the ones to use, in order |
| begin new tapes | `action` = `open`, `tapes` = their names; or `open` among `steps` |
| do one verb of tapeop | `action` = `import`, `assign`, `archive`, `confirm`, `close`, `activate`, `scan` |
| do some of them | `action` = `backup`, `steps` = those |
| get files back | `action` = `restore`, `patterns` and `into` |
| be asked first | set *Ask before* |
| see what would happen | set *Dry run* |
| know what is stuck | the page *Custody*, or `custody tape status` |
| recover after a crash | trigger again: what was written whole is found on the tape and adopted |

When another tape is in the drive, the run asks for the right one in *Required Actions* and goes on as soon as its label
is read, whether anybody answers or not. Nothing is written to a cartridge with another label.

On the command line:

    airflow dags trigger tape_backup --conf '{"config": "lto", "targets": ["/data/2026"], "tapes": ["TAPE1", "TAPE2"]}'

Marking a task as success by hand does not confirm anything: steps go by what the ledger says and the tape shows.
"""

from __future__ import annotations

from datetime import datetime

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import TriggerRule, chain, dag, task_group

from custody_airflow.notices import CustodyNotifier
from custody_airflow.operators.common import RETRY_ARGUMENTS
from custody_airflow.operators.tape import ActivateTapeOperator, ChooseStepsOperator, OpenTapeOperator
from custody_airflow.operators.tape_ask import InsertTapeOperator
from custody_airflow.operators.tape_back import ScanTapeOperator, TapeRestoreOperator
from custody_airflow.operators.tape_confirm import CONFIRMED_TARGETS, PlanConfirmOperator, TapeConfirmOperator
from custody_airflow.operators.tape_end import NextTapeOperator, TapeReportOperator
from custody_airflow.operators.tape_import import AssignOperator, ImportTargetsOperator, ScanTargetOperator
from custody_airflow.operators.tape_write import CloseTapeOperator, PlanArchiveOperator, TapeArchiveOperator
from custody_airflow.params.tape import PARAMS
from custody_airflow.sensors.tape import TapeLabelSensor
from custody_airflow.tags import Tag

BY_BATCH = "{{ task.batch['name'] }}"
MOUNT = ("mount.insert", "mount.label")
NEXT = ("next_tape.plan", "next_tape.start")
TASKS = {
    "open": ["tape.open"],
    "activate": ["tape.activate"],
    "import": ["import_targets.plan", "import_targets.scan"],
    "assign": ["assign"],
    "archive": [*MOUNT, "archive.plan", "archive.write", *NEXT],
    "confirm": [*MOUNT, "confirm.plan", "confirm.read"],
    "close": [*MOUNT, "close"],
    "restore": [*MOUNT, "restore", *NEXT],
    "scan": [*MOUNT, "scan"],
}
ON = {"trigger_rule": TriggerRule.NONE_FAILED}  # a step that was not asked for is skipped, and the next one goes on
ONE_BY_ONE = {"pool": "custody_tape", "max_active_tis_per_dagrun": 1, "map_index_template": BY_BATCH}


@dag(
    dag_display_name="Tape backup",
    description="Directories to tape: scanned, written, read back and compared; the next tape is asked for.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=16,
    params=PARAMS,
    tags=[Tag.TAPE, Tag.WRITES],
    default_args={"owner": "custody", **RETRY_ARGUMENTS},
)
def tape_backup():
    """Wire the steps."""
    choose = ChooseStepsOperator(task_id="choose", tasks=TASKS)

    @task_group
    def tape():
        chain(OpenTapeOperator(task_id="open"), ActivateTapeOperator(task_id="activate", **ON))

    @task_group
    def import_targets():
        plan = ImportTargetsOperator(task_id="plan", **ON)
        ScanTargetOperator.partial(task_id="scan", map_index_template=BY_BATCH, pool="custody_disk").expand(
            batch=plan.output
        )

    assign = AssignOperator(task_id="assign", trigger_rule=TriggerRule.ALL_DONE)

    @task_group
    def mount():
        chain(InsertTapeOperator(task_id="insert", **ON), TapeLabelSensor(task_id="label"))

    @task_group
    def archive():
        plan = PlanArchiveOperator(task_id="plan", **ON)
        TapeArchiveOperator.partial(task_id="write", **ONE_BY_ONE).expand(batch=plan.output)

    @task_group
    def confirm():
        plan = PlanConfirmOperator(task_id="plan", trigger_rule=TriggerRule.ALL_DONE)
        TapeConfirmOperator.partial(task_id="read", outlets=[CONFIRMED_TARGETS], **ONE_BY_ONE).expand(batch=plan.output)

    close = CloseTapeOperator(task_id="close", pool="custody_tape", **ON)
    restore = TapeRestoreOperator(task_id="restore", pool="custody_tape", **ON)
    scan = ScanTapeOperator(task_id="scan", pool="custody_tape", **ON)

    @task_group
    def next_tape():
        plan = NextTapeOperator(task_id="plan", trigger_rule=TriggerRule.ALL_DONE)
        TriggerDagRunOperator.partial(
            task_id="start", trigger_dag_id="tape_backup", map_index_template="{{ task.conf['tapes'][0] }}"
        ).expand(conf=plan.output)

    report = TapeReportOperator(
        task_id="report", trigger_rule=TriggerRule.ALL_DONE, on_failure_callback=CustodyNotifier()
    )

    opened, imported, mounted, confirmed, ended = tape(), import_targets(), mount(), confirm(), next_tape()
    chain(choose, opened, imported, assign, mounted, archive(), confirmed, close, ended, report)
    chain(mounted, restore, ended)
    chain(mounted, scan, report)
    # Ways around steps that were not asked for: a run does not have to wait for each of them to skip itself.
    chain([opened, imported, assign], report)
    chain(confirmed, ended)


tape_backup()
