"""Looking which tape is in the drive: nothing is written, and nobody at work is disturbed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.tape.drives import cartridges, changer
from custody.tape.mount import Look, last_looks, look, may_have_changed, put_on_record
from custody.tape.session import held_drive
from tape_site import WHO, TapeSite


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seen(site: TapeSite, name: str, *, write: bool = True) -> Look:
    return look(site.ledger, site.config, site.tape(name), write=write)


def written(site: TapeSite, name: str) -> None:
    site.make_tape(name)
    site.import_all(site.make_target(f"of-{name}"))
    site.assign(name)
    site.archive(name)


def test_a_new_tape_must_be_blank_and_a_written_one_is_known_by_its_label(site: TapeSite) -> None:
    site.make_tape("T1")
    assert seen(site, "T1").is_right
    assert not seen(site, "T1", write=False).is_right
    written(site, "T2")
    before = sha256(site.image("T2"))
    assert seen(site, "T2").is_right
    assert seen(site, "T1").complaint == "holds tape T2"
    assert sha256(site.image("T2")) == before


def test_an_empty_drive_and_a_foreign_tape_are_told(site: TapeSite) -> None:
    site.make_tape("T1", load=False)
    assert seen(site, "T1").complaint == "holds no cartridge"
    with site.image("T1").open("wb") as stream:
        stream.write((4).to_bytes(4, "little") + b"mine" + (4).to_bytes(4, "little") + bytes(4))
    site.insert("T1")
    assert "no tar archive" in seen(site, "T1").complaint


def test_a_closed_tab_is_told_before_anything_is_written(site: TapeSite) -> None:
    site.make_tape("T1")
    cartridges.change_cartridge(site.image("T1"), write_protected=True)
    assert "write-protected: slide its tab open" in seen(site, "T1").complaint


def test_a_drive_at_work_is_not_touched(site: TapeSite) -> None:
    site.make_tape("T1")
    with held_drive(site.ledger, site.config, writable=True) as (drive, _):
        drive.write_block(b"x" * 512)
        before = drive.status()
        with pytest.raises(Fault) as caught:
            seen(site, "T1")
        assert caught.value.kind is FaultKind.CONFLICT
        assert caught.value.subject == str(site.drive)
        assert drive.status() == before


def test_a_label_is_read_again_only_after_a_change(site: TapeSite) -> None:
    written(site, "T1")
    seen(site, "T1")
    assert not may_have_changed(site.config)
    site.insert("T1")
    assert may_have_changed(site.config)
    changer.unload(site.drive)
    assert may_have_changed(site.config)


def test_what_a_drive_held_is_on_record_once(site: TapeSite) -> None:
    site.make_tape("T1", load=False)
    for waits in (True, True, False):
        put_on_record(site.ledger, site.config, seen(site, "T1"), who=WHO, waits=waits)
    (last,) = last_looks(site.ledger)
    assert (last.device, last.holds, last.wanted) == (str(site.drive), "no cartridge", "")
    with site.ledger.read() as connection:
        from custody.ledger.tables import event

        assert len(connection.execute(event.select().where(event.c.what == "look")).all()) == 2
