"""``custody bitarchive upload|get-file|get-record|get-metadata|check``: files in, out, and looked after."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from custody.bitarchive import catalogue, get, mend, preserve
from custody.bitarchive.archive import Archive
from custody.bitarchive.checksum_replica import ChecksumReplica
from custody.bitarchive.config import Replica, ReplicaType
from custody.bitarchive.states import ChecksumStatus
from custody.bitarchive.upload import upload as upload_files
from custody.cli.show import show
from custody.faults import Fault, FaultKind
from custody.ledger import run_name

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("files", nargs=-1, required=True, type=_PATH)
@click.option("--keep", is_flag=True, help="Leave the local files where they are.")
def upload(archive_name: str, files: tuple[Path, ...], keep: bool) -> None:
    """Upload FILES to all replicas; each is deleted here when all have it, read back and equal."""
    done = upload_files(Archive.open(archive_name), files, who=run_name(), keep=keep)
    for one in done:
        click.echo(f"Uploading file '{one.path}' {'succeeded' if one.is_complete else 'failed'}")
        for replica, state in one.states.items():
            click.echo(f"  {replica}: {state}")
        if one.reason:
            click.echo(f"custody: {one.reason}", err=True)
    complete = sum(one.is_complete and (keep or one.deleted) for one in done)
    if complete < len(done):
        sys.exit(2 if complete else 3)


@click.command("get-file")
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("name")
@click.argument("destination", required=False, type=_PATH)
@click.option("-B", "--replica", help="Name or id of a bitarchive replica.")
def get_file(archive_name: str, name: str, destination: Path | None, replica: str | None) -> None:
    """Fetch the file NAME, compared with the catalogue, to DESTINATION (default: its own name, here)."""
    click.echo(get.get_file(Archive.open(archive_name), name, destination or Path(), replica))


@click.command("get-record")
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("name")
@click.argument("offset", type=int)
@click.option("-B", "--replica", help="Name or id of a bitarchive replica.")
def get_record(archive_name: str, name: str, offset: int, replica: str | None) -> None:
    """Write the content of the record at OFFSET of the file NAME to standard output, byte by byte."""
    with get.open_record(Archive.open(archive_name), name, offset, replica) as record:
        while block := record.content.read(1 << 20):
            sys.stdout.buffer.write(block)


@click.command("get-metadata")
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("job_id", type=int, metavar="JOB")
@click.option("-B", "--replica", help="Name or id of a bitarchive replica.")
def get_metadata(archive_name: str, job_id: int, replica: str | None) -> None:
    """Write all metadata files of exactly the job JOB to standard output, one after the other."""
    for block in get.get_metadata(Archive.open(archive_name), job_id, replica):
        sys.stdout.buffer.write(block)


@click.group()
def check() -> None:
    """Bit preservation: what is missing, what has changed, and how it is mended."""


def _replicas(archive: Archive, name: str | None) -> list[Replica]:
    if name is None:
        return list(archive.config.replicas)
    try:
        return [archive.config.replica(name)]
    except ValueError as error:
        raise Fault(FaultKind.CONFIG, f"replica {name!r}", str(error)) from error


@check.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("replica_name", metavar="[REPLICA]", required=False)
def missing(archive_name: str, replica_name: str | None) -> None:
    """List what the replicas lack, and what they have too much. Fast: names only."""
    archive = Archive.open(archive_name)
    is_bad = False
    for replica in _replicas(archive, replica_name):
        found = preserve.find_missing(archive, replica, who=run_name())
        click.echo(
            f"replica {replica.id}: {found.listed} files, {len(found.missing)} missing, {len(found.extra)} extra"
        )
        for name in found.missing:
            click.echo(f"missing: {name}")
        for name in found.extra:
            click.echo(f"extra (missing in the catalogue): {name}")
        is_bad |= bool(found.missing)
    sys.exit(2 if is_bad else 0)


@check.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("replica_name", metavar="[REPLICA]", required=False)
def changed(archive_name: str, replica_name: str | None) -> None:
    """Read every file of the replicas, and vote. Takes as long as reading them."""
    archive = Archive.open(archive_name)
    is_bad = False
    replicas = _replicas(archive, replica_name)
    for replica, found in zip(replicas, preserve.find_all_changed(archive, replicas, who=run_name()), strict=True):
        counts = f"{len(found.statuses)} files, {len(found.wrong)} changed, {len(found.missing)} missing"
        click.echo(f"replica {replica.id}: {counts}")
        for name in found.missing:
            click.echo(f"missing: {name}")
        for name, md5 in found.wrong.items():
            click.echo(f"changed: {name} md5 {md5}: {found.statuses[name]}")
            if found.statuses[name] is not ChecksumStatus.CORRUPT:
                click.echo(f"  Next: no copy has the votes; compare them by hand: custody where-is {name}")
            elif replica.type is ReplicaType.BITARCHIVE:
                click.echo(f"  Next: custody bitarchive check correct {archive.name} {replica.id} {name} {md5}")
            else:
                click.echo(f"  Next: take the line of {name} out of {replica.file} by hand")
        is_bad |= bool(found.wrong or found.missing)
    sys.exit(2 if is_bad else 0)


@check.command("upload-missing")
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("replica_name", metavar="REPLICA")
@click.argument("names", nargs=-1)
def upload_missing(archive_name: str, replica_name: str, names: tuple[str, ...]) -> None:
    """Bring what REPLICA lacks (all of it, or NAMES) from a good copy in another replica."""
    archive = Archive.open(archive_name)
    (replica,) = _replicas(archive, replica_name)
    wanted = names or preserve.find_missing(archive, replica, who=run_name()).missing
    answers = mend.upload_missing(archive, replica, wanted, who=run_name())
    for name, reason in answers.items():
        click.echo(f"{name}: {reason or 'brought back and proven'}")
    failed = sum(map(bool, answers.values()))
    if failed:
        sys.exit(3 if failed == len(answers) else 2)


@check.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("replica_name", metavar="REPLICA")
@click.argument("name")
@click.argument("wrong_md5", metavar="MD5")
@click.option("--yes", is_flag=True, help="Do not ask.")
def correct(archive_name: str, replica_name: str, name: str, wrong_md5: str, yes: bool) -> None:
    """Replace the changed file NAME, whose md5 is MD5 now, by a good copy; the changed one goes to the attic."""
    archive = Archive.open(archive_name)
    (replica,) = _replicas(archive, replica_name)
    if not yes and not click.confirm(f"Replace {name} in replica {replica.id} by a good copy of another replica?"):
        raise Fault(FaultKind.CANCELLED, name, "nothing was done")
    aside = mend.correct(archive, replica, name, wrong_md5, approved_by=run_name(), who=run_name())
    click.echo(f"{name}: replaced and proven; the changed file is {aside} in atticdir")


@check.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("replica_name", metavar="REPLICA")
def sign(archive_name: str, replica_name: str) -> None:
    """Sign the list of a checksum REPLICA as it stands, if every line agrees with the catalogue."""
    archive = Archive.open(archive_name)
    (replica,) = _replicas(archive, replica_name)
    if replica.type is not ReplicaType.CHECKSUM:
        raise Fault(FaultKind.CONFIG, f"replica {replica.id}", "holds files; only lists of checksums are signed")

    def md5_of(name: str) -> str | None:
        known = catalogue.find(archive, name)
        return known.fixity.digests["md5"] if known else None

    click.echo(f"replica {replica.id}: {ChecksumReplica.of(replica).sign(md5_of)} lines are signed")


@check.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.option("--all", "show_all", is_flag=True, help="Every file, not only what is bad.")
@click.option("--json", "as_json", is_flag=True)
def status(archive_name: str, show_all: bool, as_json: bool) -> None:
    """Show how files stand in every replica, as last checked. Nothing is read."""
    lines = preserve.standing(Archive.open(archive_name), only_bad=not show_all)
    rows = [
        (line.name, line.replica, line.node, line.upload_state, line.filelist_status, line.checksum_status)
        for line in lines
    ]
    show(("file", "replica", "node", "upload", "file list", "checksum"), rows, as_json=as_json)


COMMANDS = (upload, get_file, get_record, get_metadata, check)
