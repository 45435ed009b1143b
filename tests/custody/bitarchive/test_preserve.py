"""Bit preservation: no partial list is believed, and nothing is replaced without proof and a person."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import sqlalchemy as sa

from bitarchive_samples import sample
from bitarchive_site import FILES, Site
from custody.bitarchive import catalogue, mend, preserve, upload
from custody.bitarchive.config import Replica, parse
from custody.bitarchive.mend import CorrectFacts, may_correct
from custody.bitarchive.states import ChecksumStatus
from custody.bitarchive.votes import vote
from custody.digests import Fixity, read_file
from custody.faults import Fault, FaultKind
from custody.ledger.tables import event

OK, CORRUPT, UNKNOWN = ChecksumStatus.OK, ChecksumStatus.CORRUPT, ChecksumStatus.UNKNOWN
NAME = "new-1.warc.gz"


@pytest.fixture
def full(site: Site, tmp_path: Path) -> Site:
    """All files in all three replicas, one of them uploaded and the others adopted and brought there."""
    path = sample(tmp_path / "incoming" / NAME).path
    (done,) = upload.upload(site.archive, [path], who="test")
    assert done.is_complete, done.reason
    for name in ("TWO", "THREE"):
        assert mend.upload_missing(site.archive, replica(site, name), FILES, who="test") == dict.fromkeys(FILES, "")
    return site


def replica(site: Site, name: str) -> Replica:
    return site.archive.config.replica(name)


def copy_in(site: Site, name: str) -> Path:
    nodes = ("one", "two") if name == "ONE" else ("far",)
    return next(path for node in nodes for path in (site.root / node / "filedir").glob(NAME))


def md5_of(path: Path) -> str:
    return read_file(path, ("md5",)).fixity.digests["md5"]


def spoil(path: Path) -> str:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return md5_of(path)


@pytest.mark.parametrize(
    ("reference", "found", "expected"),
    [
        ("a", ("a", "a", "a"), (OK, OK, OK)),
        ("a", ("a", "b", "a"), (OK, CORRUPT, OK)),
        ("a", ("b", "b", "b"), (OK, OK, OK)),  # three of four against the catalogue
        ("a", ("a", "b", "b"), (UNKNOWN, UNKNOWN, UNKNOWN)),
        ("a", ("a", "a", None), (OK, OK, UNKNOWN)),
        ("a", ("a", "b", None), (UNKNOWN, UNKNOWN, UNKNOWN)),
        ("a", ("b", "c", "d"), (UNKNOWN, UNKNOWN, UNKNOWN)),
        ("a", (None, None, None), (UNKNOWN, UNKNOWN, UNKNOWN)),
        ("a", ("a", "b"), (OK, CORRUPT)),
        ("a", ("b", "c"), (UNKNOWN, UNKNOWN)),
        ("a", ("a",), (OK,)),
        ("a", ("b",), (UNKNOWN,)),
    ],
)
def test_the_vote(reference: str, found: tuple[str | None, ...], expected: tuple[ChecksumStatus, ...]) -> None:
    names = [f"R{number}" for number in range(len(found))]
    assert vote(reference, dict(zip(names, found, strict=True))) == dict(zip(names, expected, strict=True))


def test_no_vote_calls_a_checksum_wrong_without_more_than_half() -> None:
    for count in (1, 2, 3, 4):
        for found in product("abc", repeat=count):
            statuses = vote("a", {str(number): one for number, one in enumerate(found)})
            for number, status in ((int(key), value) for key, value in statuses.items()):
                if status is CORRUPT:
                    others = [one for one in ("a", *found) if one != found[number]]
                    assert max(others.count(one) for one in others) > (count + 1) / 2


def test_what_is_missing_and_what_is_too_much_is_found(full: Site) -> None:
    copy_in(full, "TWO").unlink()
    sample(full.root / "far" / "filedir" / "extra.arc")
    found = preserve.find_missing(full.archive, replica(full, "TWO"), who="test")
    assert (found.missing, found.extra) == ((NAME,), ("extra.arc",))
    assert [(line.name, line.replica) for line in preserve.standing(full.archive)] == [(NAME, "TWO")]


def test_what_was_adopted_in_one_replica_is_missing_in_the_others(site: Site) -> None:
    archive = site.archive
    assert {(line.name, line.replica) for line in preserve.standing(archive)} == {
        (name, other) for name in FILES for other in ("TWO", "THREE")
    }
    two, three = replica(site, "TWO"), replica(site, "THREE")
    assert preserve.find_missing(archive, two, who="test").missing == FILES
    sample(site.root / "far" / "filedir" / FILES[0])
    found = preserve.find_missing(archive, two, who="test")
    assert (found.missing, found.extra) == (FILES[1:], FILES[:1])  # it is there, and nobody read it back
    answers = mend.upload_missing(archive, two, FILES, who="test")
    assert "Next: custody bitarchive adopt news TWO" in answers.pop(FILES[0])
    assert set(answers.values()) == {""}
    assert catalogue.adopt(archive, two, who="test").added == 1
    assert mend.upload_missing(archive, three, FILES, who="test") == dict.fromkeys(FILES, "")
    assert preserve.standing(archive) == []
    every = preserve.find_all_changed(archive, archive.config.replicas, who="test")
    assert all(set(one.statuses.values()) == {OK} and not one.missing for one in every)


def test_a_replica_that_was_added_later_lacks_everything(full: Site) -> None:
    values = full.archive.config.model_dump()
    nodes = [{"name": "late", "directory": str(full.root / "late")}]
    values["replicas"] = [*values["replicas"], {"id": "FOUR", "name": "replicaFour", "nodes": nodes}]
    full.archive.config = parse(values, "test")
    late = replica(full, "FOUR")
    (full.root / "late" / "filedir").mkdir(parents=True)
    assert set(preserve.find_missing(full.archive, late, who="test").missing) == {*FILES, NAME}
    assert mend.upload_missing(full.archive, late, [NAME], who="test") == {NAME: ""}
    assert (full.root / "late" / "filedir" / NAME).read_bytes() == copy_in(full, "ONE").read_bytes()


def test_verdicts_are_those_after_every_replica_was_read(full: Site) -> None:
    check_all(full)
    for name in ("ONE", "TWO"):
        path = copy_in(full, name)
        path.write_bytes(b"the same wrong bytes".ljust(path.stat().st_size))
    found = preserve.find_all_changed(full.archive, full.archive.config.replicas, who="test")
    assert [one.statuses[NAME] for one in found] == [UNKNOWN, UNKNOWN, UNKNOWN]
    assert [NAME in one.wrong for one in found] == [True, True, False]


@pytest.mark.parametrize("what", ["garbage", "", "name only##", f"x.warc##{'g' * 32}"])
def test_a_list_of_checksums_with_a_line_that_is_none_is_refused_whole(full: Site, what: str) -> None:
    path = full.root / "checksum_THREE.md5"
    path.write_text(path.read_text() + f"{what}\n")
    before = path.read_bytes()
    for act in (preserve.find_missing, preserve.find_changed):
        with pytest.raises(Fault, match="line 6 is no NAME##MD5; nothing is read from such a list"):
            act(full.archive, replica(full, "THREE"), who="test")
    assert preserve.standing(full.archive) == []
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["ONE", "TWO", "THREE"])
def test_a_list_that_cannot_be_had_whole_is_no_list(full: Site, name: str) -> None:
    if name == "THREE":
        (full.root / "checksum_THREE.md5").unlink()
    else:
        node = full.root / ("two" if name == "ONE" else "far")
        (node / "filedir").rename(node / "away")
    with pytest.raises(Fault):
        preserve.find_missing(full.archive, replica(full, name), who="test")
    assert preserve.standing(full.archive) == []


def test_what_is_missing_is_brought_back_from_a_good_copy(full: Site) -> None:
    path = copy_in(full, "TWO")
    content = path.read_bytes()
    path.unlink()
    assert mend.upload_missing(full.archive, replica(full, "TWO"), [NAME], who="test") == {NAME: ""}
    assert path.read_bytes() == content
    again = mend.upload_missing(full.archive, replica(full, "TWO"), [NAME], who="test")
    assert "is not missing" in again[NAME]


def test_a_spoilt_copy_is_never_spread(full: Site) -> None:
    copy_in(full, "TWO").unlink()
    spoil(copy_in(full, "ONE"))
    (reason,) = mend.upload_missing(full.archive, replica(full, "TWO"), [NAME], who="test").values()
    assert "no other replica has a good copy" in reason
    assert not (full.root / "far" / "filedir" / NAME).exists()


def check_all(site: Site) -> dict[str, ChecksumStatus]:
    return {
        one.id: preserve.find_changed(site.archive, one, who="test", names=[NAME]).statuses[NAME]
        for one in site.archive.config.replicas
    }


def test_a_changed_file_is_found_and_replaced_and_kept_in_the_attic(full: Site) -> None:
    check_all(full)
    path = copy_in(full, "TWO")
    wrong = spoil(path)
    content = path.read_bytes()
    found = preserve.find_changed(full.archive, replica(full, "TWO"), who="test")
    assert (found.statuses[NAME], found.wrong) == (CORRUPT, {NAME: wrong})
    assert any(line.state == "lost" for line in full.archive.ledger.where_is(NAME))
    aside = mend.correct(full.archive, replica(full, "TWO"), NAME, wrong, approved_by="Ada", who="test")
    assert path.read_bytes() == copy_in(full, "ONE").read_bytes()
    assert (full.root / "far" / "atticdir" / aside).read_bytes() == content
    assert check_all(full) == {"ONE": OK, "TWO": OK, "THREE": OK}
    with full.archive.ledger.read() as connection:
        rows = connection.execute(sa.select(event).where(event.c.what.in_(["correct", "corrected"]))).all()
    assert [row.detail["approved_by"] for row in rows] == ["Ada", "Ada"]


@pytest.mark.parametrize(
    "case", ["nobody agreed", "somebody else agreed", "another checksum", "it is good", "no good copy", "it is gone"]
)
def test_nothing_is_replaced_unless_every_fact_allows_it(full: Site, case: str) -> None:
    check_all(full)
    path = copy_in(full, "TWO")
    wrong = md5_of(path) if case == "it is good" else spoil(path)
    if case == "no good copy":
        spoil(copy_in(full, "ONE"))
    if case == "it is gone":
        path.unlink()
    if case == "somebody else agreed":
        full.reconfigure(approvers=["Bob", "Eve"])
    preserve.find_changed(full.archive, replica(full, "TWO"), who="test")
    before = full.digests()
    with pytest.raises(Fault) as caught:
        mend.correct(
            full.archive,
            replica(full, "TWO"),
            NAME,
            "0" * 32 if case == "another checksum" else wrong,
            approved_by="" if case == "nobody agreed" else "Ada",
            who="test",
        )
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    assert full.digests() == before
    assert not list((full.root / "far" / "atticdir").iterdir())


def test_the_facts_must_all_agree() -> None:
    good, bad = Fixity(3, {"md5": "g"}), Fixity(3, {"md5": "b"})
    for found, stated, status, copy, person, approvers in product(
        (None, good, bad), ("g", "b"), ChecksumStatus, (None, good, bad), ("", "Ada"), ((), ("Ada",), ("ada", "Bob"))
    ):
        verdict = may_correct(CorrectFacts(good, stated, found, status, copy, person, approvers))
        all_agree = (found, stated, status, copy, person) == (bad, "b", CORRUPT, good, "Ada")
        assert verdict.allowed is (all_agree and approvers != ("ada", "Bob"))


def test_a_death_between_attic_and_new_copy_is_mended_as_missing(full: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    check_all(full)
    path = copy_in(full, "TWO")
    wrong = spoil(path)

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("custody.bitarchive.nodes.LocalNode.put", die)
        with pytest.raises(SystemExit):
            mend.correct(full.archive, replica(full, "TWO"), NAME, wrong, approved_by="Ada", who="test")
    assert not path.exists()
    missing = preserve.find_missing(full.archive, replica(full, "TWO"), who="test").missing
    assert missing == (NAME,)
    assert mend.upload_missing(full.archive, replica(full, "TWO"), missing, who="test") == {NAME: ""}
    assert path.read_bytes() == copy_in(full, "ONE").read_bytes()
    assert len(list((full.root / "far" / "atticdir").iterdir())) == 1
