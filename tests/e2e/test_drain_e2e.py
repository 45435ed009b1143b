"""The drain through a real scheduler and executor: left in peace, and then with its processes killed."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from custody_demo.airflow_api import FINAL_STATES, TaskInstance
from custody_demo.airflow_stack import PROJECT
from custody_demo.processes import process_id, wait_until
from custody_demo.sample_disk import CRAWLS, Fate, SampleCrawl
from e2e.rig import DAG_ID, STEPS, Disk, Rig
from e2e.slow_store import SlowStore
from e2e.workers import BusyWorker, Kill, busy_workers, kill, step_of

pytestmark = [pytest.mark.e2e, pytest.mark.airflow, pytest.mark.service]

SEED = 20261122
KILLS = 6
MAX_FURTHER_RUNS = 3
THREE_CRAWLS = (*CRAWLS, SampleCrawl(prefix="BLOGS-01", host="crawler03.example.org", pid=991))


def test_a_disk_is_drained_and_a_second_run_does_nothing(rig: Rig) -> None:
    disk = rig.add_disk("straight")
    run_id = rig.drain("straight")
    assert disk.out_of_place() == []
    assert rig.deleted_without_proof(disk) == []
    assert len(disk.missing()) == len(disk.sample.of(Fate.DRAINED)) == 6
    states = rig.states(run_id)
    assert [states[step] for step in STEPS] == [{"success": 2}] * len(STEPS)

    items = {path.name for path in disk.sample.xfer_dir.iterdir() if path.is_dir()}
    names: dict[str, set[str]] = {}
    for task in rig.stack.task_instances(DAG_ID, run_id):
        names.setdefault(task.task_id, set()).add(task.name)
    assert [names[f"series.{step}"] for step in STEPS] == [items] * len(STEPS)

    handed_on = rig.xcoms(run_id)
    assert {"plan_series", "series.upload"} <= {task for task, _, _ in handed_on}
    assert [entry for entry in handed_on if len(entry[2]) > 1000 or ".warc" in entry[2]] == []
    assert rig.leaks() == []

    before = rig.marks(disk)
    again = rig.drain("straight")
    assert rig.states(again).get("upload", {"skipped": 1}) == {"skipped": 1}
    assert rig.marks(disk) == before


def test_workers_killed_at_random_points_lose_nothing(rig: Rig) -> None:
    store = rig.plain_store("killed")
    with SlowStore(store.endpoint_url, delay_s=(0.5, 2.0), seed=SEED) as slow:
        connection = rig.connect("custody_slow", store, endpoint_url=slow.endpoint_url)
        settings = {"crawls": THREE_CRAWLS, "files_per_crawl": 2, "batch_gib": 250e3 / 2**30}  # two and one
        disk = rig.add_disk("killed", store, connection=connection, **settings)
        kills, run_ids = _drain_under_fire(rig, disk, random.Random(SEED))
    print(f"\n{len(kills)} kills (seed {SEED}), {len(run_ids)} runs:")
    for each in kills:
        print(f"  {each}")
    for run_id in run_ids:
        print(f"  {rig.stack.run_state(DAG_ID, run_id)}: {_tries(rig, run_id)}")
    assert disk.out_of_place() == [], rig.explain(run_ids[-1])
    assert rig.deleted_without_proof(disk) == []
    assert len(kills) == KILLS
    assert rig.commands.looks > 20
    assert any("airflow worker -- " in line for line in rig.commands.seen)
    assert rig.leaks() == []
    before = rig.marks(disk)
    rig.drain("killed")
    assert rig.marks(disk) == before


def _drain_under_fire(rig: Rig, disk: Disk, dice: random.Random) -> tuple[list[Kill], list[str]]:
    """Run until a run ends well and nothing is left, at most three times more than once; kill meanwhile."""
    hunt = Hunt(rig, dice)
    run_ids: list[str] = []
    while len(run_ids) <= MAX_FURTHER_RUNS:
        run_ids.append(rig.trigger(config=disk.name))
        while rig.stack.run_state(DAG_ID, run_ids[-1]) not in FINAL_STATES:
            hunt.go_on_for(1.0)
            assert hunt.age_s < 480, rig.explain(run_ids[-1])
        ended_well = rig.stack.run_state(DAG_ID, run_ids[-1]) == "success"
        if ended_well and len(hunt.kills) == KILLS and not disk.out_of_place():
            break
    return hunt.kills, run_ids


class Hunt:
    """Kills workers with a task: at once where it is one of the three steps that matter most, else as the dice fall."""

    def __init__(self, rig: Rig, dice: random.Random) -> None:
        self.kills: list[Kill] = []
        self._rig, self._dice = rig, dice
        self._wanted = {"pack", "upload", "delete"}
        self._began = time.monotonic()
        self._free_at = dice.uniform(0, 5)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began

    def go_on_for(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if len(self.kills) < KILLS:
                self._look()
            time.sleep(0.05)

    def _look(self) -> None:
        workers = sorted(busy_workers(self._rig.stack.pid_of("scheduler")), key=lambda one: one.supervisor.pid)
        self._dice.shuffle(workers)
        for worker in workers:
            step, _ = step_of(self._rig.airflow_db, worker.task_instance)
            kind = step.removeprefix("series.").partition("[")[0]
            free = self.age_s > self._free_at
            if step and (kind in self._wanted or free):
                time.sleep(self._dice.uniform(0, 1.0))
                if self._strike(worker, step):
                    self._wanted.discard(kind)
                    self._free_at = self.age_s + self._dice.uniform(1, 6)
                return

    def _strike(self, worker: BusyWorker, step: str) -> bool:
        """Kill the process that works, or the one above it; False where it had ended.

        The LocalExecutor of Airflow 3.3 never hears of a task again whose supervisor dies before it said "running": it
        stays queued until the scheduler is started anew. So those are spared.
        """
        _, state = step_of(self._rig.airflow_db, worker.task_instance)
        role = self._dice.choice(["task", "supervisor"] if state == "running" else ["task"])
        process = worker.task if role == "task" else worker.supervisor
        if not kill(process):
            return False
        self.kills.append(Kill(self.age_s, role, step, process.pid))
        return True


def _tries(rig: Rig, run_id: str) -> str:
    tasks = rig.stack.task_instances(DAG_ID, run_id)
    return ", ".join(f"{t.task_id}[{t.map_index}] {t.state} at try {t.try_number}" for t in tasks if t.try_number > 1)


def test_all_starts_one_run_for_each_and_a_missing_disk_fails_only_its_own(rig: Rig) -> None:
    here, gone = rig.add_disk("here", files_per_crawl=1), rig.add_disk("gone", files_per_crawl=1)
    rig.saw_disk("here", used_pct=97.5)
    gone.sample.job_dir.rename(gone.sample.job_dir.with_name("unmounted"))
    starter = rig.trigger(config="all")
    assert rig.wait(starter) == "success", rig.explain(starter)
    started = [task for task in rig.stack.task_instances(DAG_ID, starter) if task.task_id == "start_each"]
    assert {task.map_index: task.name for task in started} == {0: "here", 1: "gone"}
    runs = rig.started_runs("here", "gone")
    assert rig.wait(runs["here"]) == "success", rig.explain(runs["here"])
    assert here.out_of_place() == []
    assert set(rig.weights(runs["here"])) == {97_000}
    assert max(rig.weights(runs["gone"])) < 1000

    assert rig.wait(runs["gone"]) == "failed"
    (check,) = [task for task in rig.stack.task_instances(DAG_ID, runs["gone"]) if task.task_id == "check_disk"]
    assert (check.state, check.try_number) == ("failed", 1)
    why = f"job_dir {gone.sample.job_dir}: is not there: disk not mounted, or a wrong path. Next: ls -ld"
    telling = [line for line in rig.log_of(runs["gone"], check).splitlines() if why in line]
    assert len(telling) == 1, rig.log_of(runs["gone"], check)
    assert rig.states(runs["gone"])["report"] == {"failed": 1}


def test_uploads_marked_as_success_by_hand_delete_nothing(rig: Rig) -> None:
    store = rig.plain_store("by-hand")
    with SlowStore(store.endpoint_url) as broken:
        connection = rig.connect("custody_broken", store, endpoint_url=broken.endpoint_url)
        disk = rig.add_disk("by-hand", store, connection=connection)
        broken.refuse = lambda method, path: method == "PUT" and path.endswith(".warc.gz")
        run_id = rig.trigger(config="by-hand")
        marked: set[int] = set()

        def mark(tasks: list[TaskInstance]) -> None:
            for task in tasks:
                is_stuck = task.state in {"up_for_retry", "failed"}
                if task.task_id == "series.upload" and is_stuck and task.map_index not in marked:
                    rig.mark_success(run_id, task)
                    marked.add(task.map_index)

        assert rig.wait(run_id, mark) == "failed"
        assert marked == {0, 1}
        states = rig.states(run_id)
        assert (states["upload"], states["prove"], states["delete"]) == (
            {"success": 2},
            {"failed": 2},
            {"upstream_failed": 2},
        )
        for task in rig.stack.task_instances(DAG_ID, run_id):
            if task.task_id == "series.prove":
                assert "nothing was done, whatever the task before is marked as" in rig.log_of(run_id, task)
        assert disk.missing() == []
        assert [key for key in store.objects() if ".warc" in key] == []

        broken.refuse = lambda _method, _path: False
        rig.drain("by-hand")
    assert disk.out_of_place() == []
    assert rig.deleted_without_proof(disk) == []


def test_a_series_that_waits_holds_no_slot_and_no_other_series(rig: Rig) -> None:
    """With one slot for uploads: a task that waited in it would hold everybody up."""
    store = rig.plain_store("fair")
    waiting = CRAWLS[0].prefix
    seen: list[int] = []
    with SlowStore(store.endpoint_url, retry_after_s=20) as busy:
        connection = rig.connect("custody_busy", store, endpoint_url=busy.endpoint_url)
        disk = rig.add_disk("fair", store, connection=connection, files_per_crawl=1)
        busy.throttle = lambda method, path: method == "PUT" and f"/{waiting}" in path and path.endswith(".warc.gz")
        rig.stack.set_pool("custody_upload", 1, "one at a time")

        def look(tasks: list[TaskInstance]) -> None:
            states = {(task.task_id, task.map_index): task.state for task in tasks}
            packed = {task.name.startswith(waiting): task.map_index for task in tasks if task.task_id == "series.pack"}
            one, other = ("series.upload", packed.get(True)), ("series.delete", packed.get(False))
            if states.get(one) == "deferred" and states.get(other) == "success":
                seen.append(busy.statuses[503])
                busy.throttle = lambda _method, _path: False

        try:
            run_id = rig.trigger(config="fair")
            assert rig.wait(run_id, look) == "success", rig.explain(run_id)
        finally:
            rig.stack.import_pools(PROJECT / "include/config/pools.json")
    assert seen and seen[0] > 0
    assert disk.out_of_place() == []
    assert rig.deleted_without_proof(disk) == []
    assert {task.try_number for task in rig.stack.task_instances(DAG_ID, run_id) if task.state == "success"} == {1}


def test_small_series_share_a_task_and_the_one_that_fails_is_tried_again(rig: Rig) -> None:
    store = rig.plain_store("together")
    late = CRAWLS[0].prefix
    stored: list[set[str]] = []
    with SlowStore(store.endpoint_url) as broken:
        connection = rig.connect("custody_together", store, endpoint_url=broken.endpoint_url)
        disk = rig.add_disk("together", store, connection=connection, files_per_crawl=1, batch_gib=10)
        broken.refuse = lambda method, path: method == "PUT" and f"/{late}" in path and path.endswith(".warc.gz")

        def look(tasks: list[TaskInstance]) -> None:
            if any(task.task_id == "series.upload" and task.state == "up_for_retry" for task in tasks) and not stored:
                stored.append({key.partition("-")[0] for key in store.objects() if key.endswith(".warc.gz")})
                broken.refuse = lambda _method, _path: False

        run_id = rig.trigger(config="together")
        assert rig.wait(run_id, look) == "success", rig.explain(run_id)
    assert stored == [{CRAWLS[1].prefix.partition("-")[0]}]
    tries = {task.task_id: task.try_number for task in rig.stack.task_instances(DAG_ID, run_id) if task.map_index >= 0}
    assert tries.pop("series.upload") > 1
    assert tries == {f"series.{step}": 1 for step in STEPS if step != "upload"}
    assert disk.out_of_place() == []
    assert rig.deleted_without_proof(disk) == []


def test_a_killed_scheduler_that_is_started_again_ends_the_run_well(rig: Rig) -> None:
    store = rig.plain_store("restart")
    with SlowStore(store.endpoint_url, delay_s=(1.0, 3.0), seed=SEED) as slow:
        connection = rig.connect("custody_restart", store, endpoint_url=slow.endpoint_url)
        disk = rig.add_disk("restart", store, connection=connection)
        run_id = rig.trigger(config="restart")
        assert wait_until(lambda: "running" in rig.states(run_id).get("upload", {}), timeout_s=240, every_s=0.2)
        print(f"\nscheduler {rig.stack.pid_of('scheduler')} killed while {rig.states(run_id)}")
        rig.stack.kill("scheduler")
        time.sleep(2)
        rig.stack.start_again("scheduler")
        state = rig.wait(run_id, timeout_s=300)
    print(f"  {state}: {_tries(rig, run_id)}")
    assert state == "success", rig.explain(run_id)
    assert disk.out_of_place() == []
    assert rig.deleted_without_proof(disk) == []


def test_a_task_that_outlives_its_supervisor_is_not_done_twice(rig: Rig) -> None:
    """Airflow believes it dead and tries again; the lease keeps the second one out as long as the first lives."""
    store = rig.plain_store("outlived")
    sent: Counter[str] = Counter()

    def take_long(method: str, path: str) -> bool:
        if method == "PUT" and path.endswith(".warc.gz"):
            sent[path] += 1
            time.sleep(30)
        return False

    with SlowStore(store.endpoint_url, refuse=take_long) as slow:
        connection = rig.connect("custody_outlived", store, endpoint_url=slow.endpoint_url)
        disk = rig.add_disk("outlived", store, connection=connection, crawls=CRAWLS[:1], files_per_crawl=2)
        run_id = rig.trigger(config="outlived")
        assert wait_until(lambda: len(sent) == 2, timeout_s=240)
        (uploader,) = busy_workers(rig.stack.pid_of("scheduler"))
        assert step_of(rig.airflow_db, uploader.task_instance) == ("series.upload[0]", "running")
        assert kill(uploader.supervisor)
        print(f"\nsupervisor {uploader.supervisor.pid} killed, task {uploader.task.pid} goes on")
        print(f"  {rig.wait(run_id)}: {_tries(rig, run_id)}")
        assert wait_until(lambda: process_id(uploader.task.pid) != uploader.task, timeout_s=120)
        rig.drain("outlived")
    assert set(sent.values()) == {1}
    assert disk.out_of_place() == []
    assert rig.deleted_without_proof(disk) == []
