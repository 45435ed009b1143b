"""A lost ledger is made again by one command, as far as files can tell; the rest is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from bitarchive_site import site_at
from custody.cli.main import main
from custody.drain import markers
from custody.ledger import Ledger
from drain_site import make_site


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crawl disk with a packed series, an archive of four files, a drive, a farm that cannot be read; no ledger."""
    config = tmp_path / "config"
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(config))
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path}/lost/ledger.sqlite")
    (tmp_path / "drain").mkdir()
    disk = make_site(tmp_path / "drain")
    disk.write()
    (disk.job_dir / markers.FINISH_DRAIN).touch()  # so that one file is a series
    disk.do_until(disk.one_series(), "manifest")
    archive = site_at(tmp_path / "archive", Ledger.upgrade(f"sqlite:///{tmp_path}/other.sqlite"))
    for node in ("one", "two", "far"):
        (tmp_path / "archive" / node / "filedir").mkdir(parents=True)
        (tmp_path / "archive" / node / "filedir" / f"1-{node}.warc").write_bytes(node.encode())
    contents = {
        "drain/wide.yml": yaml.safe_dump(disk.values),
        "bitarchive/news.yml": yaml.safe_dump(archive.archive.config.model_dump(mode="json", exclude_defaults=True)),
        "tape/vault.conf": "[default]\ntape_device = /dev/nst0\n",
        "wiki_dump/farm.yml": "conf: nowhere.conf\n",
    }
    for name, text in contents.items():
        (config / name).parent.mkdir(parents=True)
        (config / name).write_text(text)
    return tmp_path


def _reconcile(*words: str) -> Result:
    return CliRunner().invoke(main, ["reconcile", *words])


def test_without_a_word_it_only_lists(places: Path) -> None:
    result = _reconcile()
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "drain wide",
        "bitarchive news",
        "wiki_dump farm",
        "tape vault",
        "minidvodb",
    ]
    assert not (places / "lost").exists()


def test_what_lies_there_is_on_record_again_and_what_cannot_be_read_stops_no_other(places: Path) -> None:
    result = _reconcile("--rebuild")
    assert "drain wide: WIDE-" in result.stdout
    assert "bitarchive news: replica ONE: 2 files put on record, 0 were known" in result.stdout
    assert "bitarchive news: replica TWO: 1 files put on record, 0 were known" in result.stdout
    assert "tape vault: put each tape into the drive, then: custody tape scan -c vault" in result.stdout
    assert result.exit_code == 1
    assert result.stderr.startswith("custody: wiki_dump farm: ")
    ledger = Ledger.open()
    assert [one.place.rpartition("/")[2] for one in ledger.where_is("1-far.warc")] == ["1-far.warc"]

    again = _reconcile("--rebuild")
    assert "drain wide: nothing that was not on record" in again.stdout
    assert "bitarchive news: replica ONE: 0 files put on record, 2 were known" in again.stdout
