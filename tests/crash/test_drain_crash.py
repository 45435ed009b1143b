"""A drain survives a kill at every system call of every step: no file is lost, and none deleted without proof."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from crash.harness import ALL_POINTS, DeletedWithoutProof, enumerate_crash_points
from custody.drain import markers
from custody_demo.object_store import RcloneS3
from drain_site import STEPS, Lost, Site, Store, check_is_clean, check_nothing_lost, make_site

pytestmark = [pytest.mark.crash, pytest.mark.service]

POINTS = 26  # of a step, spread over the whole of it
FILES = 2


@dataclass(frozen=True)
class Prepared:
    """A site and the series on it, on the way to the next step."""

    site: Site
    number: int


def invariant(prepared: Prepared) -> None:
    try:
        check_nothing_lost(prepared.site)
    except Lost as lost:
        raise DeletedWithoutProof(str(lost)) from lost


def the_rest_of_the_path(prepared: Prepared) -> None:
    site = prepared.site
    invariant(prepared)
    site.do_until(prepared.number, "delete")
    check_is_clean(site, [prepared.number])
    series = site.load(prepared.number)
    assert markers.read_packed(series.directory) == (series.item, FILES, series.size_bytes)
    for name in ("deleted", "missing"):
        assert len(site.events(name)) == (FILES if name == "deleted" else 0), name


@pytest.mark.timeout(0 if ALL_POINTS else 600)
@pytest.mark.parametrize("step", STEPS)
def test_every_crash_point_of(step: str, s3_server: RcloneS3, tmp_path: Path) -> None:
    bucket = f"crash-{step.replace('_', '-')}-{uuid.uuid4().hex[:8]}"
    store = Store(s3_server.endpoint_url, s3_server.access_key, s3_server.secret_key, bucket)
    before = list(STEPS)[: list(STEPS).index(step)]

    def prepare(directory: Path) -> Prepared:
        own = f"{bucket}-{uuid.uuid4().hex[:8]}"
        folder = s3_server.folder / own
        folder.mkdir()
        site = make_site(directory, replace(store, bucket=own, folder=folder))
        for serial in range(FILES):
            site.write(serial)
        number = site.one_series()
        site.do(number, *before)
        return Prepared(site, number)

    def run(prepared: Prepared) -> None:
        prepared.site.do(prepared.number, step)

    make_site(tmp_path)  # the empty ledger is made once, here, and copied by every child
    store.client()  # and what boto3 reads for its first client is read once, here
    report = enumerate_crash_points(
        prepare,
        run,
        the_rest_of_the_path,
        check_after_kill=invariant,
        at_most=POINTS,
        name=f"drain {step}",
    )
    assert report.losses == ()
    assert report.unproven_deletions == 0
    assert report.killed > 0
