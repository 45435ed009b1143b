"""Counts are for the eye, digests decide: on trees here and over real ssh."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from custody.cli.main import main
from custody.drain import artifacts, bundles
from custody.drain.artifacts import Comparison, Place, Sum
from custody.drain.targets.thumper import ThumperTarget
from custody.faults import Fault, FaultKind
from custody.host import SshHost, SshTarget
from custody.ledger import Ledger
from drain_site import Store
from services.need import need
from services.ssh import SshServer

ODD = 'a job\'s "tree" $(x)'


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job tree: configuration, logs, reports, WARCs in all suffixes, an empty directory, odd names, a link."""
    root = tmp_path / ODD
    for name, content in {
        "crawler-beans.cxml": b"<beans/>",
        "config/seeds.txt": b"http://example.org/\n",
        "logs/crawl.log": b"one line\n" * 500,
        "logs/old/crawl.log.1": b"",
        "reports/seeds-report.txt": b"seeds",
        "recover/frontier.recover.gz": gzip.compress(b"F+ http://example.org/", mtime=0),
        "tombstones/a.warc.gz.tombstone": b"http://archive.example.org/a\n",
        "warcs/a.warc.gz": b"a" * 100,
        "warcs/b.warc": b"b" * 20,
        "warcs/c.warc.zst": b"c" * 3,
        "warcs/d.arc": b"d" * 4,
        "warcs/e.arc.gz": b"e" * 5,
        "warcs/e2.arc.gz": b"e" * 5,
        "warcs/f.warc.gz.open": b"f" * 1000,
        "warcs/f.wacz": b"f" * 6,
        "warcs/b.warc.tombstone": b"http://archive.example.org/b\n",
        "warcs/new\nline größe": b"odd",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(1_772_000_000_000_000_000, 1_772_000_000_123_456_789))
    (root / os.fsdecode(b"bytes-\xff")).write_bytes(b"not utf-8")
    (root / "empty").mkdir()
    (root / "latest").symlink_to("logs")
    return root


@pytest.fixture(params=["here", pytest.param("ssh", marks=pytest.mark.service)])
def staging(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A staging directory here, and the same over ssh."""
    need("rsync")
    directory = tmp_path / f"staging of {ODD}"
    if request.param == "here":
        return Place(directory)
    return Place(directory, _host(request.getfixturevalue("sshd")))


def _host(sshd: SshServer) -> SshHost:
    return SshHost(SshTarget(sshd.host, sshd.host_key, user=sshd.user, port=sshd.port, key_file=sshd.key_file))


def _contents(root: Path) -> dict[str, bytes | str | None]:
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else None)
        for path in root.rglob("*")
    }


def test_addup_counts_every_suffix_and_nothing_in_progress(job: Path) -> None:
    assert artifacts.addup(job) == {
        ".arc": Sum(1, 4),
        ".arc.gz": Sum(2, 10),
        ".wacz": Sum(1, 6),
        ".warc": Sum(1, 20),
        ".warc.gz": Sum(1, 100),
        ".warc.zst": Sum(1, 3),
    }


def test_addup_of_nothing_is_a_fault(tmp_path: Path) -> None:
    assert artifacts.addup(tmp_path) == {}
    with pytest.raises(Fault) as fault:
        artifacts.addup(tmp_path / "gone")
    assert fault.value.kind is FaultKind.CONFIG


def test_check_crawldata_counts_each_directory(job: Path) -> None:
    found = artifacts.check_crawldata(job)
    assert found["logs"] == Sum(1, 4500)
    assert found["logs/old"] == Sum(1, 0)
    assert found["empty"] == Sum(0, 0)
    assert found["."] == Sum(2, 17)
    assert sum(found.values(), Sum()).files == 18


def test_a_copied_tree_is_whole_and_a_second_copy_changes_nothing(job: Path, staging: Place) -> None:
    found = artifacts.copy_crawldata(job, staging)
    assert found == Comparison(18, (), (), ())
    staged = Path(staging.directory)
    assert _contents(staged) == _contents(job)
    assert (staged / "logs/crawl.log").stat().st_mtime_ns == (job / "logs/crawl.log").stat().st_mtime_ns
    inodes = {path: path.lstat().st_ino for path in staged.rglob("*")}
    assert artifacts.copy_crawldata(job, staging).is_whole
    assert {path: path.lstat().st_ino for path in staged.rglob("*")} == inodes


def test_an_interrupted_copy_is_gone_on_with(job: Path, staging: Place) -> None:
    artifacts.copy_crawldata(job, staging)
    for name in ("warcs/a.warc.gz", "config/seeds.txt"):
        (Path(staging.directory) / name).unlink()
    assert artifacts.check_staged(job, staging).missing == ("config/seeds.txt", "warcs/a.warc.gz")
    assert artifacts.copy_crawldata(job, staging).is_whole


@pytest.mark.parametrize("same_time", [True, False])
def test_a_flipped_bit_is_found_though_size_and_time_agree(job: Path, staging: Place, same_time: bool) -> None:
    artifacts.copy_crawldata(job, staging)
    victim = Path(staging.directory) / "warcs/a.warc.gz"
    before = victim.stat()
    victim.write_bytes(b"b" + b"a" * 99)
    if same_time:
        os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = artifacts.check_staged(job, staging)
    assert found.different == ("warcs/a.warc.gz",)
    assert not found.is_whole
    with pytest.raises(Fault, match=r"warcs/a\.warc\.gz") as fault:
        artifacts.copy_crawldata(job, staging)
    assert fault.value.kind is FaultKind.CONFLICT
    assert victim.read_bytes() == b"b" + b"a" * 99


def test_strangers_are_named_and_left(job: Path, staging: Place) -> None:
    artifacts.copy_crawldata(job, staging)
    (Path(staging.directory) / "logs/of another crawl").write_bytes(b"x")
    found = artifacts.copy_crawldata(job, staging)
    assert found.strangers == ("logs/of another crawl",)
    assert (Path(staging.directory) / "logs/of another crawl").exists()


def test_staging_inside_of_the_source_is_refused(job: Path) -> None:
    with pytest.raises(Fault) as fault:
        artifacts.copy_crawldata(job, Place(job / "staging"))
    assert fault.value.kind is FaultKind.CONFIG
    assert not (job / "staging").exists()


def test_a_staged_directory_that_is_not_there(job: Path, staging: Place) -> None:
    with pytest.raises(Fault) as fault:
        artifacts.check_staged(job, staging)
    assert fault.value.kind is FaultKind.CONFIG


def test_a_bundle_holds_what_it_should_and_is_the_same_twice(job: Path, tmp_path: Path) -> None:
    made = bundles.bundle([job], tmp_path / "out", crawl="WIDE", host="crawler07")
    assert made.name == "WIDE-crawler07-20260225061320-bundle.tar.gz"
    with tarfile.open(made) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        assert {(member.uid, member.gid, member.uname) for member in archive} == {(0, 0, "")}
    assert sorted(members) == [
        "config/seeds.txt",
        "logs/crawl.log",
        "logs/old/crawl.log.1",
        "recover/frontier.recover.gz",
        "reports/seeds-report.txt",
        "tombstones/a.warc.gz.tombstone",
        "warcs/b.warc.tombstone",
    ]
    assert all(content == (job / name).read_bytes() for name, content in members.items())
    first = made.read_bytes()
    assert bundles.bundle([job], tmp_path / "out", crawl="WIDE", host="crawler07") == made
    copied = tmp_path / "elsewhere"
    shutil.copytree(job, copied, symlinks=True)
    again = bundles.bundle([copied], tmp_path / "again", crawl="WIDE", host="crawler07")
    assert (again.name, again.read_bytes()) == (made.name, first)
    assert os.listdir(made.parent) == [made.name]


def test_a_crawl_on_several_disks_is_one_bundle(job: Path, tmp_path: Path) -> None:
    other = tmp_path / "1"
    (other / "logs").mkdir(parents=True)
    (other / "logs/crawl.log").write_bytes(b"of the second disk")
    made = bundles.bundle([job, other], tmp_path, crawl="WIDE", host="crawler07")
    with tarfile.open(made) as archive:
        names = archive.getnames()
    assert {"0/logs/crawl.log", "1/logs/crawl.log"} <= set(names)


def test_a_bundle_of_nothing_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "job/warcs").mkdir(parents=True)
    (tmp_path / "job/warcs/a.warc.gz").write_bytes(b"a")
    with pytest.raises(Fault, match="nothing to bundle") as fault:
        bundles.bundle([tmp_path / "job"], tmp_path / "out", crawl="WIDE", host="crawler07")
    assert fault.value.kind is FaultKind.CONFIG
    assert not (tmp_path / "out").exists()


def test_a_bundle_is_never_written_over(job: Path, tmp_path: Path) -> None:
    made = bundles.bundle([job], tmp_path, crawl="WIDE", host="crawler07")
    made.write_bytes(b"something else")
    with pytest.raises(Fault) as fault:
        bundles.bundle([job], tmp_path, crawl="WIDE", host="crawler07")
    assert fault.value.kind is FaultKind.CONFLICT
    assert made.read_bytes() == b"something else"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []


@pytest.mark.parametrize("crawl", ["", "../up", "a b"])
def test_a_bundle_needs_a_portable_name(job: Path, tmp_path: Path, crawl: str) -> None:
    with pytest.raises(Fault) as fault:
        bundles.bundle([job], tmp_path, crawl=crawl, host="crawler07")
    assert fault.value.kind is FaultKind.CONFIG


def test_a_bundle_is_stored_as_its_own_item_at_an_s3_server(job: Path, tmp_path: Path, store: Store) -> None:
    made = bundles.bundle([job], tmp_path, crawl="WIDE", host="crawler07")
    stored = bundles.store_bundle(made, store.target())
    item = made.name.removesuffix(".tar.gz")
    md5 = hashlib.md5(made.read_bytes()).hexdigest()
    assert store.objects()[f"{item}/{made.name}"] == (md5, made.stat().st_size)
    assert stored.place.endswith(f"/{item}/{made.name}")
    assert bundles.store_bundle(made, store.target()) == stored
    assert store.folder
    (store.folder / item / made.name).write_bytes(b"altered")
    with pytest.raises(Fault) as fault:
        bundles.store_bundle(made, store.target())
    assert fault.value.kind is FaultKind.CONFLICT


def test_a_bundle_is_stored_on_a_second_machine(job: Path, tmp_path: Path, sshd: SshServer) -> None:
    need("rsync")
    made = bundles.bundle([job], tmp_path, crawl="WIDE", host="crawler07")
    remote = tmp_path / ODD / "second"
    remote.mkdir()
    bundles.store_bundle(made, ThumperTarget(_host(sshd), remote, port=sshd.port))
    assert (remote / made.name.removesuffix(".tar.gz") / made.name).read_bytes() == made.read_bytes()


@pytest.fixture
def custody() -> Callable[..., tuple[int, str]]:
    def run(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return done.exit_code, done.output

    return run


@pytest.mark.service
def test_the_verbs(
    custody: Callable[..., tuple[int, str]],
    job: Path,
    tmp_path: Path,
    sshd: SshServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need("rsync")
    code, said = custody("drain", "addup", job)
    assert code == 0
    assert "total" in said
    assert custody("drain", "check-crawldata", job, "--json")[0] == 0
    there = f"{sshd.user}@{sshd.host}:{tmp_path / 'staged'}"
    login = ("--port", sshd.port, "--key-file", sshd.key_file, "--host-key", sshd.host_key)
    code, said = custody("drain", "copy-crawldata", job, there, *login)
    assert (code, said.splitlines()[-1].partition(":")[0]) == (0, "whole")
    (tmp_path / "staged/config/seeds.txt").write_bytes(b"other")
    code, said = custody("drain", "check-staged", job, there, *login)
    assert code == 2
    assert "different: config/seeds.txt" in said
    assert "NOT whole" in said
    code, said = custody("drain", "check-staged", job, there)
    assert code == 1
    assert "host key" in said
    code, said = custody("drain", "bundle", job, "--crawl", "WIDE", "--host", "crawler07", "--into", tmp_path)
    assert code == 0
    made = Path(said.strip())
    (tmp_path / "bundles").mkdir()
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    ledger = Ledger.upgrade(url)
    code, said = custody("drain", "store-bundle", made, f"{sshd.user}@{sshd.host}:{tmp_path / 'bundles'}", *login)
    assert (code, "proven, sha256" in said) == (0, True), said
    assert {line.state for line in ledger.where_is(made.name)} == {"present", "proven"}
