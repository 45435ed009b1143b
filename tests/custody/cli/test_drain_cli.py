"""The verbs of the drain by which an operator acts, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from custody.cli.main import main
from custody.drain.series import SeriesState
from drain_site import Site, make_site

Custody = Callable[..., Result]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site with one packed series, that the command line finds."""
    site = make_site(tmp_path)
    site.write()
    site.do(site.one_series(), "pack", "manifest")
    monkeypatch.setenv("CUSTODY_LEDGER", site.url)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path / "config"))
    return site


@pytest.fixture
def custody(disk: Site) -> Custody:
    return lambda *words: CliRunner().invoke(main, ["drain", *words])


def test_a_series_is_closed_with_a_reason_and_its_files_are_named(disk: Site, custody: Custody) -> None:
    refused = custody("close", "1")
    assert refused.exit_code == 2 and "--because" in refused.stderr
    assert "is not closed without a reason" in custody("close", "1", "--because", " ").stderr
    done = custody("close", "1", "--because", "the crawl is void")
    assert done.exit_code == 0
    item, path = disk.load(1).item, disk.load(1).path(disk.load(1).files[0])
    assert done.stdout == f"{item}: closed. 1 files lie here, 0 are proven elsewhere\nhere: {path}\n"
    assert disk.load(1).state is SeriesState.CLOSED
    again = custody("close", "1", "--because", "once more")
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr.startswith(f"custody: {item}: is closed: there is nothing to close. Next: airflow dags trigger")


def test_what_cannot_be_done_is_one_line_with_the_next_command(disk: Site, custody: Custody) -> None:
    refused = custody("prove", "1")
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"custody: {disk.load(1).item}: is listed: nothing is proven yet, and a run proves it by itself. "
        'Next: airflow dags trigger drain --conf \'{"config": "wide"}\'\n'
    )
    assert "no such.warc.gz: is no file of series 1" in custody("retry", "1", "--file", "no such.warc.gz").stderr
    assert "series 7: is not in the ledger" in custody("hold", "7").stderr


def test_a_file_is_retried_by_its_name(disk: Site, custody: Custody) -> None:
    name = disk.load(1).files[0].name
    done = custody("retry", "1", "--file", name)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{disk.load(1).item}/{name}: the next run takes it up. Next: ")


@pytest.mark.parametrize("number", ["99999999999999999999999", "0", "-1", "one"])
@pytest.mark.parametrize("verb", ["hold", "release", "retry", "prove", "close"])
def test_a_number_that_is_none_is_refused(custody: Custody, verb: str, number: str) -> None:
    more = ("--because", "x") if verb == "close" else ()
    refused = custody(verb, *more, "--", number)
    assert refused.exit_code == 2
    assert "SERIES_ID" in refused.stderr


def test_the_status_of_a_configuration_nobody_knows_is_no_empty_table(custody: Custody) -> None:
    refused = custody("status", "wild")
    assert refused.exit_code == 1
    assert refused.stderr == "custody: configuration wild: is not there; there are: wide\n"
    assert custody("status", "wide").exit_code == 0
