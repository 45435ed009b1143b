"""Nodes: a directory here, and one on another machine, keep the same promises."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bitarchive_samples import sample
from bitarchive_site import FILES, Site
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import accounts, plan
from custody.bitarchive.nodes import ArchiveNode, LocalNode
from custody.bitarchive.nodes_ssh import SshNode
from custody.bitarchive.states import BatchState, FileState
from custody.digests import Fixity, read_file
from custody.faults import Fault, FaultKind
from custody.host import SshHost, SshTarget
from custody_demo.second_machine import SshServer

ROOT = Path(__file__).parents[3]


def ssh_host(sshd: SshServer) -> SshHost:
    return SshHost(SshTarget(sshd.host, sshd.host_key, sshd.user, sshd.port, sshd.key_file))


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.service)])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveNode:
    """A node of each kind with one file."""
    directory = tmp_path / "node"
    LocalNode("n", directory).prepare()
    sample(directory / "filedir" / "a.warc.gz")
    if request.param == "local":
        return LocalNode("n", directory)
    return SshNode("n", directory, ssh_host(request.getfixturevalue("sshd")))


def fixity_of(path: Path) -> Fixity:
    return read_file(path, ("md5", "sha256")).fixity


def test_a_node_lists_what_is_there_and_what_does_not_belong(node: ArchiveNode, tmp_path: Path) -> None:
    filedir = tmp_path / "node" / "filedir"
    (filedir / "notes\nof two lines.txt").write_text("x")
    (filedir / "link.warc").symlink_to("a.warc.gz")
    (filedir / "dir.warc").mkdir()
    listing = node.list_files()
    assert listing.sizes == {"a.warc.gz": (filedir / "a.warc.gz").stat().st_size}
    assert len(listing.strangers) == 3


def test_sizes_digests_and_bytes(node: ArchiveNode, tmp_path: Path) -> None:
    path = tmp_path / "node" / "filedir" / "a.warc.gz"
    assert node.size_of("a.warc.gz") == path.stat().st_size
    assert node.size_of("b.warc.gz") is None
    path.with_name("link.warc").symlink_to("/etc/passwd")
    assert node.size_of("link.warc") is None
    assert node.digest("a.warc.gz") == fixity_of(path)
    with node.open("a.warc.gz", 100) as stream:
        assert stream.read() == path.read_bytes()[100:]


@pytest.mark.parametrize("name", ["../secret.warc", "a/b.warc", "..", "", "-rf.warc", "x.txt", "a b.warc", "a\n.warc"])
def test_what_is_no_name_never_becomes_a_path(node: ArchiveNode, name: str) -> None:
    for call in (node.size_of, node.digest, node.retire, node.place):
        with pytest.raises(Fault, match="is no name of an archive file"):
            call(name)


def test_a_file_comes_in_whole_or_not_at_all_and_never_over_another(node: ArchiveNode, tmp_path: Path) -> None:
    source = sample(tmp_path / "new.arc").path
    expected = fixity_of(source)
    node.put(source, "new.arc", expected)
    filedir, tempdir = tmp_path / "node" / "filedir", tmp_path / "node" / "tempdir"
    assert (filedir / "new.arc").read_bytes() == source.read_bytes()
    for name in ("new.arc", "a.warc.gz"):
        before = (filedir / name).read_bytes()
        with pytest.raises(Fault) as caught:
            node.put(source, name, expected)
        assert caught.value.kind is FaultKind.CONFLICT
        assert (filedir / name).read_bytes() == before
    wrong = Fixity(expected.size_bytes, {"md5": "0" * 32, "sha256": "0" * 64})
    with pytest.raises(Fault) as caught:
        node.put(source, "other.arc", wrong)
    assert caught.value.kind is FaultKind.DATA
    assert not (filedir / "other.arc").exists()
    assert not list(tempdir.iterdir())


def test_a_file_goes_out_to_the_attic_and_stays_there(node: ArchiveNode, tmp_path: Path) -> None:
    path = tmp_path / "node" / "filedir" / "a.warc.gz"
    content = path.read_bytes()
    aside = node.retire("a.warc.gz")
    assert not path.exists()
    assert (tmp_path / "node" / "atticdir" / aside).read_bytes() == content


def test_a_disk_that_is_not_mounted_is_no_empty_archive(node: ArchiveNode, tmp_path: Path) -> None:
    (tmp_path / "node" / "filedir").rename(tmp_path / "node" / "away")
    calls: list[Callable[[], object]] = [node.list_files, lambda: node.size_of("a.warc.gz")]
    for call in calls:
        with pytest.raises(Fault, match=r"No such file|is not there"):
            call()


@pytest.fixture
def far_site(site: Site, sshd: SshServer) -> Site:
    """Node two is another machine."""
    key = sshd.host_key
    ssh = {"host": sshd.host, "host_key": key, "user": sshd.user, "port": sshd.port, "key_file": str(sshd.key_file)}
    values = site.archive.config.model_dump(mode="json")
    path = f"PATH={os.environ['PATH']}"
    command = ["env", path, f"PYTHONPATH={ROOT / 'include'}", sys.executable, "-m", "custody.cli"]
    values["replicas"][0]["nodes"][1] |= {"ssh": ssh, "command": command}
    site.reconfigure(**values)
    site.archive = Archive(site.archive.name, site.archive.config, site.archive.ledger)
    return site


@pytest.mark.service
def test_a_batch_over_two_machines_gives_one_output(far_site: Site) -> None:
    expected = "".join(f"{name}\n" for name in FILES).encode()
    found = far_site.run("FileListJob")
    assert found.state is BatchState.COMPLETE, accounts.describe_errors(far_site.archive, found.batch.id)
    assert found.output and found.output.read_bytes() == expected
    script = far_site.job('#!/bin/sh\nprintf "%s " "$2"; wc -c <"$1"\n', "size.sh")
    found = far_site.run(script, "it's", key="program")
    sizes = "".join(f"it's {far_site.path(name).stat().st_size}\n" for name in FILES)
    assert found.output and found.output.read_text() == sizes
    assert not (far_site.root / "two" / "filedir" / "size.sh").exists()


@pytest.mark.service
def test_a_machine_that_is_down_makes_its_files_unreachable(far_site: Site) -> None:
    values = far_site.archive.config.model_dump(mode="json")
    values["replicas"][0]["nodes"][1]["ssh"]["port"] = 1
    far_site.reconfigure(**values)
    far_site.archive = Archive(far_site.archive.name, far_site.archive.config, far_site.archive.ledger)
    found = far_site.run("FileListJob")
    lines = list(accounts.lines(far_site.archive, found.batch.id))
    assert [line.state for line in lines] == [FileState.DONE, FileState.UNREACHABLE] * 2
    assert found.state is BatchState.PARTIAL
    assert "nothing listens on its ssh port" in lines[1].message


@pytest.mark.service
def test_without_custody_over_there_the_reason_is_told(far_site: Site) -> None:
    values = far_site.archive.config.model_dump(mode="json")
    values["replicas"][0]["nodes"][1]["command"] = ["/nowhere/custody"]
    far_site.reconfigure(**values)
    far_site.archive = Archive(far_site.archive.name, far_site.archive.config, far_site.archive.ledger)
    found = far_site.run("FileListJob")
    line = list(accounts.lines(far_site.archive, found.batch.id))[1]
    assert line.state is FileState.FAILED
    assert "install Custody there" in line.message
    assert not list((plan.directory_of(far_site.archive, found.batch.id) / "parts").glob("*.tmp"))


def test_adopting_reads_another_machine_too(far_site: Site) -> None:
    far_site.archive.name = "again"
    found = catalogue.adopt(far_site.archive, far_site.archive.config.replica("ONE"), who="test")
    assert (found.added, found.different) == (4, ())
