"""One run after the other has a drive, also between its tasks."""

from __future__ import annotations

from datetime import timedelta

import pytest

from custody.faults import Fault, FaultKind
from custody.tape import turn
from custody.tape.session import held_drive
from custody.tape.turn import give_turn_back, take_turn
from tape_site import TapeSite


def test_a_run_keeps_its_turn_until_it_gives_it_back(site: TapeSite) -> None:
    site.make_tape("T1")
    for _ in range(2):
        take_turn(site.ledger, site.config, "run 1")
    with held_drive(site.ledger, site.config, writable=False):  # the drive itself is another matter
        pass
    with pytest.raises(Fault, match="it is the turn of run 1") as caught:
        take_turn(site.ledger, site.config, "run 2")
    assert caught.value.kind is FaultKind.CONFLICT
    give_turn_back(site.ledger, site.config, "run 2")
    with pytest.raises(Fault, match="it is the turn of run 1"):
        take_turn(site.ledger, site.config, "run 2")
    give_turn_back(site.ledger, site.config, "run 1")
    take_turn(site.ledger, site.config, "run 2")


def test_a_run_that_died_keeps_nobody_waiting(site: TapeSite) -> None:
    take_turn(site.ledger, site.config, "run 1", patience=timedelta(0))
    take_turn(site.ledger, site.config, "run 2")


def test_a_turn_whose_time_is_over_is_kept_while_nobody_took_it(site: TapeSite) -> None:
    take_turn(site.ledger, site.config, "run 1", patience=timedelta(0))
    turn.keep_turn(site.ledger, site.config, "run 1")
    with pytest.raises(Fault, match="it is the turn of run 1"):
        take_turn(site.ledger, site.config, "run 2")
    give_turn_back(site.ledger, site.config, "run 1")
    take_turn(site.ledger, site.config, "run 2", patience=timedelta(0))
    turn.keep_turn(site.ledger, site.config, "run 1")
    take_turn(site.ledger, site.config, "run 3")


def test_a_clock_that_is_set_back_keeps_nobody_waiting(site: TapeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    real = turn.now
    with monkeypatch.context() as ahead:
        ahead.setattr(turn, "now", lambda: real() + timedelta(days=1))
        take_turn(site.ledger, site.config, "run 1")
        give_turn_back(site.ledger, site.config, "run 1")
        take_turn(site.ledger, site.config, "run 2")  # and it dies
    take_turn(site.ledger, site.config, "run 3")
    with pytest.raises(Fault, match="it is the turn of run 3"):
        take_turn(site.ledger, site.config, "run 4")
    turn.keep_turn(site.ledger, site.config, "run 3")
    give_turn_back(site.ledger, site.config, "run 3")
    turn.keep_turn(site.ledger, site.config, "run 3")  # too late: it was given back
    take_turn(site.ledger, site.config, "run 4")


def test_another_drive_has_another_turn(site: TapeSite) -> None:
    take_turn(site.ledger, site.config, "run 1")
    other = site.config.model_copy(update={"tape_device": str(site.root / "drive1")})
    take_turn(site.ledger, other, "run 2")
