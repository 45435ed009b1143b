"""A dump survives a kill at every system call of its steps: what is published is whole, the next run finishes it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from crash.harness import ALL_POINTS, enumerate_crash_points
from custody.ledger import Ledger
from custody.ledger.tables import lease
from custody.wiki_dump import claim, finish, listings, monitor, proving, runs, steps, stubs, texts
from custody.wiki_dump.access import from_files
from custody.wiki_dump.bz2.verify import verify
from custody.wiki_dump.jobs import Stage
from custody.wiki_dump.runs import Options
from custody.wiki_dump.status import JobState
from custody.wiki_dump.whole import dump
from custody.wiki_dump.work import Work, working
from wiki_farm import FarmSite, make_farm

pytestmark = [pytest.mark.crash]

POINTS = 8  # of a step, spread over the whole of it
OWNER, DATE, OLD = "crash", "20260801", "20260701"
JOBS = ("articlesdump", "pagetable")


@dataclass(frozen=True)
class Prepared:
    """A farm and a run on it, on the way to the next step."""

    home: Path
    run_id: int

    @property
    def site(self) -> FarmSite:
        """The farm, as the process that asks sees it."""
        return _open(self.home)


def _text(work: Work) -> None:
    for file_id in texts.plan_parts(work):
        texts.make_text(work, file_id)


def _tables(work: Work) -> None:
    listings.make_tables(work, Stage.TABLES)


def _prove(work: Work) -> None:
    for job in proving.jobs_to_prove(work):
        proving.prove_job(work, job)


BEFORE: dict[str, list[Callable[[Work], object]]] = {
    "stubs": [steps.plan_jobs],
    "text": [steps.plan_jobs, stubs.make_stubs],
    "prove": [steps.plan_jobs, stubs.make_stubs, _tables, _text],
    "finish": [steps.plan_jobs, stubs.make_stubs, _tables, _text, _prove],
}
STEP: dict[str, Callable[[Work], object]] = {
    "stubs": stubs.make_stubs,
    "text": _text,
    "prove": _prove,
    "finish": finish.finish,
}


def do(prepared: Prepared, step: Callable[[Work], object]) -> None:
    site = prepared.site
    run = runs.load(site.ledger, prepared.run_id)
    if run.state.is_over:
        return
    access = from_files(site.config, run.settings)
    with working(site.ledger, run.id, owner=OWNER, access=access) as work:
        step(work)


def everything_published_is_whole(prepared: Prepared) -> None:
    for path in (prepared.home / "public").rglob("*"):
        if path.is_file() and path.suffix in {".gz", ".bz2"} and not path.is_symlink():
            verify(path)
    assert list(prepared.site.public("aawiki").glob("2*")), "the last good dump is gone"


def the_next_run_finishes(prepared: Prepared) -> None:
    everything_published_is_whole(prepared)
    site = prepared.site
    run = runs.load(site.ledger, prepared.run_id)
    if not run.state.is_over:
        dump(site.ledger, site.name, site.config, who=OWNER, wiki="aawiki", date=DATE, options=Options(jobs=JOBS))
    else:
        finish.give_back(site.ledger, run.id, owner=OWNER)
    with site.ledger.read() as connection:
        states = {job.name: job.state for job in runs.jobs_of(connection, run.id)}
    assert {states[name] for name in (*JOBS, "xmlstubsdump")} == {JobState.DONE}
    assert not list(site.home.rglob("*.inprog*")) and not list(site.home.rglob("lock_*"))
    everything_published_is_whole(prepared)


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "template"
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(home / "config"))
    site = make_farm(home)
    site.add_wiki("aawiki", pages=3, revisions=2)
    site.lists(["aawiki"])
    site.ledger.close()
    return home


def _copy(template: Path, directory: Path) -> FarmSite:
    home = directory / "farm"
    shutil.copytree(template, home)
    site = _open(home)
    site.configure()
    site.lists(["aawiki"])
    return site


def _open(home: Path) -> FarmSite:
    os.environ["CUSTODY_CONFIG_DIR"] = str(home / "config")
    return FarmSite(home, Ledger.open(f"sqlite:///{home}/ledger.sqlite"))


@pytest.mark.timeout(0 if ALL_POINTS else 600)
@pytest.mark.parametrize("name", list(STEP))
def test_every_crash_point_of_a_dump(name: str, template: Path) -> None:
    def prepare(directory: Path) -> Prepared:
        site = _copy(template, directory)
        old = claim.claim(site.ledger, site.name, site.config, owner="old", wiki="aawiki", date=OLD)
        finish.give_back(site.ledger, old.id, owner="old")
        options = Options(jobs=JOBS)
        run = claim.claim(site.ledger, site.name, site.config, owner=OWNER, wiki="aawiki", date=DATE, options=options)
        prepared = Prepared(site.home, run.id)
        for step in BEFORE[name]:
            do(prepared, step)
        return prepared

    report = enumerate_crash_points(
        prepare,
        lambda prepared: do(prepared, STEP[name]),
        the_next_run_finishes,
        check_after_kill=everything_published_is_whole,
        at_most=POINTS,
        name=f"wiki dump {name}",
    )
    assert not report.losses


@pytest.mark.timeout(0 if ALL_POINTS else 600)
def test_every_crash_point_of_the_monitor(template: Path) -> None:
    def prepare(directory: Path) -> Prepared:
        site = _copy(template, directory)
        run = claim.claim(site.ledger, site.name, site.config, owner=OWNER, wiki="aawiki", date=DATE)
        prepared = Prepared(site.home, run.id)
        for step in BEFORE["text"]:
            do(prepared, step)
        with site.ledger.begin() as connection:
            connection.execute(sa.update(lease).values(expires_at=lease.c.taken_at))
        lock = run.places.lock(DATE)
        os.utime(lock, (time.time() - 9999, time.time() - 9999))
        return prepared

    def sweep(prepared: Prepared) -> None:
        site = prepared.site
        monitor.sweep(site.ledger, site.config, who="monitor")

    def aborted(prepared: Prepared) -> None:
        site = prepared.site
        with site.ledger.begin() as connection:  # the lease of a monitor that died runs out
            connection.execute(sa.update(lease).values(expires_at=lease.c.taken_at))
        sweep(prepared)
        assert not list(site.home.rglob("lock_*"))
        assert "dump aborted" in (site.public("aawiki", DATE) / "status.html").read_text()
        assert "dump aborted" in (site.home / "public/index.html").read_text()

    report = enumerate_crash_points(prepare, sweep, aborted, at_most=20, name="wiki dump monitor")
    assert not report.losses
