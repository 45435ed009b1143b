"""draintasker's hooks, without a shell."""

from __future__ import annotations

import pytest

from custody.drain.series import SeriesState
from custody.faults import Fault, FaultKind
from drain_site import Site


def test_a_command_runs_before_and_after_its_step(site: Site) -> None:
    note = site.root / "note $(touch pwned) ;"
    site.values |= {
        "beforepack": f"sh -c 'echo before \"$1\" >>\"$2\"' hook '%(item)s' '{note}'",
        "onpack": f"sh -c 'echo after \"$1\" >>\"$2\"' hook '%(directory)s' '{note}'",
    }
    site.write()
    packed = site.do(site.one_series(), "pack")
    assert note.read_text().splitlines() == [f"before {packed.item}", f"after {packed.directory}"]
    assert not list(site.root.rglob("pwned"))


def test_a_command_that_fails_stops_the_step_and_says_what_it_said(site: Site) -> None:
    site.values["beforepack"] = "sh -c 'echo the switch is busy >&2; exit 3'"
    site.write()
    number = site.one_series()
    with pytest.raises(Fault, match="beforepack: sh ended with status 3: the switch is busy") as fault:
        site.do(number, "pack")
    assert fault.value.kind is FaultKind.TRANSIENT
    assert site.load(number).state is SeriesState.PLANNED


@pytest.mark.parametrize("command", ["echo %(no_such_key)s", "echo 'unfinished", "/no/such/program"])
def test_a_command_that_cannot_be_run_is_a_matter_of_the_configuration(site: Site, command: str) -> None:
    site.values["beforepack"] = command
    site.write()
    with pytest.raises(Fault) as fault:
        site.do(site.one_series(), "pack")
    assert fault.value.kind is FaultKind.CONFIG
