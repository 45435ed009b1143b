"""What the demo drains to: a stand-in for archive.org with plain files, and a second machine where there can be one."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody_demo import second_machine
from custody_demo.archive_org import serve
from custody_demo.archive_org_store import ACCESS_KEY, Archive
from custody_demo.processes import StartError, is_free
from custody_demo.second_machine import run_second_machine
from services.need import need


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with serve(Archive("secret of this test", folder=tmp_path / "items")) as running:
        yield running


def _put(archive: Archive, path: str, content: bytes, secret: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", archive.port, timeout=10)
    headers = {"Authorization": f"LOW {ACCESS_KEY}:{secret}", "x-archive-auto-make-bucket": "1"}
    connection.request("PUT", path, content, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def _listed(archive: Archive, item: str) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", archive.port, timeout=10)
    connection.request("GET", f"/metadata/{item}")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return [each["name"] for each in answer.get("files", []) if "md5" in each]


def test_a_file_lies_in_the_folder_once_it_is_stored_not_when_it_is_taken(archive: Archive, tmp_path: Path) -> None:
    archive.ingest_after_s = 3600
    assert _put(archive, "/item/a.warc.gz", b"page", "secret of this test") == 200
    assert _listed(archive, "item") == []
    assert not (tmp_path / "items/item/a.warc.gz").exists()
    archive.ingest_after_s = 0
    assert _listed(archive, "item") == ["a.warc.gz"]
    assert (tmp_path / "items/item/a.warc.gz").read_bytes() == b"page"


@pytest.mark.parametrize("path", ["/item/../../out", "/item/%2e%2e/%2e%2e/out", "/../out", "/item//etc/out", "/item/"])
def test_no_name_leads_out_of_an_item(archive: Archive, tmp_path: Path, path: str) -> None:
    assert _put(archive, path, b"page", "secret of this test") == 400
    assert _listed(archive, "item") == []
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_another_key_stores_nothing(archive: Archive) -> None:
    assert _put(archive, "/item/a.warc.gz", b"page", "another") == 403
    assert _listed(archive, "item") == []


@pytest.mark.service
def test_the_second_machine_lets_its_key_in_and_is_gone_afterwards(tmp_path: Path) -> None:
    need("sshd", package="openssh-server")
    need("rsync")
    home = tmp_path / "machine"
    home.mkdir()
    with run_second_machine(home) as machine:
        told = json.loads(machine.airflow_connection())
        assert told["extra"]["host_key"].startswith("ssh-ed25519 ")
        login = ["-p", str(told["port"]), "-l", told["login"], "-i", told["extra"]["key_file"], "-o", "BatchMode=yes"]
        pinned = ["-o", f"UserKnownHostsFile={machine.known_hosts}", "-o", "StrictHostKeyChecking=yes"]
        done = subprocess.run(["ssh", *login, *pinned, told["host"], "echo", "in"], capture_output=True, text=True)
        assert done.stdout == "in\n", done.stderr
        assert not is_free(machine.port)
    assert is_free(machine.port)


@pytest.mark.parametrize(
    ("missing", "package"), [("sshd", "openssh-server"), ("ssh", "openssh-client"), ("rsync", "rsync")]
)
def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, package: str
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in {"sshd", "ssh", "ssh-keygen", "rsync"} - {missing}:
        (tools / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(second_machine, "_SBIN", os.devnull)
    expected = rf"there is no {missing} \(apt-get install {package}\)"
    with pytest.raises(StartError, match=expected), run_second_machine(tmp_path):
        pass
