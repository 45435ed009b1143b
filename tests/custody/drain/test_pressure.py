"""The fullest disk goes first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from custody.drain import view
from custody.drain.pressure import rank_by_pressure
from drain_site import WHO, Site


@pytest.fixture
def directory(disk: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the configurations."""
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(disk.root))
    (disk.root / "drain").mkdir()
    return disk.root / "drain"


def test_the_fullest_disk_first_and_no_priority_below_the_pressure(disk: Site, directory: Path) -> None:
    look = view.look_at_disk(disk.config)
    for name, used_pct in {"calm": 89.9, "full": 99.96, "pressed": 91.2, "over": 100.0, "broken": 99.0}.items():
        (directory / f"{name}.yml").write_text(yaml.safe_dump(disk.values | {"pressure_pct": 90}))
        view.record_look(disk.ledger, name, replace(look, used_pct=used_pct), who=WHO)
    (directory / "broken.yml").write_text("no: such key")
    (directory / "unseen.yml").write_text(yaml.safe_dump(disk.values))
    names = sorted(path.stem for path in directory.iterdir())
    assert rank_by_pressure(disk.ledger, names) == [
        ("over", 100), ("full", 99), ("pressed", 91), ("broken", 0), ("calm", 0), ("unseen", 0),
    ]  # fmt: skip


def test_the_last_look_counts(disk: Site, directory: Path) -> None:
    (directory / "wide.yml").write_text(yaml.safe_dump(disk.values | {"pressure_pct": 90}))
    look = view.look_at_disk(disk.config)
    for used_pct, priority in ((95.0, 95), (20.0, 0)):
        view.record_look(disk.ledger, "wide", replace(look, used_pct=used_pct), who=WHO)
        assert rank_by_pressure(disk.ledger, ["wide"]) == [("wide", priority)]
