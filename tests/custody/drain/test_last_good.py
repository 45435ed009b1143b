"""A slip in an edit does not stop a drain, and lets nothing go."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from custody.drain import config as configuration
from custody.drain import last_good
from custody.faults import Fault, FaultKind
from drain_site import WHO, Site


@pytest.fixture
def file(disk: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration ``wide`` as a file, good and on record."""
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    path = tmp_path / "config/drain/wide.yml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(disk.values | {"also": [{"target": "s3", "bucket": "b"}], "description": "first"}))
    last_good.remember(disk.ledger, "wide", configuration.load("wide"), who=WHO)
    return path


@pytest.mark.parametrize("slip", ["max_size: [", "max_sise: 1GB", "\xff\xfe", "", "- a\n- b", "crawljob: a b"])
def test_a_file_that_is_wrong_leaves_the_last_good_one(disk: Site, file: Path, slip: str) -> None:
    good = configuration.load("wide")
    assert last_good.find_fault("wide") is None
    file.write_bytes(slip.encode("latin-1"))
    found = last_good.find_fault("wide")
    assert found is not None and found.kind is FaultKind.CONFIG
    assert last_good.load(disk.ledger, "wide", {}) == good
    assert last_good.load(disk.ledger, "wide", {"max_files": 7}) == good.model_copy(update={"max_files": 7})


def test_the_newest_good_one_counts_and_is_on_record_once(disk: Site, file: Path) -> None:
    file.write_text(file.read_text().replace("first", "second"))
    for _ in range(2):
        last_good.remember(disk.ledger, "wide", configuration.load("wide"), who=WHO)
    assert len(disk.events("configuration")) == 2
    file.write_text("broken: [")
    assert last_good.load(disk.ledger, "wide", {}).description == "second"


def test_a_wrong_value_of_the_form_is_told_and_not_passed_over(disk: Site, file: Path) -> None:
    with pytest.raises(Fault, match="max_files"):
        last_good.load(disk.ledger, "wide", {"max_files": 0})
    file.write_text("broken: [")
    with pytest.raises(Fault, match="is no YAML"):
        last_good.load(disk.ledger, "wide", {"max_files": 0})


def test_a_file_that_was_taken_away_is_missed(disk: Site, file: Path) -> None:
    file.unlink()
    with pytest.raises(Fault, match="configuration wide: is not there"):
        last_good.load(disk.ledger, "wide", {})


def test_where_none_was_ever_good_the_fault_is_the_file_s(disk: Site, file: Path) -> None:
    file.with_name("new.yml").write_text("max_sise: 1GB")
    with pytest.raises(Fault, match="max_sise: no such key"):
        last_good.load(disk.ledger, "new", {})
