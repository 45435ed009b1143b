"""Chapter tape: directories to two small virtual tapes; the first ends in the middle, and somebody changes it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.table import Table

from custody.tape.drives import cartridges, changer
from custody_demo.airflow_stack import AirflowStack
from custody_demo.progress import watch
from custody_demo.required_actions import answer, wait_for_question, wait_for_run
from custody_demo.tape_check import OnTape, files_on
from custody_demo.workspace import Outcome, Workspace

TITLE = "tape"
DAG_ID = "tape_backup"
CONFIG = "demo"
TAPES = ("DEMO01", "DEMO02")
CAPACITY_BYTES = 7_000_000  # the third target does not fit any more
TARGETS = ("letters", "maps", "registers")
FILES_A_TARGET = 5
FILE_BYTES = 500_000
STEPS = ["open", "import", "assign", "archive", "confirm"]
_SEED = 11


@dataclass(frozen=True)
class TapeSite:
    """The directory of this chapter: a drive, a shelf of cartridges, the data, and where files come back to."""

    root: Path

    @property
    def drive(self) -> Path:
        """The virtual drive."""
        return self.root / "drive"

    @property
    def restored(self) -> Path:
        """Where files are restored to."""
        return self.root / "restored"

    def image(self, tape: str) -> Path:
        """A cartridge."""
        return self.root / "shelf" / f"{tape}.tap"

    def insert(self, tape: str) -> None:
        """Take out what is in the drive, and put a cartridge in."""
        changer.unload(self.drive)
        changer.load(self.drive, self.image(tape))


def run(stack: AirflowStack, workspace: Workspace, *, timeout_s: float = 300) -> Outcome:
    """Back up, change the tape when asked, get one file back, and look at the cartridges."""
    stack.wait_for_dag(DAG_ID, timeout_s=120)
    stack.unpause(DAG_ID)
    say = partial(workspace.console.print, soft_wrap=True, highlight=False, markup=False)
    site = TapeSite(workspace.home / "tape")
    source = make_site(site, workspace)
    say(f"Tape: {len(source)} files in {site.root / 'data'}, two cartridges of {CAPACITY_BYTES / 1e6:.0f} MB each")
    site.insert(TAPES[0])
    conf = {"config": CONFIG, "find_below": str(site.root / "data"), "tapes": list(TAPES), "steps": STEPS}
    problems, first = [], stack.trigger(DAG_ID, conf)
    say(f"Running: {stack.url}/dags/{DAG_ID}/runs/{first}")
    problems += _ended(stack, workspace, first, timeout_s)
    other = wait_for_run(stack, DAG_ID, config=CONFIG, not_these={first}, timeout_s=60)
    asked = wait_for_question(stack, DAG_ID, other, timeout_s=timeout_s)
    say(f"{TAPES[0]} is full. Required action: {asked.subject}")
    site.insert(TAPES[1])
    answer(stack, DAG_ID, other, asked, asked.options[0])
    say(f"{TAPES[1]} is put in, and the question answered: {asked.options[0]}")
    problems += _ended(stack, workspace, other, timeout_s)
    on_tape = [one for tape in TAPES for one in files_on(site.image(tape))]
    wanted = max((one for one in on_tape if one.tape == TAPES[1]), key=lambda one: one.path, default=None)
    if wanted is not None:
        say(f"Restoring {wanted.path} from {wanted.tape}")
        back = {"config": CONFIG, "action": "restore", "patterns": [wanted.path], "into": str(site.restored)}
        problems += _ended(stack, workspace, stack.trigger(DAG_ID, back), timeout_s)
    problems += problems_of(source, on_tape, wanted, site.restored)
    counts = {f"files on {tape}": sum(one.tape == tape for one in on_tape) for tape in TAPES}
    counts["restored"] = 1 if wanted else 0
    return Outcome(TITLE, tuple(problems), counts, (table_of_tapes(on_tape, source),))


def make_site(site: TapeSite, workspace: Workspace) -> dict[str, str]:
    """Make drive, cartridges, data and configuration; returns the md5 of every file by its path."""
    dice = random.Random(_SEED)  # noqa: S311 - sample data
    source: dict[str, str] = {}
    for target in TARGETS:
        directory = site.root / "data" / target
        directory.mkdir(parents=True)
        for number in range(FILES_A_TARGET):
            path = directory / f"{target} {number:02}.dat"
            path.write_bytes(dice.randbytes(FILE_BYTES))
            source[str(path)] = hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324
    cartridges.make_drive(site.drive)
    (site.root / "shelf").mkdir()
    for tape in TAPES:
        cartridges.make_cartridge(site.image(tape), capacity_bytes=CAPACITY_BYTES)
    config = workspace.config_dir / "tape" / f"{CONFIG}.conf"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f"[default]\ntape_device = {site.drive}\nbuffer = 8MiB\ncapacity = {CAPACITY_BYTES}\n")
    return source


def problems_of(source: dict[str, str], on_tape: Sequence[OnTape], wanted: OnTape | None, restored: Path) -> list[str]:
    """A line for everything that is not where it should be: each file on exactly one tape, with its own bytes."""
    problems = []
    for path, md5 in source.items():
        copies = [one for one in on_tape if one.path == path]
        if len(copies) != 1 or copies[0].md5 != md5:
            problems.append(f"{path}: on tape {len(copies)} times, or with other bytes")
    if {one.tape for one in on_tape} != set(TAPES):
        problems.append(f"not both tapes were used, only {sorted({one.tape for one in on_tape})}")
    if wanted is None:
        return [*problems, "nothing could be restored"]
    back = restored / wanted.path.lstrip("/")
    if not back.is_file() or hashlib.md5(back.read_bytes()).hexdigest() != source.get(wanted.path):  # noqa: S324
        problems.append(f"{back}: was not restored with the bytes of {wanted.path}")
    return problems


def table_of_tapes(on_tape: Sequence[OnTape], source: dict[str, str]) -> Table:
    """Show what lies in each file of each tape, read without Custody."""
    table = Table(title="What is on the cartridges, read as plain tar and compared by md5")
    for heading in ("tape", "file", "directory", "files", "MB", "as at the source"):
        table.add_column(heading, justify="right" if heading in ("file", "files", "MB") else "left")
    for tape, number in sorted({(one.tape, one.file_number) for one in on_tape}):
        group = [one for one in on_tape if (one.tape, one.file_number) == (tape, number)]
        good = sum(source.get(one.path) == one.md5 for one in group)
        colour = "green" if good == len(group) else "red"
        name = Path(group[0].path).parent.name
        size_mb = sum(one.size_bytes for one in group) / 1e6
        table.add_row(tape, str(number), name, str(len(group)), f"{size_mb:.1f}", f"[{colour}]{good}[/]")
    return table


def _ended(stack: AirflowStack, workspace: Workspace, run_id: str, timeout_s: float) -> list[str]:
    """Wait for the end of a run; a line for every task that failed."""
    state = stack.wait(DAG_ID, run_id, watch(workspace.show, dict), timeout_s=timeout_s)
    if state == "success":
        return []
    lines = [f"run {run_id} ended as {state}"]
    for task in stack.task_instances(DAG_ID, run_id):
        if task.state == "failed":
            log = [line for line in stack.task_log(DAG_ID, run_id, task).splitlines() if not line.startswith("::")]
            lines.append(f"task {task.task_id} {task.name} failed; its log ends: {' / '.join(log[-4:])[:600]}")
    return lines
