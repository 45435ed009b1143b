"""Prove: ask the target what it stores, compare with the manifest, put the proof on record.

A separate step from sending, because "200" at the end of an upload says only that somebody took the bytes. Every file
of the series must be listed with its size and a digest that equals ours; with ``proof: readback`` every stored byte is
read and hashed, with ``sample_pct`` those of some files. Only then are the tombstones written.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from custody import gate
from custody.digests import Fixity
from custody.drain import markers
from custody.drain.config import ProofKind
from custody.drain.metadata import describe_item
from custody.drain.series import Series, SeriesFile, SeriesState
from custody.drain.step import Work, series_step
from custody.drain.targets import Settling, Target
from custody.drain.witness import Witness, witness
from custody.faults import Fault, FaultKind
from custody.ledger import CopyState
from custody.ledger.store import now


@series_step("prove", needs=SeriesState.UPLOADED, makes=SeriesState.PROVEN)
def prove(work: Work) -> None:
    """Prove every file of the series at every target, or say which are not; see the module."""
    series = work.series
    notes: list[dict[str, object]] = []
    with witness(work) as seen:
        for target, destination in zip(work.targets, series.config.destinations, strict=True):
            read_back = _to_read_back(series, destination.proof)
            stated = _ask(work, target, read_back, seen)
            _demand_equal(series, target, stated)
            notes += _record(work, target, stated, read_back)
    markers.write_json(series.private / markers.PROOFS_FILE, notes)
    urls = {member.name: work.targets[0].url(series.item, member.name) for member in series.files}
    markers.write_tombstones(series.directory, urls)
    for target in work.targets:
        target.finish(describe_item(series), list(urls))
    work.detail |= {"files": len(series.files), "copies": len(work.targets)}


def _to_read_back(series: Series, kind: ProofKind) -> Collection[str]:
    """The files of which a listing is not enough: all, or a sample, as good as random and the same at a retry."""
    names = [member.name for member in series.files]
    return names if kind is ProofKind.READBACK else sample(names, series.config.sample_pct, seed=series.id)


def sample(names: Sequence[str], pct: float, *, seed: int) -> set[str]:
    """So many in a hundred of the names, rounded up: where a sample is asked for, it is never empty."""
    count = -int(-len(names) * pct // 100)
    return set(random.Random(seed).sample(sorted(names), min(count, len(names))))  # noqa: S311 - no secret


def _ask(work: Work, target: Target, read_back: Collection[str], seen: Witness) -> dict[str, Fixity | None]:
    series = work.series
    if isinstance(target, Settling):
        target.settle(series.item)
    names = [member.name for member in series.files]
    listed = target.look(series.item, [*names, *seen.names(target)])
    seen.demand_other(target, listed)
    return {
        name: target.read_back(series.item, name, work.advance) if listed[name] and name in read_back else listed[name]
        for name in names
    }


def _demand_equal(series: Series, target: Target, stated: dict[str, Fixity | None]) -> None:
    complaints = {}
    for member in series.files:
        assert member.fixity is not None
        verdict = gate.may_record_proof(member.fixity, stated[member.name])
        if not verdict.allowed:
            complaints[member.name] = str(verdict)
    if complaints:
        raise _unproven(series, target, complaints, stated)


def _unproven(series: Series, target: Target, complaints: dict[str, str], stated: dict[str, Fixity | None]) -> Fault:
    """Not listed may mean not listed yet, and time may mend it; listed otherwise is for a person."""
    few = "; ".join(f"{name}: {complaint}" for name, complaint in list(complaints.items())[:3])
    reason = f"{len(complaints)} of {len(series.files)} files are not proven: {few}"
    kind = FaultKind.DATA if any(stated[name] for name in complaints) else FaultKind.TRANSIENT
    next_command = f"{series.next_command} (it sends again what is not stored)"
    return Fault(kind, target.place(series.item, ""), reason, next_command=next_command)


def _record(
    work: Work, target: Target, stated: dict[str, Fixity | None], read_back: Collection[str]
) -> list[dict[str, object]]:
    series = work.series
    notes = []
    with work.transaction() as connection:
        for member in series.files:
            found = stated[member.name]
            assert found is not None and member.file_id is not None
            place = target.place(series.item, member.name)
            kind = ProofKind.READBACK if member.name in read_back else ProofKind.LISTING
            copy_id = work.ledger.record_copy(connection, member.file_id, place, CopyState.PROVEN)
            work.ledger.record_proof(connection, copy_id, kind, found, work.who)
            work.event(connection, "proved", member.name, detail={"place": place, "stated": gate.describe(found)})
            notes.append(_note(work, member, place, kind, found))
    return notes


def _note(work: Work, member: SeriesFile, place: str, kind: ProofKind, found: Fixity) -> dict[str, object]:
    """What stands beside the data of a proof: enough to make the ledger's row again."""
    assert member.fixity is not None
    return {
        "name": member.name,
        "place": place,
        "kind": str(kind),
        "stated": {"size_bytes": found.size_bytes, **found.digests},
        "manifest": {"size_bytes": member.fixity.size_bytes, **member.fixity.digests},
        "proven_at": now().isoformat(),
        "proven_by": work.who,
    }
