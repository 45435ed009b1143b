"""The operators of wiki_dump that begin and end a run: each is one step of the domain with Airflow around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, AssetAlias, BaseBranchOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.wiki_dump import choose, claim, farm_config, finish, report, runs, shelf
from custody.wiki_dump.farm import farm_of
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.runs import Options, Run
from custody.wiki_dump.status import RunState, lost_texts
from custody.wiki_dump.work import Work, working
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.hooks.wiki_dump import access_of
from custody_airflow.operators.common import CustodyOperator, failed_tasks, run_of
from custody_airflow.params.wiki_dump import PARAMS

FINISHED_DUMP = Asset("custody-wiki-finished-dump", uri="x-custody://wiki_dump/finished-dump")
PERHAPS_FINISHED = AssetAlias("custody-wiki-perhaps-finished-dump")  # what succeeds, but is not complete, is no event
ALL = "all"
CLAIM, PLAN = "claim_wiki", "plan"


def owner_of(context: Context) -> str:
    """Who claims a wiki: the run, whichever of its tasks works."""
    task_instance = context["ti"]
    return f"{task_instance.dag_id}/{task_instance.run_id}"


def configured(context: Context, known: Mapping[str, Any] = PARAMS) -> tuple[str, FarmConfig]:
    """The farm a run works on. Faults: CONFIG; an unknown key of ``--conf`` is one."""
    refuse_unknown_keys(context, known)
    name = context["params"]["config"]
    return name, farm_config.load(name)


def refuse_unknown_keys(context: Context, known: Mapping[str, Any]) -> None:
    """Refuse a misspelt key of ``--conf`` before anything is done. Faults: CONFIG."""
    unknown = sorted(set(context["params"]) - set(known))
    if unknown:
        reason = f"is not known; known are: {', '.join(sorted(known))}"
        raise Fault(FaultKind.CONFIG, f"--conf key {unknown[0]!r}", reason)


def options_of(params: Mapping[str, Any]) -> Options:
    """What the form asks of a run."""

    def names(key: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in (params[key] or "").split(",") if name.strip())

    return Options(
        jobs=names("job"),
        restartfrom=params["restartfrom"] or None,
        skipjobs=names("skipjobs"),
        skipdone=params["skipdone"],
        noop=params["noop"],
        prefetch=params["prefetch"],
        prefetchdate=params["prefetchdate"] or None,
        redo=params["redo"],
    )


class ChooseFarmOperator(CustodyOperator, BaseBranchOperator):
    """Decide what a run is: the dump of one wiki, or only the start of one run for each farm.

    :param each: task that begins the start of the runs.
    :param one: task that begins a dump.
    """

    def __init__(self, *, each: str, one: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.each = each
        self.one = one

    def work(self, context: Context) -> None:
        """Branch."""
        refuse_unknown_keys(context, PARAMS)
        self.do_branch(context, self.each if context["params"]["config"] == ALL else self.one)


class ListFarmsOperator(CustodyOperator):
    """List the runs to start for ``config: all``: one conf for each farm there is."""

    def work(self, context: Context) -> list[dict[str, object]]:
        """Look into the directory of configurations."""
        urgent = {name: self._urgency(name) for name in farm_config.config_names()}
        for name, priority in urgent.items():
            self.log.info("a run for %s, priority %d", name, priority)
        least = context["params"]["priority"]
        return [{**context["params"], "config": name, "priority": max(least, urgent[name])} for name in urgent]

    def _urgency(self, name: str) -> int:
        """By the age of what is dumped next; 0 where nobody can tell: the run itself says what is wrong."""
        try:
            conf = claim.read_conf(farm_config.load(name))
            today = f"{now():%Y%m%d}"
            for past, _ in choose.waiting(farm_of(conf), conf, today=today):
                return choose.urgency(past, today)
        except (Fault, OSError) as fault:
            self.log.warning("%s: %s", name, fault)
        return 0


class ClaimWikiOperator(CustodyOperator):
    """Choose a wiki and take it: lease, lock file, frozen configuration. Returns the number of the run."""

    def work(self, context: Context) -> int:
        """Claim; with ``dry_run`` only say what would be done."""
        name, farm = configured(context)
        params, ledger = context["params"], open_ledger()
        if params["dry_run"]:
            self._preview(farm, params["wiki"])
        run = claim.claim(
            *(ledger, name, farm),
            owner=owner_of(context),
            wiki=params["wiki"] or None,
            date=params["date"] or None,
            options=options_of(params),
            cutoff=params["cutoff"] or None,
            reach=access_of,
        )
        context["unit"] = run.subject  # type: ignore[typeddict-unknown-key] # for map_index_template
        self.log.info("%s: claimed, settings %s, lock %s", run.subject, name, run.places.lock(run.date))
        if params["addnotice"] or params["delnotice"]:
            shelf.set_notice(ledger, run, params["addnotice"])
        return run.id

    def _preview(self, farm: FarmConfig, wiki: str | None) -> None:
        conf = claim.read_conf(farm)
        order = choose.order(farm_of(conf), conf, today=f"{now():%Y%m%d}")
        names = [wiki] if wiki else [each.name for each in order]
        self.log.info("dry run: the order is %s", ", ".join(names[:50]) or "empty: all are dumped today")
        raise AirflowSkipException(f"dry run: next would be {names[0] if names else 'none'}; nothing was touched")


class DumpOperator(CustodyOperator):
    """A step of the run that was claimed. Subclasses write :meth:`step`."""

    def work(self, context: Context) -> Any:
        """Do the step within the frame of the domain: owner, lock, heartbeat, faults on record."""
        ledger = open_ledger()
        run = claimed(context, ledger)
        access = access_of(run.farm, run.settings)
        with working(ledger, run.id, owner=owner_of(context), who=run_of(context), access=access) as work:
            return self.step(work, context)

    def step(self, work: Work, context: Context) -> Any:
        """What the task is for; what is returned goes to XCom: ids and counts only."""
        raise NotImplementedError


def claimed(context: Context, ledger: Ledger) -> Run:
    """The run of this DAG run; skips the task where none was claimed."""
    run_id = context["ti"].xcom_pull(task_ids=CLAIM)
    if run_id is None:
        raise AirflowSkipException("no wiki was claimed")
    return runs.load(ledger, int(run_id))


class PublishDumpOperator(DumpOperator):
    """Links, feeds, old runs let go, the last look through the public tree; a complete dump is an asset event."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(outlets=[PERHAPS_FINISHED], **kwargs)

    def step(self, work: Work, context: Context) -> dict[str, Any]:
        """Finish the run; what nobody planned is not finished either."""
        if PLAN in failed_tasks(context):
            raise AirflowSkipException(f"nothing was done: {PLAN} failed, see its log")
        state = finish.finish(work)
        self.log.info("%s: %s", work.run.subject, state)
        if state is RunState.DONE:
            extra = {"wiki": work.run.wiki.name, "date": work.run.date, "state": str(state)}
            context["outlet_events"][PERHAPS_FINISHED].add(FINISHED_DUMP, extra=extra)
        return {"run": work.run.id, "state": str(state)}


class ReportDumpOperator(CustodyOperator):
    """Say what became of the run, and fail it where it is not complete: partial is never shown as success."""

    def work(self, context: Context) -> dict[str, Any]:
        """Report from the ledger, and write to the operator once."""
        ledger = open_ledger()
        run = claimed(context, ledger)
        line = report.line_of(ledger, run)
        self.log.info("%s: %s, %d of %d jobs done", run.subject, line.words, line.done, line.jobs)
        broken = failed_tasks(context)
        is_as_asked = line.state is RunState.DONE or (run.options.is_partial and not line.failed)
        if is_as_asked and line.state is not RunState.FAILED and not broken:
            return {"run": run.id, "done": line.done}
        try:
            report.notify(ledger, run, line, who=owner_of(context))
        except Fault as fault:
            self.log.warning("%s", fault)
        if broken:
            self.log.error("tasks that failed: %s; the reason is in their logs", ", ".join(broken))
        raise AirflowFailException(
            f"{run.subject}: {line.words}; failed: {', '.join(line.failed or broken) or 'none'}; "
            f"{lost_texts(line.lost)} lost. "
            f"{line.fault or ''} Next: custody wiki status {run.config} --stuck"
        )


class GiveBackWikiOperator(CustodyOperator):
    """Remove the lock and give the lease back, however the run ended."""

    def work(self, context: Context) -> str:
        """Settle the state of a run that was not finished."""
        ledger = open_ledger()
        run = claimed(context, ledger)
        return str(finish.give_back(ledger, run.id, owner=owner_of(context)))
