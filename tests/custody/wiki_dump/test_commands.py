"""Several commands at once: every case in which the old CommandManagement hung, or called a failure a success."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.wiki_dump.commands import Command, Feed, Pipeline, run
from custody.wiki_dump.series import Series, run_in_parallel


def sh(script: str, **kwargs: bool) -> Command:
    return Command(("sh", "-c", script), **kwargs)


def python(script: str) -> Command:
    return Command((sys.executable, "-c", script))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_pipeline_writes_its_file_and_tells_every_exit(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(Pipeline((sh("printf 'b\\na\\n'; echo note >&2"), Command(("sort",))), out))
    assert out.read_bytes() == b"a\nb\n"
    assert [(ended.code, ended.stderr_tail) for ended in result.exits] == [(0, "note"), (0, "")]
    run(Pipeline((sh("echo c"),), out, append=True))
    assert out.read_bytes() == b"a\nb\nc\n"


def test_a_megabyte_of_complaints_of_the_first_program_blocks_nothing() -> None:
    loud = python("import sys; sys.stderr.write('x' * (1 << 20) + 'the end'); print('done')")
    result = run(Pipeline((loud, Command(("cat",))), timeout_s=30))
    assert result.stdout == b"done\n"
    assert result.exits[0].stderr_tail.endswith("the end")
    assert len(result.exits[0].stderr_tail) < 10_000


@pytest.mark.parametrize("pipeline", ["false | cat", "cat | false", "cat | false | cat"])
def test_any_program_that_fails_fails_the_pipeline(pipeline: str) -> None:
    commands = tuple(Command((word,)) for word in pipeline.split(" | "))
    with pytest.raises(Fault, match="false ended with status 1") as caught:
        run(Pipeline(commands))
    assert caught.value.kind is FaultKind.DATA


def test_the_first_pipeline_that_fails_ends_its_series(tmp_path: Path) -> None:
    second = Pipeline((sh("echo"),), tmp_path / "second")
    with pytest.raises(Fault, match="status 3: alas"):
        run_in_parallel([Series((Pipeline((sh("echo alas >&2; exit 3"),)), second))], at_once=1)
    assert not (tmp_path / "second").exists()


def test_a_killed_child_is_a_failure_that_names_its_signal() -> None:
    with pytest.raises(Fault, match="was killed by signal 9"):
        run(Pipeline((sh("kill -9 $$"), Command(("cat",)))))


def test_a_program_that_closes_its_output_and_fails_later_has_failed() -> None:
    with pytest.raises(Fault, match="status 7"):
        run(Pipeline((sh("exec >&- 2>&-; sleep 0.3; exit 7"),)))


def test_a_reader_that_leaves_early_is_fine_where_that_is_allowed() -> None:
    endless = ("sh", "-c", "exec yes")
    assert run(Pipeline((Command(endless, may_end_early=True), Command(("head", "-n1"))))).stdout == b"y\n"
    with pytest.raises(Fault, match="killed by signal 13"):
        run(Pipeline((Command(endless), Command(("head", "-n1")))))


def test_bytes_that_are_no_text_are_kept_and_shown() -> None:
    with pytest.raises(Fault, match=r"\\xff"):
        run(Pipeline((sh("printf '\\377' >&2; exit 1"),)))
    assert run(Pipeline((sh("printf '\\377'"),))).stdout == b"\xff"


def test_a_missing_program_ends_its_siblings(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(Fault, match="no-such-program: is not installed") as caught:
        run(Pipeline((sh(f"echo $$ > {pid_file}; exec sleep 60"), Command(("no-such-program",)))))
    assert caught.value.kind is FaultKind.CONFIG
    assert not pid_file.exists() or not is_alive(int(pid_file.read_text() or 0))


@pytest.mark.slow
def test_what_never_ends_is_ended_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    stubborn = sh(f"trap '' TERM; sleep 60 & echo $! > {pid_file}; wait; sleep 60")
    with pytest.raises(Fault, match=r"did not end within 0\.5 s") as caught:
        run(Pipeline((stubborn,), timeout_s=0.5))
    assert caught.value.kind is FaultKind.TRANSIENT
    deadline = time.monotonic() + 5
    while is_alive(int(pid_file.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(int(pid_file.read_text()))


@pytest.mark.slow
def test_a_process_that_lives_but_writes_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"wrote nothing for 0\.6 s"):
        run(Pipeline((sh("echo a; exec sleep 60"),), tmp_path / "out", no_progress_s=0.6))


def test_a_callback_that_raises_is_a_failure_and_ends_the_program(tmp_path: Path) -> None:
    def spoil(size: int) -> None:
        raise ValueError(f"callback at {size}")

    began = time.monotonic()
    with pytest.raises(ValueError, match="callback at"):
        run(Pipeline((sh("exec sleep 60"),), tmp_path / "out"), progress=spoil)

    def fail() -> None:
        raise OSError("cannot rename")

    with pytest.raises(OSError, match="cannot rename"):
        run_in_parallel([Series((Pipeline((sh("true"),)),), fail)], at_once=1)
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_series_run_side_by_side_and_the_first_failure_ends_the_others(tmp_path: Path) -> None:
    began = time.monotonic()
    waits = f"cd '{tmp_path}'; touch N; until [ -e 0 -a -e 1 -a -e 2 -a -e 3 ]; do sleep 0.05; done; echo N"
    results = run_in_parallel([Series((Pipeline((sh(waits.replace("N", str(n))),)),)) for n in range(4)], at_once=4)
    assert [result[0].stdout for result in results] == [b"0\n", b"1\n", b"2\n", b"3\n"], "each waits for all"
    with pytest.raises(Fault, match="status 5"):
        run_in_parallel([Series((Pipeline((sh(s),)),)) for s in ("exec sleep 60", "sleep 0.2; exit 5")], at_once=2)
    assert time.monotonic() - began < 40
    assert threading.active_count() < 10


def test_other_threads_of_the_process_do_not_matter() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, daemon=True)
    thread.start()
    try:
        assert run_in_parallel([Series((Pipeline((sh("echo x"),)),))], at_once=1)[0][0].stdout == b"x\n"
    finally:
        stop.set()


def test_a_feed_names_the_program_that_left(tmp_path: Path) -> None:
    with Feed(Pipeline((Command(("cat",)), Command(("sort",))), tmp_path / "out")) as feed:
        feed.write(b"b\na\n")
    assert (tmp_path / "out").read_bytes() == b"a\nb\n"
    with pytest.raises(Fault, match="status 4: no room"), Feed(Pipeline((sh("echo no room >&2; exit 4"),))) as feed:
        for _ in range(200):
            feed.write(b"x" * 65536)


def test_a_full_disk_is_a_failure_not_a_short_file(tmp_path: Path) -> None:
    with (
        pytest.raises(Fault, match="No space left"),
        Feed(Pipeline((Command(("dd", "of=/dev/full", "status=none")),))) as feed,
    ):
        for _ in range(100):
            feed.write(b"x" * 65536)
