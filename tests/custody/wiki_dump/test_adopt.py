"""A lost ledger is made again from the trees: only what is what its lists say goes on record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from custody.cli.main import main
from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.tables import proof
from custody.wiki_dump import lockfile, report, runs, tables
from custody.wiki_dump.adopt import Adopted, adopt
from custody.wiki_dump.runs import Options
from custody.wiki_dump.status import JobState, RunState
from custody.wiki_dump.whole import dump
from wiki_farm import FarmSite

DATE, OLD = "20260801", "20260701"
PARTS = "[chunks]\nchunksEnabled=1\npagesPerChunkHistory=5,5\ncheckpointTime=1\nrevsPerJob=8\n"


@pytest.fixture
def lost(farm: FarmSite) -> FarmSite:
    """A wiki with a dump in parts and private tables; its ledger is gone."""
    farm.add_wiki("zh_min_nanwiki")
    farm.lists(["zh_min_nanwiki"])
    farm.configure(PARTS, private_tables=True)
    assert dump(farm.ledger, farm.name, farm.config, who="x", date=DATE)[1] is RunState.DONE
    lose(farm)
    return farm


def lose(farm: FarmSite) -> None:
    farm.ledger.close()
    farm.ledger = Ledger.upgrade(f"sqlite:///{farm.home}/another.sqlite")


def take_over(farm: FarmSite) -> list[Adopted]:
    return list(adopt(farm.ledger, farm.name, farm.config, who="test"))


def files_of(farm: FarmSite, date: str = DATE) -> set[str]:
    (run,) = runs.select(farm.ledger, tables.run.c.date == date)
    with farm.ledger.read() as connection:
        return {file.name for file in runs.files_of(connection, run.id)}


def test_a_lost_ledger_is_made_again_with_every_proof(lost: FarmSite) -> None:
    (found,) = take_over(lost)
    assert (found.wiki, found.date, found.state, found.complaints) == ("zh_min_nanwiki", DATE, RunState.DONE, ())
    public, private = lost.public("zh_min_nanwiki", DATE), lost.private("zh_min_nanwiki", DATE)
    there = [path for root in (public, private) for path in root.glob(f"*-{DATE}-*") if "sums" not in path.name]
    content = {path.name for path in there if path.suffix in {".gz", ".bz2", ".7z"}}
    assert files_of(lost) == content and len(content) == found.files
    assert found.size_bytes == sum(path.stat().st_size for path in there if path.name in content)
    for name in content:
        (where,) = lost.ledger.where_is(name)
        assert where.state == "proven" and where.proof == "readback" and where.place.endswith(f"/{name}")
    status = json.loads((public / "dumpstatus.json").read_bytes())["jobs"]
    (run,) = runs.select(lost.ledger)
    with lost.ledger.read() as connection:
        jobs = {job.name: str(job.state) for job in runs.jobs_of(connection, run.id)}
    assert jobs == {name: facts["status"] for name, facts in status.items()}
    assert take_over(lost) == []  # a second look finds nothing to do
    with pytest.raises(Fault, match="is complete already"):
        dump(lost.ledger, lost.name, lost.config, who="x", wiki="zh_min_nanwiki", date=DATE)
    again = Options(jobs=("metahistory7zdump",))
    state = dump(lost.ledger, lost.name, lost.config, who="x", wiki="zh_min_nanwiki", date=DATE, options=again)[1]
    assert state is RunState.DONE  # made of what was adopted, and replaced


def test_what_is_not_what_its_list_says_is_not_on_record(lost: FarmSite) -> None:
    public, private = lost.public("zh_min_nanwiki", DATE), lost.private("zh_min_nanwiki", DATE)
    prefix = f"zh_min_nanwiki-{DATE}-"
    flip(public / f"{prefix}page.sql.gz")
    flip(private / f"{prefix}user.sql.gz")
    (public / f"{prefix}all-titles.gz").unlink()
    shutil.copy(public / f"{prefix}redirect.sql.gz", public / f"{prefix}image.sql.gz")  # no list names it
    lists = public / f"{prefix}sha1sums.txt"
    named = next(line for line in lists.read_text().splitlines() if line.endswith("category.sql.gz"))
    lists.write_text(lists.read_text().replace(named, "0" * 40 + named[40:]))  # the other lists say otherwise
    with (public / f"{prefix}md5sums.txt").open("a") as stream:
        stream.write("0" * 32 + "  ../../../../etc/passwd\n" + "0" * 32 + "  /etc/passwd\nnonsense\n")
    (found,) = take_over(lost)
    said = "\n".join(found.complaints)
    assert found.state is RunState.PARTIAL and len(found.complaints) == 5
    for name, words in (
        ("page.sql.gz", ""), ("user.sql.gz", ""), ("all-titles.gz", "it is not there"),
        ("image.sql.gz", "no list names it"), ("category.sql.gz", "contradict"),
    ):  # fmt: skip
        assert any(f"{prefix}{name}" in line and words in line for line in found.complaints), said
        assert f"{prefix}{name}" not in files_of(lost)
        assert lost.ledger.where_is(f"{prefix}{name}") == []
    (run,) = runs.select(lost.ledger)
    with lost.ledger.read() as connection:
        jobs = {job.name: job.state for job in runs.jobs_of(connection, run.id)}
    failed = {name for name, state in jobs.items() if state is not JobState.DONE}
    assert failed == {"pagetable", "usertable", "allpagetitlesdump", "categorytable"}
    options = Options(jobs=("pagetable",))
    with pytest.raises(Fault, match="other bytes lie there"):  # the damaged file is a person's to judge
        dump(lost.ledger, lost.name, lost.config, who="x", wiki="zh_min_nanwiki", date=DATE, options=options)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_that_was_cut_off_goes_on_where_it_was(farm: FarmSite) -> None:
    farm.add_wiki("aawiki")
    farm.lists(["aawiki"])
    jobs = Options(jobs=("articlesdump", "pagetable"))
    dump(farm.ledger, farm.name, farm.config, who="x", wiki="aawiki", date=DATE, options=jobs)
    inode = farm.public("aawiki", DATE).joinpath(f"aawiki-{DATE}-pages-articles.xml.bz2").stat().st_ino
    lose(farm)
    (found,) = take_over(farm)
    assert found.state is RunState.PARTIAL and not found.complaints
    assert dump(farm.ledger, farm.name, farm.config, who="y", wiki="aawiki", date=DATE)[1] is RunState.DONE
    assert farm.public("aawiki", DATE).joinpath(f"aawiki-{DATE}-pages-articles.xml.bz2").stat().st_ino == inode


def test_a_dump_that_lacks_texts_is_not_complete_after_it_was_adopted(
    farm: FarmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.add_wiki("aawiki", pages=4, revisions=2)
    farm.lists(["aawiki"])
    farm.database("aawiki").execute("DELETE FROM text WHERE old_id = 3")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert dump(farm.ledger, farm.name, farm.config, who="x", date=DATE)[1] is RunState.PARTIAL
    lose(farm)
    (found,) = take_over(farm)
    assert found.state is RunState.PARTIAL
    assert report.list_runs(farm.ledger)[0].lost >= 1
    assert dump(farm.ledger, farm.name, farm.config, who="x", wiki="aawiki", date=DATE)[1] is RunState.PARTIAL


def test_another_program_s_dump_and_a_kill_in_between_and_the_newest_run(lost: FarmSite) -> None:
    """xmldumps-backup: no sha256, no list of its own for each file, jobs it knows by other names."""
    ours, theirs = lost.public("zh_min_nanwiki", DATE), lost.public("zh_min_nanwiki", OLD)
    theirs.mkdir()
    prefix = f"zh_min_nanwiki-{OLD}-"
    for name in ("page.sql.gz", "stub-articles1.xml.gz", "all-titles.gz"):
        shutil.copy(ours / f"zh_min_nanwiki-{DATE}-{name}", theirs / f"{prefix}{name}")
    (theirs / "status.html").write_text("<li><span class='done'>Dump complete</span></li>\n")
    names = ("pagetable", "xmlstubsdump", "allpagetitlesdump", "flowdump")
    (theirs / "dumpruninfo.txt").write_text(
        "".join(f"name:{name}; status:{'waiting' if name == 'flowdump' else 'done'}; updated:x\n" for name in names)
    )
    import hashlib

    lines = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n" for path in theirs.glob("*.gz"))
    (theirs / f"{prefix}md5sums.txt").write_text(lines)
    found = adopt(lost.ledger, lost.name, lost.config, who="test")
    assert next(found).date == OLD  # killed here
    found.close()  # type: ignore[attr-defined]
    second = take_over(lost)
    assert [(each.date, each.state) for each in second] == [(DATE, RunState.DONE)]
    assert files_of(lost, OLD) == {path.name for path in theirs.glob("*.gz")}
    assert [line.date for line in report.list_runs(lost.ledger)] == [DATE]
    with lost.ledger.begin() as connection:
        connection.execute(sa.delete(proof))
        runs.set_run(connection, runs.select(lost.ledger, tables.run.c.date == OLD)[0].id, state=RunState.PARTIAL)
    assert [line.date for line in report.list_runs(lost.ledger)] == [DATE]  # whatever was changed last


def test_a_wiki_that_is_being_dumped_is_left_alone_and_stops_no_other(
    lost: FarmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost.add_wiki("aawiki", pages=2)
    lost.lists(["zh_min_nanwiki", "aawiki"])
    dump(lost.ledger, lost.name, lost.config, who="x", wiki="aawiki", date=OLD, options=Options(jobs=("pagetable",)))
    lose(lost)
    lost.ledger = Ledger.upgrade(f"sqlite:///{lost.home}/third.sqlite")
    lock = lost.private("zh_min_nanwiki") / f"lock_{DATE}"
    lockfile.make(lock)
    found = {each.wiki: each for each in take_over(lost)}
    assert found["zh_min_nanwiki"].state is None and "is held by" in found["zh_min_nanwiki"].complaints[0]
    assert found["aawiki"].state is RunState.PARTIAL
    lock.unlink()
    monkeypatch.setenv("CUSTODY_LEDGER", lost.ledger.url)
    said = CliRunner().invoke(main, ["wiki", "adopt", "farm"])
    assert said.exit_code == 0 and f"zh_min_nanwiki {DATE}: " in said.output and "done" in said.output
    flip(lost.public("aawiki", OLD) / f"aawiki-{OLD}-page.sql.gz")
    lost.ledger.close()
    monkeypatch.setenv("CUSTODY_LEDGER", Ledger.upgrade(f"sqlite:///{lost.home}/fourth.sqlite").url)
    said = CliRunner().invoke(main, ["wiki", "adopt", "farm", "--wiki", "aawiki"])
    assert said.exit_code == 1 and "page.sql.gz" in said.output
    with pytest.raises(Fault) as caught:
        list(adopt(lost.ledger, "farm", lost.config, who="x", wiki="../x"))
    assert caught.value.kind is FaultKind.CONFIG
