"""The operators of wiki_dump: each is one step of the domain with Airflow around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from airflow.sdk import Asset, BaseBranchOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.wiki_dump import claim, farm_config, finish, monitor, proving, recompress, report, runs, shelf, steps
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.runs import Options, Run
from custody.wiki_dump.status import RunState
from custody.wiki_dump.whole import MAKERS
from custody.wiki_dump.work import Work, working
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.hooks.wiki_dump import access_of
from custody_airflow.operators.common import CustodyOperator, run_of
from custody_airflow.params.wiki_dump import MONITOR_PARAMS, PARAMS

FINISHED_DUMP = Asset("custody-wiki-finished-dump", uri="x-custody://wiki_dump/finished-dump")
ALL = "all"
MAX_UNITS_A_RUN = 1000  # Airflow maps at most 1024 units; the next run of the wiki takes the rest
CLAIM = "claim_wiki"


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
        names = farm_config.config_names()
        self.log.info("one run for each of: %s", ", ".join(names) or "no farm")
        return [{**context["params"], "config": name} for name in names]


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
        )
        context["unit"] = run.subject  # type: ignore[typeddict-unknown-key] # for map_index_template
        self.log.info("%s: claimed, settings %s, lock %s", run.subject, name, run.places.lock(run.date))
        if params["addnotice"] or params["delnotice"]:
            shelf.set_notice(ledger, run, params["addnotice"])
        return run.id

    def _preview(self, farm: FarmConfig, wiki: str | None) -> None:
        conf = claim.read_conf(farm)
        from custody.ledger.store import now

        order = claim.order(claim.read_farm(conf.of()), conf, today=f"{now():%Y%m%d}")
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


class PlanJobsOperator(DumpOperator):
    """Put the jobs on record; returns what is made at once beside the stubs."""

    def step(self, work: Work, context: Context) -> list[str]:
        """Plan."""
        jobs = steps.plan_jobs(work)
        self.log.info("%s: %d jobs: %s", work.run.subject, len(jobs), ", ".join(job.name for job in jobs) or "none")
        stages = {str(job.stage) for job in jobs}
        return [name for name in MAKERS if name in stages]


class UnitOperator(DumpOperator):
    """A mapped step.

    :param unit: what it works on: a number or a name. (templated)
    """

    template_fields = ("unit",)
    make: ClassVar[Callable[[Work, Any], Any]]

    def __init__(self, *, unit: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def step(self, work: Work, context: Context) -> Any:
        """Work on the unit, under its name in the grid."""
        context["unit"] = self.title(work)  # type: ignore[typeddict-unknown-key] # for map_index_template
        return type(self).make(work, self.unit)

    def title(self, work: Work) -> str:
        """What the grid calls it."""
        return str(self.unit)


def _make(work: Work, name: str) -> int:
    return MAKERS[name](work)


class MakeTablesOperator(UnitOperator):
    """Tables, titles, siteinfo or logs: each kind in one snapshot of its own."""

    make = staticmethod(_make)


class MakeStubsOperator(DumpOperator):
    """All stubs, in one pass and one snapshot."""

    def step(self, work: Work, context: Context) -> dict[str, int]:
        """Make them."""
        return {"pages": steps.make_stubs(work)}


class PlanUnitsOperator(DumpOperator):
    """List the units of the next mapped step. :param plan: asks the domain for them."""

    def __init__(self, *, plan: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def step(self, work: Work, context: Context) -> list[Any]:
        """Plan."""
        found = _PLANS[self.plan](work)
        self.log.info("%s: %d units", work.run.subject, len(found))
        return found[:MAX_UNITS_A_RUN]


_PLANS: dict[str, Callable[[Work], list[Any]]] = {
    "parts": steps.plan_parts,
    "recombine": recompress.plan_recombine,
    "recompress": recompress.plan_recompress,
    "verify": proving.jobs_to_prove,
}


class _FileOperator(UnitOperator):
    """A step that makes one file."""

    def title(self, work: Work) -> str:
        """The name of the file without that of the wiki."""
        name = runs.load_file(work.ledger, int(self.unit)).name
        return name.removeprefix(f"{work.run.wiki.name}-{work.run.date}-")

    def step(self, work: Work, context: Context) -> dict[str, Any]:
        """Make it."""
        made = super().step(work, context)
        counts = ", ".join(f"{number} {name}" for name, number in made.counts.items())
        self.log.info("%s: %s, %s bytes, %s", made.name, made.state, made.size_bytes, counts)
        return {"file": made.id, "size_bytes": made.size_bytes, **made.counts}


def _make_text(work: Work, unit: Any) -> Any:
    return steps.make_text(work, int(unit))


def _make_recompressed(work: Work, unit: Any) -> Any:
    return recompress.make_recompressed(work, int(unit))


class DumpPartOperator(_FileOperator):
    """Text of one range of pages of one job."""

    make = staticmethod(_make_text)


class RecompressOperator(_FileOperator):
    """7z, multistream or abstracts, of files that are there."""

    make = staticmethod(_make_recompressed)


class RecombineOperator(UnitOperator):
    """Join the parts of a job."""

    make = staticmethod(recompress.make_recombined)


class VerifyDumpOperator(UnitOperator):
    """Read every file of a job back, and publish them when all are whole."""

    make = staticmethod(proving.prove_job)


class PublishDumpOperator(DumpOperator):
    """Links, feeds, old runs let go, the last look through the public tree; a complete dump is an asset event."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(outlets=[FINISHED_DUMP], **kwargs)

    def step(self, work: Work, context: Context) -> dict[str, Any]:
        """Finish the run."""
        state = finish.finish(work)
        self.log.info("%s: %s", work.run.subject, state)
        extra = {"wiki": work.run.wiki.name, "date": work.run.date, "state": str(state)}
        context["outlet_events"][FINISHED_DUMP].extra = extra
        return {"run": work.run.id, "state": str(state)}


class ReportDumpOperator(CustodyOperator):
    """Say what became of the run, and fail it where it is not complete: partial is never shown as success."""

    def work(self, context: Context) -> dict[str, Any]:
        """Report from the ledger, and write to the operator once."""
        ledger = open_ledger()
        run = claimed(context, ledger)
        line = report.line_of(ledger, run)
        self.log.info("%s: %s, %d of %d jobs done", run.subject, line.words, line.done, line.jobs)
        if line.state is RunState.DONE or (
            line.state is RunState.PARTIAL and run.options.is_partial and not line.failed
        ):
            return {"run": run.id, "done": line.done}
        try:
            report.notify(ledger, run, line, who=owner_of(context))
        except Fault as fault:
            self.log.warning("%s", fault)
        raise AirflowFailException(
            f"{run.subject}: {line.words}; failed: {', '.join(line.failed) or 'none'}; {line.lost} texts lost. "
            f"{line.fault or ''} Next: custody wiki status {run.config} --stuck"
        )


class GiveBackWikiOperator(CustodyOperator):
    """Remove the lock and give the lease back, however the run ended."""

    def work(self, context: Context) -> str:
        """Settle the state of a run that was not finished."""
        ledger = open_ledger()
        run = claimed(context, ledger)
        return str(finish.give_back(ledger, run.id, owner=owner_of(context)))


class SweepOperator(CustodyOperator):
    """One look of the monitor at one farm.

    :param farm: its name. (templated)
    """

    template_fields = ("farm",)

    def __init__(self, *, farm: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.farm = farm

    def work(self, context: Context) -> dict[str, int]:
        """Sweep."""
        context["unit"] = self.farm  # type: ignore[typeddict-unknown-key] # for map_index_template
        found = monitor.sweep(open_ledger(), farm_config.load(self.farm), who=run_of(context))
        for name in found.aborted:
            self.log.warning("%s: dump aborted, its lock is removed", name)
        for name in found.broken:
            self.log.error("%s", name)
        if found.broken:
            raise AirflowFailException(f"{len(found.broken)} wikis cannot be looked at; first {found.broken[0]}")
        return {"wikis": found.wikis, "running": found.running, "aborted": len(found.aborted)}


class FarmsToWatchOperator(CustodyOperator):
    """The farms that a sweep looks at: one, or all."""

    def work(self, context: Context) -> list[str]:
        """List their names."""
        refuse_unknown_keys(context, MONITOR_PARAMS)
        name = context["params"]["config"]
        return farm_config.config_names() if name == ALL else [name]
