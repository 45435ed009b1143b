"""The shell over there that takes one command after the other: odd logins, odd bytes, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.host import SshTarget
from custody.minidvodb.records import CopyState
from custody.minidvodb.ssh import SharedSshHost
from custody_demo.processes import wait_until
from minidvodb_rig import Rig, target_of, tree_of
from services.need import need

LOGINS = {
    "one that talks": "echo Welcome to ipp022; echo quota exceeded >&2; printf 'last login: never'; {sh}",
    # csh cannot have a line end between quotes; fish has another rule for what stands behind a backslash
    "one for lines only": "case $SSH_ORIGINAL_COMMAND in *'\n'*) echo Unmatched >&2; exit 1 ;; esac; {sh}",
    "csh": 'exec csh -c "$SSH_ORIGINAL_COMMAND"',
    "fish": 'exec fish -c "$SSH_ORIGINAL_COMMAND"',
}
SH = 'exec sh -c "$SSH_ORIGINAL_COMMAND"'


@pytest.fixture
def host(rig: Rig) -> SharedSshHost:
    assert rig.sshd
    return SharedSshHost(target_of(rig.sshd))


def through(rig: Rig, tmp_path: Path, login: str) -> SshTarget:
    """A key of which every command goes through this login."""
    assert rig.sshd
    key, script = tmp_path / "key", tmp_path / "login"
    subprocess.run([need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    script.write_text("#!/bin/sh\n" + login.format(sh=SH))
    script.chmod(0o755)
    with (rig.sshd.key_file.parent / "user_key.pub").open("a") as known:
        known.write(f'command="{script}" {key.with_suffix(".pub").read_text()}')
    return replace(target_of(rig.sshd), key_file=key)


@pytest.mark.parametrize("login", LOGINS)
def test_whatever_the_login_is_like(rig: Rig, tmp_path: Path, login: str) -> None:
    if login in {"csh", "fish"}:
        need(login)
    target = through(rig, tmp_path, LOGINS[login])
    rig.reach = lambda known: SharedSshHost(target)  # type: ignore[method-assign, assignment]
    source = rig.make()
    rig.host()
    (copy_id,) = rig.queue()
    assert rig.do(copy_id).state is CopyState.FULL
    assert tree_of(rig.remote / source.name) == tree_of(source)


def test_rsync_needs_no_more_than_a_line_either(rig: Rig, tmp_path: Path) -> None:
    target = through(rig, tmp_path, LOGINS["one for lines only"])
    rig.reach = lambda known: SharedSshHost(target)  # type: ignore[method-assign, assignment]
    source = rig.make()
    rig.host(mover="rsync")
    (copy_id,) = rig.queue()
    assert rig.do(copy_id).state is CopyState.FULL
    assert tree_of(rig.remote / source.name) == tree_of(source)


def test_a_login_that_lets_nobody_work_is_told(rig: Rig, tmp_path: Path) -> None:
    host = SharedSshHost(through(rig, tmp_path, "echo This account is currently not available.; exit 1"))
    with pytest.raises(Fault, match="is there a shell for this user") as raised:
        host.run(["true"], timeout_s=20)
    assert raised.value.kind is FaultKind.TRANSIENT


def test_any_bytes_go_there_and_come_back(host: SharedSshHost) -> None:
    data = bytes(range(256)) * 5000 + b"\n" * 3
    assert host.run(["cat"], stdin=data, timeout_s=30).stdout == data
    odd = os.fsdecode(b"-n \n'\"\\0!$(half)\xff`")
    assert host.run(["printf", "%s", odd], timeout_s=30).stdout == os.fsencode(odd)
    done = host.run(["sh", "-c", "head -c 10 >/dev/null; echo no >&2; exit 7"], stdin=data, timeout_s=30)
    assert (done.returncode, done.stdout, done.stderr_tail) == (7, b"", "no")
    assert host.run(["cat"], timeout_s=30).stdout == b""  # what was left of that input is nobody's
    host.close()


def test_a_program_that_does_not_end_is_ended_over_there_and_the_next_one_runs(host: SharedSshHost) -> None:
    with pytest.raises(Fault, match="did not end within 1 s"):
        host.run(["sleep", "98765"], timeout_s=1)
    assert not running("sleep 98765")
    assert host.run(["echo", "again"], timeout_s=30).stdout == b"again\n"
    host.close()


def test_what_runs_over_there_ends_with_its_connection(rig: Rig, tmp_path: Path) -> None:
    """Its worker is killed without a word, and no other comes to clean up."""
    assert rig.sshd
    sshd, mark = rig.sshd, tmp_path / "mark"
    worker = f"""
from pathlib import Path
from custody.host import SshTarget
from custody.minidvodb.ssh import SharedSshHost
key = Path({str(sshd.key_file)!r})
target = SshTarget({sshd.host!r}, {sshd.host_key!r}, user={sshd.user!r}, port={sshd.port}, key_file=key)
SharedSshHost(target).run(["sh", "-c", "while :; do date >>{mark}; sleep 0.1; done"])
"""
    process = subprocess.Popen([sys.executable, "-c", worker], start_new_session=True)
    try:
        assert wait_until(mark.exists, timeout_s=20)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert wait_until(lambda: not running(str(mark)), timeout_s=15, every_s=0.2)
        size = mark.stat().st_size
        time.sleep(0.5)
        assert mark.stat().st_size == size
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def running(words: str) -> list[int]:
    """Processes with these words in their command line, other than this one."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if entry.name.isdigit() and int(entry.name) != os.getpid() and words in line:
            found.append(int(entry.name))
    return found
