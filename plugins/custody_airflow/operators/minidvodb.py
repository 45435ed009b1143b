"""The operators of minidvodb_copy: each is one step of the domain with Airflow around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from airflow.sdk import Asset, BaseBranchOperator, BaseOperator, BaseOperatorLink, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.types import TaskInstanceKey

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.minidvodb import audit, batches, catalogue, destination, load, queue, report, switches
from custody.minidvodb import config as configuration
from custody.minidvodb.preflight import preflight
from custody.minidvodb.publish import publish
from custody.minidvodb.records import Copy, CopyStep
from custody.minidvodb.records import load as load_copy
from custody.minidvodb.step import Step
from custody.minidvodb.transfer import transfer
from custody.minidvodb.verify import verify
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.hooks.minidvodb import old_tables, reach
from custody_airflow.links import page_of
from custody_airflow.operators.common import CustodyOperator, failed_tasks, run_of
from custody_airflow.params.minidvodb import PARAMS

PUBLISHED_COPY = Asset("custody-minidvodb-published-copy", uri="x-custody://minidvodb/published-copy")
COPY, AUDIT = "copy", "audit"


def refuse_unknown_keys(context: Context) -> None:
    """Refuse a misspelt key of ``--conf`` before anything is done. Faults: CONFIG."""
    unknown = sorted(set(context["params"]) - set(PARAMS))
    if unknown:
        reason = f"is not known; known are: {', '.join(sorted(PARAMS))}"
        raise Fault(FaultKind.CONFIG, f"--conf key {unknown[0]!r}", reason)


class CopyLink(BaseOperatorLink):
    """The button "Custody" of a task: its copy where it has one, else the room."""

    name = "Custody"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page, relative to the host. Airflow asks with rendered templates."""
        try:
            return page_of(f"/minidvodb/copy/{int(operator.copy_id)}")  # type: ignore[attr-defined]
        except (AttributeError, TypeError, ValueError):  # no task of a copy, or its number is not known yet
            return page_of("/minidvodb")


class MinidvodbOperator(CustodyOperator):
    """An operator of this room."""

    operator_extra_links = (CopyLink(),)


class ChooseActionOperator(MinidvodbOperator, BaseBranchOperator):
    """Decide what a run is.

    :param actions: for each action of the form the task that begins it.
    """

    def __init__(self, *, actions: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.actions = dict(actions)

    def work(self, context: Context) -> None:
        """Branch. Faults: CONFIG for a key of the form, a machine, a host or a copy that nobody knows."""
        refuse_unknown_keys(context)
        params = context["params"]
        if params["config"]:
            configuration.load(params["config"])
        if params["host"]:
            destination.find(open_ledger(), params["host"])
        if params["copy"] is not None:
            load_copy(open_ledger(), int(params["copy"]))
        self.do_branch(context, self.actions[context["params"]["action"]])


class QueueCopiesOperator(MinidvodbOperator):
    """Queue every merged database for every host that should hold it; returns how many copies were made."""

    def work(self, context: Context) -> dict[str, int]:
        """Bring the record of the databases up to the old tables', then queue; with ``dry_run`` only explain."""
        params, ledger, who = context["params"], open_ledger(), run_of(context)
        old = old_tables()
        if params["group"] and not old:
            catalogue.demand_group(ledger, params["group"])
        if params["dry_run"]:
            self._explain(ledger, params)
        if old:
            taken = catalogue.take_over(ledger, old, who=who)
            self.log.info("%s: %d databases new or changed", old.name, taken.runs)
            if params["group"]:
                catalogue.demand_group(ledger, params["group"])
        if params["path"]:
            self._want(ledger, params, who)
        try:
            made = queue.queue_wanted(
                ledger, who=who, group=params["group"], host=params["host"], priority=params["priority"]
            )
        except Fault as fault:
            if fault.kind is not FaultKind.CANCELLED:
                raise
            self.log.info("%s; what is queued already goes on", fault)
            return {"queued": 0, "already": 0}
        for one in made:
            self.log.info("%s on %s: %d queued, %d already", one.group, one.host, one.queued, one.already)
        return {"queued": sum(one.queued for one in made), "already": sum(one.already for one in made)}

    def _explain(self, ledger: Ledger, params: Mapping[str, Any]) -> None:
        found = queue.explain(ledger, group=params["group"], host=params["host"])
        for one in found:
            self.log.info("dry run: %s on %s: %s", one.name, one.host, one.reason or "would be queued")
        would = sum(one.reason is None for one in found)
        raise AirflowSkipException(f"dry run: {would} of {len(found)} would be queued, nothing was touched")

    def _want(self, ledger: Ledger, params: Mapping[str, Any], who: str) -> None:
        if not (params["group"] and params["host"]):
            raise Fault(FaultKind.CONFIG, "path", "is given without group and host")
        given = {"priority": params["priority"]} if params["priority"] else {}
        switches.want(ledger, params["group"], params["host"], params["path"], who=who, **given)


class LoadCopiesOperator(MinidvodbOperator):
    """Choose the copies that go now, in fair order. Returns their numbers, small ones of one host together."""

    def work(self, context: Context) -> list[list[int]]:
        """Choose."""
        params, ledger = context["params"], open_ledger()
        chosen = load.choose(
            ledger,
            group=params["group"],
            host=params["host"],
            copy_id=params["copy"],
            machine=configuration.load(params["config"]).machine if params["config"] else None,
            limit=int(params["limit"]),
        )
        for one in chosen:
            self.log.info("copy %d: %s to %s, priority %d", one.id, one.name, one.host, one.priority)
        return batches.plan_batches(ledger, chosen)


class CopyStepOperator(MinidvodbOperator):
    """One step on a batch of copies, often of one: each is tried, and one that fails keeps no other.

    :param copy_ids: their numbers in the ledger.
    """

    template_fields: Sequence[str] = ("copy_ids",)
    step: ClassVar[Step]
    needs: ClassVar[CopyStep]
    is_last: ClassVar[bool] = False

    def __init__(self, *, copy_ids: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.copy_ids = copy_ids

    @property
    def copy_id(self) -> int | None:
        """The copy of a batch of one, for the link to its page."""
        return self.copy_ids[0] if len(self.copy_ids) == 1 else None

    def work(self, context: Context) -> dict[str, object]:
        """Do the step on those of which the ledger does not say that it was done."""
        ledger, numbers = open_ledger(), [int(number) for number in self.copy_ids]
        context["copy"] = batches.name_batch(ledger, numbers)  # type: ignore[typeddict-unknown-key] # map_index_template
        tried = batches.try_each(type(self).step, type(self).needs, ledger, numbers, who=run_of(context), reach=reach)
        may_retry = context["ti"].try_number <= context["ti"].max_tries
        if fault := tried.fault(may_retry=may_retry, is_last=self.is_last):
            raise fault
        if left := tried.count - len(tried.through):
            self.log.warning("%d of %d copies of this batch are left behind", left, tried.count)
        return self.result(context, tried.through)

    def result(self, context: Context, done: Sequence[Copy]) -> dict[str, object]:
        """What goes to XCom: ids and counts."""
        files, size_bytes = (sum(one.row[key] or 0 for one in done) for key in ("files", "bytes"))
        return {"copies": [one.id for one in done], "files": files, "bytes": size_bytes}


class PreflightCopyOperator(CopyStepOperator):
    """Check database, host and room before a byte is sent."""

    step = staticmethod(preflight)
    needs = CopyStep.QUEUED


class CopyDirectoryOperator(CopyStepOperator):
    """Send what is missing into the staging directory over there."""

    step = staticmethod(transfer)
    needs = CopyStep.CHECKED


class VerifyCopyOperator(CopyStepOperator):
    """Read every byte over there and compare it with the manifest."""

    step = staticmethod(verify)
    needs = CopyStep.SENT


class PublishCopyOperator(CopyStepOperator):
    """Let verified copies appear, each by one rename; they are an asset event."""

    step = staticmethod(publish)
    needs = CopyStep.VERIFIED
    is_last = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(outlets=[PUBLISHED_COPY], **kwargs)

    def result(self, context: Context, done: Sequence[Copy]) -> dict[str, object]:
        """Tell whoever waits for a copy: numbers, and the databases with their group, all of them on one host."""
        counts = super().result(context, done)
        databases = [{"minidvodb": one.name, "group": one.group} for one in done]
        host = done[0].destination.name
        context["outlet_events"][PUBLISHED_COPY].extra = {**counts, "host": host, "minidvodbs": databases}
        return counts


class ReportCopiesOperator(MinidvodbOperator):
    """Show host by group, and fail the run where a copy of it failed or waits for a person."""

    def work(self, context: Context) -> dict[str, int]:
        """Report from the ledger."""
        params, ledger = context["params"], open_ledger()
        if params["dry_run"]:
            raise AirflowSkipException("dry run: nothing to report")
        for cell in report.cells(ledger):
            self.log.info(
                "%s, %s: %d eligible, %d new, %d running, %d full, %d faulted, %d lost",
                *(cell.host, cell.group, cell.eligible, cell.new, cell.running, cell.full, cell.faulted, cell.lost),
            )
        alerts = report.alerts(ledger)
        for alert in alerts:
            self.log.warning("%s: %s. Next: %s", alert.subject, alert.text, alert.next_command)
        failed = failed_tasks(context, and_behind=False)
        if failed:
            of_copies = all(task.startswith("copy.") for task in failed)
            following = "custody minidvodb list --faulted" if of_copies else f"read the log of {failed[0]}"
            raise AirflowFailException(f"{len(failed)} tasks failed ({', '.join(failed[:5])}). Next: {following}")
        return {"alerts": len(alerts)}


class AuditCopiesOperator(MinidvodbOperator):
    """Read full copies again; one that is lost or corrupt fails the task and gets a state of its own."""

    def work(self, context: Context) -> dict[str, int]:
        """Audit what is due."""
        params = context["params"]
        found, faults = audit.audit_due(
            open_ledger(),
            who=run_of(context),
            reach=reach,
            older_than=timedelta(days=float(params["older_than_days"])),
            limit=int(params["limit"]),
            host=params["host"],
        )
        bad = [one for one in found if one.complaint]
        for one in found:
            self.log.log(
                40 if one.complaint else 20, "copy %d, %s: %s %s", one.copy_id, one.subject, one.state, one.complaint
            )
        for fault in faults:
            self.log.error("%s", fault)
        if bad or faults:
            what = f"{bad[0].subject}: {bad[0].complaint}" if bad else str(faults[0])
            raise AirflowFailException(
                f"{len(bad)} copies are lost or corrupt, {len(faults)} could not be read; first {what}. "
                "Next: custody minidvodb list --faulted"
            )
        return {"audited": len(found)}
