"""``custody bitarchive ...``: batch jobs over every file of an archive, and its files in and out.

Exit status: 0 ok, 1 usage or a fault, 2 partial, 3 nothing.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import accounts, finish, handout, plan, remote, work
from custody.bitarchive.batch.plan import Batch, Request
from custody.bitarchive.batch.spec import Given, resolve
from custody.bitarchive.config import replica_for_files
from custody.bitarchive.jobs.library import LIBRARY
from custody.bitarchive.states import FileState
from custody.cli import bitarchive_cache, bitarchive_files, bitarchive_viewer
from custody.cli.show import show
from custody.faults import Fault
from custody.ledger import run_name


class UsageAware(click.Group):
    """A group whose usage errors end with 1, as the old tools did; 2 says that a result is partial."""

    def invoke(self, context: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(context)
        except click.UsageError as error:
            error.show()
            sys.exit(1)


@click.group(cls=UsageAware)
def bitarchive() -> None:
    """Batch jobs, upload, preservation, indexes and a viewer over stores of WARC and ARC files."""


@bitarchive.command("batch")
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("job", required=False)
@click.option("-C", "class_file", metavar="FILE", help="The job: a Python file (as JOB).")
@click.option("-J", "package", metavar="ZIP", help="The job: a zip of Python modules; needs -N.")
@click.option("-N", "class_name", help="Class of the job: Class in a file, package.module.Class in a zip.")
@click.option("-R", "--regexp", default=".*", show_default=True, help="The whole base name of a file must match.")
@click.option("-B", "--replica", help="Name or id of a bitarchive replica.")
@click.option("-O", "--output", type=click.Path(path_type=Path), help="Where the output goes; must not be there yet.")
@click.option("-E", "--errors", type=click.Path(path_type=Path), help="Where the errors go; must not be there yet.")
@click.option("-A", "--arguments", help="Arguments of the job: a##b##c.")
@click.option("--file-timeout", type=float, help="Seconds for one file.")
@click.option("--timeout", type=float, help="Seconds for the whole job.")
@click.option("--max-exceptions", type=int, help="How many exceptions of a file are kept.")
@click.option("--retry-failed", type=int, metavar="BATCH", help="Go on with a batch: only what is not done.")
def run_batch(
    archive_name: str,
    job: str | None,
    class_file: str | None,
    package: str | None,
    class_name: str | None,
    output: Path | None,
    errors: Path | None,
    arguments: str | None,
    retry_failed: int | None,
    **given: Any,
) -> None:
    """Run JOB over the files of ARCHIVE: a job of the library, module:Class, a .py file, a .zip, or a program."""
    archive = Archive.open(archive_name)
    for path in (output, errors):
        if path is not None:
            handout.check_target(path)
    if retry_failed is not None:
        batch = plan.load(archive, retry_failed)
        plan.retry(archive, batch.id, who=run_name())
    else:
        batch = _begin(archive, _job_of(job, class_file, package, class_name, arguments), given)
    where = output or "standard output"
    again = f"custody bitarchive batch {archive.name} --retry-failed {batch.id}"
    click.echo(f"batch {batch.id}; if it is cut off, go on with: {again}", err=True)
    click.echo(
        f"Running batch job '{batch.job}' on files matching '{batch.request.regexp}' on replica '{batch.replica}', "
        f"output written to {where}, errors written to {errors or 'standard error'}",
        err=True,
    )
    _run_buckets(archive, batch)
    found = finish.collect(archive, batch.id, who=run_name())
    click.echo(f"batch {batch.id}: {found.summary}", err=True)
    try:
        _hand_out(found, output)
    except Fault as fault:
        raise Fault(fault.kind, fault.subject, f"{fault.reason}; the result lies in {found.output}") from fault
    _hand_out_errors(accounts.describe_errors(archive, batch.id), errors)
    if found.state.exit_status:
        if found.failures or found.processed < batch.files_expected:
            click.echo(f"Next: custody bitarchive batch {archive.name} --retry-failed {batch.id}", err=True)
        sys.exit(found.state.exit_status)


def _job_of(
    job: str | None, class_file: str | None, package: str | None, class_name: str | None, arguments: str | None
) -> Given:
    said = [word for word in (job, class_file, package) if word]
    if len(said) != 1:
        what = "name one job" if said else "Missing required argument: a job"
        raise click.UsageError(f"{what}: JOB, -C FILE or -J ZIP -N CLASS (library: {', '.join(LIBRARY)})")
    if package and not class_name:
        raise click.UsageError("-J needs -N: the class as package.module.Class")
    return resolve(said[0], class_name, arguments)


def _begin(archive: Archive, job: Given, given: dict[str, Any]) -> Batch:
    request = Request(
        regexp=given["regexp"],
        replica=given["replica"],
        file_timeout_s=given["file_timeout"],
        job_timeout_s=given["timeout"],
        max_exceptions=given["max_exceptions"],
    )
    return plan.create(archive, job, request, key=f"cli/{uuid.uuid4()}", who=run_name())


def _run_buckets(archive: Archive, batch: Batch) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty()) as bar:
        buckets = plan.buckets_to_run(archive, batch.id)
        task = bar.add_task("files", total=sum(bucket.files for bucket in buckets))

        def tell(_name: str, _state: FileState) -> None:
            bar.advance(task)

        for bucket in buckets:
            work.run_bucket(archive, batch.id, bucket.number, progress=tell)


def _hand_out(found: accounts.Account, output: Path | None) -> None:
    if found.output is None:
        return
    if output is not None:
        laid = handout.publish_output(found, output)
        if laid != output:
            click.echo(f"{laid}: PARTIAL; the whole output would have been {output}", err=True)
        return
    with found.output.open("rb") as source:
        while block := source.read(1 << 20):
            sys.stdout.buffer.write(block)


def _hand_out_errors(text: str, errors: Path | None) -> None:
    if errors is not None:
        handout.publish_text(text, errors)
    elif text:
        click.echo(text, err=True, nl=False)


@bitarchive.command("account")
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("batch_id", type=int, metavar="BATCH")
@click.option("--failed", is_flag=True, help="Only files that are not done.")
@click.option("--json", "as_json", is_flag=True)
def show_account(archive_name: str, batch_id: int, failed: bool, as_json: bool) -> None:
    """Show what became of every file of BATCH."""
    archive = Archive.open(archive_name)
    found = accounts.account(archive, batch_id)
    rows = [
        (
            line.name,
            line.node,
            line.state,
            line.records,
            line.output_bytes,
            line.error_class,
            line.message,
            "" if line.offset_bytes < 0 and not as_json else line.offset_bytes,
        )
        for line in accounts.lines(archive, batch_id, only_failed=failed)
    ]
    headings = ("file", "node", "state", "records", "output bytes", "error", "message", "offset")
    show(headings, rows, as_json=as_json)
    if not as_json:
        click.echo(f"batch {batch_id} is {found.state}: {found.summary}")
        if found.post_error:
            click.echo(found.post_error.rstrip())
    sys.exit(found.state.exit_status)


@bitarchive.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("replica_name", metavar="[REPLICA]", required=False)
def adopt(archive_name: str, replica_name: str | None) -> None:
    """Read every file that lies on the nodes of REPLICA and put it on record. Nothing is changed there."""
    archive = Archive.open(archive_name)
    replica = replica_for_files(archive.config, replica_name)
    found = catalogue.adopt(archive, replica, who=run_name())
    click.echo(f"replica {replica.id}: {found.added} files put on record, {found.known} were known")
    for name in found.strangers:
        click.echo(f"left alone, no archive file: {name.encode('unicode_escape').decode()}", err=True)
    for name in found.different:
        click.echo(f"left alone, on record with other bytes: {name}", err=True)
    if found.different:
        sys.exit(2)


@bitarchive.command("node-job", hidden=True)
def node_job() -> None:
    """Run one job on one file of this machine, for another machine that asks over ssh."""
    sys.exit(remote.serve())


@bitarchive.command()
def jobs() -> None:
    """List the jobs of the library."""
    rows = [(name, " ".join((made.__doc__ or "").split())) for name, made in LIBRARY.items()]
    show(("job", "what it does"), rows)


for _command in (*bitarchive_files.COMMANDS, *bitarchive_cache.COMMANDS, *bitarchive_viewer.COMMANDS):
    bitarchive.add_command(_command)
