"""Programs run here and over there alike, and what is ended is ended on both sides."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.host import DiskUsage, Host, LocalHost, SshHost, SshTarget, classify_ssh
from custody_demo import processes
from services.need import need
from services.ssh import SshServer

HOSTILE = [
    "",
    " ",
    "two words",
    "'",
    '"',
    'it\'s "both"',
    "new\nline",
    "tab\t",
    "$(touch /tmp/owned)",
    "`id`",
    "${HOME}",
    "; exit 3",
    "&& false",
    "-rf",
    "--",
    "*",
    "~",
    "\\",
    "!!",
    "#",
    "größe \U0001f4fc",
    os.fsdecode(b"\xff\xfe"),
    "x" * 4096,
]
# prints every argument and a NUL after each: nothing an argument can hold is mistaken for its end
ECHO = "import os, sys; os.write(1, b''.join(os.fsencode(word) + b'\\0' for word in sys.argv[1:]))"


def _target(sshd: SshServer) -> SshTarget:
    return SshTarget(sshd.host, sshd.host_key, user=sshd.user, port=sshd.port, key_file=sshd.key_file)


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.service)])
def host(request: pytest.FixtureRequest) -> Host:
    """This machine, and the same machine over ssh."""
    if request.param == "local":
        return LocalHost()
    return SshHost(_target(request.getfixturevalue("sshd")))


def _wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- run ------------------------------------------------------------------------------------------------------------


def test_a_program_runs_to_its_end(host: Host) -> None:
    done = host.run(["sh", "-c", "echo out; echo complaint >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"complaint\n")
    assert done.argv == ("sh", "-c", "echo out; echo complaint >&2; exit 3")
    assert done.stderr_tail == "complaint"


@pytest.mark.parametrize("status", [0, 1, 127, 254, 255])
def test_every_exit_status_is_handed_on(host: Host, status: int) -> None:
    assert host.run(["sh", "-c", f"exit {status}"]).returncode == status


def test_arguments_arrive_unchanged(host: Host) -> None:
    done = host.run([sys.executable, "-c", ECHO, *HOSTILE])
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in HOSTILE]
    assert (done.returncode, done.stderr) == (0, b"")
    assert not Path("/tmp/owned").exists()


def test_bytes_go_in_and_come_out_unchanged(host: Host) -> None:
    content = bytes(range(256)) * 4096
    assert host.run(["cat"], stdin=content).stdout == content
    assert host.run(["cat"], stdin=b"").stdout == b""


def test_without_stdin_a_program_that_reads_it_ends(host: Host) -> None:
    assert host.run(["cat"], timeout_s=10).stdout == b""


def test_much_output_on_both_ends_does_not_block(host: Host) -> None:
    script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"
    done = host.run(["sh", "-c", script], timeout_s=30)
    assert (len(done.stdout), len(done.stderr)) == (300_000, 300_000)


GRANDCHILD = "trap '' TERM; sleep 300 & echo $! >\"$1\"; wait; wait"


@pytest.mark.slow
def test_out_of_time_ends_the_whole_group(host: Host, tmp_path: Path) -> None:
    started = time.monotonic()
    timeout_s = 1 if isinstance(host, LocalHost) else 4  # ssh needs a while to come in on a busy machine
    with pytest.raises(Fault, match=f"did not end within {timeout_s} s") as caught:
        host.run(["sh", "-c", GRANDCHILD, "sh", str(tmp_path / "pid")], timeout_s=timeout_s)
    assert caught.value.kind is FaultKind.TRANSIENT
    assert time.monotonic() - started < 30
    grandchild = int((tmp_path / "pid").read_text())
    _wait_until(lambda: not _lives(grandchild))


def test_a_missing_program_is_told(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"no-such-program: is not installed here\. Next: install") as caught:
        LocalHost().run(["no-such-program"])
    assert caught.value.kind is FaultKind.CONFIG
    (tmp_path / "not-executable").touch()
    with pytest.raises(Fault) as caught:
        LocalHost().run([str(tmp_path / "not-executable")])
    assert caught.value.kind is FaultKind.CONFIG


# -- stream ---------------------------------------------------------------------------------------------------------


def test_a_stream_is_read_to_its_end(host: Host) -> None:
    with host.stream(["sh", "-c", "head -c 5000000 /dev/zero; echo done >&2"]) as stream:
        assert len(stream.read()) == 5_000_000


def test_a_stream_of_a_program_that_fails_is_no_good_data(host: Host) -> None:
    with (
        pytest.raises(Fault, match="sh: ended with status 3: no such table") as caught,
        host.stream(["sh", "-c", "echo part; echo no such table >&2; exit 3"]) as stream,
    ):
        assert stream.read() == b"part\n"
    assert caught.value.kind is FaultKind.DATA
    assert (host.name in str(caught.value)) is (host.name != "localhost")


ENDLESS = 'echo $$ >"$1"; sleep 300 & echo $! >>"$1"; echo first; %s'


@pytest.mark.parametrize("goes_on", ["yes", "wait"], ids=["talking", "silent"])
def test_leaving_a_stream_early_ends_the_program(
    host: Host, tmp_path: Path, goes_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("custody.host.LEAVE_PATIENCE_S", 0.5)
    pids = tmp_path / "pids"
    started = time.monotonic()
    with host.stream(["sh", "-c", ENDLESS % goes_on, "sh", str(pids)]) as stream:
        assert stream.readline() == b"first\n"
    assert time.monotonic() - started < 30
    for pid in map(int, pids.read_text().split()):
        _wait_until(lambda pid=pid: not _lives(pid))  # type: ignore[misc]


def test_a_program_that_is_slow_to_end_after_its_last_byte_is_still_judged(host: Host) -> None:
    with (
        pytest.raises(Fault, match="ended with status 3"),
        host.stream(["sh", "-c", "echo all; sleep 0.7; exit 3"]) as stream,
    ):
        assert stream.read(4) == b"all\n"


def test_an_error_of_the_reader_ends_the_program_and_comes_through(host: Host, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(KeyError), host.stream(["sh", "-c", ENDLESS % "wait", "sh", str(pids)]) as stream:
        assert stream.readline() == b"first\n"
        raise KeyError
    for pid in map(int, pids.read_text().split()):
        _wait_until(lambda pid=pid: not _lives(pid))  # type: ignore[misc]


# -- disks ----------------------------------------------------------------------------------------------------------


def test_here_and_over_there_the_same_disk_is_the_same(sshd: SshServer, tmp_path: Path) -> None:
    path = tmp_path / "blank and\nnewline"
    path.mkdir()
    here, there = LocalHost().disk_usage(path), SshHost(_target(sshd)).disk_usage(path)
    assert (here.total_bytes, here.total_inodes) == (there.total_bytes, there.total_inodes)
    assert here.free_bytes == pytest.approx(there.free_bytes, rel=0.05)
    assert here.free_inodes == pytest.approx(there.free_inodes, rel=0.05)
    words = subprocess.run(["df", "--output=pcent", path], capture_output=True, text=True, check=True).stdout.split()
    assert here.used_pct == pytest.approx(float(words[-1].rstrip("%")), abs=1.1)  # df rounds up


def test_a_path_that_is_not_there_is_told(host: Host, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="missing") as caught:
        host.disk_usage(tmp_path / "missing")
    assert caught.value.kind is FaultKind.CONFIG
    assert caught.value.next_command


def test_used_is_a_percentage() -> None:
    assert DiskUsage(1000, 250, 10, 5).used_pct == 75.0
    assert DiskUsage(0, 0, 0, 0).used_pct == 0.0


# -- who is spoken to -----------------------------------------------------------------------------------------------


def _refused(target: SshTarget) -> Fault:
    with pytest.raises(Fault) as caught:
        SshHost(target).run(["true"])
    return caught.value


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that no server knows."""
    path = tmp_path_factory.mktemp("key") / "stranger"
    keygen = need("ssh-keygen", package="openssh-client")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, stdin=subprocess.DEVNULL)
    return path


def test_a_key_may_be_given_as_text(sshd: SshServer) -> None:
    target = replace(_target(sshd), key_file=None, private_key=sshd.key_file.read_text().rstrip())
    assert "PRIVATE KEY" not in repr(target)
    host = SshHost(target)
    assert "PRIVATE KEY" not in " ".join(host.ssh_command())
    assert host.run(["echo", "in"]).stdout == b"in\n"


def test_a_key_that_is_refused(sshd: SshServer, stranger: Path) -> None:
    fault = _refused(replace(_target(sshd), key_file=stranger))
    assert (fault.kind, fault.reason) == (FaultKind.AUTH, "refuses our key")
    assert fault.next_command


def test_a_host_that_is_not_the_one_we_know(sshd: SshServer, stranger: Path) -> None:
    other = " ".join(stranger.with_suffix(".pub").read_text().split()[:2])
    fault = _refused(replace(_target(sshd), host_key=other))
    assert (fault.kind, fault.reason) == (FaultKind.AUTH, "its host key is not the pinned one")
    assert "find out why" in str(fault)


def test_nobody_listens(sshd: SshServer) -> None:
    fault = _refused(replace(_target(sshd), port=processes.free_ports(1)[0]))
    assert (fault.kind, fault.reason) == (FaultKind.TRANSIENT, "nothing listens on its ssh port")


def test_no_such_host(sshd: SshServer) -> None:
    assert _refused(replace(_target(sshd), host="no-such-host.invalid")).kind in {
        FaultKind.CONFIG,
        FaultKind.TRANSIENT,  # "temporary failure in name resolution" where no resolver can be asked
    }


@pytest.mark.parametrize("key", ["", "  \n"])
def test_a_host_nobody_vouched_for_is_not_spoken_to(key: str) -> None:
    with pytest.raises(Fault, match=r"no host key is pinned.*ssh-keyscan -p 2222 crawler7") as caught:
        SshHost(SshTarget("crawler7", key, port=2222))
    assert caught.value.kind is FaultKind.CONFIG


@pytest.mark.parametrize(("host", "user"), [("-oProxyCommand=touch /tmp/owned", None), ("h", "-oProxyCommand=x")])
def test_an_option_is_no_host_name(host: str, user: str | None) -> None:
    with pytest.raises(Fault, match="is no host name") as caught:
        SshHost(SshTarget(host, "ssh-ed25519 AAAA", user=user))
    assert caught.value.kind is FaultKind.CONFIG


def test_what_ssh_says_without_a_known_cause_is_worth_a_retry() -> None:
    fault = classify_ssh("crawler7", "debug\nkex_exchange_identification: Connection closed by remote host\n")
    assert (fault.kind, str(fault)) == (
        FaultKind.TRANSIENT,
        "crawler7: kex_exchange_identification: Connection closed by remote host",
    )
    assert str(classify_ssh("crawler7", "")) == "crawler7: ssh ended without a word"


@contextmanager
def _sshd_with(sshd: SshServer, tmp_path: Path, line: str) -> Iterator[SshServer]:
    """Another sshd like that one, with one more line of configuration."""
    port = processes.free_ports(1)[0]
    config = (sshd.key_file.parent / "sshd_config").read_text()
    config = config.replace(str(sshd.port), str(port)).replace("PidFile", "#PidFile")
    (tmp_path / "sshd_config").write_text(f"{line}\n{config}")
    argv = [need("sshd", package="openssh-server"), "-D", "-e", "-f", str(tmp_path / "sshd_config")]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log) as process:
        try:
            _wait_until(lambda: not processes.is_free(port))
            yield replace(sshd, port=port)
        finally:
            process.terminate()


def test_a_banner_of_the_other_side_is_not_taken_for_an_answer(sshd: SshServer, tmp_path: Path) -> None:
    (tmp_path / "banner").write_text("Authorised users only.\n")
    with _sshd_with(sshd, tmp_path, f"Banner {tmp_path / 'banner'}") as server:
        done = SshHost(_target(server)).run(["sh", "-c", "echo out; echo complaint >&2"])
        assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"complaint\n")


def test_what_a_login_complains_of_is_not_taken_for_an_answer(sshd: SshServer, tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text('#!/bin/sh\necho "42" >&2\necho "cannot rehash" >&2\neval "exec $SSH_ORIGINAL_COMMAND"\n')
    login.chmod(0o755)
    with _sshd_with(sshd, tmp_path, f"ForceCommand {login}") as server:
        done = SshHost(_target(server)).run(["sh", "-c", "echo out; echo complaint >&2"])
        assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"complaint\n")


def test_nothing_of_the_users_own_configuration_is_read(
    sshd: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir(mode=0o700)
    (tmp_path / ".ssh" / "config").write_text("Host *\n  ProxyCommand false\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    command = SshHost(_target(sshd)).ssh_command()
    assert command[command.index("-F") + 1] == "/dev/null"
    assert SshHost(_target(sshd)).run(["true"]).returncode == 0


def test_a_key_may_lie_below_a_directory_with_a_blank(sshd: SshServer, tmp_path: Path) -> None:
    key = tmp_path / "my keys" / "id"
    key.parent.mkdir()
    key.write_bytes(sshd.key_file.read_bytes())
    key.chmod(0o600)
    assert SshHost(replace(_target(sshd), key_file=key)).run(["true"]).returncode == 0
