"""``custody tape restore|scan|import-catalog``: back from tapes, and what is known of them."""

from __future__ import annotations

from pathlib import Path

import click

from custody.cli.tape_group import Exit, Interrupts, Meter, Site, has_terminal, path_bytes, verb
from custody.faults import Fault, FaultKind
from custody.tape import rebuild
from custody.tape import restore as restoring
from custody.tape.legacy import import_catalog
from custody.tape.restore import Restored, TapePlan
from custody.tape.session import mounted
from custody.tape.source import LOCAL, source_of
from custody.units import format_size


@click.command("restore")
@click.argument("patterns", nargs=-1, required=True)
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), help="The directory to restore into.")
@click.option("--tape", help="Only from this tape.")
@click.option("--dry-run", is_flag=True, help="Show which tapes are needed, and the plain commands that do the same.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("-v", "--verbose", is_flag=True, help="Every problem, and the plain commands that do the same.")
@verb
def restore_(
    site: Site,
    patterns: tuple[str, ...],
    into: Path | None,
    tape: str | None,
    dry_run: bool,
    overwrite: bool,
    verbose: bool,
) -> Exit:
    """Bring PATTERNS back: targets, paths, directories, globs, or digests (md5:..., sha256:...).

    Names are restored below --into as they are in the archives: /data/x becomes INTO/data/x.
    """
    plans = restoring.plan(site.ledger, [path_bytes(pattern) for pattern in patterns], tape=tape)
    if dry_run:
        for one in plans:
            _show_plan(site, one)
        return Exit.DONE
    if into is None:
        raise click.UsageError("--into DIRECTORY says where to")
    ended = Exit.DONE
    interrupts = Interrupts()
    with interrupts.held():
        for position, one in enumerate(sorted(plans, key=lambda plan: not plan.tape.is_online)):
            if position and not _is_inserted(one, patterns, into):
                return Exit.TROUBLE
            if verbose:
                _show_plan(site, one)
            try:
                found = _restore_tape(site, one, into, overwrite, verbose, interrupts)
            except Fault as fault:
                raise restoring.with_others(site.ledger, one, fault) from fault
            if found is Exit.STOPPED:
                return found
            ended = max(ended, found)
    return ended


def _show_plan(site: Site, plan: TapePlan) -> None:
    click.echo(f"# tape {plan.tape.called}, {plan.tape.state}: files " + _numbers(plan))
    for text in restoring.commands(site.ledger, plan):
        click.echo(text)


def _numbers(plan: TapePlan) -> str:
    return ", ".join(str(selection.backup.file_number) for selection in plan.selections)


def _is_inserted(plan: TapePlan, patterns: tuple[str, ...], into: Path) -> bool:
    """Ask for the next tape where somebody can be asked; else say what to do."""
    if has_terminal():
        return click.confirm(f"Insert tape {plan.tape.called}. Is it in?", default=False)
    again = " ".join(restoring.quoted(path_bytes(word)) for word in ("--into", str(into), *patterns))
    fault = Fault(
        FaultKind.NEEDS_HUMAN,
        f"tape {plan.tape.called}",
        f"is needed for files {_numbers(plan)}",
        next_command=f"insert it, then custody tape restore --tape {plan.tape.name} {again}",
    )
    click.echo(f"custody: {fault}", err=True)
    return False


def _restore_tape(
    site: Site, plan: TapePlan, into: Path, overwrite: bool, verbose: bool, interrupts: Interrupts
) -> Exit:
    ended = Exit.DONE
    with mounted(site.ledger, site.config, plan.tape, who=site.who) as session:
        for selection in plan.selections:
            if interrupts.is_pause_asked or site.is_stop_asked:
                return Exit.STOPPED
            meter = Meter(session.held.progress)
            try:
                done = restoring.restore_one(
                    session, selection, into, overwrite=overwrite, stop=interrupts.stop, progress=meter.advance
                )
            finally:
                meter.clear()
            _tell(done, None if verbose else 20)
            if done.problems:
                ended = Exit.TROUBLE
    return ended


def _tell(done: Restored, limit: int | None) -> None:
    there = f", {done.already_there} were there already" if done.already_there else ""
    unverified = f", {done.unverified} without a digest to compare with" if done.unverified else ""
    click.echo(
        f"{done.selection.where} ({done.selection.backup.target.name}): {done.restored} restored, "
        f"{format_size(done.size_bytes)}{there}{unverified}"
    )
    for fault in done.problems[:limit]:
        click.echo(f"custody: {fault}", err=True)
    if limit is not None and len(done.problems) > limit:
        click.echo(f"custody: and {len(done.problems) - limit} more; -v shows all", err=True)


@click.command("scan")
@click.argument("tape", required=False)
@click.option("--dry-run", is_flag=True, help="Only look: nothing is put on record.")
@click.option("--adopt", metavar="NAME", help="Put a cartridge without a label on record under NAME.")
@click.option("--source", default=LOCAL, show_default=True, help="With --adopt: the host its targets came from.")
@verb
def scan_(site: Site, tape: str | None, dry_run: bool, adopt: str | None, source: str) -> Exit:
    """Read the tape in the drive to its end, and rebuild the catalogue from it; TAPE says which it must be."""
    interrupts = Interrupts()
    with interrupts.held():
        done = rebuild.scan_tape(
            site.ledger,
            site.config,
            who=site.who,
            name=tape,
            dry_run=dry_run,
            adopt_as=adopt,
            source=source,
            tell=lambda found: click.echo(str(found)),
            stop=interrupts.stop,
        )
    counts = {verdict: sum(one.verdict is verdict for one in done.files) for verdict in rebuild.Verdict}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no files"
    click.echo(f"tape {done.tape_name}: {words}{'; nothing was put on record' if dry_run else ''}")
    done.require()
    return Exit.DONE


@click.command("import-catalog")
@click.argument("database", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--source", help="The host its targets lie on; default: the one of ssh_command, or this machine.")
@click.option("--pool", help="The pool its tapes belong to; default: the first one of the configuration.")
@verb
def import_catalog_(site: Site, database: Path | None, source: str | None, pool: str | None) -> Exit:
    """Take over tapeop's catalogue: DATABASE, or database_file of the configuration. It is only read."""
    path = database or site.config.database_file
    if path is None:
        raise click.UsageError("DATABASE, or database_file in the configuration, says which catalogue")
    if source is None:
        source = source_of(site.config).name
    done = import_catalog(site.ledger, path, who=site.who, source=source, pool=pool or site.config.pools[0])
    for note in done.notes:
        click.echo(note)
    click.echo(
        f"{done.new_tapes} tapes, {done.new_targets} targets, {done.new_backups} copies and {done.members} files are "
        f"new; {done.moved_on} have moved on"
    )
    return Exit.DONE


COMMANDS = (restore_, scan_, import_catalog_)
