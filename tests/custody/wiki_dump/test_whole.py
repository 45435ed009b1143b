"""A run from claim to report: what is published is whole, what failed is named, and the next run goes on there."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import wiki_xml
from custody.faults import Fault, FaultKind
from custody.host import LocalHost
from custody.ledger.store import disk_place
from custody.wiki_dump import choose, claim, finish, lockfile, making, proving, runs, steps, stubs, texts
from custody.wiki_dump.access import from_files
from custody.wiki_dump.bz2.pages import has_footer
from custody.wiki_dump.recompress import check_index
from custody.wiki_dump.runs import Options, Run
from custody.wiki_dump.status import JobState, RunState
from custody.wiki_dump.whole import dump
from custody.wiki_dump.work import working
from wiki_farm import FarmSite

DATE = "20260801"
PARTS = "[chunks]\nchunksEnabled=1\npagesPerChunkHistory=5,5\ncheckpointTime=1\nrevsPerJob=8\n"


def run_one(farm: FarmSite, wiki: str = "aawiki", date: str = DATE, **options: Any) -> RunState:
    return dump(farm.ledger, farm.name, farm.config, who="test", wiki=wiki, date=date, options=Options(**options))[1]


def document(path: Path) -> bytes:
    if path.suffix == ".7z":
        return LocalHost().run(("7zz", "e", "-so", "-bd", str(path))).stdout
    return {".bz2": bz2, ".gz": gzip}[path.suffix].open(path).read()


def span(path: Path) -> tuple[int, ...]:
    return tuple(map(int, path.name.rsplit("-p", 1)[1].removesuffix(".bz2").split("p")))


def states(farm: FarmSite, wiki: str = "aawiki", date: str = DATE) -> dict[str, str]:
    lines = (farm.public(wiki, date) / "dumpruninfo.txt").read_text().splitlines()
    return {line.split(";")[0][5:]: line.split("; ")[1][7:] for line in lines}


@pytest.fixture
def one(farm: FarmSite) -> FarmSite:
    farm.add_wiki("aawiki")
    farm.lists(["aawiki"])
    return farm


def test_a_wiki_is_dumped_and_every_file_is_what_its_lists_say(one: FarmSite) -> None:
    one.configure(private_tables=True, abstracts=True)
    assert run_one(one) is RunState.DONE
    directory = one.public("aawiki", DATE)
    status = json.loads((directory / "dumpstatus.json").read_bytes())
    assert status["version"] == "0.8"
    listed = {name: facts for job in status["jobs"].values() for name, facts in job.get("files", {}).items()}
    for name, facts in listed.items():
        content = (directory / name).read_bytes()
        assert facts["size"] == len(content) and facts["url"] == f"/aawiki/{DATE}/{name}"
        for algorithm in ("md5", "sha1", "sha256"):
            assert facts[algorithm] == hashlib.new(algorithm, content).hexdigest()
    for program in ("md5sum", "sha1sum", "sha256sum"):
        sums = directory / f"aawiki-{DATE}-{program.removesuffix('sum')}sums.txt"
        checked = LocalHost().run(("sh", "-c", f"cd {directory} && {program} -c {sums.name}"))
        assert checked.returncode == 0 and len(checked.stdout.splitlines()) == len(listed)
    content_files = {path.name for path in directory.glob("aawiki-*") if "sums" not in path.name}
    assert content_files == set(listed)
    assert set(states(one).values()) == {"done", "skipped"} - {"skipped"}
    assert "Dump complete" in (directory / "status.html").read_text()
    assert not list(one.home.rglob("*.inprog")) and not list(one.home.rglob("lock*"))
    assert not any((one.home / "temp").rglob("*.*"))
    history = document(directory / f"aawiki-{DATE}-pages-meta-history.xml.bz2")
    assert document(directory / f"aawiki-{DATE}-pages-meta-history.xml.7z") == history
    assert wiki_xml.schema_errors(history) == []
    articles = document(directory / f"aawiki-{DATE}-pages-articles.xml.bz2")
    assert document(directory / f"aawiki-{DATE}-pages-articles-multistream.xml.bz2") == articles
    found = {(int(page.findtext("{*}ns")), len(page.findall("{*}revision"))) for page in wiki_xml.parse(articles)[1:]}
    assert found == {(0, 1), (10, 1)}


def test_private_tables_lie_in_the_private_tree_only_and_closed_to_others(one: FarmSite) -> None:
    one.configure(private_tables=True)
    run_one(one)
    user = one.private("aawiki", DATE) / f"aawiki-{DATE}-user.sql.gz"
    assert b"ada@example.org" in document(user)
    assert user.stat().st_mode & 0o077 == 0 == user.parent.stat().st_mode & 0o077
    for path in one.public("aawiki").rglob("*"):
        assert "user.sql" not in path.name
        if path.is_file():
            assert b"user.sql" not in path.read_bytes()


def test_a_private_wiki_leaves_nothing_in_the_public_tree(one: FarmSite) -> None:
    one.lists(["aawiki"], private=["aawiki"])
    assert run_one(one) is RunState.DONE
    assert not (one.home / "public").exists()
    assert (one.private("aawiki", DATE) / f"aawiki-{DATE}-pages-articles.xml.bz2").exists()


def test_a_private_list_that_goes_away_stops_the_dump_before_anything_is_written(one: FarmSite) -> None:
    (one.home / "private.dblist").unlink()
    with pytest.raises(Fault, match="privatelist"):
        run_one(one)
    assert not (one.home / "public").exists() and not (one.home / "private").exists()


def test_what_must_not_be_public_stops_the_end_of_a_run(one: FarmSite) -> None:
    one.public("aawiki", "20260701").mkdir(parents=True)
    (one.public("aawiki", "20260701") / "aawiki-20260701-user.sql.gz").write_bytes(b"x")
    with pytest.raises(Fault, match="not known to be public"):
        run_one(one)


def test_parts_are_made_joined_and_are_the_same_as_the_whole(one: FarmSite) -> None:
    run_one(one, date="20260701")
    whole = one.public("aawiki", "20260701")
    one.configure(PARTS)
    assert run_one(one) is RunState.DONE
    directory = one.public("aawiki", DATE)
    for dump_name in ("pages-meta-history", "pages-articles", "pages-meta-current"):
        joined = directory / f"aawiki-{DATE}-{dump_name}.xml.bz2"
        assert document(joined) == document(whole / f"aawiki-20260701-{dump_name}.xml.bz2")
        assert has_footer(joined)
        decoder = bz2.BZ2Decompressor()
        decoder.decompress(joined.read_bytes())
        assert decoder.eof and not decoder.unused_data  # one single stream
    parts = sorted(
        directory.glob("*meta-history[12].xml-p*.bz2"), key=lambda path: int(path.name.split("-p")[-1].split("p")[0])
    )
    spans = [tuple(map(int, path.name.rsplit("-p", 1)[1].removesuffix(".bz2").split("p"))) for path in parts]
    assert spans[0][0] == 1 and spans[-1][1] == 12
    assert all(after[0] == before[1] + 1 for before, after in pairwise(spans))
    ids = []
    for path in parts:
        tree = wiki_xml.parse(document(path))
        ids += [int(page.findtext("{*}id")) for page in tree.iter("{*}page")]
        first, last = span(path)
        assert all(first <= int(page.findtext("{*}id")) <= last for page in tree.iter("{*}page"))
    assert ids == list(range(1, 13))
    stub = document(directory / f"aawiki-{DATE}-stub-meta-history.xml.gz")
    assert stub == document(whole / "aawiki-20260701-stub-meta-history.xml.gz")


def test_the_multistream_index_names_streams_that_are_there(farm: FarmSite) -> None:
    farm.add_wiki("aawiki", pages=700, revisions=1)
    farm.lists(["aawiki"])
    run_one(farm, jobs=("articlesmultistreamdump",))
    directory = farm.public("aawiki", DATE)
    multi = directory / f"aawiki-{DATE}-pages-articles-multistream.xml.bz2"
    index = directory / f"aawiki-{DATE}-pages-articles-multistream-index.txt.bz2"
    lines = document(index).decode().splitlines()
    pages = [each.findtext("{*}id") for each in wiki_xml.parse(document(multi)).iter("{*}page")]
    assert [line.split(":")[1] for line in lines] == pages and len(pages) > 300
    assert check_index(multi, index) == -(-len(pages) // 100)
    moved = directory / "moved"
    moved.write_bytes(
        bz2.compress("".join(f"{int(line.split(':')[0]) + 1}:{line.split(':')[1]}:x\n" for line in lines).encode())
    )
    with pytest.raises(Fault):
        check_index(multi, moved)


def test_one_job_by_name_brings_what_it_needs_and_leaves_the_rest(one: FarmSite) -> None:
    assert run_one(one, jobs=("articlesdump",)) is RunState.PARTIAL
    found = states(one)
    assert {name for name, state in found.items() if state == "done"} == {"xmlstubsdump", "articlesdump"}
    before = (one.public("aawiki", DATE) / f"aawiki-{DATE}-pages-articles.xml.bz2").stat().st_ino
    assert run_one(one, restartfrom="xmlpagelogsdump") is RunState.PARTIAL
    assert states(one)["metahistory7zdump"] == "done" and states(one)["metacurrentdump"] == "waiting"
    assert run_one(one) is RunState.DONE
    assert (one.public("aawiki", DATE) / f"aawiki-{DATE}-pages-articles.xml.bz2").stat().st_ino == before
    with pytest.raises(Fault, match="is complete already"):
        run_one(one)
    assert run_one(one, jobs=("pagetable",)) is RunState.DONE  # made again, and replaced
    with pytest.raises(Fault, match="job 'artcles': is not known"):
        run_one(one, jobs=("artcles",))
    with pytest.raises(Fault, match="job 'metahistry7zdump': is not known; did you mean metahistory7zdump"):
        run_one(one, date="20260802", skipjobs=("metahistry7zdump",))


def test_jobs_to_skip_are_skipped_with_a_restart_too(one: FarmSite) -> None:
    assert run_one(one, restartfrom="metahistorybz2dump", skipjobs=("metahistory7zdump",)) is RunState.PARTIAL
    assert states(one)["metahistory7zdump"] == "skipped"
    one.configure("[misc]\nskipjobs=metahistory7zdump,articlesmultistreamdump")
    assert run_one(one, date="20260802") is RunState.DONE
    assert states(one, date="20260802")["articlesmultistreamdump"] == "skipped"


def test_noop_writes_lists_links_and_pages_again(one: FarmSite) -> None:
    run_one(one)
    directory = one.public("aawiki", DATE)
    for name in ("dumpstatus.json", f"aawiki-{DATE}-md5sums.txt", "index.html"):
        (directory / name).unlink()
    shutil.rmtree(one.public("aawiki") / "latest")
    assert run_one(one, noop=True) is RunState.DONE
    assert json.loads((directory / "dumpstatus.json").read_bytes())["jobs"]["articlesdump"]["status"] == "done"
    assert (one.public("aawiki") / "latest/aawiki-latest-pages-articles.xml.bz2").resolve().parent == directory


def test_a_lost_text_makes_the_run_partial_and_is_named(one: FarmSite, monkeypatch: pytest.MonkeyPatch) -> None:
    one.database("aawiki").execute("DELETE FROM text WHERE old_id = 3")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert run_one(one) is RunState.PARTIAL
    exceptions = (one.private("aawiki", DATE) / f"exceptions-aawiki-{DATE}-pages-meta-history.xml.bz2.txt").read_text()
    assert "revision 3\ttext 3 is not in the table" in exceptions
    directory = one.public("aawiki", DATE)
    assert "1 text could not be had and is empty here" in (directory / "index.html").read_text()
    assert "Partial dump" in (directory / "status.html").read_text()
    assert choose.past_of(_run(one).places).rank == 1


def _run(farm: FarmSite) -> Run:
    return runs.select(farm.ledger)[0]


def test_a_failed_job_fails_the_run_and_the_next_run_takes_only_that_up(one: FarmSite) -> None:
    database = one.database("aawiki")
    database.execute("ALTER TABLE logging RENAME COLUMN log_params TO log_things")
    with pytest.raises(Fault):
        run_one(one)
    assert states(one)["xmlpagelogsdump"] == "failed"
    assert states(one)["articlesdump"] == "done"
    assert "Partial dump, 1 item failed" in (one.public("aawiki", DATE) / "status.html").read_text()
    assert not list(one.home.rglob("lock*"))
    inode = (one.public("aawiki", DATE) / f"aawiki-{DATE}-page.sql.gz").stat().st_ino
    database.execute("ALTER TABLE logging RENAME COLUMN log_things TO log_params")
    assert run_one(one) is RunState.DONE
    assert (one.public("aawiki", DATE) / f"aawiki-{DATE}-page.sql.gz").stat().st_ino == inode


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "other"])
def test_a_file_that_is_harmed_after_it_was_made_is_not_published(one: FarmSite, harm: str) -> None:
    run = claim.claim(one.ledger, one.name, one.config, owner="test", wiki="aawiki", date=DATE)
    access = from_files(one.config, run.settings)
    with working(one.ledger, run.id, owner="test", access=access) as work:
        steps.plan_jobs(work)
        stubs.make_stubs(work)
        for file_id in texts.plan_parts(work):
            texts.make_text(work, file_id)
        file = next(
            runs.load_file(one.ledger, number)
            for number in range(1, 10)
            if "meta-history.xml.bz2" in runs.load_file(one.ledger, number).name
        )
        path = making.inprog_of(run, file)
        content = bytearray(path.read_bytes())
        if harm == "flip":
            content[len(content) // 2] ^= 4
        elif harm == "cut":
            del content[-20:]
        elif harm == "other":
            content = bytearray(bz2.compress(document_without_a_page(bytes(content))))
        path.write_bytes(b"" if harm == "empty" else content)
        with pytest.raises(Fault) as caught:
            proving.prove_job(work, file.job)
        assert caught.value.kind is FaultKind.DATA
        directory = one.public("aawiki", DATE)
        assert not (directory / file.name).exists()
        assert (directory / f"{file.name}.{'empty' if harm == 'empty' else 'truncated'}").exists()
        assert texts.plan_parts(work) == [file.id]
        texts.make_text(work, file.id)
        assert proving.prove_job(work, file.job) == 1
    finish.give_back(one.ledger, run.id, owner="test")
    assert one.ledger.where_is(file.name)[0].place == disk_place(directory / file.name)


def document_without_a_page(packed: bytes) -> bytes:
    text = bz2.decompress(packed)
    start, end = text.index(b"  <page>"), text.index(b"</page>\n") + 8
    return text[:start] + text[end:]


def test_marking_a_task_as_success_by_hand_publishes_nothing(one: FarmSite) -> None:
    run = claim.claim(one.ledger, one.name, one.config, owner="test", wiki="aawiki", date=DATE)
    access = from_files(one.config, run.settings)
    with working(one.ledger, run.id, owner="test", access=access) as work:
        steps.plan_jobs(work)
        stubs.make_stubs(work)
        texts.plan_parts(work)
    with (
        pytest.raises(Fault, match="whatever its task is marked as"),
        working(one.ledger, run.id, owner="test", access=access) as work,
    ):
        proving.prove_job(work, "articlesdump")
    assert not (one.public("aawiki", DATE) / f"aawiki-{DATE}-pages-articles.xml.bz2").exists()
    finish.give_back(one.ledger, run.id, owner="test")
    with pytest.raises(Fault) as caught, working(one.ledger, run.id, owner="test", access=access):
        pass
    assert caught.value.kind is FaultKind.NEEDS_HUMAN


def test_a_foreign_file_under_our_name_is_not_overwritten(one: FarmSite) -> None:
    directory = one.public("aawiki", DATE)
    directory.mkdir(parents=True)
    (directory / f"aawiki-{DATE}-page.sql.gz").write_bytes(b"somebody else's")
    with pytest.raises(Fault, match="other bytes lie there"):
        run_one(one)
    assert (directory / f"aawiki-{DATE}-page.sql.gz").read_bytes() == b"somebody else's"


def test_old_runs_are_let_go_after_success_and_never_the_last_good_one_nor_one_on_hold(one: FarmSite) -> None:
    one.configure("[cleanup]\nkeep=1")

    def dates() -> list[str]:
        return sorted(path.name for path in one.public("aawiki").glob("2026*"))

    run_one(one, date="20260501", jobs=())
    (one.public("aawiki", "20260501") / "hold").touch()
    run_one(one, date="20260601")
    run_one(one, date="20260701")
    assert dates() == ["20260501", "20260701"]
    database = one.database("aawiki")
    database.execute("ALTER TABLE logging RENAME COLUMN log_params TO log_things")
    with pytest.raises(Fault):
        run_one(one)
    assert dates() == ["20260501", "20260701", DATE]
    database.execute("ALTER TABLE logging RENAME COLUMN log_things TO log_params")
    assert run_one(one) is RunState.DONE
    assert dates() == ["20260501", DATE]
    assert {line.state for line in one.ledger.where_is("aawiki-20260601-page.sql.gz")} == {"released"}
    for link in (one.public("aawiki") / "latest").iterdir():
        assert link.exists()


def test_settings_are_frozen_when_a_wiki_is_claimed(one: FarmSite) -> None:
    run = claim.claim(one.ledger, one.name, one.config, owner="test", wiki="aawiki", date=DATE)
    one.configure("[cleanup]\nkeep=9")
    assert runs.load(one.ledger, run.id).settings.keep == 3
    finish.give_back(one.ledger, run.id, owner="test")
    again = claim.claim(one.ledger, one.name, one.config, owner="test2", wiki="aawiki", date=DATE)
    assert again.settings.keep == 9
    finish.give_back(one.ledger, again.id, owner="test2")


def test_a_database_that_goes_away_leaves_no_file_and_is_tried_again(one: FarmSite) -> None:
    run = claim.claim(one.ledger, one.name, one.config, owner="test", wiki="aawiki", date=DATE)
    access = from_files(one.config, run.settings)
    with working(one.ledger, run.id, owner="test", access=access) as work:
        steps.plan_jobs(work)
    shutil.move(one.home / "db/aawiki.sqlite", one.home / "db/away")
    with pytest.raises(Fault), working(one.ledger, run.id, owner="test", access=access) as work:
        stubs.make_stubs(work)
    assert not list(one.home.rglob("*.inprog"))
    shutil.move(one.home / "db/away", one.home / "db/aawiki.sqlite")
    with working(one.ledger, run.id, owner="test", access=access) as work:
        assert stubs.make_stubs(work) == 12
        assert stubs.make_stubs(work) == 0
    assert lockfile.find(one.private("aawiki"))
    finish.give_back(one.ledger, run.id, owner="test")
    with one.ledger.read() as connection:
        assert {job.state for job in runs.jobs_of(connection, run.id)} <= {JobState.WAITING, JobState.IN_PROGRESS}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: as root")
def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_room(one: FarmSite) -> None:
    public = one.home / "public"
    public.mkdir()
    mounted = LocalHost().run(("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(public)))
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr_tail}")
    try:
        with pytest.raises(Fault) as caught:
            run_one(one)
        assert caught.value.kind is FaultKind.CAPACITY
        assert not [path for path in public.rglob("*.bz2") if not has_footer(path)]
        assert LocalHost().run(("mount", "-o", "remount,size=8m", str(public))).returncode == 0
        assert run_one(one) is RunState.DONE
        assert not list(one.home.rglob("*.inprog*"))
    finally:
        LocalHost().run(("umount", str(public)))


def test_a_kill_between_the_rename_and_its_record_is_taken_up(one: FarmSite, monkeypatch: pytest.MonkeyPatch) -> None:
    set_file = runs.set_file
    killed: list[str] = []

    def strike(connection: object, file_id: int, state: str, **values: object) -> None:
        if state == "published" and len(killed) < 3:
            killed.append(state)
            raise Fault(FaultKind.TRANSIENT, "ledger", "is gone at this moment")
        set_file(connection, file_id, state, **values)

    monkeypatch.setattr("custody.wiki_dump.runs.set_file", strike)
    with pytest.raises(Fault, match="gone at this moment"):
        run_one(one)
    assert len(killed) == 3
    assert run_one(one) is RunState.DONE
    assert set(states(one).values()) == {"done"}


@pytest.mark.parametrize("more", ["", PARTS])
def test_a_wiki_without_pages_is_dumped_too(farm: FarmSite, more: str) -> None:
    farm.add_wiki("aawiki", pages=0)
    farm.lists(["aawiki"])
    farm.configure(more)
    assert run_one(farm) is RunState.DONE
    assert set(states(farm).values()) == {"done"}


def test_a_number_of_pages_that_makes_countless_parts_is_refused(one: FarmSite) -> None:
    database = one.database("aawiki")
    database.execute("UPDATE page SET page_id = 1099511627776 WHERE page_id = 12")
    database.execute("UPDATE revision SET rev_page = 1099511627776 WHERE rev_page = 12")
    one.configure("[chunks]\nchunksEnabled=1\npagesPerChunkHistory=5\n")
    with pytest.raises(Fault, match="at most 1000 are made"):
        run_one(one)
    one.configure("[chunks]\nchunksEnabled=1\npagesPerChunkHistory=900000000000\n")
    assert run_one(one) is RunState.DONE
    ids = wiki_xml.parse(document(one.public("aawiki", DATE) / f"aawiki-{DATE}-pages-meta-history.xml.bz2"))
    assert max(int(page.findtext("{*}id")) for page in ids.iter("{*}page")) == 1099511627776
