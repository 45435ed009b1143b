"""The DAG tape_backup in a whole Airflow: a tape ends in the middle, and a person changes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from custody.ledger import Ledger
from custody.tape import report
from custody.tape.drives import cartridges
from custody.tape.states import AttemptResult, BackupState, TapeState
from custody_demo.processes import wait_until
from custody_demo.required_actions import Question, answer, wait_for_question, wait_for_run
from custody_demo.tape_check import files_on
from e2e.rig import Rig
from tape_site import TapeSite, make_site

pytestmark = [pytest.mark.e2e, pytest.mark.service]

DAG_ID = "tape_backup"


@dataclass
class TapeRig:
    """A tape site, and the Airflow that works on it under the configuration ``name``."""

    rig: Rig
    site: TapeSite
    name: str

    def trigger(self, **conf: Any) -> str:
        return self.rig.stack.trigger(DAG_ID, {"config": self.name, **conf})

    def wait(self, run_id: str, *, timeout_s: float = 240) -> None:
        state = self.rig.stack.wait(DAG_ID, run_id, timeout_s=timeout_s, every_s=0.5)
        assert state == "success", self.explain(run_id)

    def ask(self, run_id: str, *, holding: str) -> Question:
        """The question of a run, once it tells that the drive holds this."""
        is_meant = lambda question: holding in question.body  # noqa: E731
        return wait_for_question(self.rig.stack, DAG_ID, run_id, timeout_s=120, is_meant=is_meant)

    def say(self, run_id: str, question: Question, option: str) -> None:
        answer(self.rig.stack, DAG_ID, run_id, question, option)

    def next_run(self, *after: str) -> str:
        """The run that another one has started."""
        return wait_for_run(self.rig.stack, DAG_ID, config=self.name, not_these=set(after), timeout_s=60)

    def states(self, run_id: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for task in self.rig.stack.task_instances(DAG_ID, run_id):
            found.setdefault(task.task_id, set()).add(task.state)
        return found

    def explain(self, run_id: str) -> str:
        lines = [f"run {run_id}: {self.states(run_id)}"]
        for task in self.rig.stack.task_instances(DAG_ID, run_id):
            if task.state not in {"success", "skipped", "upstream_failed", "waiting"}:
                log = self.rig.stack.task_log(DAG_ID, run_id, task).splitlines()
                lines.append(f"{task.task_id} {task.name} {task.state}: {' / '.join(log[-6:])}")
        return "\n".join(lines)

    def standing(self) -> Counter[tuple[str, str]]:
        """How many copies count, by tape and state."""
        ours = [one for one in self.site.backups() if one.tape_name.startswith(self.name)]
        return Counter((one.tape_name, str(one.state)) for one in ours if one.state is not BackupState.RELEASED)

    def counted(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for (_, state), count in self.standing().items():
            counts[state] += count
        return counts


@pytest.fixture
def tape_rig(rig: Rig, request: pytest.FixtureRequest) -> Iterator[TapeRig]:
    name = request.node.name.removeprefix("test_")[:20].replace("_", "-")
    root = rig.home / "tape" / name
    root.mkdir(parents=True)
    site = make_site(root, Ledger.open(rig.ledger_url))
    config = rig.home / "config" / "tape" / f"{name}.conf"
    config.write_text(f"[default]\ntape_device = {site.drive}\nbuffer = 8MiB\n")
    yield TapeRig(rig, site, name)
    config.unlink()


def test_change_of_tape_in_the_middle(tape_rig: TapeRig) -> None:
    site, first, second = tape_rig.site, f"{tape_rig.name}-1", f"{tape_rig.name}-2"
    for name in (first, second):
        site.make_tape(name, capacity_bytes=6 << 20, load=False, on_record=False)
    paths = [str(site.make_target(name, files=2, size_bytes=1 << 20)) for name in ("a", "b", "c")]
    run_id = tape_rig.trigger(
        tapes=[first, second], targets=paths, steps=["open", "import", "assign", "archive", "confirm"]
    )
    asked = tape_rig.ask(run_id, holding="no cartridge")
    assert asked.subject == f"Insert tape {first}"
    site.insert(first)  # and nobody answers
    tape_rig.wait(run_id)
    assert site.tape(first).state is TapeState.FULL
    written = [one for one in report.attempts(site.ledger, first) if one.kind == "write"]
    assert sorted(one.result for one in written) == ["done", "done", "truncated"]
    # The run that goes on is started before the report of the first, and may have taken the third over by now.
    assert tape_rig.standing() in (
        {(first, "confirmed"): 2, (first, "outstanding"): 1},
        {(first, "confirmed"): 2, (second, "assigned"): 1},
    )

    other = tape_rig.next_run(run_id)
    before = site.image(first).read_bytes(), site.image(second).read_bytes()
    asked = tape_rig.ask(other, holding=f"holds tape {first}")
    assert asked.subject == f"Insert tape {second}"
    tape_rig.say(other, asked, "It is in the drive")  # but it is not
    asked = tape_rig.ask(other, holding=f"holds tape {first}")
    assert (site.image(first).read_bytes(), site.image(second).read_bytes()) == before
    site.insert(second)
    tape_rig.say(other, asked, "It is in the drive")
    tape_rig.wait(other)
    assert tape_rig.counted() == {"confirmed": 3}
    assert tape_rig.states(other)["next_tape.start"] == {"skipped"}
    events = tape_rig.rig.stack.request("GET", "/api/v2/assets/events?limit=50&source_dag_id=tape_backup")
    told = {one["extra"]["tape"]: one["extra"]["files"] for one in events["asset_events"]}
    assert (told[first], told[second]) == ("1-2", "1")
    assert {(one.tape, one.path) for one in [*files_on(site.image(first)), *files_on(site.image(second))]} == {
        (first if Path(path).name in "ab" else second, f"{path}/sub/file{number}")
        for path in paths
        for number in (0, 1)
    }


def test_a_run_that_asks_first_and_is_marked_as_failed_gives_the_drive_back(tape_rig: TapeRig) -> None:
    site, tape = tape_rig.site, f"{tape_rig.name}-1"
    site.make_tape(tape)
    cartridges.change_cartridge(site.image(tape), slow_ms=400)
    target = site.make_target("a", files=8, size_bytes=10 << 20)
    steps = ["import", "assign", "archive"]
    run_id = tape_rig.trigger(tapes=[tape], targets=[str(target)], steps=steps, ask=True)
    for subject in ("Import 1 targets?", f"Assign 1 targets, 83.9 MB, to tape {tape}?"):
        asked = tape_rig.ask(run_id, holding=str(target))
        assert asked.subject == subject
        tape_rig.say(run_id, asked, "Do it")
    assert wait_until(lambda: tape_rig.counted() == {"writing": 1}, timeout_s=120), tape_rig.explain(run_id)
    stack = tape_rig.rig.stack
    (task,) = [one for one in stack.task_instances(DAG_ID, run_id) if one.task_id == "archive.write"]
    path = f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task.task_id}/{task.map_index}"
    stack.request("PATCH", path, {"new_state": "failed"})
    assert wait_until(lambda: tape_rig.counted() == {"assigned": 1}, timeout_s=30), tape_rig.explain(run_id)
    assert report.attempts(site.ledger, tape)[0].result == AttemptResult.ABORTED
    assert stack.wait(DAG_ID, run_id, timeout_s=60, every_s=0.5) == "failed"
    cartridges.change_cartridge(site.image(tape), slow_ms=0)
    tape_rig.wait(tape_rig.trigger(action="archive", tapes=[tape]))
    assert [(str(one.state), one.file_number) for one in site.backups() if one.tape_name == tape] == [("recorded", 1)]
