"""Chapter bitarchive: a job over two nodes, one down for a while, one file damaged; an index, and a page of it."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import yaml
from rich.table import Table

from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import accounts, plan, walls
from custody.bitarchive.config import Isolation, parse
from custody.bitarchive.index.build import Indexes
from custody.bitarchive.index.lookup import Lookup
from custody.bitarchive.index.names import Kind
from custody.bitarchive.nodes import LocalNode
from custody.bitarchive.records import Damage, read_records
from custody.bitarchive.states import BatchState, FileState
from custody.bitarchive.viewer import server
from custody.bitarchive.viewer.app import make_app
from custody.bitarchive.viewer.commands import Commands
from custody.faults import Fault
from custody.ledger import Ledger
from custody_demo.airflow_stack import AirflowStack
from custody_demo.progress import watch
from custody_demo.sample_warc import write_warc
from custody_demo.workspace import Outcome, Workspace

TITLE = "bitarchive"
DAG_ID = "bitarchive_batch"
CONFIG = "news"
NODES = ("kb1", "kb2")
JOBS = (1, 2)
FILES_A_JOB = 3
FILE_BYTES = 60_000
DAMAGED = "1-1-20260510063000-00000.warc.gz"
_SEED = 5


@dataclass(frozen=True)
class Site:
    """The archive of this chapter."""

    root: Path
    archive: Archive

    def filedir(self, node: str) -> Path:
        """Where a node keeps its files."""
        return self.root / node / "filedir"


def run(stack: AirflowStack, workspace: Workspace, *, timeout_s: float = 300) -> Outcome:
    """Make the archive, run the job with a node down and a file damaged, index, and look at a page."""
    stack.wait_for_dag(DAG_ID, timeout_s=120)
    stack.unpause(DAG_ID)
    say = partial(workspace.console.print, soft_wrap=True, highlight=False, markup=False)
    site = make_site(workspace)
    files = len(JOBS) * FILES_A_JOB
    say(f"Bitarchive: {files} WARC files on the nodes {' and '.join(NODES)} below {site.root}")
    offset = damage(site.filedir(NODES[0]) / DAMAGED)
    away = site.filedir(NODES[1]).rename(site.root / "unmounted")
    say(f"{DAMAGED} is damaged at offset {offset}; node {NODES[1]} is down")
    run_id = stack.trigger(DAG_ID, {"config": CONFIG, "job": "Mimetypes"})
    say(f"Running: {stack.url}/dags/{DAG_ID}/runs/{run_id}")
    seen = wait_for_unreachable(site, timeout_s=timeout_s)
    say(f"The ledger says: {seen} files are unreachable. Node {NODES[1]} comes back, and Airflow tries again ...")
    away.rename(site.filedir(NODES[1]))
    state = stack.wait(DAG_ID, run_id, watch(workspace.show, dict), timeout_s=timeout_s)
    found = accounts.account(site.archive, 1)
    say(f"The run ended as {state}, as it should with a damaged file: {found.summary}")
    problems = problems_of(site, found, state, offset, seen)
    page = show_page(site, workspace)
    problems += page
    counts = {str(name): count for name, count in found.counts.items() if count}
    return Outcome(TITLE, tuple(problems), counts, (table_of_files(site),))


def make_site(workspace: Workspace) -> Site:
    """Files of two harvest jobs, dealt out to two nodes, and put on record."""
    root = workspace.home / "bitarchive"
    isolation = Isolation.BUBBLEWRAP
    if reason := walls.why_no_bubblewrap():
        isolation = Isolation.WEAK
        workspace.console.print(f"bubblewrap {reason}: jobs run without walls here", markup=False, soft_wrap=True)
    values: dict[str, Any] = {
        "replicas": [
            {
                "id": "ONE",
                "name": "replicaOne",
                "nodes": [{"name": name, "directory": str(root / name)} for name in NODES],
            }
        ],
        "use_replica": "ONE",
        "work_dir": str(root / "work"),
        "isolation": str(isolation),
        "file_timeout_s": 60,
    }
    path = workspace.config_dir / "bitarchive" / f"{CONFIG}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    archive = Archive(CONFIG, parse(values, str(path)), Ledger.open(workspace.ledger_url))
    replica = archive.config.replica("ONE")
    for node in archive.nodes(replica):
        assert isinstance(node, LocalNode)
        node.prepare()
    site = Site(root, archive)
    dice = random.Random(_SEED)  # noqa: S311 - sample data
    number = 0
    for job in JOBS:
        for serial in range(FILES_A_JOB):
            name = f"{job}-1-20260510063000-{serial:05}.warc.gz"
            write_warc(
                site.filedir(NODES[number % len(NODES)]) / name,
                dice=dice,
                size_bytes=FILE_BYTES,
                started=datetime(2026, 5, 10, 6, 30, tzinfo=UTC),
                warcinfo={"software": "sample-crawler"},
            )
            number += 1
    catalogue.adopt(archive, replica, who="demo")
    return site


def damage(path: Path) -> int:
    """Flip one byte in the middle record of a file; returns where that record begins."""
    offsets = [item.offset_bytes for item in read_records(path) if not isinstance(item, Damage)]
    offset = offsets[len(offsets) // 2]
    content = bytearray(path.read_bytes())
    content[offset + 60] ^= 0xFF
    path.write_bytes(content)
    return offset


def wait_for_unreachable(site: Site, *, timeout_s: float) -> int:
    """Wait until the ledger says that files are out of reach; returns how many."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            count = accounts.account(site.archive, 1).counts.get(FileState.UNREACHABLE, 0)
        except Fault:  # the batch is not on record yet
            count = 0
        if count:
            return count
        time.sleep(1)
    return 0


def problems_of(site: Site, found: accounts.Account, state: str, offset: int, seen: int) -> list[str]:
    """A line for everything that is not as it should be."""
    problems = []
    files = len(JOBS) * FILES_A_JOB
    if state != "failed" or found.state is not BatchState.PARTIAL:
        problems.append(f"a run with a damaged file ended as {state}, its batch as {found.state}")
    if seen != FILES_A_JOB:
        problems.append(f"{seen} files were unreachable while a node with {FILES_A_JOB} was down")
    if found.counts != {FileState.DONE: files - 1, FileState.DAMAGED: 1}:
        problems.append(f"the account is {found.counts}")
    lines = [line for line in accounts.lines(site.archive, 1) if line.state is FileState.DAMAGED]
    if [(line.name, line.offset_bytes) for line in lines] != [(DAMAGED, offset)]:
        problems.append(f"the damage is at offset {offset} of {DAMAGED}, and was found elsewhere")
    home = plan.directory_of(site.archive, 1)
    if (home / "output").exists() or b"text/html\t" not in (home / "output.partial").read_bytes():
        problems.append("the partial result is not where it should be")
    return problems


def table_of_files(site: Site) -> Table:
    """The account of the batch."""
    table = Table(title="What became of every file")
    for heading in ("file", "node", "state", "records", "tries", "message"):
        table.add_column(heading, overflow="fold")
    for line in accounts.lines(site.archive, 1):
        table.add_row(line.name, line.node, line.state, str(line.records), str(line.attempts), line.message)
    return table


def show_page(site: Site, workspace: Workspace) -> list[str]:
    """Index the job that is whole, and fetch a page of it through the viewer; without pywb only the index."""
    say = partial(workspace.console.print, soft_wrap=True, highlight=False, markup=False)
    item = Indexes(site.archive).get(Kind.FULL, [JOBS[1]]).item
    say(f"Index of job {JOBS[1]}: {item.path}")
    with item.path.open("rb") as lines:
        url = next(line for line in lines if b'"text/html"' in line).split(b'"url": "')[1].split(b'"')[0].decode()
    with Lookup(item.path) as lookup:
        if not lookup.find(url):
            return [f"{url}: is not found in {item.path}"]
    try:
        program = server.install_pywb(server.environment_of(site.archive))
    except Fault as fault:
        say(f"Viewer: left out, pywb cannot be installed here ({fault.reason})")
        return []
    with running_viewer(site, program) as address, httpx.Client(proxy=address, trust_env=False) as browser:
        params = {"jobID": str(JOBS[1]), "label": "demo", "returnURL": "/"}
        httpx.get(f"{address}/changeIndex", params=params, trust_env=False)
        answer = browser.get(url, timeout=60)
    say(f"Viewer: {url}: {answer.status_code}, {len(answer.content)} bytes")
    if answer.status_code != httpx.codes.OK or b"<h" not in answer.content:
        return [f"{url}: the viewer answers {answer.status_code}"]
    return []


@contextmanager
def running_viewer(site: Site, program: Path) -> Iterator[str]:
    """The viewer with pywb, for the length of a block; yields its address."""
    port, pywb_port = _free_port(), _free_port()
    replay = f"http://127.0.0.1:{pywb_port}"
    app = make_app(Commands(site.archive, server.home_of(site.archive), replay), replay)
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, http="httptools", log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    with server.running_pywb(site.archive, program, "127.0.0.1", pywb_port, port):
        thread.start()
        while not running.started and thread.is_alive():
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            running.should_exit = True
            thread.join(10)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
