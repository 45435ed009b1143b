"""Files into every replica, and the local one deleted only when all have it.

Per replica a file goes through UPLOAD_STARTED, DATA_UPLOADED and UPLOAD_COMPLETED (read back from there and found
equal), or ends as UPLOAD_FAILED. Whoever comes again asks the replica first and sends only what is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from custody import gate, lease
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.checksum_replica import ChecksumReplica
from custody.bitarchive.config import Replica, ReplicaType
from custody.bitarchive.names import is_name
from custody.bitarchive.nodes import ALGORITHMS, ArchiveNode
from custody.bitarchive.sources import check_nodes, check_sources, roomiest, set_aside, take_back
from custody.bitarchive.states import UploadState
from custody.bitarchive.tables import replica_file
from custody.digests import FileReading, FileState, Fixity, read_file
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.gate import DeleteFacts, ProvenCopy
from custody.ledger.store import CopyState, disk_place, now
from custody.publish import fsync_directory


@dataclass(frozen=True)
class Uploaded:
    """What became of one file.

    :param states: by replica id.
    :param deleted: the local file is gone, on purpose.
    :param reason: why it is not done, or why the local file stays; empty where all is well.
    """

    path: Path
    states: dict[str, UploadState] = field(default_factory=dict)
    deleted: bool = False
    reason: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every replica has it, read back."""
        return bool(self.states) and all(state is UploadState.UPLOAD_COMPLETED for state in self.states.values())


def upload(archive: Archive, paths: Sequence[Path], *, who: str, keep: bool = False) -> list[Uploaded]:
    """Upload files one by one; one that fails does not stop the next.

    :param keep: leave the local files where they are.
    Faults: CONFIG where one of them cannot be uploaded at all; then nothing was sent.
    """
    check_nodes(archive)
    for path in paths:
        take_back(path)
    gone = {path: done for path in paths if (done := _deleted_before(archive, path, who))}
    check_sources(archive, [path for path in paths if path not in gone])
    return [gone.get(path) or _upload_one(archive, path, who=who, keep=keep) for path in paths]


def _deleted_before(archive: Archive, path: Path, who: str) -> Uploaded | None:
    """A file that an earlier run uploaded and let go, perhaps with its last breath: that is done, and no error."""
    if path.is_symlink() or path.exists() or not is_name(path.name):
        return None
    place = disk_place(path.absolute())
    on_record = [line for line in archive.ledger.where_is(path.name) if line.place == place]
    known = catalogue.find(archive, path.name)
    if known is None or not on_record:
        return None
    query = sa.select(replica_file.c.replica, replica_file.c.upload_state).where(replica_file.c.file_id == known.id)
    with archive.ledger.begin() as connection:
        found = {row.replica: UploadState(row.upload_state) for row in connection.execute(query)}
        states = {one.id: found.get(one.id, UploadState.UNKNOWN) for one in archive.config.replicas}
        done = Uploaded(path, states, deleted=True)
        if not done.is_complete:
            return None
        if on_record[-1].state is CopyState.PRESENT:
            number = archive.ledger.record_file(connection, path.name, known.fixity)
            archive.ledger.record_copy(connection, number, place, CopyState.RELEASED)
            catalogue.event(connection, archive, who, "deleted", path.name, place=place)
    return done


def _upload_one(archive: Archive, path: Path, *, who: str, keep: bool) -> Uploaded:
    try:
        with lease.hold(archive.ledger, f"bitarchive-upload/{archive.name}/{_key(path.name)}") as held:
            reading = read_file(path, ALGORITHMS)
            with archive.ledger.begin() as connection:
                held.check(connection)
                file_id = catalogue.record(connection, archive, path.name, reading.fixity)
            work = _Work(archive, path, reading, file_id, held, who)
            done = work.to_every_replica()
            return done if keep or not done.is_complete else work.delete(done)
    except Fault as fault:
        return Uploaded(path, reason=str(fault))


def _key(name: str) -> str:
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()[:32]


class _Work:
    """One file on its way into every replica."""

    def __init__(
        self, archive: Archive, path: Path, reading: FileReading, file_id: int, held: lease.Held, who: str
    ) -> None:
        self._archive = archive
        self._path = path
        self._name = path.name
        self._reading = reading
        self._expected = reading.fixity
        self._file_id = file_id
        self._held = held
        self._who = who
        self._copies: list[ProvenCopy] = []
        self._there: list[tuple[Replica, ArchiveNode]] = []

    def to_every_replica(self) -> Uploaded:
        states: dict[str, UploadState] = {}
        reasons = []
        for replica in self._archive.config.replicas:
            try:
                send = self._to_checksums if replica.type is ReplicaType.CHECKSUM else self._to_nodes
                send(replica)
                states[replica.id] = UploadState.UPLOAD_COMPLETED
            except Fault as fault:
                states[replica.id] = self._failed(replica, fault)
                reasons.append(f"replica {replica.id}: {fault}")
        return Uploaded(self._path, states, reason="; ".join(reasons))

    def _failed(self, replica: Replica, fault: Fault) -> UploadState:
        """Other bytes there are final; whatever else went wrong may be mended by the next try."""
        self._write(replica, UploadState.UPLOAD_FAILED, result=fault.kind, reason=fault.reason)
        return UploadState.UPLOAD_FAILED

    def _to_checksums(self, replica: Replica) -> None:
        keeper = ChecksumReplica.of(replica)
        md5 = self._expected.digests["md5"]
        if self._state(replica)[0] is not UploadState.UPLOAD_COMPLETED:
            self._write(replica, UploadState.UPLOAD_STARTED)
        keeper.put(self._name, md5)
        if keeper.read().md5.get(self._name) != md5:
            raise Fault(FaultKind.DATA, keeper.place(self._name), "reads back differently")
        self._write(replica, UploadState.UPLOAD_COMPLETED)

    def _to_nodes(self, replica: Replica) -> None:
        node = self._where(replica)
        state, _ = self._state(replica)
        if node is None:
            node = roomiest(self._archive, replica, self._expected.size_bytes)
            self._write(replica, UploadState.UPLOAD_STARTED, node.name)
            node.put(self._path, self._name, self._expected)
            self._write(replica, UploadState.DATA_UPLOADED, node.name)
        elif state is not UploadState.UPLOAD_COMPLETED:
            self._write(replica, UploadState.DATA_UPLOADED, node.name)
        stated = node.digest(self._name)
        verdict = gate.may_record_proof(self._expected, stated)
        if not verdict.allowed:
            command = f"custody bitarchive check changed {self._archive.name} {replica.id}"
            raise Fault(FaultKind.DATA, node.place(self._name), str(verdict), next_command=command)
        with self._archive.ledger.begin() as connection:
            self._held.check(connection)
            catalogue.set_upload_state(connection, self._file_id, replica.id, UploadState.UPLOAD_COMPLETED, node.name)
            place = node.place(self._name)
            catalogue.prove(connection, self._archive, self._name, self._expected, place, stated, self._who)
            self._event(connection, "uploaded", replica, node=node.name)
        self._there.append((replica, node))
        self._copies.append(ProvenCopy(f"{replica.id}: {place}", stated, now(), stated))

    def _where(self, replica: Replica) -> ArchiveNode | None:
        """The node that has a file of this name. A node that does not answer may have it: that is a fault."""
        return next((node for node in self._archive.nodes(replica) if node.size_of(self._name) is not None), None)

    def _state(self, replica: Replica) -> tuple[UploadState | None, str]:
        query = sa.select(replica_file.c.upload_state, replica_file.c.node).where(
            replica_file.c.file_id == self._file_id, replica_file.c.replica == replica.id
        )
        with self._archive.ledger.read() as connection:
            row = connection.execute(query).one_or_none()
        return (UploadState(row.upload_state), row.node) if row else (None, "")

    def _write(
        self, replica: Replica, state: UploadState, node: str | None = None, result: str = "done", **detail: object
    ) -> None:
        with self._archive.ledger.begin() as connection:
            self._held.check(connection)
            catalogue.set_upload_state(connection, self._file_id, replica.id, state, node)
            self._event(connection, state, replica, result, **detail)

    def _event(
        self, connection: sa.Connection, what: str, replica: Replica, result: str = "done", **detail: object
    ) -> None:
        catalogue.event(connection, self._archive, self._who, what, self._name, result, replica=replica.id, **detail)

    def delete(self, done: Uploaded) -> Uploaded:
        """Let the local file go, if the gate allows it: all replicas proven, the file still the one that was read."""
        found_state = FileState.of_path(self._path) if self._path.exists() else None
        facts = DeleteFacts(
            recorded=self._expected,
            recorded_state=self._reading.state,
            found_state=found_state,
            found=_read_again(self._path),
            rehash=True,
            copies=self._copies,
            copies_needed=sum(replica.type is ReplicaType.BITARCHIVE for replica in self._archive.config.replicas),
            asked_at=now(),
        )
        verdict = gate.may_delete(facts)
        if not verdict.allowed:
            return Uploaded(done.path, done.states, reason=f"{self._path}: stays here: {verdict}")
        place = disk_place(self._path.absolute())
        with self._archive.ledger.begin() as connection:
            self._held.check(connection)
            number = self._archive.ledger.record_file(connection, self._name, self._expected)
            self._archive.ledger.record_copy(connection, number, place, CopyState.PRESENT)
            catalogue.event(connection, self._archive, self._who, "deleting", self._name, "intent", place=place)
        aside = set_aside(self._path)
        if reason := self._lost_with(aside):
            take_back(self._path)
            return Uploaded(done.path, done.states, reason=f"{self._path}: stays here: {reason}")
        with os_errors_as_faults(str(self._path)):
            aside.unlink()
            fsync_directory(self._path.absolute().parent)
        with self._archive.ledger.begin() as connection:
            self._archive.ledger.record_copy(connection, number, place, CopyState.RELEASED)
            catalogue.event(connection, self._archive, self._who, "deleted", self._name, place=place)
        return Uploaded(done.path, done.states, deleted=True)

    def _lost_with(self, aside: Path) -> str:
        """Why the local file must not go: a replica has none any more, now that it has another name. Empty: it may."""
        for replica, node in self._there:
            try:
                if node.size_of(self._name) == self._expected.size_bytes:
                    with node.open(self._name) as stream:
                        if stream.read(1) or not self._expected.size_bytes:
                            continue
                reason = f"replica {replica.id} lost it when it was renamed to {aside.name}: it is the same file"
            except Fault as fault:
                reason = f"replica {replica.id}: {fault}"
            return reason
        return ""


def _read_again(path: Path) -> Fixity | None:
    try:
        return read_file(path, ALGORITHMS).fixity
    except Fault:
        return None
