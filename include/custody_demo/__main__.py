"""`python -m custody_demo`: the whole of Custody on one machine, on sample data, before your eyes."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.panel import Panel

from custody.faults import Fault
from custody_demo import bitarchive_chapter, drain_chapter, minidvodb_chapter, tape_chapter, wiki_chapter
from custody_demo.airflow_api import AirflowApiError
from custody_demo.airflow_stack import PROJECT, AirflowStack
from custody_demo.archive_org import serve
from custody_demo.processes import StartError
from custody_demo.progress import Board
from custody_demo.second_machine import run_second_machine
from custody_demo.workspace import Chapter, Outcome, Workspace, prepare

CHAPTERS: tuple[Chapter, ...] = (drain_chapter, minidvodb_chapter, tape_chapter, wiki_chapter, bitarchive_chapter)
POOLS = PROJECT / "include/config/pools.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when every sample file ended where it should, 1 when not, 2 when something did not start."""
    options = _parser().parse_args(argv)
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _demo(options.home, console, once=options.once)
    except (StartError, AirflowApiError) as error:
        console.print(f"custody: {error}", style="red", markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        console.print("stopped")
        return 130


def _demo(home: Path, console: Console, *, once: bool) -> int:
    workspace = prepare(home, console)
    say = partial(console.print, soft_wrap=True, highlight=False)
    with ExitStack() as running:
        workspace = _start_places(workspace, running)
        workspace.upgrade_ledger()
        stack = AirflowStack(workspace.home / "airflow", extra_env=workspace.environment())
        first = "" if (workspace.home / "airflow/airflow.db").exists() else "; the first start takes longer"
        say(f"Starting Airflow (logs: {stack.home / 'components'}){first} ...")
        began = time.monotonic()
        with stack:
            if POOLS.exists():
                stack.import_pools(POOLS)
            say(f"Airflow is ready after {time.monotonic() - began:.0f} s: {stack.url}")
            outcomes = show_all(stack, workspace, CHAPTERS)
            _sum_up(console, outcomes)
            if not once:
                _stay(console, stack, workspace)
            say("Stopping ...")
    return 1 if any(outcome.problems for outcome in outcomes) else 0


def show_all(stack: AirflowStack, workspace: Workspace, chapters: Sequence[Chapter]) -> list[Outcome]:
    """Run all chapters at the same time, for Airflow mostly waits; what ends one of them is its only problem.

    An error that nobody expects is raised when all are over.
    """
    outcomes: dict[str, Outcome] = {}
    unexpected: list[BaseException] = []

    def show(chapter: Chapter) -> None:
        title = chapter.TITLE
        own = replace(workspace, console=board.console_for(title), show=partial(board.show, title))
        try:
            outcomes[title] = chapter.run(stack, own)
        except (AirflowApiError, StartError, Fault) as error:
            outcomes[title] = Outcome(title, (str(error),))
        except BaseException as error:
            unexpected.append(error)
        board.end(title, good=title in outcomes and not outcomes[title].problems)

    with Board(workspace.console, [chapter.TITLE for chapter in chapters]) as board:
        # Daemons: who stops the demo does not wait for a chapter that waits for an Airflow that is gone.
        threads = [threading.Thread(target=show, args=(chapter,), daemon=True) for chapter in chapters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if unexpected:
        raise unexpected[0]
    return [outcomes[chapter.TITLE] for chapter in chapters]


def _start_places(workspace: Workspace, running: ExitStack) -> Workspace:
    """Start what takes copies and say where they will lie; without a second machine the demo is a smaller one."""
    say = partial(workspace.console.print, soft_wrap=True, highlight=False, markup=False)
    running.enter_context(workspace.store)
    say(f"Object store: {workspace.store.endpoint_url}, its objects are the plain files in {workspace.store.folder}")
    running.enter_context(serve(workspace.archive_org))
    say(f"Stand-in for archive.org: {workspace.archive_org.endpoint_url}, its items are in {workspace.items}")
    try:
        machine = running.enter_context(run_second_machine(workspace.second_home))
    except StartError as error:
        say(f"Second machine: left out, {error}")
        return workspace
    say(f"Second machine: {machine.user}@{machine.host}, ssh port {machine.port}, its directory is {workspace.crawls}")
    return replace(workspace, second_machine=machine)


def _sum_up(console: Console, outcomes: Sequence[Outcome]) -> None:
    for table in (table for outcome in outcomes for table in outcome.tables):
        console.print(table)
    for outcome in outcomes:
        for problem in outcome.problems:
            console.print(f"{outcome.title}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
        if not outcome.problems:
            counts = ", ".join(f"{count} {name}" for name, count in outcome.extra.items())
            console.print(
                f"{outcome.title}: every file is where it should be ({counts})", style="green", soft_wrap=True
            )


def _stay(console: Console, stack: AirflowStack, workspace: Workspace) -> None:
    login = f"{stack.url}   user {stack.username}   password {stack.password}"
    console.print(Panel(f"{login}\n\nCtrl-C stops everything", title="Airflow", expand=False))
    ask = f"CUSTODY_LEDGER={workspace.ledger_url} CUSTODY_CONFIG_DIR={workspace.config_dir} bin/custody where-is '%'"
    console.print(f"Where is every file? In another terminal:\n  {ask}", soft_wrap=True, highlight=False, markup=False)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bin/demo",
        description="Start Airflow, sample disks, a tape drive; drain, back up, restore; check every file; stay up.",
    )
    parser.add_argument("--once", action="store_true", help="stop everything at the end; exit 0 only if all is proven")
    parser.add_argument(
        "--home", type=Path, default=PROJECT / ".demo", help="directory of the demo's state (default: .demo)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
