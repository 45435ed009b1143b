"""Who dumps which wiki: order, lock and lease, two at once, stale locks and what the monitor makes of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from custody.faults import Fault, FaultKind
from custody.ledger.tables import lease as lease_table
from custody.wiki_dump import choose, claim, finish, lockfile, monitor, runs, steps, stubs
from custody.wiki_dump.access import from_files
from custody.wiki_dump.farm import farm_of
from custody.wiki_dump.runs import Options
from custody.wiki_dump.status import JobState, RunState
from custody.wiki_dump.work import Heartbeat, working
from wiki_farm import FarmSite

NAMES = ["aawiki", "zh_min_nanwiki", "be-x-oldwiki", "roa_rup_wiki"]


def take(farm: FarmSite, wiki: str | None = None, owner: str = "one", **kwargs: Any) -> runs.Run:
    return claim.claim(farm.ledger, farm.name, farm.config, owner=owner, wiki=wiki, **kwargs)


def dumped(farm: FarmSite, wiki: str, date: str, words: str = "Dump complete") -> None:
    directory = farm.public(wiki, date)
    directory.mkdir(parents=True)
    (directory / "status.html").write_text(f"<li>{wiki}: <span>{words}</span></li>\n")


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def expire(farm: FarmSite) -> None:
    with farm.ledger.begin() as connection:
        connection.execute(sa.update(lease_table).values(expires_at=lease_table.c.taken_at))


@pytest.fixture
def four(farm: FarmSite) -> FarmSite:
    for name in NAMES:
        farm.add_wiki(name, pages=3, revisions=2)
    farm.lists(NAMES)
    return farm


def test_never_dumped_comes_first_then_failed_and_partial_then_the_oldest(four: FarmSite) -> None:
    dumped(four, "aawiki", "20260701")
    dumped(four, "zh_min_nanwiki", "20260715", "Partial dump, 2 items failed")
    dumped(four, "be-x-oldwiki", "20260601")
    order = [take(four, owner=f"run {n}", date="20260801").wiki.name for n in range(4)]
    assert order == ["roa_rup_wiki", "zh_min_nanwiki", "be-x-oldwiki", "aawiki"]
    with pytest.raises(Fault) as caught:
        take(four, owner="run 5", date="20260801")
    assert caught.value.kind is FaultKind.CANCELLED


def test_a_cutoff_and_a_fixed_order_and_a_run_that_is_newer(four: FarmSite) -> None:
    four.configure("[misc]\nfixeddumporder=1")
    dumped(four, "aawiki", "20260701")
    dumped(four, "zh_min_nanwiki", "20260801")
    conf = claim.read_conf(four.config)
    farm = farm_of(conf)
    assert [wiki.name for wiki in choose.order(farm, conf, today="20260801")] == ["aawiki", *NAMES[2:]]
    assert [wiki.name for wiki in choose.order(farm, conf, today="20260801", cutoff="20260601")] == NAMES[2:]


def test_the_lock_names_host_and_pid_is_touched_and_goes_at_the_end(four: FarmSite) -> None:
    run = take(four, "zh_min_nanwiki", date="20260801")
    path = four.private("zh_min_nanwiki") / "lock_20260801"
    assert path.read_text() == f"{lockfile.host_name()} {os.getpid()}"
    age(path, 100)
    heartbeat = Heartbeat(four.ledger, run, touch_s=0.1)
    heartbeat.start()
    deadline = time.monotonic() + 10
    while time.time() - path.stat().st_mtime > 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.time() - path.stat().st_mtime < 5
    path.unlink()  # somebody thought it stale: ours is the lease, so it comes back
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    heartbeat.stop()
    assert path.exists() and heartbeat.lost is None
    finish.give_back(four.ledger, run.id, owner="one")
    assert not path.exists()
    assert take(four, "zh_min_nanwiki", owner="two", date="20260801").id == run.id


def test_of_two_workers_for_one_wiki_one_wins(four: FarmSite) -> None:
    won, lost = [], []

    def race(number: int) -> None:
        try:
            won.append(take(four, "aawiki", owner=f"worker {number}", date="20260801"))
        except Fault as fault:
            lost.append(fault.kind)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and lost == [FaultKind.CONFLICT] * 7
    assert take(four, "aawiki", owner=won[0].owner) == won[0]  # who asks again gets what he has


def test_who_lost_the_lease_writes_nothing_more(four: FarmSite) -> None:
    run = take(four, "aawiki", date="20260801")
    access = from_files(four.config, run.settings)
    with working(four.ledger, run.id, owner="one", access=access) as work:
        steps.plan_jobs(work)
        expire(four)
        (four.private("aawiki") / "lock_20260801").unlink()
        second = take(four, "aawiki", owner="two", date="20260801")
        assert second.token == run.token + 1
        with pytest.raises(Fault) as caught:
            stubs.make_stubs(work)
        assert caught.value.kind is FaultKind.CONFLICT
    finish.give_back(four.ledger, run.id, owner="one")  # the one that lost it takes nothing away
    assert (four.private("aawiki") / "lock_20260801").exists()
    assert runs.load(four.ledger, run.id).state is RunState.RUNNING


def test_a_lock_of_another_program_is_respected_and_its_pid_means_nothing(four: FarmSite) -> None:
    for name in ("lock", "lock_20260731"):
        path = four.private("aawiki") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"elsewhere.example.org {os.getpid()}")
        with pytest.raises(Fault, match=r"elsewhere\.example\.org") as caught:
            take(four, "aawiki", date="20260801")
        assert caught.value.kind is FaultKind.CONFLICT
        assert path.exists()
        path.unlink()
    assert take(four, "aawiki", date="20260801").state is RunState.RUNNING


def test_a_process_that_lives_without_progress_lets_its_lock_grow_old(four: FarmSite) -> None:
    four.configure(no_progress_s=5)
    run = take(four, "aawiki", date="20260801")
    heartbeat = Heartbeat(four.ledger, run, touch_s=0.05)
    heartbeat._moved_at -= 10
    heartbeat._thread.start()
    heartbeat._thread.join(5)
    assert heartbeat.lost is not None and "no progress" in str(heartbeat.lost)
    with pytest.raises(Fault, match="no progress"):
        heartbeat.advance(bytes=1)


@pytest.mark.parametrize("wiki", ["aawiki", "zh_min_nanwiki"])
def test_a_stale_lock_becomes_aborted_and_the_wiki_is_dumped_again(four: FarmSite, wiki: str) -> None:
    run = take(four, wiki, date="20260801")
    access = from_files(four.config, run.settings)
    with working(four.ledger, run.id, owner="one", access=access) as work:
        steps.plan_jobs(work)
        stubs.make_stubs(work)
    lock = four.private(wiki) / "lock_20260801"
    age(lock, 10_000)
    assert monitor.sweep(four.ledger, four.config, who="monitor").aborted == ()  # the lease is alive
    expire(four)
    age(lock, 10)
    assert monitor.sweep(four.ledger, four.config, who="monitor").aborted == ()  # the lock is young
    age(lock, 10_000)
    assert monitor.sweep(four.ledger, four.config, who="monitor").aborted == (f"{wiki} 20260801",)
    directory = four.public(wiki, "20260801")
    assert not lock.exists() and not list(directory.glob("*.inprog"))
    assert "dump aborted" in (directory / "status.html").read_text()
    assert "xmlstubsdump; status:failed" in (directory / "dumpruninfo.txt").read_text()
    jobs = json.loads((directory / "dumpstatus.json").read_bytes())["jobs"]
    assert "in-progress" not in {job["status"] for job in jobs.values()}
    assert "dump aborted" in (four.home / "public/index.html").read_text()
    with pytest.raises(Fault) as caught, working(four.ledger, run.id, owner="one", access=access):
        pass
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    conf = claim.read_conf(four.config)
    order = [each.name for each in choose.order(farm_of(conf), conf, today="20260802")]
    assert order[3] == wiki  # after those that were never dumped, before all others
    again = take(four, wiki, owner="two", date="20260801")
    assert again.id == run.id and again.state is RunState.RUNNING


def test_a_stale_lock_of_another_program_is_cleaned_up_too(four: FarmSite) -> None:
    directory = four.public("zh_min_nanwiki", "20260701")
    directory.mkdir(parents=True)
    (directory / "status.html").write_text("<li>Dump in progress</li>")
    (directory / "dumpruninfo.txt").write_text(
        "name:articlesdump; status:in-progress; updated:2026-07-01 10:00:00\n"
        "name:xmlstubsdump; status:done; updated:2026-07-01 09:00:00\n"
    )
    (directory / "dumpstatus.json").write_text(
        '{"version": "0.8", "jobs": {"articlesdump": {"status": "in-progress"}}}'
    )
    (directory / "x.xml.bz2.inprog").touch()
    lock = four.private("zh_min_nanwiki") / "lock_20260701"
    lock.parent.mkdir(parents=True)
    lock.write_text("elsewhere 12")
    age(lock, 10_000)
    assert monitor.sweep(four.ledger, four.config, who="monitor").aborted == ("zh_min_nanwiki 20260701",)
    assert "dump aborted" in (directory / "status.html").read_text()
    assert "articlesdump; status:failed" in (directory / "dumpruninfo.txt").read_text()
    assert json.loads((directory / "dumpstatus.json").read_bytes())["jobs"]["articlesdump"]["status"] == "failed"
    assert not (directory / "x.xml.bz2.inprog").exists() and not lock.exists()


def test_a_lock_whose_owner_comes_back_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "lock_20260801"
    path.write_text("host 1")
    judged = lockfile.look(path)
    assert judged is not None
    age(path, 5)
    assert not lockfile.take_away(judged)
    assert path.read_text() == "host 1"
    now = lockfile.look(path)
    assert now is not None and lockfile.take_away(now) and not list(tmp_path.iterdir())
    assert not lockfile.take_away(now)


def test_the_index_shows_new_broken_private_and_closed_wikis(four: FarmSite) -> None:
    four.lists(NAMES, private=["aawiki"], closed=["be-x-oldwiki"])
    dumped(four, "be-x-oldwiki", "20260701")
    path = four.private("aawiki", "20260701")
    path.mkdir(parents=True)
    (path / "status.html").write_text('<li><a href="aawiki/20260701">aawiki</a> (private data): Dump complete</li>')
    four.public("roa_rup_wiki").parent.mkdir(exist_ok=True)
    shutil.rmtree(four.public("roa_rup_wiki"), ignore_errors=True)
    four.private("roa_rup_wiki").symlink_to(four.private("roa_rup_wiki"))  # a loop: it cannot be looked at
    found = monitor.sweep(four.ledger, four.config, who="monitor")
    assert found.wikis == 4 and len(found.broken) == 1 and "roa_rup_wiki" in found.broken[0]
    page = (four.home / "public/index.html").read_text()
    assert "zh_min_nanwiki: <span class='missing'>has not yet been dumped" in page
    assert "roa_rup_wiki: <span class='failed'>cannot be looked at" in page
    assert "aawiki (private data)" in page and 'href="aawiki' not in page
    assert "Dump process is idle." in page
    by_name = (four.home / "public/index-bydb.html").read_text()
    positions = [by_name.index(f">{name}" if f">{name}" in by_name else name) for name in sorted(NAMES)]
    assert positions == sorted(positions)
    assert set(json.loads((four.home / "public/index.json").read_bytes())["wikis"]) == {
        "zh_min_nanwiki",
        "be-x-oldwiki",
    }
    take(four, "zh_min_nanwiki", date="20260801")
    monitor.sweep(four.ledger, four.config, who="monitor")
    assert "Dumps are in progress..." in (four.home / "public/index.html").read_text()


@pytest.mark.parametrize("name", ["maintenance.txt", "exit.txt", "halt"])
def test_new_work_can_be_switched_off(four: FarmSite, name: str) -> None:
    if name == "halt":
        path = four.home / "wikidump.conf"
        path.write_text(path.read_text().replace("[wiki]", "[wiki]\nhalt=1"))
    else:
        (four.home / name).write_text("new disks")
    with pytest.raises(Fault, match="no new work") as caught:
        take(four)
    assert caught.value.kind is FaultKind.CANCELLED
    if name == "maintenance.txt":
        monitor.sweep(four.ledger, four.config, who="monitor")
        assert "new disks" in (four.home / "public/index.html").read_text()


def test_skipdone_passes_over_wikis_in_which_the_job_is_done(four: FarmSite) -> None:
    for name in NAMES[1:]:
        dumped(four, name, "20260701", "Partial dump")
        (four.public(name, "20260701") / "dumpruninfo.txt").write_text("name:pagetable; status:done; updated:x\n")
    info = four.public("be-x-oldwiki", "20260701") / "dumpruninfo.txt"
    info.write_text("name:pagetable; status:failed; updated:\n")
    dumped(four, "aawiki", "20260715", "Partial dump")
    options = Options(jobs=("pagetable",), skipdone=True)
    assert take(four, owner="x", options=options).wiki.name == "be-x-oldwiki"
    assert take(four, owner="y", options=options).wiki.name == "aawiki"


def test_a_closed_wiki_is_dumped_once_after_closing(four: FarmSite) -> None:
    from custody.wiki_dump.whole import dump

    four.lists(NAMES[:1])
    four.configure(closed_once=True)
    for date, closed in (("20260601", False), ("20260701", True)):
        four.lists(NAMES[:1], closed=NAMES[:1] if closed else ())
        dump(four.ledger, four.name, four.config, who=date, date=date)  # chosen, though it was dumped before
    with pytest.raises(Fault, match="no wiki is waiting"):
        take(four, date="20260801")
    assert "(closed)" in (four.public("aawiki", "20260701") / "status.html").read_text()
    four.lists(NAMES[:1])
    assert take(four, date="20260801").wiki.name == "aawiki"  # open again


def kill_half_way(farm: FarmSite) -> Path:
    """A process killed with SIGKILL in the middle of its text pass; returns the lock it left."""
    program = (
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from custody.ledger import Ledger\n"
        "from custody.wiki_dump import farm_config, making\n"
        "from custody.wiki_dump.whole import dump\n"
        "count = 0\n"
        "original = making.Making.bz2_document\n"
        "def strike(self, *a):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, *a)\n"
        "making.Making.bz2_document = strike\n"
        f"dump(Ledger.open({farm.ledger.url!r}), 'farm', farm_config.load('farm'), who='killed', wiki='aawiki',"
        " date='20260801')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -9, ended.stderr
    lock = farm.private("aawiki") / "lock_20260801"
    assert lock.exists()
    return lock


def finished(farm: FarmSite) -> bool:
    from custody.wiki_dump.whole import dump

    run, state = dump(farm.ledger, farm.name, farm.config, who="next", wiki="aawiki", date="20260801")
    with farm.ledger.read() as connection:
        states = {job.state for job in runs.jobs_of(connection, run.id)}
    return state is RunState.DONE and states <= {JobState.DONE, JobState.SKIPPED}


def test_a_worker_killed_on_another_host_leaves_a_wiki_that_the_monitor_and_the_next_run_finish(
    four: FarmSite,
) -> None:
    lock = kill_half_way(four)
    with four.ledger.begin() as connection:  # nobody here can tell whether that process lives
        connection.execute(sa.update(lease_table).values(holder="elsewhere/boot/1/2/3"))
    with pytest.raises(Fault, match=r"wiki aawiki: is held by elsewhere.*custody wiki monitor farm cleans up"):
        take(four, "aawiki", owner="next", date="20260801")
    expire(four)
    with pytest.raises(Fault, match="takes stale locks away"):
        take(four, "aawiki", owner="next", date="20260801")
    age(lock, 10_000)
    assert monitor.sweep(four.ledger, four.config, who="monitor").aborted == ("aawiki 20260801",)
    assert finished(four)


def test_after_a_kill_the_lock_of_another_process_of_this_host_is_respected_all_the_same(four: FarmSite) -> None:
    lock = kill_half_way(four)
    words = lock.read_text()
    lock.write_text(words + "0")  # another process of this host: that one may live
    with pytest.raises(Fault, match="is held by"):
        take(four, "aawiki", owner="next", date="20260801")
    assert lock.read_text() == words + "0"


def test_what_a_dead_worker_of_this_host_left_stops_nobody(four: FarmSite) -> None:
    kill_half_way(four)
    assert finished(four)
    assert not list(four.home.rglob("lock_*")) and not list(four.home.rglob("*.inprog*"))


def test_a_worker_that_is_asked_to_end_gives_the_wiki_back(four: FarmSite) -> None:
    words = [sys.executable, "-m", "custody.cli", "wiki", "dump", "farm", "--wiki", "aawiki", "--date", "20260801"]
    script = "import time; from custody.wiki_dump import stubs; stubs.make_stubs = lambda work: time.sleep(60)\n"
    script += f"import sys; sys.argv = {words[2:]!r}; from custody.cli.main import main; main()"
    env = {**os.environ, "CUSTODY_LEDGER": four.ledger.url}
    worker = subprocess.Popen([sys.executable, "-c", script], env=env, stderr=subprocess.DEVNULL)
    lock = four.private("aawiki") / "lock_20260801"
    deadline = time.monotonic() + 60
    while "made" not in _log(four) and time.monotonic() < deadline:
        time.sleep(0.1)
    worker.terminate()
    assert worker.wait(30) == 143
    assert not lock.exists()
    assert take(four, "aawiki", owner="next", date="20260801").state is RunState.RUNNING


def _log(farm: FarmSite) -> str:
    path = farm.private("aawiki", "20260801") / "dumplog.txt"
    return path.read_text() if path.exists() else ""
