"""The gate, asked with every combination of facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from custody.digests import FileState, Fixity, Match
from custody.gate import (
    DeleteFacts,
    Edition,
    ProvenCopy,
    RetireFacts,
    Verdict,
    may_delete,
    may_overwrite,
    may_publish,
    may_record_proof,
    may_retire,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SAME = Fixity(10, {"md5": "aa", "sha256": "bb"})
OTHER = Fixity(10, {"md5": "cc"})
SHORT = Fixity(9, {"md5": "aa"})
BARE = Fixity(10)
STATE = FileState(10, 1, 2)

# -- every combination ----------------------------------------------------------------------------------------------

# what is likely to be right comes first, so that allowances are not rare
FIXITIES = st.sampled_from([SAME, Fixity(10, {"md5": "aa"}), OTHER, SHORT, BARE, Fixity(10, {"sha1": "dd"})])
STATES = st.sampled_from([STATE, STATE, STATE, replace(STATE, mtime_ns=9), replace(STATE, inode=9), None])
COPIES = st.builds(
    ProvenCopy,
    place=st.sampled_from(["s3://a", "s3://b", "tape://T1/3"]),
    proven=st.one_of(st.just(SAME), FIXITIES, st.none()),
    proven_at=st.sampled_from([NOW - 2 * HOUR, NOW - HOUR, NOW, NOW + HOUR, None]),
    now=st.one_of(st.just(SAME), FIXITIES, st.none()),
)
FACTS = st.builds(
    DeleteFacts,
    recorded=st.one_of(st.just(SAME), st.just(BARE)),
    recorded_state=STATES,
    found_state=STATES,
    copies=st.lists(COPIES, max_size=5),
    asked_at=st.just(NOW),
    found=st.one_of(st.just(SAME), FIXITIES, st.none()),
    rehash=st.booleans(),
    copies_needed=st.integers(-1, 3),
    grace=st.sampled_from([timedelta(0), HOUR]),
    on_hold=st.sampled_from([False, False, True]),
    draining=st.sampled_from([True, True, False]),
)
PERFECT = DeleteFacts(SAME, STATE, STATE, [ProvenCopy("s3://a", SAME, NOW - HOUR, SAME)], NOW)


def _stands(facts: DeleteFacts, copy: ProvenCopy) -> bool:
    """What the design says of a copy, in other words than the code."""
    return (
        copy.proven is not None
        and copy.proven_at is not None
        and copy.now is not None
        and facts.recorded.compare(copy.proven) is Match.EQUAL
        and facts.recorded.compare(copy.now) is Match.EQUAL
        and copy.proven_at <= facts.asked_at - facts.grace
    )


@settings(max_examples=500)
@given(FACTS)
@example(PERFECT)
def test_deleting_is_allowed_exactly_where_enough_copies_are_proven(facts: DeleteFacts) -> None:
    places = {copy.place for copy in facts.copies if _stands(facts, copy)}
    expected = (
        len(places) >= max(1, facts.copies_needed)
        and facts.found_state is not None
        and facts.found_state == facts.recorded_state
        and facts.draining
        and not facts.on_hold
        and (not facts.rehash or (facts.found is not None and SAME.compare(facts.found) is Match.EQUAL))
        and bool(facts.recorded.digests)
    )
    verdict = may_delete(facts)
    assert verdict.allowed is expected, str(verdict)
    assert verdict.allowed or all(verdict.reasons), "a refusal without a reason"


def _with_less(facts: DeleteFacts) -> Iterator[DeleteFacts]:
    """The same facts with one of them taken away."""
    yield replace(facts, recorded_state=None)
    yield replace(facts, found_state=None)
    yield replace(facts, found=None)
    yield replace(facts, recorded=Fixity(facts.recorded.size_bytes))
    yield replace(facts, draining=False)
    for index, copy in enumerate(facts.copies):
        others = [*facts.copies[:index], *facts.copies[index + 1 :]]
        yield replace(facts, copies=others)
        for less in (
            replace(copy, proven=None),
            replace(copy, proven_at=None),
            replace(copy, now=None),
            replace(copy, proven=copy.proven and Fixity(copy.proven.size_bytes)),
            replace(copy, now=copy.now and Fixity(copy.now.size_bytes)),
        ):
            yield replace(facts, copies=[*facts.copies[:index], less, *facts.copies[index + 1 :]])


@settings(max_examples=500)
@given(FACTS)
@example(
    replace(PERFECT, copies=[ProvenCopy("s3://a", SAME, NOW - HOUR, SAME), ProvenCopy("s3://a", None, None, None)])
)
def test_knowing_less_never_turns_a_refusal_into_an_allowance(facts: DeleteFacts) -> None:
    if not may_delete(facts).allowed:
        for less in _with_less(facts):
            assert not may_delete(less).allowed, less


@settings(max_examples=300)
@given(FACTS, st.randoms(use_true_random=False))
def test_the_order_of_the_copies_does_not_matter(facts: DeleteFacts, chance: object) -> None:
    shuffled = list(facts.copies)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert may_delete(facts).allowed is may_delete(replace(facts, copies=shuffled)).allowed


@settings(max_examples=300)
@given(FACTS)
def test_without_digests_nothing_is_ever_deleted(facts: DeleteFacts) -> None:
    copies = [
        replace(copy, now=copy.now and Fixity(copy.now.size_bytes, {"md5": "", "sha256": ""})) for copy in facts.copies
    ]
    assert not may_delete(replace(facts, copies=copies)).allowed
    assert not may_delete(replace(facts, recorded=Fixity(10, {"md5": ""}))).allowed


@settings(max_examples=300)
@given(FACTS, st.integers(2, 5))
def test_many_proofs_of_one_place_are_one_copy(facts: DeleteFacts, needed: int) -> None:
    copies = [replace(copy, place="s3://a") for copy in facts.copies]
    assert not may_delete(replace(facts, copies=copies, copies_needed=needed)).allowed


# -- what people read -----------------------------------------------------------------------------------------------


def test_the_perfect_case_is_allowed() -> None:
    assert may_delete(PERFECT) == Verdict()
    assert str(may_delete(PERFECT)) == "allowed"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"on_hold": True}, "it is on hold"),
        ({"draining": False}, "draining is switched off"),
        ({"found_state": None}, "the local file is not there"),
        ({"recorded_state": None}, "no state of the local file is on record"),
        ({"found_state": replace(STATE, size_bytes=11)}, "the local file is not the one that was hashed"),
        ({"rehash": True}, "the local bytes are unverified against the manifest"),
        ({"rehash": True, "found": OTHER}, "the local bytes are different against the manifest"),
        ({"copies": []}, "0 of 1 copies are proven"),
        ({"copies_needed": 2}, "1 of 2 copies are proven"),
        ({"grace": 2 * HOUR}, "s3://a: its proof is younger than 2:00:00"),
        ({"copies": [ProvenCopy("s3://a", None, None, SAME)]}, "s3://a: no proof is on record"),
        ({"copies": [ProvenCopy("s3://a", BARE, NOW, SAME)]}, "s3://a: its proof is unverified against the manifest"),
        ({"copies": [ProvenCopy("s3://a", SAME, NOW, None)]}, "s3://a: its keeper does not list it now"),
        ({"copies": [ProvenCopy("s3://a", SAME, NOW, SHORT)]}, "s3://a: its keeper's record is now different"),
        ({"copies": [ProvenCopy("s3://a", SAME, NOW, BARE)]}, "s3://a: its keeper's record is now unverified"),
    ],
)
def test_a_refusal_says_why(changes: dict[str, object], reason: str) -> None:
    verdict = may_delete(replace(PERFECT, **changes))  # type: ignore[arg-type]
    assert not verdict.allowed
    assert reason in str(verdict)


def test_every_reason_is_named_not_only_the_first() -> None:
    verdict = may_delete(replace(PERFECT, on_hold=True, draining=False, found_state=None, copies=[]))
    assert len(verdict.reasons) == 4


def test_a_bad_copy_beside_enough_good_ones_does_not_bind_the_file() -> None:
    good = [ProvenCopy("s3://a", SAME, NOW, SAME), ProvenCopy("tape://T1/3", SAME, NOW, SAME)]
    bad = ProvenCopy("s3://b", OTHER, NOW, OTHER)
    assert may_delete(replace(PERFECT, copies=[*good, bad], copies_needed=2)).allowed
    assert not may_delete(replace(PERFECT, copies=[good[0], bad], copies_needed=2)).allowed


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        (SAME, None),
        (Fixity(10, {"md5": "aa"}), None),
        (None, "does not list it"),
        (BARE, "the size alone proves nothing"),
        (Fixity(10, {"sha1": "aa"}), "the size alone proves nothing"),
        (OTHER, "expected 10 bytes, md5 aa, sha256 bb, found 10 bytes, md5 cc"),
        (Fixity(9), "found 9 bytes, no digest"),
    ],
)
def test_a_proof_needs_size_and_digest(stated: Fixity | None, reason: str | None) -> None:
    verdict = may_record_proof(SAME, stated)
    assert verdict.allowed is (reason is None)
    assert (reason or "allowed") in str(verdict)


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (None, None),
        (SAME, None),
        (BARE, "something of 10 bytes without a digest is there already"),
        (OTHER, "other bytes are there already (10 bytes, md5 cc)"),
        (SHORT, "other bytes are there already (9 bytes, md5 aa)"),
    ],
)
def test_nothing_is_overwritten_but_itself(there: Fixity | None, reason: str | None) -> None:
    verdict = may_overwrite(SAME, there)
    assert verdict.allowed is (reason is None)
    assert (reason or "allowed") in str(verdict)


NAMES = st.lists(st.sampled_from("abc"), max_size=4)


@given(NAMES, NAMES, NAMES)
def test_a_set_is_published_whole_and_alone(expected: list[str], verified: list[str], strangers: list[str]) -> None:
    verdict = may_publish(expected, verified, strangers)
    assert verdict.allowed is (bool(expected) and set(expected) <= set(verified) and not strangers)
    for name in set(expected) - set(verified):
        assert f"{name} is not verified" in verdict.reasons
    for name in strangers:
        assert f"{name} does not belong to the set" in verdict.reasons


EDITIONS = st.lists(
    st.builds(
        Edition,
        name=st.integers(20260101, 20260109).map(str),
        proven=st.booleans(),
        holds=st.frozensets(st.sampled_from(["history", "articles", "page"])),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda edition: edition.name,
)


@settings(max_examples=300)
@given(EDITIONS, st.integers(-1, 4), st.sampled_from([False, False, True]), st.sampled_from([False, False, True]))
def test_an_old_edition_goes_only_where_younger_ones_are_proven_and_hold_what_it_holds(
    editions: list[Edition], keep: int, on_hold: bool, in_use: bool
) -> None:
    left = sorted(editions, key=lambda edition: edition.name)
    proven_before = {kind for edition in left if edition.proven for kind in edition.holds}
    for old in list(left):
        if may_retire(RetireFacts(old, left, keep, on_hold, in_use)).allowed:
            left.remove(old)
    removed = [edition for edition in editions if edition not in left]
    assert not (removed and (on_hold or in_use))
    assert {kind for edition in left if edition.proven for kind in edition.holds} == proven_before
    proven = [edition for edition in left if edition.proven]
    assert len(proven) >= min(max(1, keep), sum(edition.proven for edition in editions))
    for old in removed:
        assert sum(edition.name > old.name for edition in proven) >= max(1, keep)


def test_every_reason_to_keep_an_edition_is_told() -> None:
    old, young = Edition("1", True, frozenset({"history"})), Edition("2", True, frozenset({"articles"}))
    verdict = may_retire(RetireFacts(old, [old, young, replace(young, name="3", proven=False)], 2, True, True))
    assert verdict.reasons == (
        "1 younger ones are proven, and 2 are kept",
        "no younger proven one holds history",
        "it is on hold",
        "somebody works on it",
    )
    assert may_retire(RetireFacts(replace(old, holds=frozenset()), [old, young], 1)).allowed
    assert not may_retire(RetireFacts(young, [old, young], 1)).allowed  # itself is no younger one
