"""
### Wiki dump: a MediaWiki farm, one wiki a run

Takes the wiki that waits longest (never dumped, then failed or partial, then the oldest), makes stubs in one snapshot,
text in parts, tables, logs, titles, 7z and multistream; **reads every file back** and only then lets it appear under
the names that the world's dump readers parse. What is private never lies in the public tree.

| you want to | do this |
|---|---|
| dump the next wiki | trigger with `config` = the farm (a file in `include/config/wiki_dump/`) |
| dump this wiki now | add `wiki` |
| make one job again | add `wiki`, `date` = `last`, `job` |
| go on after a failure | trigger the wiki again, or clear the task: what is done stays |
| see what would happen | set *Dry run* |
| stop new work | `maintenance.txt` or `exit.txt` beside `wikidump.conf` |
| know what is stuck | `custody wiki status --stuck`, or the page *Custody* |
| keep an old run for ever | `touch hold` in its directory |

On the command line:

    airflow dags trigger wiki_dump --conf '{"config": "farm", "wiki": "aawiki"}'

Marking a task as success by hand publishes nothing: files appear when they were read back, by what the ledger says.
"""

from __future__ import annotations

from datetime import datetime

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import TaskGroup, TriggerRule, chain, dag

from custody_airflow.notices import CustodyNotifier
from custody_airflow.operators.common import RETRY_ARGUMENTS
from custody_airflow.operators.wiki_dump import (
    CLAIM,
    PLAN,
    ChooseFarmOperator,
    ClaimWikiOperator,
    GiveBackWikiOperator,
    ListFarmsOperator,
    PublishDumpOperator,
    ReportDumpOperator,
)
from custody_airflow.operators.wiki_dump_make import (
    DumpPartOperator,
    MakeStubsOperator,
    MakeTablesOperator,
    PlanJobsOperator,
    PlanUnitsOperator,
    RecombineOperator,
    RecompressOperator,
    VerifyDumpOperator,
)
from custody_airflow.operators.wiki_dump_monitor import FarmsToWatchOperator, SweepOperator
from custody_airflow.params.wiki_dump import MONITOR_PARAMS, PARAMS
from custody_airflow.tags import Tag

BY_UNIT = "{{ unit }}"
DATABASE = {"pool": "custody_wiki", "map_index_template": BY_UNIT}
DISK = {"pool": "custody_disk", "map_index_template": BY_UNIT}
WHATEVER_CAME = {"trigger_rule": TriggerRule.ALL_DONE}  # what is still to do, the ledger knows
COMMON = {
    "owner": "custody",
    "weight_rule": "absolute",  # of two runs the older goes first; else a new run's first tasks would overtake it
    **RETRY_ARGUMENTS,
}


@dag(
    dag_display_name="Wiki dump",
    description="Dump the next wiki of a farm; every file is read back before it is published.",
    doc_md=__doc__,
    schedule="@hourly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=16,
    params=PARAMS,
    tags=[Tag.WIKI_DUMP, Tag.WRITES],
    default_args=COMMON,
)
def wiki_dump():
    """Wire the steps."""
    choose = ChooseFarmOperator(task_id="choose", each="every_farm.list_farms", one=CLAIM)
    with TaskGroup("every_farm") as every_farm:
        list_farms = ListFarmsOperator(task_id="list_farms")
        start = TriggerDagRunOperator.partial(
            task_id="start", trigger_dag_id="wiki_dump", map_index_template="{{ task.conf['config'] }}"
        )
        chain(list_farms, start.expand(conf=list_farms.output))

    claim_wiki = ClaimWikiOperator(task_id=CLAIM).as_setup()
    plan = PlanJobsOperator(task_id=PLAN)
    with TaskGroup("make") as make:
        MakeTablesOperator.partial(task_id="tables", **DATABASE).expand(unit=plan.output)
        stubs = MakeStubsOperator(task_id="stubs", pool="custody_wiki")
    with TaskGroup("text") as text:
        plan_parts = PlanUnitsOperator(task_id="plan_parts", plan="parts")
        DumpPartOperator.partial(task_id="part", **DATABASE).expand(unit=plan_parts.output)
    with TaskGroup("recombine") as recombine:
        plan_joins = PlanUnitsOperator(task_id="plan_joins", plan="recombine", **WHATEVER_CAME)
        RecombineOperator.partial(task_id="join", **DISK).expand(unit=plan_joins.output)
    with TaskGroup("recompress") as recompress:
        plan_files = PlanUnitsOperator(task_id="plan_files", plan="recompress", **WHATEVER_CAME)
        RecompressOperator.partial(task_id="file", **DISK).expand(unit=plan_files.output)
    with TaskGroup("verify") as verify:
        plan_jobs = PlanUnitsOperator(task_id="plan_jobs", plan="verify", **WHATEVER_CAME)
        VerifyDumpOperator.partial(task_id="job", **DISK).expand(unit=plan_jobs.output)
    publish = PublishDumpOperator(task_id="publish", **WHATEVER_CAME)
    report = ReportDumpOperator(task_id="report", on_failure_callback=CustodyNotifier(), **WHATEVER_CAME)
    give_back = GiveBackWikiOperator(task_id="give_back").as_teardown(setups=claim_wiki)

    chain(choose, [every_farm, claim_wiki])
    chain(claim_wiki, plan, make)
    chain(stubs, text, recombine, recompress, verify, publish, report, give_back)
    chain(make, verify)


@dag(
    dag_display_name="Wiki dump monitor",
    description="Index pages of all wikis; stale locks become aborted dumps, and their wikis are dumped again.",
    doc_md="Looks at every wiki of every farm:\n\n"
    '    airflow dags trigger wiki_dump_monitor --conf \'{"config": "all"}\'\n',
    schedule="*/5 * * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    params=MONITOR_PARAMS,
    tags=[Tag.WIKI_DUMP, Tag.WRITES],
    default_args=COMMON,
)
def wiki_dump_monitor():
    """Wire the sweep."""
    farms = FarmsToWatchOperator(task_id="farms")
    SweepOperator.partial(task_id="sweep", map_index_template=BY_UNIT).expand(farm=farms.output)


wiki_dump()
wiki_dump_monitor()
