"""Batches: every expected file is accounted for, the output is the same every time, and a part is never the whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from bitarchive_site import FILES, Site
from custody.bitarchive.batch import accounts, finish, handout, plan, work
from custody.bitarchive.batch.plan import Request
from custody.bitarchive.batch.spec import resolve
from custody.bitarchive.config import Limits
from custody.bitarchive.states import BatchState, FileState
from custody.faults import Fault, FaultKind

NAMES = "".join(f"{name}\n" for name in FILES).encode()

HOOKS = """
from custody.bitarchive.jobs import FileBatchJob

class Hooks(FileBatchJob):
    def initialize(self, out):
        out.write(b"begin ")
    def process_file(self, file, out):
        out.write(file.name.encode() + b" %d" % file.size_bytes)
        print("printed, which is no output")
        return True
    def finish(self, out):
        out.write(b" end\\n")
"""

FAILS = """
from custody.bitarchive.jobs import FileBatchJob, RecordBatchJob, RecordError

class Raises(FileBatchJob):
    def process_file(self, file, out):
        out.write(b"Legal\\n")
        if file.name.startswith("b"):
            raise ValueError("no b")
        if file.name.startswith("c"):
            return False

class BadStart(FileBatchJob):
    def initialize(self, out):
        raise RuntimeError("cannot begin")
    def process_file(self, file, out):
        out.write(b"never")
    def finish(self, out):
        open("/tmp/finished", "w").close()

class BadEnd(FileBatchJob):
    def process_file(self, file, out):
        out.write(b"x")
    def finish(self, out):
        raise RuntimeError("cannot end")

class Records(RecordBatchJob):
    seen = 0
    def process_record(self, record, out):
        self.seen += 1
        out.write(b"%d %s\\n" % (record.offset_bytes, record.url.encode()))
        if self.seen == 2:
            raise RecordError("second is bad")
        if self.seen == 4:
            raise KeyError("fourth ends it")
"""


def states(site: Site, found: accounts.Account) -> list[str]:
    return [str(line.state) for line in accounts.lines(site.archive, found.batch.id)]


def test_the_four_hooks_and_an_output_in_the_order_of_names(site: Site) -> None:
    found = site.run(site.job(HOOKS))
    expected = "".join(f"begin {name} {site.path(name).stat().st_size} end\n" for name in FILES)
    assert found.output and found.output.read_text() == expected
    assert (found.state, found.summary) == (BatchState.COMPLETE, "Processed 4 files with 0 failures")
    assert "printed" in next(accounts.lines(site.archive, found.batch.id)).detail["stderr"]


def test_a_second_run_gives_the_same_bytes(site: Site) -> None:
    first, second = (site.run("DeduplicationFinder", key=key) for key in "ab")
    assert first.batch.id != second.batch.id
    assert first.output and second.output
    assert first.output.read_bytes() == second.output.read_bytes() != b""
    assert first.batch.output_sha256 == second.batch.output_sha256


def test_a_batch_of_a_key_is_made_once(site: Site) -> None:
    assert site.run("FileListJob", key="k").batch.id == site.run("FileListJob", key="k").batch.id


@pytest.mark.parametrize("form", ["file", "file with class", "package", "program", "module"])
def test_a_job_may_be_given_in_every_form(site: Site, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "".join(f"begin {name} {site.path(name).stat().st_size} end\n" for name in FILES).encode()
    if form == "program":
        script = '#!/bin/sh\nprintf "begin %s %s end\\n" "$(basename "$1")" "$(stat -c %s "$1")"\n'
        found = site.run(site.job(script, "job.sh"))
    elif form == "package":
        package = site.root / "jobs.zip"
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr("mine/__init__.py", "")
            archive.writestr("mine/hooks.py", HOOKS)
        found = site.run(str(package), class_name="mine.hooks.Hooks")
    elif form == "module":
        monkeypatch.syspath_prepend(str(Path(site.job(HOOKS, "my_batch_hooks.py")).parent))
        found = site.run("my_batch_hooks:Hooks")
    else:
        found = site.run(site.job(HOOKS) + (":Hooks" if "class" in form else ""))
    assert found.output and found.output.read_bytes() == expected


def test_the_code_is_frozen_when_the_batch_is_made(site: Site) -> None:
    given = resolve(site.job(HOOKS))
    made = plan.create(site.archive, given, Request(), key="frozen", who="test")
    site.job(HOOKS.replace("begin", "changed"))
    found = site.go_on(made.id)
    assert found.output and found.output.read_bytes().startswith(b"begin")
    (plan.directory_of(site.archive, made.id) / "job" / "job.py").write_text(HOOKS.replace("begin", "evil!"))
    plan.retry(site.archive, made.id, who="test")
    site.path(FILES[0]).touch()
    with site.archive.ledger.begin() as connection:
        connection.execute(work.batch_file.update().values(state=FileState.FAILED))
    with pytest.raises(Fault, match="is not the code this batch began with"):
        site.go_on(made.id)


@pytest.mark.parametrize(
    ("job", "class_name", "said"),
    [
        ("nowhere.py", None, "is no file, no module:Class, none of the library: ChecksumJob"),
        ("/nowhere/job.py", None, "No such file"),
        ("json:Nothing.x/y", None, "No such file"),
        ("no_such_module:Job", None, "is no module of one Python file"),
        ("FileListJob", "X", "takes no class name"),
        ("{root}/a.class", None, "is Java"),
        ("{root}/a.jar", "a.B", "is Java"),
        ("{root}/a.zip", None, "name the class as package.module.Class"),
        ("{root}/a.zip", "a.B", "is no zip file"),
        ("{root}/plain", None, "not executable"),
        ("{root}/plain", "a.B", "is neither a .py nor a .zip"),
        ("{root}", None, "is no file"),
    ],
)
def test_what_is_no_job_is_refused_in_one_line(site: Site, job: str, class_name: str | None, said: str) -> None:
    for name in ("a.class", "a.jar", "a.zip", "plain"):
        (site.root / name).write_text("text")
    with pytest.raises(Fault) as caught:
        resolve(job.format(root=site.root), class_name)
    assert caught.value.kind is FaultKind.CONFIG
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("regexp", ["(", "[", "a" * 2000])
def test_a_bad_pattern_is_refused(site: Site, regexp: str) -> None:
    with pytest.raises(Fault, match="is no regular expression"):
        site.run("FileListJob", regexp=regexp)


@pytest.mark.parametrize(
    ("regexp", "expected"),
    [(r".*", FILES), (r"a", ()), (r"[ab]-\d\..*", FILES[:2]), (r".*\.warc", FILES[2:3]), (r"one/.*", ())],
)
def test_a_pattern_must_match_the_whole_base_name(site: Site, regexp: str, expected: tuple[str, ...]) -> None:
    found = site.run("FileListJob", regexp=regexp)
    if expected:
        assert found.output and found.output.read_text().split() == list(expected)
    else:
        assert (found.state, found.output) == (BatchState.NONE, None)
        assert found.summary == "Processed 0 files with 0 failures; 0 of 4 files of the replica match"
        assert found.state.exit_status == 3


def test_checksum_and_unknown_replicas_are_refused(site: Site) -> None:
    with pytest.raises(Fault, match="holds checksums only"):
        site.run("FileListJob", replica="replicaCs")
    with pytest.raises(Fault, match=r"there are: ONE \(replicaOne, bitarchive\), TWO"):
        site.run("FileListJob", replica="FOUR")


def test_a_failing_file_fails_alone_and_every_reason_is_kept(site: Site) -> None:
    found = site.run(site.job(FAILS), class_name="Raises")
    assert states(site, found) == ["done", "failed", "failed", "done"]
    assert (found.state, found.state.exit_status) == (BatchState.PARTIAL, 2)
    assert found.summary == "Processed 4 files with 2 failures"
    assert found.output and found.output.name == "output.partial"
    assert found.output.read_bytes() == b"Legal\n" * 2
    lines = list(accounts.lines(site.archive, found.batch.id))
    assert (lines[1].error_class, lines[1].message) == ("ValueError", "no b")
    assert 'raise ValueError("no b")' in lines[1].detail["exceptions"][0]["traceback"]
    assert "said that it failed" in lines[2].message
    errors = accounts.describe_errors(site.archive, found.batch.id)
    assert errors.startswith("Failed files:\nb-2.arc (failed): no b\nc-3.warc (failed)")
    assert "Class name: ValueError" in errors
    report = json.loads((plan.directory_of(site.archive, found.batch.id) / "report.json").read_text())
    assert report["state"] == "partial"
    assert [line["name"] for line in report["failed"]] == ["b-2.arc", "c-3.warc"]


@pytest.mark.parametrize(("name", "phase"), [("BadStart", "initialize"), ("BadEnd", "finish")])
def test_a_failure_at_the_beginning_or_the_end_is_told(site: Site, name: str, phase: str) -> None:
    found = site.run(site.job(FAILS), class_name=name)
    assert states(site, found) == ["failed"] * 4
    assert found.state is BatchState.NONE
    assert found.output is None
    assert all(line.detail["exceptions"][0]["phase"] == phase for line in accounts.lines(site.archive, found.batch.id))


def test_a_job_s_own_error_skips_a_record_and_any_other_ends_the_file(site: Site) -> None:
    found = site.run(site.job(FAILS), class_name="Records", regexp="a-1.*")
    (line,) = accounts.lines(site.archive, found.batch.id)
    assert (line.state, line.records) == (FileState.FAILED, 4)
    assert [(error["class"], error["offset_bytes"] > 0) for error in line.detail["exceptions"]] == [
        ("RecordError", True),
        ("KeyError", True),
    ]
    assert line.detail["exceptions"][0]["output_offset_bytes"] > 0


def test_only_so_many_exceptions_are_kept_and_the_rest_is_counted(site: Site) -> None:
    text = FAILS.replace("self.seen == 2", "True").replace("self.seen == 4", "False")
    found = site.run(site.job(text), class_name="Records", regexp="a-1.*", max_exceptions=2)
    (line,) = accounts.lines(site.archive, found.batch.id)
    assert (line.state, line.records) == (FileState.DAMAGED, 5)
    assert (len(line.detail["exceptions"]), line.detail["exceptions_dropped"]) == (2, 3)


def test_a_damaged_file_gives_its_other_records_and_the_place(site: Site) -> None:
    whole = site.run("Mimetypes", key="whole")
    path = site.path(FILES[0])
    content = bytearray(path.read_bytes())
    middle = content.find(b"\x1f\x8b\x08", len(content) // 2)
    content[middle + 40] ^= 0xFF
    path.write_bytes(content)
    found = site.run("Mimetypes", key="damaged")
    assert states(site, found) == ["damaged", "done", "done", "done"]
    assert found.state is BatchState.PARTIAL
    line = next(accounts.lines(site.archive, found.batch.id))
    assert (line.error_class, line.damages, line.offset_bytes) == ("Damaged", 1, middle)
    assert whole.output and found.output

    def count(path: Path) -> int:
        return sum(int(row.split("\t")[1]) for row in path.read_text().splitlines())

    assert count(found.output) == count(whole.output) - 1


def test_files_of_a_node_that_is_down_are_named_and_only_they_are_done_again(site: Site) -> None:
    (site.root / "two" / "filedir").rename(site.root / "two" / "unmounted")
    found = site.run(site.job(HOOKS))
    assert states(site, found) == ["done", "unreachable", "done", "unreachable"]
    assert found.summary == "Processed 2 files with 0 failures; 2 unreachable of 4 files"
    assert found.state is BatchState.PARTIAL
    (site.root / "two" / "unmounted").rename(site.root / "two" / "filedir")
    assert plan.retry(site.archive, found.batch.id, who="test") == 2
    again = site.go_on(found.batch.id)
    assert again.state is BatchState.COMPLETE
    assert again.output and again.output.name == "output"
    assert not (again.output.parent / "output.partial").exists()
    assert [line.attempts for line in accounts.lines(site.archive, found.batch.id)] == [1, 2, 1, 2]


def test_a_file_that_is_gone_or_of_another_size_is_told(site: Site) -> None:
    site.path(FILES[0]).unlink()
    with site.path(FILES[1]).open("ab") as out:
        out.write(b"more")
    found = site.run("FileListJob")
    assert states(site, found) == ["missing", "failed", "done", "done"]
    messages = [line.message for line in accounts.lines(site.archive, found.batch.id)]
    assert "is not there, and the catalogue says it should be" in messages[0]
    assert "the catalogue says" in messages[1]


def test_files_are_compared_with_the_catalogue_after_the_job_where_that_is_asked_for(site: Site) -> None:
    path = site.path(FILES[0])
    path.write_bytes(b"x" * path.stat().st_size)
    site.reconfigure(verify_after=True)
    found = site.run(site.job(HOOKS))
    assert states(site, found) == ["failed", "done", "done", "done"]
    assert "is not what the catalogue says" in next(accounts.lines(site.archive, found.batch.id)).message


@pytest.mark.slow
def test_a_job_that_hangs_is_ended_for_that_file_only(site: Site) -> None:
    text = """
        import time
        from custody.bitarchive.jobs import FileBatchJob
        class Slow(FileBatchJob):
            def process_file(self, file, out):
                out.write(b"some of ")
                if file.name.startswith("a"):
                    time.sleep(600)
                out.write(b"it\\n")
    """
    start = time.monotonic()
    found = site.run(site.job(textwrap.dedent(text)), file_timeout_s=4)
    assert time.monotonic() - start < 40
    assert states(site, found) == ["failed", "done", "done", "done"]
    line = next(accounts.lines(site.archive, found.batch.id))
    assert (line.error_class, line.message) == ("Timeout", "a-1.warc.gz: the job did not end within 4 s")
    assert found.output and found.output.read_bytes() == b"some of it\n" * 3


def test_output_has_a_limit(site: Site) -> None:
    site.reconfigure(limits=Limits(output=100_000))
    found = site.run(site.job("#!/bin/sh\nexec cat /dev/zero\n", "zeros.sh"), regexp="a-1.*")
    (line,) = accounts.lines(site.archive, found.batch.id)
    assert (line.state, line.error_class) == (FileState.FAILED, "Limit")
    assert "wrote more than 100000 bytes of output" in line.message
    assert not list((plan.directory_of(site.archive, found.batch.id) / "parts").iterdir())


def test_a_program_that_fails_is_told_by_its_status_and_last_words(site: Site) -> None:
    found = site.run(site.job("#!/bin/sh\necho half\necho 'no such codec' >&2\nexit 7\n", "bad.sh"), regexp="a-1.*")
    (line,) = accounts.lines(site.archive, found.batch.id)
    assert line.message == "a-1.warc.gz: the job ended with status 7: no such codec"
    assert found.output is None


def test_arguments_as_a_list_or_with_hashes(site: Site) -> None:
    script = site.job('#!/bin/sh\nshift; printf "%s|" "$@"; echo\n', "args.sh")
    found = site.run(script, "a b", "", "$(id)", regexp="a-1.*")
    assert found.output and found.output.read_bytes() == b"a b||$(id)|\n"
    assert resolve("FileListJob", None, "a##b##c").job.arguments == ("a", "b", "c")


def test_a_part_that_was_changed_is_found_and_made_again(site: Site) -> None:
    found = site.run("FileListJob")
    part = work.part_of(plan.directory_of(site.archive, found.batch.id), 1)
    part.write_bytes(b"forged\n")
    with pytest.raises(Fault, match="its bytes are not those that were recorded"):
        finish.collect(site.archive, found.batch.id, who="test")
    part.with_name("000000002.out").unlink()
    with pytest.raises(Fault, match="those that were recorded"):
        site.go_on(found.batch.id)
    again = site.go_on(found.batch.id)
    assert again.output and again.output.read_bytes() == NAMES


def test_an_output_is_laid_down_once_and_never_over_something(site: Site, tmp_path: Path) -> None:
    found = site.run("FileListJob")
    target = tmp_path / "list.txt"
    assert handout.publish_output(found, target) == target
    assert handout.publish_output(found, target) == target
    assert target.read_bytes() == NAMES
    target.write_bytes(b"mine")
    with pytest.raises(Fault) as caught:
        handout.publish_output(found, target)
    assert caught.value.kind is FaultKind.CONFLICT
    assert target.read_bytes() == b"mine"


def test_post_process_that_fails_keeps_the_outputs(site: Site) -> None:
    hook = "    def post_process(self, source, out):\n        out.write(b'half')\n        raise ValueError('x')\n"
    found = site.run(site.job(HOOKS + hook))
    assert found.output and found.output.read_bytes().count(b"begin") == 4
    assert (found.output.name, found.state) == ("output.partial", BatchState.PARTIAL)
    assert found.summary == "Processed 4 files with 0 failures; post_process failed"
    assert "ValueError: x" in accounts.describe_errors(site.archive, found.batch.id)
    assert plan.load(site.archive, found.batch.id).state is BatchState.PARTIAL
    plan.retry(site.archive, found.batch.id, who="test")
    assert site.go_on(found.batch.id).state is BatchState.PARTIAL  # the same code, the same error


def test_two_at_once_do_not_do_one_bucket_twice(site: Site) -> None:
    made = plan.create(site.archive, resolve("FileListJob"), Request(), key="two", who="test")
    from custody import lease

    with lease.hold(site.archive.ledger, f"bitarchive-batch/{made.id}/0"), pytest.raises(Fault) as caught:
        work.run_bucket(site.archive, made.id, 0)
    assert caught.value.kind is FaultKind.CONFLICT


def test_files_are_bucketed_by_bytes_and_node(site: Site) -> None:
    site.reconfigure(bucket_size=1)
    made = plan.create(site.archive, resolve("FileListJob"), Request(), key="small", who="test")
    buckets = plan.buckets_to_run(site.archive, made.id)
    assert [bucket.files for bucket in buckets] == [1, 1, 1, 1]
    site.reconfigure(bucket_size=10**9)
    other = plan.create(site.archive, resolve("FileListJob"), Request(), key="big", who="test")
    assert [(bucket.node, bucket.files) for bucket in plan.buckets_to_run(site.archive, other.id)] == [
        ("one", 2),
        ("two", 2),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_takes_its_job_with_it_at_once(site: Site, how: signal.Signals) -> None:
    mark = f"custody-mark-{os.getpid()}-{how}"
    script = site.job(f"#!/bin/sh\necho half\nexec sh -c 'sleep 600; true {mark}'\n", "slow.sh")
    made = plan.create(site.archive, resolve(script), Request(), key="ended", who="test")

    def runs() -> bool:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                if mark.encode() in path.read_bytes():
                    return True
        return False

    process = subprocess.Popen([sys.executable, "-c", run_all_of(site, made.id)], env=os.environ)
    deadline = time.monotonic() + 30
    while not runs() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(how)
    start = time.monotonic()
    process.wait()
    while runs() and time.monotonic() - start < 10:
        time.sleep(0.05)
    assert not runs()
    assert time.monotonic() - start < 10
    lines = list(accounts.lines(site.archive, made.id))
    assert not any(line.state.has_output for line in lines)
    with pytest.raises(Fault, match="files wait to be processed"):
        finish.collect(site.archive, made.id, who="test")


def run_all_of(site: Site, batch_id: int) -> str:
    """A program that runs every bucket of a batch."""
    return textwrap.dedent(f"""
        from custody.bitarchive.archive import Archive
        from custody.bitarchive.batch import plan, work
        from custody.bitarchive.config import ArchiveConfig
        from custody.ledger import Ledger
        config = ArchiveConfig.model_validate_json({site.archive.config.model_dump_json()!r})
        archive = Archive("news", config, Ledger.open({site.archive.ledger.url!r}))
        for bucket in plan.buckets_to_run(archive, {batch_id}):
            work.run_bucket(archive, {batch_id}, bucket.number)
        print("whole")
    """)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(site: Site) -> None:
    slow = HOOKS.replace('print("printed', 'import time; time.sleep(0.4); print("printed')
    expected = site.run(site.job(slow), key="whole")
    assert expected.output
    site.reconfigure(workers=1)
    made = plan.create(site.archive, resolve(site.job(slow)), Request(), key="killed", who="test")
    program = run_all_of(site, made.id)
    kills = 0
    for patience_s in (0.9, 1.3, 1.8, 2.4, 60):
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
        )
        try:
            out, err = process.communicate(timeout=patience_s)
            assert out == b"whole\n", err.decode()
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    assert kills >= 1
    found = finish.collect(site.archive, made.id, who="test")
    assert found.state is BatchState.COMPLETE
    assert found.output and found.output.read_bytes() == expected.output.read_bytes()
