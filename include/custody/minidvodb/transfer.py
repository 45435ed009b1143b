"""Transfer: send what is missing into the staging directory, and lay the manifest of what was sent beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import sqlalchemy as sa

from custody import lease
from custody.faults import Fault, FaultKind
from custody.ledger.store import now
from custody.ledger.tables import lease as leases
from custody.minidvodb import chain, dvo, movers, room
from custody.minidvodb.destination import identify
from custody.minidvodb.far import Far, Look
from custody.minidvodb.locks import refuse_writers
from custody.minidvodb.manifest import (
    FILE,
    Manifest,
    Snapshot,
    demand_unchanged,
    differences,
    digest_file,
    mark_of,
    sha256_of,
    take_snapshot,
)
from custody.minidvodb.movers import Job, Sent
from custody.minidvodb.preflight import CHECKED_MARK, refuse_a_second_name, refuse_itself, reserve
from custody.minidvodb.records import NOT_RESERVED, Copy, CopyStep
from custody.minidvodb.step import Work, copy_step

_SHORTEST_TURN_PAUSE, _LONGEST_TURN_PAUSE = timedelta(seconds=30), timedelta(minutes=8)


@copy_step("transfer", needs=CopyStep.CHECKED, makes=CopyStep.SENT)
def transfer(work: Work) -> None:
    """Send the database, or find that all of it is there already, staged or even published.

    Faults: those of the preflight, TRANSFER, TIMEOUT; THROTTLED while as many copies as the host takes are under way.
    """
    with turn(work):
        send(work)


def send(work: Work) -> None:
    """What the step does; verification calls it again where something arrived wrong."""
    copy = work.copy
    far = work.far()
    holder = chain.holder_of(work)
    if holder:
        _send_from(work, far, holder)
        return
    entries = take_snapshot(copy.source)
    mark = mark_of(entries)
    if mark != copy.row["profile"].get(CHECKED_MARK):
        dvo.check(copy.source, entries)  # it was written to since the preflight
    work.values["profile"] = {CHECKED_MARK: mark}
    look = _open(work, far, entries)
    if look.target == "directory" and not copy.row["may_replace"]:
        manifest = manifest_of(work, entries)
        _take_published(work, far, manifest)
        demand_unchanged(copy.source, entries)
        return
    reserve(work, entries, look)
    sent = _move(work, far, entries, look)
    refuse_writers(copy.source, entries)
    _record(work, far, entries, sent)


def _open(work: Work, far: Far, entries: Snapshot) -> Look:
    """The staging directory, on the right disk, with nothing in it that does not belong there."""
    copy = work.copy
    look = far.open_staging()
    identify(work.ledger, copy.destination, look.machine, look.filesystem, copy.path)  # it may be unmounted by now
    if look.target in {"link", "other"}:
        raise far.taken()
    refuse_itself(copy.source, look, far)
    if foreign := room.strangers(entries, look.staged):
        far.remove_staged(sorted(foreign, reverse=True))
        look = far.open_staging()
    return look


def _send_from(work: Work, far: Far, holder: Copy) -> None:
    """The same from another host's proven copy, by its manifest."""
    manifest = chain.manifest_from(work, holder)
    work.values["profile"] = {}
    look = _open(work, far, manifest.entries)
    if look.target == "directory" and not work.copy.row["may_replace"]:
        _take_published(work, far, manifest)
        return
    reserve(work, manifest.entries, look)
    sent = _move(work, far, manifest.entries, look, holder)
    _lay_down(work, far, manifest, sent)


@contextmanager
def turn(work: Work) -> Iterator[None]:
    """One of the turns that a destination has; whoever finds none waits without holding anything."""
    place = work.copy.destination
    names = [f"minidvodb turn {place.id} {number}" for number in range(place.settings.max_running)]
    for name in names:
        try:
            held = lease.take(work.ledger, name)
        except Fault as fault:
            if fault.kind is not FaultKind.CONFLICT:
                raise
            continue
        beating = lease.Held(work.ledger, held, lease.DEFAULT_TTL)
        beating.start()
        try:
            yield
        finally:
            beating.stop()
        return
    raise Fault(
        FaultKind.THROTTLED,
        place.name,
        f"takes {place.settings.max_running} copies at a time, and they are under way",
        until=now() + _pause(work, names),
    )


def _pause(work: Work, names: list[str]) -> timedelta:
    """How long to wait for a turn: long where those who have one have had it long, so that waiting costs little."""
    query = sa.select(sa.func.max(leases.c.taken_at)).where(leases.c.name.in_(names))
    with work.ledger.read() as connection:
        youngest = connection.scalar(query)
    held_for = now() - youngest if youngest else timedelta(0)
    return min(_LONGEST_TURN_PAUSE, max(_SHORTEST_TURN_PAUSE, held_for / 2))


def _move(work: Work, far: Far, entries: Snapshot, look: Look, holder: Copy | None = None) -> Sent:
    copy, settings = work.copy, work.copy.destination.settings
    to_send = room.missing(entries, look.staged)
    profile = movers.profile_of(entries, look.staged)
    name = movers.RELAY if holder else movers.choose(profile, settings)
    work.values["profile"] |= profile.as_json()
    work.values |= {"mover": name, "files": profile.files, "bytes": profile.size_bytes}
    work.held.progress |= {"bytes": profile.size_bytes, "bytes_done": profile.size_bytes - profile.bytes_to_send}
    if not to_send:
        return Sent(0, {})
    patience_s = settings.base_timeout_s + profile.bytes_to_send / settings.min_rate
    job = Job(
        root=copy.source,
        far=far,
        entries=to_send,
        algorithm=settings.digest,
        deadline=time.monotonic() + patience_s,
        stall_s=settings.stall_s,
        rate=lambda: _share(work),
        advance=work.advance,
        check=work.held.check,
        streams=settings.streams,
    )
    return chain.send(work, holder, job) if holder else movers.mover_of(name)(job)


def _share(work: Work) -> int | None:
    settings = work.copy.destination.settings
    rate = settings.rate_at(now())
    return None if rate is None else max(1024, rate // settings.max_running)


def manifest_of(work: Work, entries: Snapshot, known: dict[bytes, str] | None = None) -> Manifest:
    """Digests of the whole source; files that the mover has just read and hashed are not read again."""
    known = known or {}
    algorithm = work.copy.destination.settings.digest
    root = os.fsencode(work.copy.source)
    digests = {}
    for path, entry in entries.items():
        if entry.kind == FILE:
            digests[path] = known.get(path) or digest_file(root, entry, algorithm)
            work.held.check()
    return Manifest(entries, digests, algorithm)


def _record(work: Work, far: Far, entries: Snapshot, sent: Sent) -> None:
    manifest = manifest_of(work, entries, dict(sent.digests))
    if work.values["mover"] != movers.STREAM:  # which looks at every file before and after it reads it
        demand_unchanged(work.copy.source, entries)
    _lay_down(work, far, manifest, sent)


def _lay_down(work: Work, far: Far, manifest: Manifest, sent: Sent) -> None:
    """The manifest, beside what was sent and on record."""
    text = manifest.text()
    far.save_manifest(text)
    work.values |= {
        "sent_bytes": sent.sent_bytes,
        "algorithm": manifest.algorithm,
        "manifest_sha256": sha256_of(text),
        "fingerprint": None,
        **NOT_RESERVED,
    }
    work.detail |= {"sent_bytes": sent.sent_bytes, "files": manifest.files, "mover": work.values["mover"]}


def _take_published(work: Work, far: Far, manifest: Manifest) -> None:
    """Something has the final name already: it is ours where every byte is equal, and then nothing is sent.

    Faults: VERIFY, for a person, where it is different.
    """
    proof = far.prove(manifest.size_bytes, manifest.algorithm, published=True)
    if proof is None or differences(manifest, proof.entries, proof.digests):
        raise far.taken()
    refuse_a_second_name(work, far)
    far.clear()
    text = manifest.text()
    far.save_manifest(text)
    work.makes = CopyStep.VERIFIED
    work.values |= {
        "sent_bytes": 0,
        "mover": "none",
        "files": manifest.files,
        "bytes": manifest.size_bytes,
        "algorithm": manifest.algorithm,
        "manifest_sha256": sha256_of(text),
        "fingerprint": proof.fingerprint,
        "verified_at": now(),
        **NOT_RESERVED,
    }
    work.detail |= {"found_published": True, "sent_bytes": 0}
