"""The operators of a batch: each is one step of the domain with Airflow around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import accounts, finish, handout, plan, sandbox, walls, work
from custody.bitarchive.batch.accounts import Account
from custody.bitarchive.batch.plan import Request
from custody.bitarchive.batch.spec import Given, resolve
from custody.bitarchive.config import replica_for_files
from custody.bitarchive.names import pattern_of
from custody.bitarchive.states import BatchState, FileState
from custody.faults import Fault, FaultKind
from custody.units import format_size
from custody_airflow.hooks.bitarchive import open_archive
from custody_airflow.operators.common import CustodyOperator, failed_tasks, run_of
from custody_airflow.params.bitarchive import PARAMS


def archive_of(context: Context) -> Archive:
    """The archive a run works on. Faults: CONFIG; an unknown key of ``--conf`` is one."""
    params = context["params"]
    unknown = sorted(set(params) - set(PARAMS))
    if unknown:
        known = ", ".join(sorted(PARAMS))
        raise Fault(FaultKind.CONFIG, f"--conf key {unknown[0]!r}", f"is not known; known are: {known}")
    if not params["config"]:
        raise Fault(FaultKind.CONFIG, "config", "names no archive: a file in include/config/bitarchive/ (without .yml)")
    return open_archive(params["config"])


def batch_key(context: Context) -> str:
    """The name under which the batch of a run is on record: made once, however often a task runs."""
    instance = context["ti"]
    return f"{instance.dag_id}/{instance.run_id}"


BATCH = "batch"
BEGINNING = ("choose", "resolve_job", "list_expected_files")
"""What comes before any file is processed."""


def _require_batch(context: Context) -> None:
    """What follows whatever became of the tasks before it has nothing to do in a run that is no batch."""
    if context["params"]["action"] != BATCH:
        raise AirflowSkipException("no batch was asked for")


def _require_beginning(context: Context) -> None:
    """Where a batch was refused before it began, the log of the task that refused it says why."""
    failed = failed_tasks(context, and_behind=False)
    refused = [name for name in BEGINNING if name in failed]
    if refused:
        raise AirflowFailException(f"nothing was done: {refused[0]} failed; see the log of {refused[0]}")


def _job_of(context: Context) -> Given:
    params = context["params"]
    if not params["job"]:
        raise Fault(FaultKind.CONFIG, "job", "is missing: a job of the library, module:Class, a file or a program")
    return resolve(params["job"], params["class_name"], params["arguments"])


def _batch_of(context: Context, archive: Archive) -> int:
    """The number of this run's batch. Faults: NEEDS_HUMAN where there is none, whatever a task is marked as."""
    given = context["params"]["retry_batch"]
    if given:
        return plan.load(archive, int(given)).id
    found = plan.by_key(archive, batch_key(context))
    if found is None:
        reason = "has no list of expected files on record; nothing was done, whatever the task before is marked as"
        raise Fault(FaultKind.NEEDS_HUMAN, batch_key(context), reason, next_command="clear list_expected_files")
    return found.id


class ResolveJobOperator(CustodyOperator):
    """Look whether the job, the pattern, the replica and the sandbox are what they should be, before anything runs."""

    def work(self, context: Context) -> dict[str, object]:
        """Check; nothing is written."""
        archive, params = archive_of(context), context["params"]
        for name in ("output", "errors"):
            if params[name]:
                handout.check_target(Path(params[name]))
        walls.require(archive.config.isolation)
        if params["retry_batch"]:
            batch = plan.load(archive, int(params["retry_batch"]))
            self.log.info("going on with batch %d: %s", batch.id, batch.job)
            return {"job": str(batch.job)}
        given = _job_of(context)
        pattern_of(params["regexp"])
        replica = replica_for_files(archive.config, params["replica"])
        self.log.info("%s on files matching %s on replica %s", given.job, params["regexp"], replica.id)
        return {"job": str(given.job), "replica": replica.id}


class ListExpectedFilesOperator(CustodyOperator):
    """Write down every file the job is to see, and divide them into buckets. Returns their numbers."""

    def work(self, context: Context) -> list[int]:
        """Make the batch, or find it; nothing matched is no success."""
        archive, params = archive_of(context), context["params"]
        who = run_of(context)
        if params["retry_batch"]:
            batch = plan.load(archive, int(params["retry_batch"]))
            plan.retry(archive, batch.id, who=who)
        else:
            request = Request(
                regexp=params["regexp"],
                replica=params["replica"],
                file_timeout_s=params["file_timeout_s"],
                job_timeout_s=params["job_timeout_s"],
                max_exceptions=params["max_exceptions"],
            )
            batch = plan.create(archive, _job_of(context), request, key=batch_key(context), who=who)
        self.log.info("batch %d: %d of %d files", batch.id, batch.files_expected, batch.files_in_replica)
        buckets = plan.buckets_to_run(archive, batch.id)
        for bucket in buckets:
            size = format_size(bucket.size_bytes)
            self.log.info("bucket %d: %d files, %s, on node %s", bucket.number, bucket.files, size, bucket.node)
        return [bucket.number for bucket in buckets]


class RunOnBucketOperator(CustodyOperator):
    """The job on every file of a bucket that is not done.

    Fails where files failed, after all others were processed; clearing the task processes only those again. Marked as
    failed by hand, or ended, it ends the job's processes at once, and what they wrote is dropped.

    :param bucket: its number in the batch of this run.
    """

    template_fields: Sequence[str] = ("bucket",)

    def __init__(self, *, bucket: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bucket = bucket

    def work(self, context: Context) -> dict[str, int]:
        """Process."""
        archive = archive_of(context)
        batch_id, number = _batch_of(context, archive), int(self.bucket)
        name = f"{plan.node_of(archive, batch_id, number)} {number}"
        context["bucket"] = name  # type: ignore[typeddict-unknown-key] # for map_index_template
        try:
            counts = work.run_bucket(archive, batch_id, number, progress=self._tell)
        except Fault as fault:
            if fault.kind is not FaultKind.CANCELLED:
                raise
            # a worker that is shut down ends its jobs too: where a person did it, Airflow does not try again
            raise Fault(FaultKind.TRANSIENT, f"bucket {name}", fault.reason) from fault
        unreachable = counts.get(FileState.UNREACHABLE, 0)
        if unreachable:
            reason = f"{unreachable} files are out of reach"
            raise Fault(FaultKind.TRANSIENT, f"bucket {name}", reason)
        failed = sum(count for state, count in counts.items() if state != FileState.DONE)
        if failed:
            raise AirflowFailException(
                f"bucket {name}: {failed} of {sum(counts.values())} files are not done. "
                f"Next: custody bitarchive account {archive.name} {batch_id} --failed"
            )
        return counts

    def _tell(self, name: str, state: FileState) -> None:
        self.log.info("%s: %s", name, state)

    def on_kill(self) -> None:
        """End what runs at once."""
        sandbox.end_all()


class CollectOperator(CustodyOperator):
    """Join the outputs in the order of the names, each compared with what was recorded of it."""

    def work(self, context: Context) -> dict[str, int]:
        """Join, whatever became of the buckets."""
        _require_batch(context)
        _require_beginning(context)
        archive = archive_of(context)
        batch_id = _batch_of(context, archive)
        found = finish.join(archive, batch_id)
        self.log.info("batch %d: %s", batch_id, found.summary)
        return {state: count for state, count in found.counts.items()}


class PostProcessOperator(CustodyOperator):
    """Make the result of the outputs, and lay it down where the form says."""

    def work(self, context: Context) -> dict[str, object]:
        """Post-process and publish; a partial result is named so."""
        archive, params = archive_of(context), context["params"]
        found = finish.conclude(archive, _batch_of(context, archive), who=run_of(context))
        if params["output"]:
            found = replace(found, output=handout.publish_output(found, Path(params["output"])))
        self.log.info("%s: %s", found.state, found.output or "no output")
        return {"batch": found.batch.id, "state": found.state, "sha256": found.batch.output_sha256}

    def on_kill(self) -> None:
        """End what runs at once."""
        sandbox.end_all()


class BatchReportOperator(CustodyOperator):
    """Say what became of every file, and fail the run where one is not done: partial is never shown as success."""

    def work(self, context: Context) -> dict[str, object]:
        """Report from the ledger."""
        _require_batch(context)
        _require_beginning(context)
        archive, params = archive_of(context), context["params"]
        found = accounts.account(archive, _batch_of(context, archive))
        self.log.info("batch %d: %s", found.batch.id, found.summary)
        text = accounts.describe_errors(archive, found.batch.id)
        for line in text.splitlines():
            self.log.error("%s", line)
        if params["errors"]:
            handout.publish_text(text, Path(params["errors"]))
        self._judge(archive, found)
        return {"batch": found.batch.id, "summary": found.summary}

    def _judge(self, archive: Archive, found: Account) -> None:
        if not found.batch.files_expected:
            raise AirflowSkipException(f"batch {found.batch.id}: {found.summary}")
        if found.state is not BatchState.COMPLETE or found.batch.state is not BatchState.COMPLETE:
            raise AirflowFailException(
                f"batch {found.batch.id} is {found.state}: {found.summary}. "
                f"Next: custody bitarchive account {archive.name} {found.batch.id} --failed"
            )
