"""``custody drain addup|check-crawldata|check-staged|copy-crawldata|bundle|store-bundle``: draintasker's utilities."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import click

from custody.cli.show import show
from custody.drain import artifacts, bundles
from custody.drain.artifacts import Comparison, Place, Sum
from custody.faults import Fault, FaultKind
from custody.host import SshHost, SshTarget
from custody.ledger import Ledger, run_name
from custody.units import format_size

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


def _remote(command: Callable[..., None]) -> Callable[..., None]:
    """The options by which another machine is reached."""
    for option in (
        click.option("--key-file", type=click.Path(dir_okay=False, path_type=Path), help="Private key of ssh."),
        click.option("--port", type=int, default=22, show_default=True, help="Port of ssh."),
        click.option("--host-key", default="", help="The other machine's host key: `ssh-ed25519 AAAA...`."),
    ):
        command = option(command)
    return command


def _place(text: str, host_key: str, port: int, key_file: Path | None) -> Place:
    """``DIR``, or ``[USER@]HOST:DIR`` as scp has it."""
    address, colon, directory = text.partition(":")
    if not colon or "/" in address:
        return Place(Path(text))
    user, _, host = address.rpartition("@")
    if not PurePosixPath(directory).is_absolute():
        raise Fault(FaultKind.CONFIG, text, "names no absolute path over there")
    return Place(PurePosixPath(directory), SshHost(SshTarget(host, host_key, user or None, port, key_file)))


def _show_sums(heading: str, sums: dict[str, Sum], *, as_json: bool) -> None:
    total = sum(sums.values(), Sum())
    rows = [*sums.items()] if as_json else [*sums.items(), ("total", total)]
    show(
        (heading, "files", "bytes", "size"),
        [(name, found.files, found.size_bytes, format_size(found.size_bytes)) for name, found in rows],
        as_json=as_json,
    )


@click.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True)
def addup(directory: Path, as_json: bool) -> None:
    """Count the WARC and ARC files below DIRECTORY and their bytes."""
    _show_sums("suffix", artifacts.addup(directory), as_json=as_json)


@click.command("check-crawldata")
@click.argument("directory", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True)
def check_crawldata(directory: Path, as_json: bool) -> None:
    """Count the files and bytes in each directory below DIRECTORY."""
    _show_sums("directory", artifacts.check_crawldata(directory), as_json=as_json)


@click.command("check-staged")
@click.argument("source", type=_DIRECTORY)
@click.argument("staged")
@_remote
def check_staged(source: Path, staged: str, **remote: Any) -> None:
    """Compare a job tree with its staged copy ([USER@]HOST:DIR or DIR), file by file, by digests."""
    found = artifacts.check_staged(source, _place(staged, **remote))
    _tell(found)
    if not found.is_whole:
        sys.exit(2)


def _tell(found: Comparison) -> None:
    for what, names in (("missing", found.missing), ("different", found.different), ("strange", found.strangers)):
        for name in names:
            click.echo(f"{what}: {name!r}" if not name.isprintable() else f"{what}: {name}")
    state = "whole" if found.is_whole else "NOT whole"
    click.echo(
        f"{state}: {found.equal} files equal, {len(found.missing)} missing, {len(found.different)} different, "
        f"{len(found.strangers)} that the source does not have"
    )


@click.command("copy-crawldata")
@click.argument("source", type=_DIRECTORY)
@click.argument("staging")
@_remote
def copy_crawldata(source: Path, staging: str, **remote: Any) -> None:
    """Copy a whole job tree to STAGING ([USER@]HOST:DIR or DIR) and prove the copy; run again to go on."""
    _tell(artifacts.copy_crawldata(source, _place(staging, **remote)))


@click.command()
@click.argument("directories", type=_DIRECTORY, nargs=-1, required=True)
@click.option("--crawl", required=True, help="Name of the crawl.")
@click.option("--host", required=True, help="Name of the crawler.")
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), default=Path(), show_default=True)
def bundle(directories: tuple[Path, ...], crawl: str, host: str, into: Path) -> None:
    """Pack config, logs, recover files, reports and tombstones below DIRECTORIES into one tar.gz."""
    click.echo(bundles.bundle(directories, into, crawl=crawl, host=host))


@click.command("store-bundle")
@click.argument("bundle_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("staging")
@_remote
def store_bundle(bundle_file: Path, staging: str, **remote: Any) -> None:
    """Send a bundle to STAGING (USER@HOST:DIR) as an item of its own, prove it there, and put it on record."""
    from custody.drain.targets.thumper import ThumperTarget

    place = _place(staging, **remote)
    if place.host is None:
        raise Fault(FaultKind.CONFIG, staging, "is not on another machine", next_command="write it as USER@HOST:DIR")
    ledger = Ledger.open()
    stored = bundles.store_bundle(bundle_file, ThumperTarget(place.host, place.directory, port=remote["port"]))
    bundles.record_bundle(ledger, stored, who=run_name())
    click.echo(f"{stored.place}: proven, sha256 {stored.fixity.digests['sha256']}")


COMMANDS = (addup, check_crawldata, check_staged, copy_crawldata, bundle, store_bundle)
