"""One file that cannot go does not keep the others of its item for ever."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from custody.drain import adopt
from custody.drain.series import SeriesState, load
from custody.drain.set_aside import set_aside
from custody.faults import Fault, FaultKind
from custody.ledger import CopyState, Ledger
from drain_site import WHO, Site, check_is_clean, check_nothing_lost, fixity

WHY = "the disk rotted"


def rot(path: Path) -> None:
    """Change a byte behind the back of size and time."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def stuck_in_upload(site: Site, count: int = 3) -> tuple[int, Path]:
    """A series one of whose files changed when its item had been made; all others are sent."""
    site.values["upload_connections"] = 1
    for serial in range(count):
        site.write(serial)
    number = site.one_series()
    series = site.do_until(number, "create_item")
    bad = series.path(series.files[0])
    with bad.open("ab") as stream:
        stream.write(b"more")
    site.originals[bad.name] = fixity(bad)
    with pytest.raises(Fault, match="is not the file that was packed; it was not sent") as stuck:
        site.do(number, "upload")
    assert stuck.value.kind is FaultKind.DATA
    assert (stuck.value.next_command or "").startswith(f"custody drain set-aside {number} ")
    return number, bad


def test_the_others_were_sent_and_go_on_without_it(site: Site) -> None:
    number, bad = stuck_in_upload(site)
    assert len(site.events("sent")) == 2
    aside = set_aside(site.ledger, number, bad.name, why=WHY, who="anna")
    assert aside == site.job_dir / "quarantine" / bad.name
    assert json.loads(Path(f"{aside}.reason.json").read_bytes())["reason"] == WHY
    check_nothing_lost(site)
    assert site.load(number).state is SeriesState.PACKED
    (again,) = site.plan().series_ids
    series = site.do_until(again, "prove")
    assert [member.name for member in series.files] == sorted(set(site.originals) - {bad.name})
    subprocess.run(["md5sum", "--status", "-c", "MANIFEST"], cwd=series.directory, check=True)
    assert site.store is not None and site.store.folder is not None
    stored = site.store.folder / series.item / "MANIFEST.txt"
    assert stored.read_bytes() == (series.directory / "MANIFEST").read_bytes()
    site.do(again, "delete")
    site.originals.pop(bad.name)
    check_is_clean(site, [again])
    assert len(site.events("sent")) == 2 + 2  # the second time they are only noted: they were there
    (event,) = site.events("set aside")
    assert (event.who, event.subject, event.detail["why"]) == ("anna", bad.name, WHY)


def test_a_manifest_of_somebody_else_is_still_not_written_over(site: Site) -> None:
    number, bad = stuck_in_upload(site)
    set_aside(site.ledger, number, bad.name, why=WHY, who="anna")
    assert site.store is not None and site.store.folder is not None
    item = site.load(number).item
    (site.store.folder / item / "MANIFEST.txt").write_text("another crawl's")
    site.do(number, "manifest")
    with pytest.raises(Fault, match="other bytes are there already"):
        site.do(number, "create_item")


@pytest.mark.parametrize("killed_at", ["rename_noclobber", "record_event"])
def test_a_kill_in_the_middle_is_taken_up(site: Site, killed_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number, bad = stuck_in_upload(site)

    def die(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        owner = Ledger if killed_at == "record_event" else "custody.drain.set_aside"
        patched.setattr(owner, killed_at, die) if owner is Ledger else patched.setattr(f"{owner}.{killed_at}", die)
        set_aside(site.ledger, number, bad.name, why=WHY, who="anna")
    check_nothing_lost(site)
    aside = set_aside(site.ledger, number, bad.name, why=WHY, who="anna")
    assert aside is not None and fixity(aside) == site.originals[bad.name]
    check_nothing_lost(site)
    site.do_until(number, "delete")
    site.originals.pop(bad.name)
    check_is_clean(site, [number])


def test_the_last_file_of_a_series_ends_it(site: Site) -> None:
    number, bad = stuck_in_upload(site, 1)
    set_aside(site.ledger, number, bad.name, why=WHY, who="anna")
    assert site.load(number).state is SeriesState.DROPPED
    assert site.plan().series_ids == []
    check_nothing_lost(site)


def test_what_is_proven_is_let_go_without_the_file_that_changed_here(site: Site) -> None:
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    series = site.do_until(number, "prove")
    bad = series.path(series.files[0])
    site.values["rehash_before_delete"] = True
    site.take_up(number)
    rot(bad)
    with pytest.raises(Fault, match="1 of 2 files are kept"):
        site.do(number, "delete")
    aside = set_aside(site.ledger, number, bad.name, why=WHY, who="anna")
    assert aside is not None and aside.exists()
    assert site.do(number, "delete").state is SeriesState.CLEAN
    assert {(line.place.partition(":")[0], line.state) for line in site.ledger.where_is(bad.name)} == {
        ("disk", CopyState.LOST),  # in the item
        ("disk", CopyState.PRESENT),  # in quarantine; size and time did not tell that it changed
        ("s3", CopyState.PROVEN),
    }
    check_nothing_lost(site)


def test_a_file_that_is_gone_is_left_out_only_by_who_knows_it(site: Site) -> None:
    for serial in range(2):
        site.write(serial)
    number = site.one_series()
    series = site.do_until(number, "manifest")
    gone = series.path(series.files[0])
    gone.unlink()
    with pytest.raises(Fault, match="setting it aside would hide a loss") as refused:
        set_aside(site.ledger, number, gone.name, why=WHY, who="anna")
    assert refused.value.kind is FaultKind.NEEDS_HUMAN
    assert set_aside(site.ledger, number, gone.name, why=WHY, who="anna", accept_loss=True) is None
    site.originals.pop(gone.name)
    site.do_until(number, "delete")
    check_is_clean(site, [number])
    assert {line.state for line in site.ledger.where_is(gone.name)} == {CopyState.LOST}


def test_only_a_packed_file_of_the_series_is_set_aside(site: Site) -> None:
    site.write()
    number = site.one_series()
    name = site.load(number).files[0].name
    with pytest.raises(Fault, match="is no packed file of series 1"):
        set_aside(site.ledger, number, name, why=WHY, who="anna")
    site.do(number, "pack")
    with pytest.raises(Fault, match="other: is no packed file of series 1"):
        set_aside(site.ledger, number, "other", why=WHY, who="anna")


def test_a_lost_ledger_does_not_bring_it_back(site: Site) -> None:
    number, bad = stuck_in_upload(site)
    set_aside(site.ledger, number, bad.name, why=WHY, who="anna")
    anew = Ledger.upgrade(f"sqlite:///{site.root}/anew.sqlite")
    (found,) = adopt.adopt(anew, "wide", site.config, who=WHO)
    assert bad.name not in {member.name for member in load(anew, found.series_id).files}
