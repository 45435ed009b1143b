"""A whole run in this process, task after task, for the command line and tests; the DAG does the same steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from custody import lease
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.wiki_dump import claim, finish, listings, proving, recompress, steps, stubs, texts
from custody.wiki_dump.access import Access, Reach, from_files
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.jobs import Stage
from custody.wiki_dump.runs import Options, Run
from custody.wiki_dump.status import RunState
from custody.wiki_dump.work import Work, working

MAKERS: dict[str, Callable[[Work], int]] = {
    Stage.PRIVATE_TABLES: lambda work: listings.make_tables(work, Stage.PRIVATE_TABLES),
    Stage.TABLES: lambda work: listings.make_tables(work, Stage.TABLES),
    Stage.SITE: listings.make_site,
    Stage.LOGS: listings.make_logs,
}
"""What is made at once beside the stubs: by the name of its task."""


def dump(
    ledger: Ledger,
    config_name: str,
    config: FarmConfig,
    *,
    who: str,
    wiki: str | None = None,
    date: str | None = None,
    options: Options | None = None,
    cutoff: str | None = None,
    reach: Reach = from_files,
) -> tuple[Run, RunState]:
    """Dump one wiki, whole. Faults: the first one; what was done stays, and the next run goes on there."""
    run = claim.claim(
        *(ledger, config_name, config),
        owner=who,
        wiki=wiki,
        date=date,
        options=options,
        cutoff=cutoff,
        reach=reach,
        holder=lease.process_identity(),
    )
    try:
        access = reach(run.farm, run.settings)
        state = _all_steps(ledger, run, who, access)
    finally:
        finish.give_back(ledger, run.id, owner=who)
    return run, state


def _all_steps(ledger: Ledger, run: Run, who: str, access: Access) -> RunState:
    faults: list[Fault] = []

    def step(do: Callable[[Work], object]) -> None:
        try:
            with working(ledger, run.id, owner=who, access=access) as work:
                do(work)
        except Fault as fault:
            if fault.kind in {FaultKind.CONFLICT, FaultKind.CAPACITY, FaultKind.NEEDS_HUMAN, FaultKind.THROTTLED}:
                raise
            faults.append(fault)

    step(steps.plan_jobs)
    if faults:
        raise faults[0]
    for make in (*MAKERS.values(), stubs.make_stubs):
        step(make)
    each: list[tuple[Callable[[Work], list[Any]], Callable[..., object], str]] = [
        (texts.plan_parts, texts.make_text, "file_id"),
        (recompress.plan_recombine, recompress.make_recombined, "job_name"),
        (recompress.plan_recompress, recompress.make_recompressed, "file_id"),
        (proving.jobs_to_prove, proving.prove_job, "job"),
    ]
    for plan, do, argument in each:
        for unit in _list(ledger, run, who, access, plan, faults):
            step(partial(do, **{argument: unit}))
    with working(ledger, run.id, owner=who, access=access) as work:
        state = finish.finish(work)
    if faults:
        raise faults[0]
    return state


def _list(
    ledger: Ledger, run: Run, who: str, access: Access, plan: Callable[[Work], list[Any]], faults: list[Fault]
) -> list[Any]:
    try:
        with working(ledger, run.id, owner=who, access=access) as work:
            return plan(work)
    except Fault as fault:
        if fault.kind is FaultKind.CONFLICT:
            raise
        faults.append(fault)
        return []
