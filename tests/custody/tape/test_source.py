"""tapeop's ssh_command: what it means, and that a target comes over a real sshd."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest

from custody.faults import Fault, FaultKind
from custody.host import LocalHost
from custody.tape.config import parse
from custody.tape.drives import cartridges
from custody.tape.source import parse_ssh_command, source_of
from services.ssh import SshServer
from tape_site import TapeSite


def _known(tmp_path: Path, line: str) -> str:
    path = tmp_path / "known_hosts"
    path.write_text(line + "\n")
    return f"-o UserKnownHostsFile={path}"


def test_the_command_of_the_old_manual(tmp_path: Path) -> None:
    option = _known(tmp_path, "my-data-host ssh-rsa AAAAB3\nmy-data-host ssh-ed25519 AAAAC3")
    target = parse_ssh_command(f"ssh user@my-data-host -i /home/user/.ssh/unlocked_key {option}")
    assert (target.host, target.user, target.port) == ("my-data-host", "user", 22)
    assert target.key_file == Path("/home/user/.ssh/unlocked_key")
    assert target.host_key == "ssh-ed25519 AAAAC3"


def test_options_of_ssh(tmp_path: Path) -> None:
    option = _known(tmp_path, "[h]:2222 ssh-ed25519 AAAAC3")
    target = parse_ssh_command(f"/usr/bin/ssh -4 -x -p 2222 -l me -o BatchMode=yes {option} h")
    assert (target.host, target.user, target.port) == ("h", "me", 2222)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rsh host", "begins with ssh"),
        ("ssh", "names one host"),
        ("ssh host ls", "names one host, and no command"),
        ("ssh -Z host", "option -Z not recognized"),
        ("ssh 'host", "cannot be read"),
        ("ssh -p many host", "'many' is no port"),
    ],
)
def test_what_is_no_ssh_command(command: str, said: str) -> None:
    with pytest.raises(Fault, match=said) as caught:
        parse_ssh_command(command)
    assert caught.value.kind is FaultKind.CONFIG


def test_a_host_nobody_has_vouched_for_is_not_spoken_to(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"stranger: its host key is not in .*Next: ssh-keyscan -p 22 stranger") as caught:
        parse_ssh_command(f"ssh stranger {_known(tmp_path, '')}")
    assert caught.value.kind is FaultKind.AUTH


def test_without_a_command_the_data_lies_here() -> None:
    assert isinstance(source_of(parse("[default]\n", "tape.conf")), LocalHost)


@pytest.mark.service
def test_a_target_over_ssh_is_scanned_archived_and_confirmed(site: TapeSite, sshd: SshServer) -> None:
    option = _known(site.root, f"[{sshd.host}]:{sshd.port} {sshd.host_key}")
    command = f"ssh {sshd.user}@{sshd.host} -p {sshd.port} -i {sshd.key_file} {option}"
    site.config = site.config.model_copy(update={"ssh_command": command})
    site.host = source_of(site.config)
    site.make_tape("T1")
    site.import_all(site.make_hostile_target())
    site.assign()
    site.archive()
    assert [one.complaints for one in site.confirm_all()] == [()]
    assert [one.target.source for one in site.backups()] == [sshd.host]


@pytest.mark.service
def test_a_source_host_that_dies_in_the_middle_leaves_the_target_to_be_written_again(
    site: TapeSite, sshd: SshServer
) -> None:
    option = _known(site.root, f"[{sshd.host}]:{sshd.port} {sshd.host_key}")
    command = f"ssh {sshd.user}@{sshd.host} -p {sshd.port} -i {sshd.key_file} {option}"
    site.config = site.config.model_copy(update={"ssh_command": command})
    site.host = source_of(site.config)
    site.make_tape("T1")
    site.import_all(site.make_target("a", files=6, size_bytes=8 << 20))
    site.assign()
    cartridges.change_cartridge(site.image("T1"), slow_ms=60)
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def cut() -> None:
        while site.image("T1").stat().st_size < 6 << 20:
            time.sleep(0.05)
        for child in psutil.Process().children(recursive=True):
            if child.pid not in before and child.name().startswith("sshd"):
                child.kill()

    thread = threading.Thread(target=cut)
    thread.start()
    with pytest.raises(Fault) as caught:
        site.archive()
    thread.join()
    assert caught.value.kind is FaultKind.TRANSIENT
    assert [(str(one.state), one.file_number) for one in site.backups()] == [("assigned", None)]
    cartridges.change_cartridge(site.image("T1"), slow_ms=0)
    site.archive()
    assert [(one.is_equal, one.backup.file_number) for one in site.confirm_all()] == [(True, 1)]
