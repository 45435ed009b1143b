"""``custody bitarchive index`` and ``custody bitarchive cache ...``: indexes of jobs, and what they take up."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from custody.bitarchive.archive import Archive
from custody.bitarchive.config import load
from custody.bitarchive.index.build import Indexes
from custody.bitarchive.index.cache import Cache
from custody.bitarchive.index.names import Kind
from custody.bitarchive.index.parquet import install_pyarrow
from custody.bitarchive.index.takeover import Verdict, take_over
from custody.bitarchive.index.workers import MAX_PROCESSES
from custody.cli.show import show
from custody.units import format_size, parse_size


@click.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("job_ids", nargs=-1, type=int, metavar="JOB...")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), default=Kind.FULL.value, show_default=True)
@click.option("--allow-partial", is_flag=True, help="Index the jobs there is data of, under their own name.")
@click.option("-B", "--replica", help="Name or id of a bitarchive replica.")
@click.option("--processes", type=click.IntRange(1, MAX_PROCESSES), help="Files at a time; default: one for each core.")
@click.option("--install-parquet", is_flag=True, help="Only make the environment with pyarrow, from its lock.")
def index(
    archive_name: str,
    job_ids: tuple[int, ...],
    kind: str,
    allow_partial: bool,
    replica: str | None,
    processes: int | None,
    install_parquet: bool,
) -> None:
    """Make the index of a set of jobs, or find it in the cache; prints where it is."""
    archive = Archive.open(archive_name)
    if install_parquet:
        click.echo(install_pyarrow(archive))
        return
    if not job_ids:
        raise click.UsageError("Missing argument 'JOB...'.")
    indexes = Indexes(archive, replica, processes=processes)
    found = indexes.get(Kind(kind), job_ids, allow_partial=allow_partial)
    click.echo(found.item.path)
    if found.missing:
        click.echo(f"PARTIAL: no data of job {', '.join(map(str, found.missing))}", err=True)
        sys.exit(2)


@click.group()
def cache() -> None:
    """The caches of indexes."""


def _cache(archive_name: str) -> Cache:
    return Cache(load(archive_name).caches)


@cache.command("ls")
@click.argument("archive_name", metavar="ARCHIVE")
@click.option("--json", "as_json", is_flag=True)
def list_items(archive_name: str, as_json: bool) -> None:
    """List what is in the caches."""
    rows = [
        (
            f"{item.kind}/{item.path.name}",
            len(item.job_ids),
            item.size_bytes if as_json else format_size(item.size_bytes),
            datetime.fromtimestamp(item.used_at_s, UTC),
            "pinned" if item.pinned else "",
            item.sha256,
        )
        for item in _cache(archive_name).items()
    ]
    show(("item", "jobs", "size", "used", "pinned", "sha256"), rows, as_json=as_json)


@cache.command()
@click.argument("archive_name", metavar="ARCHIVE")
def verify(archive_name: str) -> None:
    """Read every item and compare it with its manifest; one that differs is made again when it is next asked for."""
    found = _cache(archive_name)
    bad = found.verify()
    for item, reason in bad:
        click.echo(f"{item.kind}/{item.path.name}: {reason}")
    torn = list(found.strangers())
    for path in torn:
        click.echo(f"no whole item: {path}: it is made again when it is next asked for")
    click.echo(f"{sum(1 for _ in found.items())} items are whole, {len(bad) + len(torn)} are not")
    if bad or torn:
        sys.exit(2)


@cache.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.option("--max-size", help="Keep at most so much (10GiB); default: cache_max_size of the configuration.")
@click.option("--max-age-days", type=float, help="Delete what was not used for so long.")
def gc(archive_name: str, max_size: str | None, max_age_days: float | None) -> None:
    """Delete what was not used for longest, until the limits are kept; pinned items stay."""
    config = load(archive_name)
    try:
        most = parse_size(max_size) if max_size else config.cache_max_size
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    age_s = None if max_age_days is None else max_age_days * 86400
    gone = Cache(config.caches).collect(max_bytes=most, max_age_s=age_s)
    for item in gone:
        click.echo(f"deleted: {item.kind}/{item.path.name}, {format_size(item.size_bytes)}")
    click.echo(f"{len(gone)} items deleted")


@cache.command()
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("item")
@click.option("--off", is_flag=True, help="No longer.")
def pin(archive_name: str, item: str, off: bool) -> None:
    """Keep ITEM (KIND/NAME, as ls prints it) whatever the limits say."""
    found = _cache(archive_name)
    found.pin(found.find(item), pinned=not off)


@cache.command("import")
@click.argument("archive_name", metavar="ARCHIVE")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-B", "--replica", help="Name or id of a bitarchive replica.")
def import_old(archive_name: str, directory: Path, replica: str | None) -> None:
    """Take over the caches of NetarchiveSuite below DIRECTORY (its cacheDir); nothing is changed there.

    An item is made from the archive and compared, line by line: what is equal is in the cache afterwards, and the old
    one may go.
    """
    is_bad = False
    for found in take_over(Indexes(Archive.open(archive_name), replica), directory):
        click.echo(
            f"{found.path.relative_to(directory)}: {found.verdict}" + (f": {found.reason}" if found.reason else "")
        )
        is_bad |= found.verdict is not Verdict.EQUAL
    sys.exit(2 if is_bad else 0)


COMMANDS = (index, cache)
