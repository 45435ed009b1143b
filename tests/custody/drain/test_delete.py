"""Deletion: every way to delete without a standing proof is tried, and none works."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from custody.drain import markers, tables
from custody.drain.series import SeriesState, set_state
from custody.faults import Fault, FaultKind
from custody.ledger.tables import proof
from drain_site import Site, check_is_clean, check_nothing_lost, make_site, tree, warc_name


def proven(site: Site, count: int = 3) -> int:
    for serial in range(count):
        site.write(serial)
    number = site.one_series()
    site.do_until(number, "prove")
    return number


def refuse(site: Site, number: int) -> Fault:
    """The deletion is refused, and every file is still there."""
    before = len(site.on_disk())
    with pytest.raises(Fault) as refusal:
        site.do(number, "delete")
    assert len(site.on_disk()) == before
    assert not site.events("deleted")
    assert not (site.load(number).directory / "CLEAN").exists()
    assert "\n" not in str(refusal.value)
    return refusal.value


def test_clean_lists_what_was_deleted(site: Site) -> None:
    number = proven(site)
    series = site.do(number, "delete")
    check_is_clean(site, [number])
    expected = [f"rm {series.path(member)}" for member in series.files]
    assert (series.directory / "CLEAN").read_text().splitlines() == expected
    assert [event.subject for event in site.events("deleted")] == [member.name for member in series.files]
    for name in ("PACKED", "MANIFEST", "TASK", "SUCCESS", "TOMBSTONE", "LAUNCH", f"{warc_name(0)}.tombstone"):
        assert (series.directory / name).is_file(), name


@pytest.mark.parametrize("state", [SeriesState.UPLOADED, SeriesState.CREATED, SeriesState.PACKED])
def test_a_step_that_is_missing_in_the_ledger_stops_it(site: Site, state: SeriesState) -> None:
    number = proven(site)
    with site.ledger.begin() as connection:
        set_state(connection, number, state)
    fault = refuse(site, number)
    assert fault.kind is FaultKind.NEEDS_HUMAN
    assert "takes only what is proven" in str(fault)


def test_a_state_without_a_proof_deletes_nothing(site: Site) -> None:
    """Somebody set the state by hand; there is no proof row."""
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    site.do_until(number, "upload")
    with site.ledger.begin() as connection:
        set_state(connection, number, SeriesState.PROVEN)
    assert "no proof is on record" in str(refuse(site, number))


@pytest.mark.parametrize("change", [{"size_bytes": 1}, {"digests": {"md5": "0" * 32}}, {"digests": {}}])
def test_a_proof_of_something_else_deletes_nothing(site: Site, change: dict[str, object]) -> None:
    number = proven(site, 1)
    with site.ledger.begin() as connection:
        (row,) = connection.execute(sa.select(proof)).all()
        connection.execute(sa.update(proof).values(compared=row.compared | change))
    refuse(site, number)


def vanish(site: Site, key: str) -> None:
    assert site.store is not None
    site.store.client().delete_object(Bucket=site.store.bucket, Key=key)


def differ(site: Site, key: str) -> None:
    assert site.store is not None
    site.store.client().put_object(Bucket=site.store.bucket, Key=key, Body=b"other")


@pytest.mark.parametrize("change", [vanish, differ])
def test_a_copy_that_went_bad_since_its_proof_keeps_the_file_and_is_sent_again(site: Site, change: object) -> None:
    number = proven(site, 1)
    series = site.load(number)
    change(site, f"{series.item}/{warc_name(0)}")  # type: ignore[operator]
    fault = refuse(site, number)
    assert fault.kind is FaultKind.DATA
    site.take_up(number)
    site.do_until(number, "delete")
    check_is_clean(site, [number])


def grow(path: str) -> None:
    with open(path, "ab") as stream:
        stream.write(b"x")


def swap(path: str) -> None:
    found = os.stat(path)
    with open(path + ".new", "wb") as stream:
        stream.write(b"x" * found.st_size)
    os.utime(path + ".new", ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(path + ".new", path)


def rot(path: str) -> None:
    found = os.stat(path)
    with open(path, "r+b") as stream:
        stream.seek(1000)
        stream.write(b"\x00\x01\x02")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("change", [grow, swap, lambda path: os.utime(path)])
def test_a_local_file_that_is_not_the_one_that_was_sent_is_kept(site: Site, change: object) -> None:
    number = proven(site, 2)
    series = site.load(number)
    change(str(series.path(series.files[0])))  # type: ignore[operator]
    with pytest.raises(Fault) as refusal:
        site.do(number, "delete")
    assert refusal.value.kind is FaultKind.NEEDS_HUMAN
    assert "1 of 2 files are kept" in str(refusal.value)
    assert warc_name(0) in str(refusal.value)
    assert series.path(series.files[0]).exists()
    assert not series.path(series.files[1]).exists()
    assert site.load(number).state is SeriesState.PROVEN


def test_a_hash_before_deletion_finds_what_size_time_and_inode_do_not(site: Site) -> None:
    site.values["rehash_before_delete"] = True
    number = proven(site, 1)
    series = site.load(number)
    rot(str(series.path(series.files[0])))
    assert "against the manifest" in str(refuse(site, number))


def test_hold_keeps_and_release_lets_go(site: Site) -> None:
    number = proven(site)
    _hold(site, number, True)
    fault = refuse(site, number)
    assert fault.kind is FaultKind.NEEDS_HUMAN
    assert f"custody drain release {number}" in str(fault)
    _hold(site, number, False)
    site.do(number, "delete")
    check_is_clean(site, [number])


def _hold(site: Site, number: int, on: bool) -> None:
    with site.ledger.begin() as connection:
        connection.execute(sa.update(tables.series).where(tables.series.c.id == number).values(on_hold=on))


def after_first_deletion(site: Site, monkeypatch: pytest.MonkeyPatch, do: object) -> None:
    """Have something happen when the first file of a series has been deleted."""
    from custody.drain import delete as module

    real, done = module._delete, []

    def delete(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        if not done:
            done.append(True)
            do()  # type: ignore[operator]

    monkeypatch.setattr(module, "_delete", delete)


def test_a_hold_in_the_middle_of_a_series_keeps_the_rest(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    number = proven(site)
    after_first_deletion(site, monkeypatch, lambda: _hold(site, number, True))
    with pytest.raises(Fault) as refusal:
        site.do(number, "delete")
    assert "2 of 3 files are kept" in str(refusal.value)
    assert len(site.on_disk()) == 2
    check_nothing_lost(site)


def test_the_switch_is_looked_at_before_every_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    number = proven(site)
    after_first_deletion(site, monkeypatch, (site.job_dir / markers.DRAINME).unlink)
    with pytest.raises(Fault) as refusal:
        site.do(number, "delete")
    assert refusal.value.kind is FaultKind.CANCELLED
    assert len(site.on_disk()) == 2
    check_nothing_lost(site)
    (site.job_dir / markers.DRAINME).touch()
    monkeypatch.undo()
    site.do(number, "delete")
    check_is_clean(site, [number])
    assert len(site.events("deleted")) == 3


def test_who_lost_the_lease_in_the_middle_deletes_nothing_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from custody import lease
    from custody.ledger.store import now
    from custody.ledger.tables import lease as table

    number = proven(site)
    name = f"drain/series/{number}"
    seen: dict[str, object] = {}

    def steal() -> None:
        with site.ledger.begin() as connection:
            connection.execute(sa.update(table).where(table.c.name == name).values(expires_at=now()))
        lease.take(site.ledger, name, holder="another/boot/1/1/1")
        seen.update(rows=site.row_counts(), tree=tree(site.root / "xfer"))

    after_first_deletion(site, monkeypatch, steal)
    with pytest.raises(Fault) as refusal:
        site.do(number, "delete")
    assert refusal.value.kind is FaultKind.CONFLICT
    assert site.row_counts() == seen["rows"]
    assert tree(site.root / "xfer") == seen["tree"]
    assert len(site.on_disk()) == 2


def test_a_young_proof_waits(site: Site) -> None:
    site.values["grace_s"] = 3600
    number = proven(site)
    fault = refuse(site, number)
    assert fault.kind is FaultKind.THROTTLED
    assert fault.until is not None
    assert timedelta(minutes=58) < fault.until - datetime.now(UTC) <= timedelta(hours=1)
    with site.ledger.begin() as connection:
        connection.execute(sa.update(proof).values(proven_at=datetime.now(UTC) - timedelta(hours=2)))
    site.do(number, "delete")
    check_is_clean(site, [number])


def test_files_that_somebody_else_removed_are_on_record_as_lost_and_stop_nothing(site: Site) -> None:
    number = proven(site, 2)
    series = site.load(number)
    for member in series.files:
        series.path(member).unlink()
    assert site.do(number, "delete").state is SeriesState.CLEAN
    assert [event.subject for event in site.events("missing")] == [member.name for member in series.files]
    assert (series.directory / "CLEAN").is_file()


def test_a_crash_after_the_last_deletion_is_taken_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLEAN is there already, the ledger does not know yet."""
    from custody.drain import step as module

    number = proven(site)

    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "set_state", crash)
    with pytest.raises(KeyboardInterrupt):
        site.do(number, "delete")
    monkeypatch.undo()
    assert (site.load(number).directory / "CLEAN").is_file()
    site.do(number, "delete")
    check_is_clean(site, [number])
    assert len(site.events("deleted")) == 3
    assert site.events("missing") == []


def test_a_stranger_in_the_directory_is_not_deleted(site: Site) -> None:
    number = proven(site, 1)
    stranger = site.load(number).directory / "extra.warc.gz"
    stranger.write_bytes(b"not ours")
    site.do(number, "delete")
    assert stranger.read_bytes() == b"not ours"


def test_an_empty_disk_is_no_reason_to_delete(tmp_path: object, store: object) -> None:
    site = make_site(tmp_path, store)  # type: ignore[arg-type]
    assert site.plan().series_ids == []
    assert site.row_counts()["drain_series"] == 0
