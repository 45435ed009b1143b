"""Indexes by several processes, as Parquet, reports, and what an old system's caches are worth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from bitarchive_samples import PAGES, sample
from bitarchive_site import Site
from custody.bitarchive import environment
from custody.bitarchive.index import parquet
from custody.bitarchive.index.build import Indexes
from custody.bitarchive.index.cache import SCRATCH
from custody.bitarchive.index.names import Kind, set_name
from custody.bitarchive.index.takeover import TakenOver, Verdict, take_over
from custody.bitarchive.index.workers import Workers, side_by_side
from custody.faults import Fault, FaultKind

SETS = ((Kind.FULL, [31, 32, 311]), (Kind.DEDUP, [31, 32]), (Kind.CDXJ, [32]))


def test_several_processes_make_the_same_bytes(
    jobs: Indexes, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = [Indexes(site.archive, processes=1).get(kind, ids).item.sha256 for kind, ids in SETS]
    site.reconfigure(cache_dir=str(tmp_path / "other"), index_processes=3)
    asked: list[int] = []
    take = Workers._take
    monkeypatch.setattr(Workers, "_take", lambda self: (asked.append(self.processes), take(self))[1])
    several = Indexes(site.archive)
    assert [several.get(kind, ids).item.sha256 for kind, ids in SETS] == one
    assert asked == [3, 3, 3, 3]  # each file by a worker, each once
    assert not list((tmp_path / "other").glob(f"{SCRATCH}*"))


def test_what_is_wrong_in_a_worker_is_told_as_it_is_here(jobs: Indexes, site: Site) -> None:
    path = site.root / "one" / "filedir" / "32-7-20260101-00001.warc.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    for processes in (1, 2):
        with pytest.raises(Fault, match=r"32-7-20260101-00001.warc.gz is damaged at offset \d+"):
            Indexes(site.archive, processes=processes).get(Kind.FULL, [31, 32])
    (site.root / "one" / "filedir" / "311-7-20260101-00000.warc.gz").unlink()
    with pytest.raises(Fault, match=r"311-7-20260101-00000.warc.gz is not there, and should be"):
        jobs.get(Kind.CDXJ, [311])


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in found for word in path.read_text().split()]


def indexing(pid: int) -> list[int]:
    """Those of its children that index: other tests of this process have started others."""
    program = Workers.__module__.encode()
    return [child for child in children(pid) if program in Path(f"/proc/{child}/cmdline").read_bytes()]


def wait_until(true: object, *, timeout_s: float = 20) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


CALLER = """
import sys
from pathlib import Path
from custody.bitarchive.index.workers import Workers, side_by_side
paths = [Path(word) for word in sys.argv[1:]]
with Workers(2) as workers:
    def index(path):
        with workers.turn() as write_part:
            return write_part(path, "a.warc.gz", path.with_suffix(".cdxj"))
    side_by_side(index, paths, 2)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_caller(tmp_path: Path, how: signal.Signals) -> None:
    pipes = [tmp_path / "one", tmp_path / "two"]
    for pipe in pipes:
        os.mkfifo(pipe)  # nobody writes: a file that is never read to its end
    caller = subprocess.Popen([sys.executable, "-c", CALLER, *map(str, pipes)], stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: len(children(caller.pid)) == 2)
        workers = children(caller.pid)
        os.kill(caller.pid, how)
        assert caller.wait(20) != 0
        assert wait_until(lambda: not any(map(is_alive, workers)))
    finally:
        caller.kill()
        caller.wait()


def test_a_worker_that_is_killed_is_a_fault_and_the_next_one_works(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    good = sample(tmp_path / "a.warc.gz").path
    with Workers(2) as workers:

        def index(path: Path) -> int:
            with workers.turn() as write_part:
                return write_part(path, "a.warc.gz", path.with_suffix(".cdxj")).records

        def work(number: int) -> int:
            if number:
                return index(tmp_path / "pipe")
            assert wait_until(lambda: indexing(os.getpid()))
            os.kill(indexing(os.getpid())[0], signal.SIGKILL)
            return 0

        killed = side_by_side(work, [0, 1], 2)[1]
        assert isinstance(killed, Fault) and killed.kind is FaultKind.TRANSIENT
        assert "status -9" in str(killed)
        assert index(good) == 5


def test_a_directory_that_a_killed_process_left_goes_when_it_is_old(jobs: Indexes) -> None:
    with jobs.cache.scratch() as held:
        left = jobs.cache.root / f"{SCRATCH}left"
        (left / "deep").mkdir(parents=True)
        for path in (held, left):
            os.utime(path, (1, 1))
        with jobs.cache.scratch():
            assert held.is_dir() and not left.exists()


def test_reports_come_out_of_the_same_pass_as_a_tar(jobs: Indexes) -> None:
    item = jobs.get(Kind.REPORTS, [31]).item
    assert jobs.cache.look_up(Kind.CRAWL_LOG, [31]) and jobs.cache.look_up(Kind.CDX_DATA, [31])
    with tarfile.open(item.path) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert found == {
        "31-metadata-1.arc/reports/crawl-report.txt": b"all is well\n",
        "31-metadata-1.arc/reports/crawl-report.txt~2": b"again\n",
        "31-metadata-1.arc/setup/_/_/_/etc/order.xml": b"<order/>",  # it leads nowhere
    }
    listed = subprocess.run(["tar", "-tf", str(item.path)], capture_output=True, check=True)
    assert not listed.stderr
    before = item.sha256
    jobs.cache.collect(max_bytes=0)
    assert jobs.get(Kind.REPORTS, [31]).item.sha256 == before
    with pytest.raises(Fault, match="is of one job, and 2 were named"):
        jobs.get(Kind.REPORTS, [31, 32])


def test_old_caches_are_compared_with_the_archive_before_they_are_hits(jobs: Indexes, tmp_path: Path) -> None:
    old = tmp_path / "cache"
    log = jobs.get(Kind.CRAWL_LOG, [31]).item.path.read_bytes().splitlines()
    jobs.cache.collect(max_bytes=0)
    contents = {
        "crawllog/crawllog-31-cache": b"\n".join(reversed(log)) + b"\n",
        "crawllog/crawllog-99-cache": b"a line of a job nobody knows\n",
        "cdxdata/cdxdata-31-cache": b"a line\nc line\nc line\n",
        "cdxindex/31-cache": b"a line\nb line\n",
        "cdxindex/1-2-3-4-d28f2f51ffe4b6d42b3e46a7cd7a72da-cache": b"x 5-1-a.warc\n",
        "cdxindex/..-cache": b"",
        "crawllog/crawllog-31-cache.working": b"",
        "fullcrawllogindex/31-cache/segments.gz": b"",
    }
    for name, content in contents.items():
        path = old / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = {str(one.path.relative_to(old)): one for one in take_over(jobs, old)}
    assert {name: one.verdict for name, one in found.items()} == {
        "crawllog/crawllog-31-cache": Verdict.EQUAL,
        "crawllog/crawllog-99-cache": Verdict.UNKNOWN,
        "cdxdata/cdxdata-31-cache": Verdict.DIFFERENT,
        "cdxindex/31-cache": Verdict.EQUAL,
        "cdxindex/1-2-3-4-d28f2f51ffe4b6d42b3e46a7cd7a72da-cache": Verdict.UNKNOWN,
        "cdxindex/..-cache": Verdict.UNKNOWN,
        "fullcrawllogindex/31-cache": Verdict.UNKNOWN,
    }
    said = "2 lines are not in the archive, 1 of the archive are not here"
    assert found["cdxdata/cdxdata-31-cache"] == TakenOver(old / "cdxdata/cdxdata-31-cache", Verdict.DIFFERENT, said)
    assert jobs.cache.look_up(Kind.CRAWL_LOG, [31]) and not jobs.cache.look_up(Kind.CRAWL_LOG, [99])
    assert {name: (old / name).read_bytes() for name in contents} == contents
    with pytest.raises(Fault, match="is the archive's own cache"):
        list(take_over(jobs, jobs.cache.root))


def test_the_jobs_of_a_big_set_are_told_by_the_files_its_lines_name(jobs: Indexes, tmp_path: Path) -> None:
    name = set_name(range(1, 7))
    path = tmp_path / "cdxindex" / name
    path.parent.mkdir()
    path.write_text("".join(f"http://x/ 1.2.3.4 {job}-9-20260101-00000.arc 0\n" for job in range(1, 7)))
    (found,) = take_over(jobs, tmp_path)
    assert "no data: job 1: has no metadata files" in found.reason


def test_without_pyarrow_one_line_says_what_to_do(jobs: Indexes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUSTODY_PARQUET_PYTHON", raising=False)
    monkeypatch.setattr(parquet, "find_spec", lambda _name: None)
    with pytest.raises(Fault) as caught:
        jobs.get(Kind.PARQUET, [31, 32])
    said = "pyarrow: is not installed; it writes Parquet. Next: custody bitarchive index news --install-parquet"
    assert (str(caught.value), caught.value.kind) == (said, FaultKind.CONFIG)
    assert not jobs.cache.look_up(Kind.CDXJ, [31])  # it is said before the work
    monkeypatch.setenv("CUSTODY_PARQUET_PYTHON", "/nowhere/python")
    with pytest.raises(Fault, match="/nowhere/python: does not run"):
        jobs.get(Kind.PARQUET, [31])
    monkeypatch.setenv("CUSTODY_PARQUET_PYTHON", sys.executable)
    with pytest.raises(Fault, match="No module named 'pyarrow'"):
        jobs.get(Kind.PARQUET, [31])
    assert not jobs.cache.look_up(Kind.PARQUET, [31])


@pytest.fixture(scope="session")
def with_pyarrow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has pyarrow, from its own lock."""
    if named := os.environ.get("CUSTODY_PARQUET_PYTHON"):
        return named
    made = tmp_path_factory.mktemp("parquet") / "env"
    try:
        environment.make_environment(made, parquet.LOCK)
    except Fault as fault:
        pytest.skip(f"pyarrow cannot be installed here: {fault}")
    assert environment.is_whole(made, parquet.LOCK)
    return str(made / "bin" / "python")


READ_BACK = """
import sys, json, pyarrow.parquet as parquet
table = parquet.read_table(sys.argv[1])
print(json.dumps({"schema": {field.name: str(field.type) for field in table.schema}, "rows": table.to_pylist()},
    default=str))
"""


@pytest.mark.service
def test_an_index_is_read_back_from_parquet(
    jobs: Indexes, with_pyarrow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUSTODY_PARQUET_PYTHON", with_pyarrow)
    item = jobs.get(Kind.PARQUET, [31, 32]).item
    assert item.path.name == "31-32-cache"
    full = jobs.cache.look_up(Kind.FULL, [31, 32])
    assert full and dict(item.inputs) == {"31-32-cache": full.sha256}
    done = subprocess.run([with_pyarrow, "-c", READ_BACK, str(item.path)], capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert (found["schema"]["captured_at"], found["schema"]["offset"]) == ("timestamp[ms, tz=UTC]", "int64")
    lines = [line.split(" ", 2) for line in full.path.read_text().splitlines()]
    assert [(row["urlkey"], row["timestamp"]) for row in found["rows"]] == [(key, time) for key, time, _ in lines]
    for row, (_, _, text) in zip(found["rows"], lines, strict=True):
        values = json.loads(text)
        assert {name: str(row[name]) for name in ("url", "mime", "status", "digest", "filename", "offset")} == {
            name: values[name] for name in ("url", "mime", "status", "digest", "filename", "offset")
        }
        assert row["captured_at"].startswith("2026-01-0") and row["more"] is None
    before = item.sha256
    jobs.cache.collect(max_bytes=0)
    assert jobs.get(Kind.PARQUET, [31, 32]).item.sha256 == before
    assert len(found["rows"]) == 2 * len(PAGES) + 1

    odd = tmp_path / "odd.cdxj"
    odd.write_bytes(b'com,x)/\xff 2026 {"url": "http://x/\\udcff", "status": "-1", "offset": "7", "access": "no"}\n')
    with (tmp_path / "odd.parquet").open("wb") as out:
        parquet.write_parquet(Path(with_pyarrow), odd, out)
    done = subprocess.run([with_pyarrow, "-c", READ_BACK, out.name], capture_output=True, check=True)
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["urlkey"], row["url"], row["status"]) == ("com,x)/\\xff", "http://x/\\udcff", None)
    assert (row["captured_at"], row["offset"], json.loads(row["more"])) == (None, 7, {"access": "no", "status": "-1"})
    odd.write_bytes(b"no cdxj\n")
    with pytest.raises(Fault, match="ValueError"), (tmp_path / "none").open("wb") as out:
        parquet.write_parquet(Path(with_pyarrow), odd, out)
