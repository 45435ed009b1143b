"""A drained file comes back as the one it was, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from custody.drain.restore import find, restore
from custody.faults import Fault, FaultKind
from drain_site import WHO, Site, fixity, warc_name


@pytest.fixture
def drained(site: Site) -> Site:
    """One file, drained."""
    site.write()
    site.do_until(site.one_series(), "delete")
    return site


def bring_back(site: Site, into: Path) -> Path:
    return restore(site.ledger, find(site.ledger, warc_name(0)), warc_name(0), [site.target], into, who=WHO)


def test_a_drained_file_comes_back_with_its_bytes_and_is_on_record(drained: Site, tmp_path: Path) -> None:
    path = bring_back(drained, tmp_path)
    assert fixity(path) == drained.originals[warc_name(0)]
    assert sorted(line.state for line in drained.ledger.where_is(path.name)) == ["present", "proven", "released"]
    (event,) = drained.events("restore")
    assert event.detail["to"] == str(path)
    assert bring_back(drained, tmp_path) == path


def test_other_bytes_under_its_name_are_not_overwritten(drained: Site, tmp_path: Path) -> None:
    (tmp_path / warc_name(0)).write_bytes(b"something else")
    with pytest.raises(Fault, match="other bytes lie there") as refused:
        bring_back(drained, tmp_path)
    assert refused.value.kind is FaultKind.CONFLICT
    assert (tmp_path / warc_name(0)).read_bytes() == b"something else"


def test_a_copy_that_rotted_is_named_and_leaves_nothing(drained: Site, tmp_path: Path) -> None:
    assert drained.store is not None and drained.store.folder is not None
    (stored,) = drained.store.folder.rglob("*.warc.gz")
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(Fault, match="no target gave the right bytes: s3://") as refused:
        bring_back(drained, into)
    assert refused.value.kind is FaultKind.DATA
    assert list(into.iterdir()) == []


def test_the_next_place_is_asked_where_the_first_has_nothing(drained: Site, tmp_path: Path) -> None:
    assert drained.store is not None
    number = find(drained.ledger, warc_name(0))
    away = drained.store.target(endpoint_url="http://127.0.0.1:1")
    path = restore(drained.ledger, number, warc_name(0), [away, drained.target], tmp_path, who=WHO)
    assert fixity(path) == drained.originals[warc_name(0)]


def test_a_name_nobody_knows_is_told(drained: Site) -> None:
    with pytest.raises(Fault, match="is in no series on record"):
        find(drained.ledger, "no-such.warc.gz")
