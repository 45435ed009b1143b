"""Bit preservation: no partial list is believed, and nothing is replaced without proof and a person."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import sqlalchemy as sa

from bitarchive_samples import sample
from bitarchive_site import Site
from custody.bitarchive import mend, preserve, upload
from custody.bitarchive.config import Replica
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
    """A file in all three replicas."""
    path = sample(tmp_path / "incoming" / NAME).path
    (done,) = upload.upload(site.archive, [path], who="test")
    assert done.is_complete, done.reason
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
    assert (found.statuses, found.wrong) == ({NAME: CORRUPT}, {NAME: wrong})
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
