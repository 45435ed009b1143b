"""No process is left behind, whoever its parent was by then, and none is hit by mistake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from custody_demo import processes
from custody_demo.airflow_stack import PROJECT
from custody_demo.processes import Family, ProcessId, StartError

ENV = {"PATH": os.environ["PATH"]}


def _start(code: str, home: Path) -> subprocess.Popen[bytes]:
    return processes.start([sys.executable, "-c", code], env=ENV, cwd=home, log=home / "log")


def _family(process: subprocess.Popen[bytes]) -> Family:
    leader = processes.process_id(process.pid)
    assert leader is not None
    return Family({leader})


def _wait_for(file: Path) -> int:
    assert processes.wait_until(lambda: file.exists() and file.read_text().endswith("\n"), timeout_s=20)
    return int(file.read_text())


def test_orphans_of_a_killed_leader_are_ended(tmp_path: Path) -> None:
    """One stays in the session and ignores SIGTERM, one has a session of its own: both are found."""
    code = (
        "import os, signal, subprocess, sys, time\n"
        "sleep = 'import signal, time; signal.signal(15, signal.SIG_IGN);"
        ' print(__import__("os").getpid(), flush=True); time.sleep(300)\'\n'
        "for name, own in (('inside', False), ('outside', True)):\n"
        "    subprocess.Popen([sys.executable, '-c', sleep], stdout=open(name, 'w'), start_new_session=own)\n"
        "time.sleep(300)\n"
    )
    leader = _start(code, tmp_path)
    family = _family(leader)
    pids = [_wait_for(tmp_path / name) for name in ("inside", "outside")]
    assert {member.pid for member in family.refresh()} == {leader.pid, *pids}
    leader.kill()
    leader.wait()
    assert {member.pid for member in family.refresh()} == set(pids)
    family.send(signal.SIGTERM)
    time.sleep(0.3)
    assert {member.pid for member in family.refresh()} == set(pids)
    family.send(signal.SIGKILL)
    assert processes.wait_until(lambda: not family.refresh(), timeout_s=10)


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(tmp_path: Path) -> None:
    stranger = _start("import time; time.sleep(300)", tmp_path)
    try:
        old = ProcessId(stranger.pid, started_ticks=1)
        Family({old}).end(grace_s=0)
        processes.send(old, signal.SIGKILL)
        time.sleep(0.2)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_child_can_be_interrupted_even_when_its_parent_cannot(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = _start("print('up', flush=True); import time; time.sleep(300)", tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert processes.wait_until(lambda: "up" in (tmp_path / "log").read_text(), timeout_s=20)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=20) != 0


def test_a_child_ends_with_its_starter(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from custody_demo import processes\n"
        "child = processes.start(['/bin/sleep', '300'], env={}, cwd=Path('.'), log=Path('log'))\n"
        "processes.wait_until(lambda: 'sleep' in Path(f'/proc/{child.pid}/comm').read_text(), timeout_s=20)\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    env = {**ENV, "PYTHONPATH": str(PROJECT / "include")}
    starter = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert starter.returncode == -signal.SIGKILL, starter.stderr
    pid = int(starter.stdout)
    assert processes.wait_until(lambda: processes.process_id(pid) is None, timeout_s=10)


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    held = processes.lock_directory(tmp_path)
    with pytest.raises(StartError, match="in use by another process"):
        processes.lock_directory(tmp_path)
    os.close(held)
    os.close(processes.lock_directory(tmp_path))


def test_free_ports_are_free_and_different() -> None:
    ports = processes.free_ports(5)
    assert len(set(ports)) == 5
    assert all(processes.is_free(port) for port in ports)
