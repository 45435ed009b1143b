"""``custody bitarchive``: what it prints, what it lays down, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from bitarchive_samples import PAGES, http, sample
from bitarchive_site import FILES, Site, make_site
from custody.cli.main import main
from custody.ledger import Ledger

NAMES = "".join(f"{name}\n" for name in FILES)


def custody(*words: str) -> Result:
    return CliRunner().invoke(main, ["bitarchive", *words])


@pytest.fixture
def site(tmp_path: Path, ledger_sqlite: Ledger, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An archive that the command line finds under the name ``news``."""
    monkeypatch.setenv("CUSTODY_LEDGER", ledger_sqlite.url)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    made = make_site(tmp_path / "archive", ledger_sqlite)
    (tmp_path / "config" / "bitarchive").mkdir(parents=True)
    content = made.archive.config.model_dump(mode="json")
    (tmp_path / "config" / "bitarchive" / "news.yml").write_text(yaml.safe_dump(content))
    return made


def test_a_batch_prints_its_output_and_its_summary(site: Site) -> None:
    result = custody("batch", "news", "FileListJob")
    assert (result.exit_code, result.stdout) == (0, NAMES)
    assert "Running batch job 'FileListJob' on files matching '.*' on replica 'ONE'" in result.stderr
    assert "Processed 4 files with 0 failures" in result.stderr


def test_the_old_options_work(site: Site, tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "err"
    job = site.job('#!/bin/sh\necho "$2-$3"\n', "job.sh")
    result = custody(
        "batch", "news", f"-C{job}", "-R[ab].*", "-BreplicaOne", f"-O{out}", f"-E{errors}", "-Aone##two words"
    )
    assert (result.exit_code, result.stdout) == (0, "")
    assert out.read_text() == "one-two words\n" * 2
    assert errors.read_text() == ""


def test_a_partial_result_is_named_so_and_ends_with_2(site: Site, tmp_path: Path) -> None:
    (site.root / "two" / "filedir").rename(site.root / "two" / "away")
    out, errors = tmp_path / "out", tmp_path / "err"
    result = custody("batch", "news", "FileListJob", "-O", str(out), "-E", str(errors))
    assert result.exit_code == 2
    assert not out.exists()
    assert (tmp_path / "out.partial").read_text() == f"{FILES[0]}\n{FILES[2]}\n"
    assert "2 unreachable of 4 files" in result.stderr
    assert "Next: custody bitarchive batch news --retry-failed 1" in result.stderr
    assert errors.read_text().startswith("Failed files:\nb-2.arc (unreachable)")

    (site.root / "two" / "away").rename(site.root / "two" / "filedir")
    again = custody("batch", "news", "--retry-failed", "1", "-O", str(out))
    assert again.exit_code == 0
    assert out.read_text() == NAMES


def test_nothing_matched_ends_with_3(site: Site) -> None:
    result = custody("batch", "news", "FileListJob", "-R", "nothing")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "0 of 4 files of the replica match" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("batch", "news"), "Missing required argument: a job"),
        (("batch", "news", "FileListJob", "-C", "x.py"), "name one job"),
        (("batch", "news", "-J", "x.zip"), "-J needs -N"),
        (("batch", "news", "-C", "x.class"), "is no file"),
        (("batch", "news", "FileListJob", "-R", "("), "is no regular expression"),
        (("batch", "news", "FileListJob", "-B", "FOUR"), "there are: ONE (replicaOne, bitarchive)"),
        (("batch", "news", "FileListJob", "-B", "replicaCs"), "holds checksums only"),
        (("batch", "news", "FileListJob", "-O", "/etc/passwd"), "is there already"),
        (("batch", "nowhere", "FileListJob"), "is not there; there are: news"),
        (("batch", "../news", "FileListJob"), "is no name of a configuration"),
        (("batch", "news", "FileListJob", "--unknown"), "No such option"),
        (("batch", "news", "--retry-failed", "77"), "is not on record"),
        (("unknown",), "No such command"),
    ],
)
def test_bad_usage_ends_with_1_and_says_why(site: Site, words: tuple[str, ...], said: str) -> None:
    result = custody(*words)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_the_account_of_a_batch(site: Site) -> None:
    custody("batch", "news", "Mimetypes")
    result = custody("account", "news", "1", "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [row["file"] for row in rows] == list(FILES)
    assert {row["state"] for row in rows} == {"done"}
    assert "batch 1 is complete" in custody("account", "news", "1").stdout


def test_adopting_again_reads_nothing_and_reports_strangers(site: Site) -> None:
    (site.root / "one" / "filedir" / "README.txt").write_text("hello")
    (site.root / "one" / "filedir" / b"\xff.warc".decode("utf-8", "surrogateescape")).write_text("hello")
    result = custody("adopt", "news")
    assert (result.exit_code, result.stdout) == (0, "replica ONE: 0 files put on record, 4 were known\n")
    assert "left alone, no archive file: one: README.txt" in result.stderr
    assert "\\xff.warc" in result.stderr


def test_the_library_is_listed() -> None:
    assert "ChecksumJob" in custody("jobs").stdout


def new_file(site: Site, name: str = "new-1.warc.gz") -> Path:
    return sample(site.root / "incoming" / name).path


def test_upload_tells_of_every_file_and_ends_with_the_right_status(site: Site) -> None:
    path = new_file(site)
    result = custody("upload", "news", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"Uploading file '{path}' succeeded\n  ONE: UPLOAD_COMPLETED" in result.stdout
    assert not path.exists()
    assert custody("upload", "news", "/nowhere/a.warc").exit_code == 1
    good, bad = new_file(site, "new-2.warc.gz"), new_file(site, "b-2.arc")
    bad.write_bytes(b"other bytes")
    result = custody("upload", "news", str(good), str(bad))
    assert result.exit_code == 2
    assert f"Uploading file '{bad}' failed" in result.stdout
    assert "is on record with other bytes" in result.stderr
    assert custody("upload", "news", str(bad)).exit_code == 3


def test_get_file_and_record_give_every_byte(site: Site, tmp_path: Path) -> None:
    assert custody("get-file", "news", "b-2.arc", str(tmp_path / "out.arc")).exit_code == 0
    assert (tmp_path / "out.arc").read_bytes() == site.path("b-2.arc").read_bytes()
    extents = sample(tmp_path / "again" / "c-3.warc").extents
    result = custody("get-record", "news", "c-3.warc", str(extents[2][0]))
    assert result.stdout_bytes == http(*PAGES[1][1:])
    wrong = (("get-file", "news", "none.warc"), ("get-record", "news", "c-3.warc", "7"), ("get-metadata", "news", "1"))
    for words in wrong:
        result = custody(*words)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1


def test_checks_find_and_mend(site: Site) -> None:
    path = new_file(site)
    custody("upload", "news", str(path))
    assert custody("check", "missing", "news").exit_code == 2  # what was adopted is in one replica only
    for name in ("TWO", "THREE"):
        assert custody("check", "upload-missing", "news", name).exit_code == 0
    assert custody("check", "changed", "news").exit_code == 0
    far = site.root / "far" / "filedir" / path.name
    content = far.read_bytes()
    far.unlink()
    result = custody("check", "missing", "news", "TWO")
    assert (result.exit_code, result.stdout) == (2, f"replica TWO: 4 files, 1 missing, 0 extra\nmissing: {path.name}\n")
    assert custody("check", "upload-missing", "news", "TWO").exit_code == 0
    assert custody("check", "missing", "news", "TWO").exit_code == 0
    far.write_bytes(b"x" * len(content))
    result = custody("check", "changed", "news", "TWO")
    assert result.exit_code == 2
    command = result.stdout.splitlines()[-1].removeprefix("  Next: custody bitarchive ").split()
    assert custody(*command).exit_code == 1  # nobody says yes
    assert far.read_bytes() != content
    assert custody(*command, "--yes").exit_code == 0
    assert far.read_bytes() == content
    assert json.loads(custody("check", "status", "news", "--json").stdout) == []


def test_indexes_are_made_listed_verified_and_collected(site: Site) -> None:
    made = custody("index", "news", "1", "2")
    assert made.exit_code == 0
    path = Path(made.stdout.strip())
    assert (path.name, len(path.read_bytes().splitlines())) == ("1-2-cache", 8)
    partial = custody("index", "news", "1", "99", "--allow-partial")
    assert (partial.exit_code, "no data of job 99" in partial.stderr) == (2, True)
    assert custody("index", "news", "1", "99").exit_code == 1
    items = [row["item"] for row in json.loads(custody("cache", "ls", "news", "--json").stdout)]
    assert items == [
        "cdxj/cdxj-1-cache",
        "cdxj/cdxj-2-cache",
        "fullcrawllogindex/1-2-cache",
        "fullcrawllogindex/1-cache",
    ]
    assert custody("cache", "verify", "news").exit_code == 0
    path.write_bytes(b"x" * path.stat().st_size)
    assert custody("cache", "verify", "news").exit_code == 2
    assert custody("cache", "pin", "news", "cdxj/cdxj-1-cache").exit_code == 0
    assert "2 items deleted" in custody("cache", "gc", "news", "--max-size", "1B").stdout
    assert [row["item"] for row in json.loads(custody("cache", "ls", "news", "--json").stdout)] == ["cdxj/cdxj-1-cache"]
    assert custody("cache", "gc", "news", "--max-size", "much").exit_code == 1
