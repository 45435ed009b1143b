"""Chained copies: a host that has a database proven may be the source for the next one.

The manifest of the first copy is the manifest of the second: what arrives is compared with it byte for byte, so nothing
has to be believed of the way between. The bytes go from host to host through one tar stream that this worker relays.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import sqlalchemy as sa

from custody import lease
from custody.faults import FaultKind
from custody.minidvodb import tables
from custody.minidvodb.codes import CopyFault, FaultCode
from custody.minidvodb.far import Far
from custody.minidvodb.manifest import Manifest, sha256_of
from custody.minidvodb.movers import Job, Sent
from custody.minidvodb.movers.stream import relay
from custody.minidvodb.records import Copy, CopyState, load
from custody.minidvodb.step import Work, far_side


def choose(work: Work) -> Copy | None:
    """The copy to take a database from; None: from where it was made, which lies on this machine.

    Another host is the source where the original is out of this worker's reach, or where the destination says
    ``fan_out``; of several the one with the fewest copies under way. Faults: SOURCE_MISSING where there is none.
    """
    copy = work.copy
    here = copy.source_host in {None, "", "localhost", socket.gethostname()} or copy.source.is_dir()
    if here and copy.source.is_dir() and not copy.destination.settings.fan_out:
        return None
    found = holders(work)
    if found:
        return min(found, key=lambda one: (_turns_taken(work, one), one.id))
    if here:
        return None  # a directory that is not there is a fault of its own
    raise CopyFault(
        FaultCode.SOURCE_MISSING,
        str(copy.source),
        f"is on {copy.source_host}, not on this machine ({socket.gethostname()}), and no other host has it proven",
        next_command=f"run on {copy.source_host} (a queue of its own)",
    )


def holders(work: Work) -> list[Copy]:
    """Other copies of the same database that are full and proven, on hosts that are on."""
    one = tables.copy
    query = (
        sa.select(one.c.minidvodbcopy_id)
        .join(tables.destination, tables.destination.c.id == one.c.destination_id)
        .where(
            one.c.minidvodb_id == work.copy.minidvodb_id,
            one.c.minidvodbcopy_id != work.copy.id,
            one.c.state == CopyState.FULL,
            one.c.fault == 0,
            one.c.manifest_sha256.is_not(None),
            one.c.verified_at.is_not(None),
            tables.destination.c.enabled,
        )
    )
    with work.ledger.read() as connection:
        numbers = list(connection.scalars(query))
    return [load(work.ledger, number) for number in numbers]


def _turns_taken(work: Work, holder: Copy) -> int:
    place = holder.destination
    names = [f"minidvodb turn {place.id} {number}" for number in range(place.settings.max_running)]
    return len(lease.holders(work.ledger, names))


def holder_of(work: Work) -> Copy | None:
    """The copy that the preflight chose. Faults: SOURCE_CHANGED where it is not full any more."""
    name = work.copy.row["holder"]
    if not name:
        return None
    found = [one for one in holders(work) if one.destination.name == name]
    if not found:
        raise _changed(work, f"{name} no longer has it proven")
    return found[0]


def manifest_from(work: Work, holder: Copy) -> Manifest:
    """The manifest beside another copy, which has to be the one on record. Faults: SOURCE_CHANGED, ssh's."""
    with far_side(holder, work.reach) as there:
        text = there.read_manifest()
    if sha256_of(text) != holder.row["manifest_sha256"]:
        raise _changed(work, f"the manifest on {holder.destination.name} is not the one on record")
    return Manifest.parse(text, there.where)


def demand_untouched(work: Work, holder: Copy) -> None:
    """Whether the other copy is still the directory that was proven. Faults: SOURCE_CHANGED."""
    with far_side(holder, work.reach) as there:
        if there.glance() != holder.row["fingerprint"]:
            raise _changed(work, f"the copy on {holder.destination.name} was touched since it was proven")


def _changed(work: Work, reason: str) -> CopyFault:
    return CopyFault(
        FaultCode.SOURCE_CHANGED,
        work.copy.subject,
        reason,
        kind=FaultKind.TRANSIENT,
        next_command="custody minidvodb audit; it is tried again",
    )


def send(work: Work, holder: Copy, job: Job) -> Sent:
    """Relay entries from one host to the other; what arrived is proven later, so nothing is hashed on the way."""
    with far_side(holder, work.reach) as there:
        return Sent(relay(job, there.host, reader(there)), {})


def reader(there: Far) -> Sequence[str]:
    """The argument vector over there that packs the names on its standard input."""
    argv = ["tar", "--create", "--file=-", "--format=pax", f"--directory={os.fspath(there.path / there.name)}"]
    argv += ["--no-recursion", "--null", "--verbatim-files-from", "--files-from=-", "--record-size=262144"]
    return ["env", "LC_ALL=C", *argv]
