"""The operators of drain: each is one step of the domain with Airflow around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import Asset, BaseBranchOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from custody.drain import batches, bundles, last_good, markers, plan, report, restore, view
from custody.drain import config as configuration
from custody.drain.audit import audit, audit_series
from custody.drain.config import DrainConfig
from custody.drain.delete import delete_proven
from custody.drain.forecast import forecast, warn_of_full
from custody.drain.manifest import manifest
from custody.drain.pack import pack
from custody.drain.pressure import rank_by_pressure
from custody.drain.prove import prove
from custody.drain.series import Series, load
from custody.drain.step import Step
from custody.drain.targets import Target
from custody.drain.upload import create_item, upload
from custody.faults import Fault, FaultKind
from custody.gate import describe
from custody.ledger import Ledger
from custody.units import format_size
from custody_airflow.hooks.drain import targets_of
from custody_airflow.hooks.ledger import open_ledger
from custody_airflow.notices import tell
from custody_airflow.operators.common import CustodyOperator, failed_tasks, run_of
from custody_airflow.operators.drain_crawler import watch

PROVEN_SERIES = Asset("custody-drain-proven-series", uri="x-custody://drain/proven-series")
ALL = "all"
NOT_CONFIGURATION = {"config", "dry_run", "priority", "action", "days", "series", "file", "into"}
DRAIN, AUDIT, RESTORE = "drain", "audit", "restore"
MAX_SERIES_A_RUN = 1000  # Airflow maps at most 1024 units; the next run takes the rest


def configured(context: Context) -> tuple[str, DrainConfig]:
    """The configuration a run works on: its name, and its values with those of the form in their place.

    Where its file is wrong it is the last good one, but for a dry run, which is somebody's look at the file. Faults:
    CONFIG; an unknown key of ``--conf`` is one.
    """
    refuse_unknown_keys(context)
    params = dict(context["params"])
    given = {key: value for key, value in params.items() if value is not None and key not in NOT_CONFIGURATION}
    name = params.get("config")
    if name and params["dry_run"]:
        return name, configuration.load(name, given)
    if name:
        return name, last_good.load(open_ledger(), name, given)
    config = configuration.parse(given, "the form")
    return config.crawljob, config


def refuse_unknown_keys(context: Context) -> None:
    """Refuse a misspelt key of ``--conf`` before anything is done. Faults: CONFIG."""
    known = set(DrainConfig.model_fields) | NOT_CONFIGURATION
    known |= {field.alias for field in DrainConfig.model_fields.values() if field.alias}
    unknown = sorted(set(context["params"]) - known)
    if unknown:
        reason = f"is not known; known are: {', '.join(sorted(known))}"
        raise Fault(FaultKind.CONFIG, f"--conf key {unknown[0]!r}", reason)


class ChooseOperator(CustodyOperator, BaseBranchOperator):
    """Decide what a run is: work on one configuration, or only the start of one run for each.

    :param actions: for each action of the form the task that begins it.
    :param each: task that begins the start of the runs.
    """

    def __init__(self, *, actions: Mapping[str, str], each: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.actions = dict(actions)
        self.each = each

    def work(self, context: Context) -> None:
        """Branch. Nothing can be handed on here: Airflow ends a task where it skips others."""
        refuse_unknown_keys(context)
        params = context["params"]
        if params.get("config") == ALL:
            self.do_branch(context, self.each)
            return
        name, _ = configured(context)
        self._look_at_file(context, name)
        self.do_branch(context, self.actions[params["action"]])

    def _look_at_file(self, context: Context, name: str) -> None:
        """Remember a configuration that can be read; say so where it cannot, and an earlier one is used."""
        if fault := last_good.find_fault(name):
            self.log.error("%s. This run goes by the last good configuration and deletes nothing", fault)
        elif context["params"].get("config") in configuration.config_names() and not context["params"]["dry_run"]:
            last_good.remember(open_ledger(), name, configuration.load(name), who=run_of(context))


class ListConfigurationsOperator(CustodyOperator):
    """List the runs to start for ``config: all``: one conf for each configuration there is, the fullest disk first."""

    def work(self, context: Context) -> list[dict[str, object]]:
        """Look into the directory of configurations, and at what the last runs saw of their disks."""
        params = context["params"]
        common = {key: params[key] for key in NOT_CONFIGURATION}
        urgent = rank_by_pressure(open_ledger(), configuration.config_names())
        for name, priority in urgent:
            self.log.info("a run for %s%s", name, f", its disk is at pressure: priority {priority}" if priority else "")
        return [common | {"config": name, "priority": max(priority, common["priority"])} for name, priority in urgent]


class CheckDiskOperator(CustodyOperator):
    """Look whether the disk is there and draining is switched on; skip the rest where it is off."""

    def work(self, context: Context) -> dict[str, object]:
        """Check, and say how full the disk is."""
        name, config = configured(context)
        ledger = open_ledger()
        look = view.look_at_disk(config, view.reserved_keys(ledger, name))
        used, free = f"{look.used_pct:.1f} % used", f"{format_size(look.free_bytes)} free"
        self.log.info("%s: %s is %s, %s", name, config.job_dir, used, free)
        if not context["params"]["dry_run"]:
            view.record_look(ledger, name, look, who=run_of(context))
            ahead = forecast(ledger, name)
            if warning := warn_of_full(name, config, ahead and ahead.until_full()):
                self.log.warning("%s", warning)
                tell(context, f"{warning.subject} fills up", str(warning))
            watch(self, context, name, config, ledger, may_pause=look.draining)
        if not look.draining:
            raise Fault(FaultKind.CANCELLED, name, "not draining", next_command=f"touch {config.job_dir / 'DRAINME'}")
        return {"used_pct": look.used_pct, "finishing": look.finishing}


class PlanSeriesOperator(CustodyOperator):
    """Survey the disk, take up what an earlier run left, plan new series. Returns their numbers, in batches."""

    def work(self, context: Context) -> list[list[int]]:
        """Plan; with ``dry_run`` only say what would be done."""
        name, config = configured(context)
        dry_run = bool(context["params"]["dry_run"])
        ledger = open_ledger()
        planned = plan.plan_series(ledger, name, config, who=run_of(context), dry_run=dry_run)
        for line in plan.describe(planned):
            self.log.info("%s%s", "dry run: " if dry_run else "", line)
        if planned.refused:
            self.log.warning("%d series could not be named", len(planned.refused))
        if dry_run:
            raise AirflowSkipException(f"dry run: {len(planned.planned)} new series, nothing was touched")
        return batches.plan_batches(ledger, planned.series_ids[:MAX_SERIES_A_RUN], config)


class SeriesStepOperator(CustodyOperator):
    """One step on a batch of series, often of one: each is tried, and one that fails keeps no other.

    :param series_ids: their numbers in the ledger.
    """

    template_fields: Sequence[str] = ("series_ids",)
    step: ClassVar[Step]
    uses_targets: ClassVar[bool] = False
    is_last: ClassVar[bool] = False

    def __init__(self, *, series_ids: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.series_ids = series_ids

    @property
    def series_id(self) -> int | None:
        """The series of a batch of one, for the link to its page."""
        return self.series_ids[0] if len(self.series_ids) == 1 else None

    def work(self, context: Context) -> dict[str, object]:
        """Do the step on those of which the ledger does not say that it was done."""
        done = self.try_each(context)
        return {"series": [one.id for one in done], **_counts(done)}

    def try_each(self, context: Context) -> list[Series]:
        """Those that are through this step. Faults: the one it ends with, see :class:`custody.drain.batches.Tried`."""
        ledger, numbers = open_ledger(), list(self.series_ids)
        self._name(context, batches.name_batch(ledger, numbers))
        reach = targets_of if self.uses_targets else _no_targets
        who, since = run_of(context), context["dag_run"].start_date
        tried = batches.try_each(type(self).step, ledger, numbers, who=who, targets_of=reach, since=since)
        self._name(context, batches.name_batch(ledger, numbers))  # pack may have named items anew
        may_retry = context["ti"].try_number <= context["ti"].max_tries
        if fault := tried.fault(may_retry=may_retry, is_last=self.is_last):
            raise fault
        if not tried.through:
            items = ", ".join(one.item for one in tried.dropped[:3])
            raise AirflowSkipException(f"{items}: none of the files could be packed; see quarantine")
        if left := tried.count - len(tried.through) - len(tried.dropped):
            self.log.warning("%d of %d series of this batch are left behind", left, tried.count)
        return tried.through

    def _name(self, context: Context, name: str) -> None:
        """Say what the grid shows (map_index_template)."""
        context["batch"] = name  # type: ignore[typeddict-unknown-key]


class PackOperator(SeriesStepOperator):
    """Check, hash and move the files of a series into the directory of its item."""

    step = staticmethod(pack)


class ManifestOperator(SeriesStepOperator):
    """Write the manifest of a packed series."""

    step = staticmethod(manifest)


class CreateItemOperator(SeriesStepOperator):
    """Make the item of a series at the target."""

    step = staticmethod(create_item)
    uses_targets = True


class UploadOperator(SeriesStepOperator):
    """Send the files of a series that are not stored yet."""

    step = staticmethod(upload)
    uses_targets = True


class ProveOperator(SeriesStepOperator):
    """Compare what the target stores with the manifest; the proven series of a batch are an asset event."""

    step = staticmethod(prove)
    uses_targets = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(outlets=[PROVEN_SERIES], **kwargs)

    def work(self, context: Context) -> dict[str, object]:
        """Prove, and tell whoever waits for a proven series."""
        done = self.try_each(context)
        proven = {"series": [one.id for one in done], **_counts(done)}
        context["outlet_events"][PROVEN_SERIES].extra = {**proven, "items": [one.item for one in done]}
        return proven


class DeleteProvenOperator(SeriesStepOperator):
    """Delete the local files of a proven series, as far as the gate lets them go."""

    step = staticmethod(delete_proven)
    uses_targets = True
    is_last = True

    def work(self, context: Context) -> dict[str, object]:
        """Delete, unless the configuration says nobody knows what."""
        name = context["params"].get("config")
        if name and (fault := last_good.find_fault(name)):
            reason = f"{fault.reason}; nothing is deleted by the last good configuration"
            raise Fault(FaultKind.CONFIG, fault.subject, reason, next_command=f"custody drain check {name}")
        return super().work(context)


class FinishCrawlOperator(CustodyOperator):
    """See whether a crawl whose end was announced (FINISH_DRAIN) is drained; its logs are stored then, if so asked."""

    def work(self, context: Context) -> dict[str, object]:
        """Look at ledger and disk."""
        name, config, ledger = _single(context)
        watch(self, context, name, config, ledger, may_pause=False)  # there may be room now
        if not markers.is_finishing(config.job_dir):
            raise AirflowSkipException(f"{name}: the crawl goes on (no FINISH_DRAIN)")
        if config.bundle_from and report.look_at_finish(ledger, name, config).is_drained:
            for stored in bundles.bundle_crawl(ledger, config, targets_of(config), who=run_of(context)):
                self.log.info("%s: %s", stored.place, describe(stored.fixity))
        finish = report.finish_crawl(ledger, name, config)
        left = f"{finish.left_series} series, {finish.left_files} files left"
        self.log.info("%s: %s", name, "drained, 0 left" if finish.is_drained else left)
        return {"drained": finish.is_drained, "left_series": finish.left_series, "left_files": finish.left_files}


class ReportOperator(CustodyOperator):
    """Say what became of every series, and fail the run where one is stuck: partial is never shown as success."""

    def work(self, context: Context) -> dict[str, int]:
        """Report from the ledger."""
        name, config, ledger = _single(context)
        for state, (series, files, size) in sorted(report.totals(ledger, name).items()):
            self.log.info("%s: %d series, %d files, %s", state, series, files, format_size(size))
        damaged = report.quarantined(config)
        for path in damaged:
            self.log.warning("in quarantine: %s", path)
        stuck = report.list_series(ledger, name, stuck_only=True)
        for line in stuck:
            self.log.error("series %d, %s: %s", line.id, line.state, line.fault)
        if fault := last_good.find_fault(name):
            raise AirflowFailException(f"{fault}. Next: custody drain check {name}")
        broken = failed_tasks(context)
        if stuck or broken:
            raise AirflowFailException(
                f"{name}: {len(stuck)} series stuck, {len(broken)} tasks failed ({', '.join(broken[:5])}). "
                f"Next: custody drain status {name} --stuck"
            )
        return {"stuck": len(stuck), "quarantined": len(damaged)}


class AuditOperator(CustodyOperator):
    """Compare the ledger with every target and with the disk; anything that drifted fails the task."""

    def work(self, context: Context) -> dict[str, int]:
        """Audit the series of the last ``days``, or one ``series``."""
        name, config = configured(context)
        ledger, number, who = open_ledger(), context["params"]["series"], run_of(context)
        if number:
            found = audit_series(ledger, name, number, targets_of(load(ledger, number).config), who=who)
        else:
            days = int(context["params"]["days"])
            found = audit(ledger, name, config, targets_of(config), days=days, who=who)
        self.log.info("%s: %d series, %d files looked at", name, found.series, found.files)
        for drift in found.drifts:
            self.log.error("%s: %s", drift.place, drift.what)
        if found.drifts:
            first = found.drifts[0]
            raise AirflowFailException(
                f"{name}: {len(found.drifts)} things are not as the ledger says; first {first.place}: {first.what}. "
                f"Next: custody where-is {first.place.rpartition('/')[2]}"
            )
        return {"series": found.series, "files": found.files, "drifts": 0}


class RestoreOperator(CustodyOperator):
    """Bring a drained file back from the first of its targets that gives the right bytes."""

    def work(self, context: Context) -> dict[str, object]:
        """Restore ``file`` into the directory ``into``."""
        name, into = context["params"]["file"], context["params"]["into"]
        if not name or not into:
            raise Fault(FaultKind.CONFIG, "action restore", "needs `file` and `into`")
        ledger = open_ledger()
        series = load(ledger, restore.find(ledger, name))
        path = restore.restore(ledger, series.id, name, targets_of(series.config), Path(into), who=run_of(context))
        self.log.info("%s: equal to its manifest, at %s", name, path)
        return {"series": series.id}


def _no_targets(_config: DrainConfig) -> Sequence[Target]:
    return ()


def _counts(done: Sequence[Series]) -> dict[str, object]:
    return {"files": sum(len(one.files) for one in done), "size_bytes": sum(one.size_bytes for one in done)}


def _single(context: Context) -> tuple[str, DrainConfig, Ledger]:
    """Name, configuration and ledger of a run; a run that only started others, or a dry one, has no more to do."""
    if context["params"].get("config") == ALL:
        raise AirflowSkipException("every configuration reports in its own run")
    if context["params"]["action"] != DRAIN:
        raise AirflowSkipException("nothing was drained")
    if context["params"]["dry_run"]:
        raise AirflowSkipException("dry run: nothing to report")
    name, config = configured(context)
    return name, config, open_ledger()
