"""The audit: nothing missing, one of each kind of drift, and a target that is away."""

from __future__ import annotations

import pytest

from custody.drain.audit import Audit, audit, audit_series
from custody.faults import Fault, FaultKind
from custody.ledger import CopyState
from drain_site import WHO, Site


@pytest.fixture
def drained(site: Site) -> Site:
    """Two files, drained."""
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    site.do_until(number, "delete")
    return site


def look(site: Site, days: int = 30) -> Audit:
    return audit(site.ledger, "wide", site.config, [site.target], days=days, who=WHO)


def test_what_is_as_it_should_be_is_no_finding(drained: Site) -> None:
    assert look(drained) == Audit(series=1, files=2, drifts=())


def test_a_stored_file_that_is_gone_is_marked_lost(drained: Site) -> None:
    assert drained.store is not None and drained.store.folder is not None
    victim = sorted(drained.store.folder.rglob("*.warc.gz"))[0]
    victim.unlink()
    (drift,) = look(drained).drifts
    assert drift.place.endswith(victim.name)
    assert drift.what == "is not stored any more"
    states = {line.place.partition(":")[0]: line.state for line in drained.ledger.where_is(victim.name)}
    assert states == {"disk": "released", "s3": "lost"}


def test_a_stored_file_that_changed_is_named_with_both_digests(drained: Site) -> None:
    assert drained.store is not None and drained.store.folder is not None
    victim = sorted(drained.store.folder.rglob("*.warc.gz"))[0]
    content = bytearray(victim.read_bytes())
    content[100] ^= 1
    victim.write_bytes(content)
    (drift,) = look(drained).drifts
    assert drift.what.startswith(f"is stored as {len(content)} bytes, md5 ")


def test_drift_on_the_disk_is_seen_both_ways(site: Site) -> None:
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    packed = site.do_until(number, "manifest")
    (packed.directory / "stranger.warc.gz").write_bytes(b"x")
    site.originals.pop(packed.files[0].name)
    packed.path(packed.files[0]).unlink()
    unknown = site.xfer_dir / "SOMEBODYS-ITEM"
    unknown.mkdir()
    (unknown / "PACKED").write_text("SOMEBODYS-ITEM 1 1\n")
    found = {(drift.place.rpartition("/")[2], drift.what) for drift in look(site).drifts}
    assert found == {
        ("SOMEBODYS-ITEM", "is on no record"),
        ("stranger.warc.gz", "does not belong to the series"),
        (packed.files[0].name, "is gone from the disk"),
    }


def test_a_target_that_does_not_answer_is_no_finding(drained: Site) -> None:
    assert drained.store is not None
    away = drained.store.target(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(Fault) as fault:
        audit(drained.ledger, "wide", drained.config, [away], days=30, who=WHO)
    assert fault.value.kind is FaultKind.TRANSIENT
    assert set(drained.copies().values()) == {"released", "proven"}


def test_a_drained_series_is_proven_anew_and_what_came_back_counts_again(drained: Site) -> None:
    assert drained.store is not None and drained.store.folder is not None
    victim = sorted(drained.store.folder.rglob("*.warc.gz"))[0]
    content = victim.read_bytes()
    victim.unlink()
    assert len(audit_series(drained.ledger, "wide", 1, [drained.target], who=WHO).drifts) == 1
    victim.write_bytes(content)
    assert audit_series(drained.ledger, "wide", 1, [drained.target], who=WHO) == Audit(1, 2, ())
    states = {line.place.partition(":")[0]: line.state for line in drained.ledger.where_is(victim.name)}
    assert states == {"disk": CopyState.RELEASED, "s3": CopyState.PROVEN}
    assert len([event for event in drained.events("audit") if event.subject == drained.load(1).item]) == 2


def test_only_a_proven_series_of_that_configuration_is_proven_anew(drained: Site) -> None:
    with pytest.raises(Fault, match="is of the configuration wide, not of narrow"):
        audit_series(drained.ledger, "narrow", 1, [drained.target], who=WHO)
    drained.write(7)
    number = drained.one_series()
    with pytest.raises(Fault, match="is planned: there is no proof yet"):
        audit_series(drained.ledger, "wide", number, [drained.target], who=WHO)


def test_a_keeper_that_states_no_digest_has_not_lost_the_file(drained: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custody.drain.targets.s3._etag_digests", lambda etag: {})
    assert {drift.what for drift in look(drained).drifts} == {
        "is stored with that size, and no digest is stated to compare"
    }
    assert set(drained.copies().values()) == {CopyState.RELEASED, CopyState.PROVEN}
    drained.values["proof"] = "readback"
    assert look(drained).drifts == ()
