"""The other actions on an archive: files in, preservation with a person's word, indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import BaseBranchOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from custody.bitarchive import mend, preserve, upload
from custody.bitarchive.archive import Archive
from custody.bitarchive.config import Replica, ReplicaType
from custody.bitarchive.index.build import Indexes
from custody.bitarchive.index.names import Kind
from custody.bitarchive.states import ChecksumStatus
from custody.faults import Fault, FaultKind
from custody_airflow.operators.bitarchive import archive_of
from custody_airflow.operators.common import CustodyOperator, faults_as_outcomes, run_of
from custody_airflow.operators.questions import QuestionOperator

MAX_QUESTIONS = 1000  # Airflow maps at most 1024; the next run asks for the rest


class ChooseActionOperator(CustodyOperator, BaseBranchOperator):
    """Decide what a run is.

    :param actions: for each action of the form the task that begins it.
    """

    def __init__(self, *, actions: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.actions = dict(actions)

    def work(self, context: Context) -> None:
        """Look whether the archive and the form are what they should be, and branch."""
        archive_of(context)
        self.do_branch(context, self.actions[context["params"]["action"]])


class UploadFilesOperator(CustodyOperator):
    """Upload files to all replicas; each is deleted at its source when all have it, read back and equal."""

    def work(self, context: Context) -> dict[str, int]:
        """Upload; a file that is not in every replica fails the task, and stays where it is."""
        archive, params = archive_of(context), context["params"]
        if not params["files"]:
            raise Fault(FaultKind.CONFIG, "files", "names no file to upload")
        done = upload.upload(
            archive, [Path(name) for name in params["files"]], who=run_of(context), keep=params["keep"]
        )
        for one in done:
            self.log.info("%s: %s", one.path, ", ".join(f"{name}: {state}" for name, state in one.states.items()))
            if one.reason:
                self.log.error("%s", one.reason)
        failed = [one for one in done if not one.is_complete or not (params["keep"] or one.deleted)]
        if failed:
            raise AirflowFailException(
                f"{len(failed)} of {len(done)} files are not in every replica; first {failed[0].path}: "
                f"{failed[0].reason}. Next: trigger again: what is there is found there"
            )
        return {"uploaded": len(done)}


def _replicas(archive: Archive, name: str | None) -> list[Replica]:
    if not name:
        return list(archive.config.replicas)
    try:
        return [archive.config.replica(name)]
    except ValueError as error:
        raise Fault(FaultKind.CONFIG, f"replica {name!r}", str(error)) from error


class FindMissingOperator(CustodyOperator):
    """Compare the lists of the replicas with the catalogue; a list that cannot be had whole is refused."""

    def work(self, context: Context) -> list[dict[str, object]]:
        """Return, for each replica that lacks something, its name and how much."""
        archive = archive_of(context)
        lacking: list[dict[str, object]] = []
        for replica in _replicas(archive, context["params"]["replica"]):
            found = preserve.find_missing(archive, replica, who=run_of(context))
            self.log.info("replica %s: %d files, %d missing", replica.id, found.listed, len(found.missing))
            for name in found.missing[:1000]:
                self.log.warning("missing in %s: %s", replica.id, name)
            for name in found.extra[:1000]:
                self.log.warning("missing in the catalogue: %s, in %s", name, replica.id)
            if found.missing:
                lacking.append({"replica": replica.id, "missing": len(found.missing)})
        return lacking


class BringBackOperator(CustodyOperator):
    """Bring what a replica lacks from a good copy of another one, read whole and compared before it is written.

    :param lacking: one answer of :class:`FindMissingOperator`.
    """

    template_fields: Sequence[str] = ("lacking",)

    def __init__(self, *, lacking: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lacking = lacking

    def work(self, context: Context) -> dict[str, int]:
        """Look again what is missing, and bring it."""
        archive = archive_of(context)
        (replica,) = _replicas(archive, self.lacking["replica"])
        missing = preserve.find_missing(archive, replica, who=run_of(context)).missing
        if context["params"]["dry_run"]:
            raise AirflowSkipException(f"dry run: {len(missing)} files are missing in {replica.id}; nothing was done")
        answers = mend.upload_missing(archive, replica, missing, who=run_of(context))
        failed = {name: reason for name, reason in answers.items() if reason}
        for name, reason in failed.items():
            self.log.error("%s: %s", name, reason)
        if failed:
            name, reason = next(iter(failed.items()))
            raise AirflowFailException(f"{len(failed)} of {len(answers)} files were not brought back; {name}: {reason}")
        return {"brought": len(answers)}


class FindChangedOperator(CustodyOperator):
    """Read every file of the replicas and vote. Returns what a person is to be asked about."""

    def work(self, context: Context) -> list[dict[str, str]]:
        """Find; this takes as long as reading them all."""
        archive = archive_of(context)
        questions: list[dict[str, str]] = []
        unclear = 0
        replicas = _replicas(archive, context["params"]["replica"])
        every = preserve.find_all_changed(archive, replicas, who=run_of(context))
        for replica, found in zip(replicas, every, strict=True):
            self.log.info("replica %s: %d files, %d changed", replica.id, len(found.statuses), len(found.wrong))
            for name, md5 in found.wrong.items():
                status = found.statuses[name]
                self.log.warning("changed in %s: %s, md5 %s: %s", replica.id, name, md5, status)
                if status is ChecksumStatus.CORRUPT and replica.type is ReplicaType.BITARCHIVE:
                    questions.append({"replica": replica.id, "name": name, "md5": md5})
                else:
                    unclear += 1
        if unclear and not questions:
            command = f"custody bitarchive check status {archive.name}"
            reason = f"{unclear} files differ, and the vote does not say which copy is right"
            raise Fault(FaultKind.NEEDS_HUMAN, archive.name, reason, next_command=command)
        return questions[:MAX_QUESTIONS]


class CorrectOperator(CustodyOperator, QuestionOperator):
    """Ask a person whether a changed file may be replaced by a good copy; the changed one goes to the attic.

    :param finding: replica, name and md5 of the changed file.
    """

    template_fields: Sequence[str] = ("finding",)
    REPLACE, LEAVE = "Replace it", "Leave it"
    inherits_from_skipmixin: ClassVar[bool] = False

    def __init__(self, *, finding: dict[str, str], **kwargs: Any) -> None:
        super().__init__(options=[self.REPLACE, self.LEAVE], **kwargs)
        self.finding = finding

    def execute(self, context: Context) -> Any:
        """Ask."""
        finding = self.finding
        if context["params"]["dry_run"]:
            raise AirflowSkipException(
                f"dry run: {finding['name']} in {finding['replica']} is corrupt; nothing was done"
            )
        body = (
            f"The vote says that `{finding['name']}` in replica **{finding['replica']}** is corrupt: its md5 is now "
            f"`{finding['md5']}`. It would be moved to `atticdir`, and a copy of another replica, read whole and equal "
            "to the catalogue, put in its place."
        )
        self.ask(context, f"Replace {finding['name']} in replica {finding['replica']}?", body)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Do what the person said."""
        said = self.answer(context, event)
        if said is None:
            self.wait_on()
        if said.option != self.REPLACE:
            raise AirflowSkipException(f"{said.by} said: {self.LEAVE.lower()}")
        with faults_as_outcomes():
            archive = archive_of(context)
            (replica,) = _replicas(archive, self.finding["replica"])
            name, md5 = self.finding["name"], self.finding["md5"]
            aside = mend.correct(archive, replica, name, md5, approved_by=said.by, who=run_of(context))
        self.log.info("%s: replaced and proven; the changed file is %s in atticdir", name, aside)
        return {"attic": aside}


class BuildIndexOperator(CustodyOperator):
    """Make the index of a set of jobs, or find it in the cache."""

    def work(self, context: Context) -> dict[str, object]:
        """Index; what covers a part of the jobs only is an answer where that was allowed, and named so."""
        archive, params = archive_of(context), context["params"]
        if not params["job_ids"]:
            raise Fault(FaultKind.CONFIG, "job_ids", "names no job")
        indexes = Indexes(archive, params["replica"], processes=params["index_processes"])
        found = indexes.get(Kind(params["index_kind"]), params["job_ids"], allow_partial=params["allow_partial"])
        self.log.info("%s, sha256 %s", found.item.path, found.item.sha256)
        if found.missing:
            self.log.warning("PARTIAL: no data of jobs %s", ", ".join(map(str, found.missing)))
        return {"name": found.item.path.name, "missing": len(found.missing)}
