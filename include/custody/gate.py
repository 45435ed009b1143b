"""May this be deleted, published, recorded, overwritten? Facts in, a verdict with reasons out.

Pure functions: no clock, no disk, no network, so that property tests can try every combination. Whoever is about to let
go of a copy gathers the facts *now* and asks here; nobody decides it anywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from custody.digests import FileState, Fixity, Match


@dataclass(frozen=True)
class Verdict:
    """The answer of the gate: allowed, or every reason why not."""

    reasons: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """True where no reason speaks against it."""
        return not self.reasons

    def __str__(self) -> str:
        return "allowed" if self.allowed else "; ".join(self.reasons)


@dataclass(frozen=True)
class ProvenCopy:
    """Another copy, as recorded when it was proven and as its keeper describes it now.

    :param place: where it is; two proofs for one place are one copy.
    :param proven: size and digests that the proof compared, or None where none is on record.
    :param proven_at: when (UTC), or None.
    :param now: size and digests the keeper states at this moment, or None where it does not list the file or
        could not be asked.
    """

    place: str
    proven: Fixity | None
    proven_at: datetime | None
    now: Fixity | None


@dataclass(frozen=True)
class DeleteFacts:
    """All that is known when a local file is about to be deleted.

    :param recorded: size and digests of the manifest.
    :param recorded_state: size, mtime and inode of the file when the manifest was made.
    :param found_state: the same, looked at now; None where the file is gone.
    :param found: size and digests of a fresh read, where one was asked for.
    :param rehash: whether such a read is asked for.
    :param copies: the other copies.
    :param copies_needed: how many of them must be proven; below 1 counts as 1.
    :param grace: how long a proof must have stood.
    :param on_hold: an operator has put the file or its series on hold.
    :param draining: the operator's switch (DRAINME) is on.
    :param asked_at: now (UTC).
    """

    recorded: Fixity
    recorded_state: FileState | None
    found_state: FileState | None
    copies: Sequence[ProvenCopy]
    asked_at: datetime
    found: Fixity | None = None
    rehash: bool = False
    copies_needed: int = 1
    grace: timedelta = timedelta(0)
    on_hold: bool = False
    draining: bool = True


def may_delete(facts: DeleteFacts) -> Verdict:
    """Whether the last local copy may go: enough other copies proven, and this one still the one that was copied."""
    reasons: list[str] = []
    if facts.on_hold:
        reasons.append("it is on hold")
    if not facts.draining:
        reasons.append("draining is switched off")
    reasons += _local_reasons(facts)
    complaints = [(copy.place, _copy_complaint(facts, copy)) for copy in facts.copies]
    standing = {place for place, complaint in complaints if complaint is None}
    needed = max(1, facts.copies_needed)
    if len(standing) < needed:
        # where enough copies stand, a bad one beside them is the audit's business and does not bind this file
        reasons += [f"{place}: {complaint}" for place, complaint in complaints if complaint and place not in standing]
        reasons.append(f"{len(standing)} of {needed} copies are proven")
    return Verdict(tuple(reasons))


def _local_reasons(facts: DeleteFacts) -> list[str]:
    if facts.found_state is None:
        return ["the local file is not there"]
    reasons = []
    if facts.recorded_state is None:
        reasons.append("no state of the local file is on record")
    elif facts.found_state != facts.recorded_state:
        reasons.append("the local file is not the one that was hashed (size, time or inode differ)")
    if facts.rehash:
        match = facts.recorded.compare(facts.found) if facts.found else Match.UNVERIFIED
        if match is not Match.EQUAL:
            reasons.append(f"the local bytes are {match.value} against the manifest")
    return reasons


def _copy_complaint(facts: DeleteFacts, copy: ProvenCopy) -> str | None:
    if copy.proven is None or copy.proven_at is None:
        return "no proof is on record"
    match = facts.recorded.compare(copy.proven)
    if match is not Match.EQUAL:
        return f"its proof is {match.value} against the manifest"
    if facts.asked_at - copy.proven_at < facts.grace:
        return f"its proof is younger than {facts.grace}"
    if copy.now is None:
        return "its keeper does not list it now"
    match = facts.recorded.compare(copy.now)
    if match is not Match.EQUAL:
        return f"its keeper's record is now {match.value} against the manifest"
    return None


def may_record_proof(expected: Fixity, stated: Fixity | None) -> Verdict:
    """Whether what a keeper states (or what was read back) proves a copy: size and a shared digest equal."""
    if stated is None:
        return Verdict(("its keeper does not list it",))
    match = expected.compare(stated)
    if match is Match.EQUAL:
        return Verdict()
    if match is Match.UNVERIFIED:
        return Verdict(("its keeper states no digest to compare: the size alone proves nothing",))
    return Verdict((f"expected {describe(expected)}, found {describe(stated)}",))


def may_overwrite(expected: Fixity, there: Fixity | None) -> Verdict:
    """Whether bytes may be sent to a name: only where nothing is, or a copy known to be the same."""
    if there is None:
        return Verdict()
    match = expected.compare(there)
    if match is Match.EQUAL:
        return Verdict()
    if match is Match.UNVERIFIED:
        return Verdict((f"something of {there.size_bytes} bytes without a digest is there already",))
    return Verdict((f"other bytes are there already ({describe(there)})",))


def may_publish(expected: Sequence[str], verified: Sequence[str], strangers: Sequence[str] = ()) -> Verdict:
    """Whether a staged set may become visible: every expected name verified, nothing else beside them."""
    reasons = [f"{name} is not verified" for name in sorted(set(expected) - set(verified))]
    reasons += [f"{name} does not belong to the set" for name in sorted(strangers)]
    if not expected:
        reasons.append("the set is empty")
    return Verdict(tuple(reasons))


@dataclass(frozen=True)
class Edition:
    """One of several that were made of the same thing after one another: the dump of one day.

    :param name: sorts by age, the youngest last.
    :param proven: it is complete, all of it was read back, and all of it lies there now with the size that was proven.
    :param holds: what kinds of content are in it.
    """

    name: str
    proven: bool
    holds: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RetireFacts:
    """All that is known when an old edition is about to be let go.

    :param old: the edition that would go.
    :param all: every edition there is.
    :param keep: how many younger proven ones there must be; below 1 counts as 1.
    :param on_hold: a person has put it on hold.
    :param in_use: somebody works on it.
    """

    old: Edition
    all: Sequence[Edition]
    keep: int
    on_hold: bool = False
    in_use: bool = False


def may_retire(facts: RetireFacts) -> Verdict:
    """Whether an old edition may go: enough younger ones are proven, and they hold every kind of content it holds."""
    reasons = []
    younger = [each for each in facts.all if each.name > facts.old.name and each.proven]
    needed = max(1, facts.keep)
    if len(younger) < needed:
        reasons.append(f"{len(younger)} younger ones are proven, and {needed} are kept")
    only_here = facts.old.holds - frozenset[str]().union(*(each.holds for each in younger))
    if only_here:
        reasons.append(f"no younger proven one holds {', '.join(sorted(only_here))}")
    if facts.on_hold:
        reasons.append("it is on hold")
    if facts.in_use:
        reasons.append("somebody works on it")
    return Verdict(tuple(reasons))


def describe(fixity: Fixity) -> str:
    """Size and digests in a form for people: ``12 bytes, md5 0cc1...``."""
    digests = ", ".join(f"{name} {value}" for name, value in sorted(fixity.digests.items()))
    return f"{fixity.size_bytes} bytes, {digests or 'no digest'}"
