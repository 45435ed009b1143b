"""Which tape a cartridge is, for the catalogue: the row that is there, or the one to be made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.tape import tables
from custody.tape.catalog import Tape, find_tape, list_tapes, record, tape_by_id
from custody.tape.config import PoolConfig, TapeConfig
from custody.tape.label import Found, Label
from custody.tape.names import escape
from custody.tape.session import wrong_tape
from custody.tape.states import TapeState

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Known:
    """A cartridge. ``tape`` is its row; where it has none, ``values`` is the row to be made."""

    name: str
    uuid: str | None
    label: Label | None
    tape: Tape | None
    values: dict[str, Any] = field(default_factory=dict)


def identify(
    connection: Connection, config: TapeConfig, device: str, found: Found, name: str | None, adopt_as: str | None
) -> Known:
    """Say which tape it is. Faults: as :func:`~custody.tape.rebuild.scan_tape`."""
    if found.is_blank:
        raise Fault(FaultKind.CONFIG, device, "holds a blank cartridge: there is nothing to scan")
    if found.label is None:
        return _unlabelled(connection, config, device, found, name, adopt_as)
    label = found.label
    if name is not None and name != label.name:
        reason = f"holds tape {label.name}, not {name}"
        raise Fault(FaultKind.NEEDS_HUMAN, device, reason, next_command=f"insert {name}, or scan without its name")
    if adopt_as is not None:
        raise Fault(FaultKind.CONFIG, device, f"has a label: it is tape {label.name}", next_command="custody tape scan")
    for tape in list_tapes(connection):
        if tape.uuid == label.uuid and tape.name == label.name:
            return Known(label.name, label.uuid, label, tape)
        shared = [
            what
            for what, ours, other in (
                ("name", tape.name, label.name),
                ("uuid", tape.uuid, label.uuid),
                ("serial", tape.serial, label.serial),
            )
            if ours is not None and ours == other
        ]
        if shared:
            reason = f"its {shared[0]} is that of tape {tape.name} (uuid {tape.uuid}), which is another one"
            command = f"custody tape tape_detail {tape.name}; custody tape describe {tape.name} --serial ''"
            raise Fault(FaultKind.CONFLICT, f"tape {label.name} (uuid {label.uuid})", reason, next_command=command)
    pool = config.of_pool(label.pool) if label.pool in config.pools else PoolConfig()  # type: ignore[call-arg]
    values = {
        "name": label.name,
        "state_before": "",
        "state": TapeState.LABELLED,
        "uuid": label.uuid,
        "label": "custody",
        "serial": label.serial or None,
        "barcode": label.barcode or None,
        "pool": label.pool,
        "block_bytes": label.block_bytes,
        "capacity_bytes": pool.capacity,
        "compression": pool.compression,
    }
    return Known(label.name, label.uuid, label, None, values)


def _unlabelled(
    connection: Connection, config: TapeConfig, device: str, found: Found, name: str | None, adopt_as: str | None
) -> Known:
    same = [tape for tape in list_tapes(connection) if tape.identity == found.first_block_sha256]
    wanted = name or adopt_as
    if same:
        fitting = [tape for tape in same if wanted in {None, tape.name}]
        if len(fitting) == 1:
            return Known(fitting[0].name, None, None, fitting[0])
        there = ", ".join(tape.name for tape in same)
        reason = f"begins as tape {there} does" + ("" if wanted is None else f", which is not {wanted}")
        raise Fault(FaultKind.CONFLICT, device, reason, next_command=f"custody tape scan {same[0].name}")
    if adopt_as is not None:
        return Known(adopt_as, None, None, None, _adopted(connection, config, found, adopt_as))
    if name is None:
        reason = f"holds a cartridge without a label, {found.describes}, that nobody knows"
        raise Fault(FaultKind.NEEDS_HUMAN, device, reason, next_command="custody tape scan --adopt NAME")
    tape = find_tape(connection, name)
    if tape.has_label or tape.identity is not None or not _begins_with_its_first_target(connection, tape, found):
        raise wrong_tape(device, tape, found)
    return Known(tape.name, None, None, tape, {"identity": found.first_block_sha256})


def _begins_with_its_first_target(connection: Connection, tape: Tape, found: Found) -> bool:
    table = tables.backup
    first = connection.scalar(
        sa.select(tables.target.c.name)
        .join(table, table.c.target_id == tables.target.c.id)
        .where(table.c.tape_id == tape.id, table.c.file_number == 0)
    )
    return first is not None and bool(found.first_member) and "/" + escape(found.first_member.strip(b"/")) == first


def _adopted(connection: Connection, config: TapeConfig, found: Found, name: str) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        reason = "is no name of a tape: up to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit"
        raise Fault(FaultKind.CONFIG, repr(name), reason)
    if connection.scalar(sa.select(tables.tape.c.id).where(tables.tape.c.name == name)) is not None:
        reason = "is in the catalogue already, and the cartridge in the drive is another one"
        raise Fault(FaultKind.CONFLICT, f"tape {name}", reason, next_command="choose another name")
    pool = config.of_pool(config.pools[0])
    return {
        "name": name,
        "state_before": "",
        "state": TapeState.CLOSED,  # what nobody wrote a label on is read, not written
        "label": "none",
        "identity": found.first_block_sha256,
        "pool": config.pools[0],
        "block_bytes": config.block_size,
        "capacity_bytes": pool.capacity,
        "compression": pool.compression,
    }


def insert_tape(ledger: Ledger, connection: Connection, known: Known, who: str) -> Tape:
    """Put a tape on record, or find it there; one that was labelled just before a crash is labelled from now on."""
    if known.tape is None:
        times = {"opened_at": now(), "changed_at": now()}
        key = connection.execute(sa.insert(tables.tape).values(known.values | times)).inserted_primary_key
        assert key is not None
        record(ledger, connection, who, "found", known.name, uuid=known.uuid)
        return tape_by_id(connection, int(key[0]))
    if known.values:
        connection.execute(sa.update(tables.tape).where(tables.tape.c.id == known.tape.id).values(**known.values))
        record(ledger, connection, who, "identified", known.name, **known.values)
    return tape_by_id(connection, known.tape.id)
