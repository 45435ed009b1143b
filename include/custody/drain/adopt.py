"""Adopt: take over what lies in the transfer directory without being on record.

Two kinds of directories are found there. Our own, after the ledger was lost: plan, manifest and proofs beside the data
carry enough to put everything back on record. And draintasker's, in any state: whatever its markers claim, the files
are hashed again, compared with its MANIFEST where there is one, sent only where they are not stored, proven, and
deleted through the gate. A marker of another program is never a reason to delete.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.digests import FileState, Fixity
from custody.drain import markers, tables
from custody.drain.config import DrainConfig
from custody.drain.names import SUFFIXES, is_identifier
from custody.drain.series import ROOM, NewFile, SeriesState, put_on_record
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.ledger import CopyState, Ledger
from custody.ledger.store import disk_place
from custody.publish import RenamePlan

_LEGACY_ORDER = (
    "PACKED",
    "MANIFEST.open",
    "MANIFEST",
    "LAUNCH.open",
    "BUCKET_OK",
    "TASK",
    "RETRY",
    "ERROR",
    "SUCCESS",
    "TOMBSTONE",
    "LAUNCH",
    "CLEAN.open",
    "CLEAN.err",
    "CLEAN",
)


@dataclass(frozen=True)
class Adopted:
    """One directory that was put on record."""

    series_id: int
    item: str
    state: SeriesState
    files: int
    was: str


def adopt(ledger: Ledger, config_name: str, config: DrainConfig, *, who: str) -> list[Adopted]:
    """Put every directory that no series has on record. Faults: DATA where one of our own notes cannot be read."""
    found = []
    for directory in strange_directories(ledger, config):
        adopted = _adopt_ours(ledger, config_name, config, directory, who)
        found.append(adopted or _adopt_foreign(ledger, config_name, config, directory, who))
    return found


def strange_directories(ledger: Ledger, config: DrainConfig) -> list[Path]:
    """Directories in the transfer directory that hold a series and are not on record."""
    with os_errors_as_faults(str(config.xfer_dir)), os.scandir(config.xfer_dir) as entries:
        there = sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    with ledger.read() as connection:
        known = set(connection.scalars(sa.select(tables.series.c.directory)))
    return [path for path in there if str(path) not in known and is_identifier(path.name) and _holds_series(path)]


def _holds_series(directory: Path) -> bool:
    names = {path.name for path in directory.iterdir()}
    return bool(names & {markers.PRIVATE, markers.PACKED, markers.MANIFEST}) or any(n.endswith(SUFFIXES) for n in names)


# -- our own directories, after the ledger was lost ---------------------------------------------------------------


def _adopt_ours(ledger: Ledger, config_name: str, config: DrainConfig, directory: Path, who: str) -> Adopted | None:
    """Put a directory of ours back on record; None where it is not ours."""
    plan = RenamePlan.load(directory / markers.PRIVATE / markers.PLAN_FILE)
    if plan is None:
        return None
    facts: Any = plan.facts["files"]
    members = [
        NewFile(rename.source, rename.target.name, rename.state, facts[rename.target.name]["digests"])
        for rename in plan.renames
    ]
    state = _state_by_markers(directory)
    if state is SeriesState.PLANNED:
        members = [NewFile(member.source, member.source.name, member.state, {}) for member in members]
    proofs = _proofs(directory)
    with ledger.begin() as connection:
        series_id = put_on_record(connection, config_name, config, directory, state, members)
        for member in members:
            if state is not SeriesState.PLANNED:
                _record_copies(
                    ledger, connection, series_id, directory, member, state, proofs.get(member.name, []), who
                )
        detail = {"state": state, "files": len(members), "was": "ours"}
        ledger.record_event(connection, who=who, room=ROOM, what="adopt", subject=directory.name, detail=detail)
    return Adopted(series_id, directory.name, state, len(members), "ours, not on record")


def _state_by_markers(directory: Path) -> SeriesState:
    """The furthest state that needs no trust: beyond it, the target is asked again."""
    for marker, state in (
        (markers.CLOSED, SeriesState.CLOSED),
        (markers.CLEAN, SeriesState.CLEAN),
        (markers.BUCKET_OK, SeriesState.CREATED),
        (markers.MANIFEST, SeriesState.LISTED),
        (markers.PACKED, SeriesState.PACKED),
    ):
        if (directory / marker).exists():
            return state
    return SeriesState.PLANNED


def _proofs(directory: Path) -> dict[str, list[dict[str, Any]]]:
    path = directory / markers.PRIVATE / markers.PROOFS_FILE
    try:
        notes = json.loads(path.read_bytes())
        found: dict[str, list[dict[str, Any]]] = {}
        for note in notes:
            found.setdefault(note["name"], []).append(note)
        return found
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise Fault(FaultKind.DATA, str(path), f"is no list of proofs ({error})") from error


def _record_copies(
    ledger: Ledger,
    connection: Connection,
    series_id: int,
    directory: Path,
    member: NewFile,
    state: SeriesState,
    proofs: list[dict[str, Any]],
    who: str,
) -> None:
    fixity = Fixity(member.state.size_bytes, member.digests)
    file_id = ledger.record_file(connection, member.name, fixity)
    here = CopyState.RELEASED if state is SeriesState.CLEAN else CopyState.PRESENT
    ledger.record_copy(connection, file_id, disk_place(directory / member.name), here)
    for note in proofs:
        stated = {name: value for name, value in note["stated"].items() if name != "size_bytes"}
        copy_id = ledger.record_copy(connection, file_id, note["place"], CopyState.PROVEN)
        ledger.record_proof(connection, copy_id, note["kind"], Fixity(note["stated"]["size_bytes"], stated), who)
    connection.execute(
        sa.update(tables.series_file)
        .where(tables.series_file.c.series_id == series_id, tables.series_file.c.name == member.name)
        .values(file_id=file_id)
    )


# -- draintasker's directories --------------------------------------------------------------------------------------


def _adopt_foreign(ledger: Ledger, config_name: str, config: DrainConfig, directory: Path, who: str) -> Adopted:
    """Begin at the beginning with files that are in place already; pack hashes them and renames nothing."""
    cleaned = (directory / markers.CLEAN).exists()
    listed = _legacy_manifest(directory)
    members = [
        NewFile(path, path.name, FileState.of_path(path), {"md5": listed[path.name]} if path.name in listed else {})
        for path in sorted(directory.iterdir())
        if path.name.endswith(SUFFIXES) and path.is_file() and not path.is_symlink()
    ]
    state = SeriesState.PLANNED if members else SeriesState.CLEAN if cleaned else SeriesState.DROPPED
    was = _legacy_state(directory)
    (directory / markers.PRIVATE).mkdir(exist_ok=True)
    with ledger.begin() as connection:
        series_id = put_on_record(connection, config_name, config, directory, state, members)
        detail = {
            "state": state,
            "files": len(members),
            "was": was,
            "not_in_manifest": [member.name for member in members if listed and member.name not in listed],
            "only_in_manifest": sorted(set(listed) - {member.name for member in members}),
        }
        ledger.record_event(connection, who=who, room=ROOM, what="adopt", subject=directory.name, detail=detail)
    return Adopted(series_id, directory.name, state, len(members), was)


def _legacy_manifest(directory: Path) -> dict[str, str]:
    """md5 by name from MANIFEST; names without a digest (``-``) are left out."""
    try:
        lines = (directory / markers.MANIFEST).read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split(None, 1) for line in lines if line.strip())
    return {pair[1]: pair[0].lower() for pair in pairs if len(pair) == 2 and len(pair[0]) == 32}


def _legacy_state(directory: Path) -> str:
    """The markers that are there, in draintasker's order: what an operator would have read off them."""
    found = [marker for marker in _LEGACY_ORDER if (directory / marker).exists()]
    return "draintasker: " + (" ".join(found) or "no marker")
