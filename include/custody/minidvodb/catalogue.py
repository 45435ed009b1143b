"""The databases there are: put on record by hand, or taken over from the tables of the old system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from custody.faults import Fault, FaultKind
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.minidvodb import tables
from custody.minidvodb.destination import ROOM
from custody.minidvodb.far import check_name

_DRIVERS = {"mysql": "mysql+pymysql", "mariadb": "mysql+pymysql", "postgresql": "postgresql+psycopg2"}
STATES = ("new", "active", "waiting", "to_be_merged", "merged")
_BATCH = 1000

_old = sa.MetaData()
_old_run = sa.Table(
    "minidvodbRun",
    _old,
    *(sa.Column(name, sa.BigInteger if name == "minidvodb_id" else sa.String) for name in (
        "minidvodb_id", "minidvodb_name", "minidvodb_group", "minidvodb_path", "minidvodb_host", "state", "note",
    )),
    sa.Column("creation_date", sa.DateTime),
)  # fmt: skip
_old_processed = sa.Table(
    "minidvodbProcessed",
    _old,
    sa.Column("minidvodb_id", sa.BigInteger),
    *(sa.Column(name, sa.Float) for name in ("dtime_resort", "dtime_relphot", "dtime_script")),
    sa.Column("epoch", sa.DateTime),
    sa.Column("fault", sa.SmallInteger),
)
_old_copy = sa.Table(
    "minidvodbCopy",
    _old,
    sa.Column("minidvodbcopy_id", sa.BigInteger),
    sa.Column("minidvodb_id", sa.BigInteger),
    sa.Column("minidvodb_rsync_path", sa.String),
    sa.Column("destination_host", sa.String),
    sa.Column("fault", sa.SmallInteger),
    sa.Column("state", sa.String),
    sa.Column("epoch", sa.DateTime),
    sa.Column("dtime", sa.Float),
)


@dataclass(frozen=True)
class Run:
    """A database as its makers record it."""

    minidvodb_id: int
    name: str
    group: str
    path: str
    host: str | None
    state: str


def add(
    ledger: Ledger,
    group: str,
    path: str,
    *,
    who: str,
    name: str | None = None,
    host: str | None = None,
    state: str = "merged",
    fault: int = 0,
) -> Run:
    """Put a database on record that the old tables do not know. Faults: CONFIG."""
    if state not in STATES:
        raise Fault(FaultKind.CONFIG, f"state {state!r}", f"is none of {', '.join(STATES)}")
    if not path.startswith("/"):
        raise Fault(FaultKind.CONFIG, f"path {path!r}", "is not absolute")
    name = name if name is not None else path.rstrip("/").rpartition("/")[2]
    check_name(name)
    if len(name) > 64 or len(group) > 64 or not group:
        raise Fault(FaultKind.CONFIG, f"minidvodb {name!r}", "name and group have at most 64 letters each")
    values = {
        "minidvodb_name": name,
        "minidvodb_group": group,
        "minidvodb_path": path,
        "minidvodb_host": host,
        "state": state,
        "creation_date": now(),
    }
    with ledger.begin() as connection:
        same = sa.select(tables.run).where(tables.run.c.minidvodb_group == group, tables.run.c.minidvodb_path == path)
        if known := connection.execute(same.order_by(tables.run.c.minidvodb_id).limit(1)).one_or_none():
            raise Fault(
                FaultKind.CONFIG,
                f"{path} of {group}",
                f"is on record already, as minidvodb {known.minidvodb_id} ({known.minidvodb_name}, {known.state})",
                next_command=f"custody minidvodb del-run {known.minidvodb_id}, if it was a mistake",
            )
        key = connection.execute(sa.insert(tables.run).values(**values)).inserted_primary_key
        assert key is not None
        connection.execute(sa.insert(tables.processed).values(minidvodb_id=key[0], epoch=now(), fault=fault))
        ledger.record_event(connection, who=who, room=ROOM, what="database known", subject=name)
    return Run(int(key[0]), name, group, path, host, state)


def demand_group(ledger: Ledger, group: str) -> None:
    """Whether any database on record is of this group, or it is wanted somewhere. Faults: CONFIG, naming what is."""
    with ledger.read() as connection:
        found = sa.union(sa.select(tables.run.c.minidvodb_group), sa.select(tables.wanted.c.minidvodb_group))
        known = sorted(connection.scalars(found))
    if group not in known:
        there = ", ".join(known[:20]) or "none"
        raise Fault(
            FaultKind.CONFIG,
            f"group {group!r}",
            f"is not known; there are: {there}",
            next_command=f"custody minidvodb add-run {group} PATH, or check its name",
        )


def remove(ledger: Ledger, minidvodb_id: int, *, who: str) -> str:
    """Take a database off the record, with what was queued of it; returns its name. No data is touched.

    Faults: CONFIG where there is none, or where a copy of it was begun.
    """
    one = tables.copy
    with ledger.begin() as connection:
        name = connection.scalar(
            sa.select(tables.run.c.minidvodb_name).where(tables.run.c.minidvodb_id == minidvodb_id)
        )
        if name is None:
            raise Fault(FaultKind.CONFIG, f"minidvodb {minidvodb_id}", "is not on record")
        begun = connection.execute(
            sa.select(one.c.minidvodbcopy_id, one.c.destination_host, one.c.state, one.c.step)
            .where(one.c.minidvodb_id == minidvodb_id, sa.or_(one.c.state != "new", one.c.step != "queued"))
            .limit(1)
        ).one_or_none()
        if begun is not None:
            raise Fault(
                FaultKind.CONFIG,
                f"minidvodb {minidvodb_id} ({name})",
                f"has a copy on record that was begun: {begun.minidvodbcopy_id} on {begun.destination_host} "
                f"({begun.state}, {begun.step})",
                next_command=f"custody minidvodb retire {begun.minidvodbcopy_id}, or revert it with --clear-staging",
            )
        for table in (one, tables.processed, tables.run):
            connection.execute(sa.delete(table).where(table.c.minidvodb_id == minidvodb_id))
        ledger.record_event(connection, who=who, room=ROOM, what="database forgotten", subject=name)
    return str(name)


@dataclass(frozen=True)
class Imported:
    """What a look at the old tables brought: rows new or changed here, and what was left out, with the reason."""

    runs: int
    copies: int
    left_out: tuple[str, ...]


class OldTables:
    """The old system's own tables, read where they are. Nothing is ever written to them."""

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            if parsed.drivername in _DRIVERS:
                parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
            self._engine = sa.create_engine(parsed, pool_pre_ping=True)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
            raise Fault(
                FaultKind.CONFIG,
                "the old database",
                "its address is no SQLAlchemy URL of a database known here",
                next_command="write mysql+pymysql://USER:PASSWORD@HOST/DATABASE",
            ) from error
        self.name = self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise Fault(FaultKind.TRANSIENT, self.name, f"does not answer ({error.orig})") from error
        except sa.exc.ProgrammingError as error:
            reason = f"does not hold the old tables ({str(error.orig)[:200]})"
            raise Fault(FaultKind.CONFIG, self.name, reason) from error

    def copies(self, *, host: str | None = None, faulted: bool | None = None, limit: int = 0) -> list[dict[str, Any]]:
        """Rows of minidvodbCopy with the name of their database, in the order of their numbers."""
        query = (
            sa.select(_old_copy, _old_run.c.minidvodb_name, _old_run.c.minidvodb_group)
            .outerjoin(_old_run, _old_run.c.minidvodb_id == _old_copy.c.minidvodb_id)
            .order_by(_old_copy.c.minidvodbcopy_id)
        )
        if host:
            query = query.where(_old_copy.c.destination_host == host)
        if faulted is not None:
            query = query.where(_old_copy.c.fault != 0 if faulted else _old_copy.c.fault == 0)
        with self._read() as connection:
            return [dict(row) for row in connection.execute(query.limit(limit) if limit else query).mappings()]

    def rows(self, table: sa.Table, after: int) -> list[dict[str, Any]]:
        """The next rows of a table whose minidvodb_id is larger than ``after``."""
        column = table.c.minidvodb_id
        query = sa.select(table).where(column > after).order_by(column).limit(_BATCH)
        with self._read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def all_rows(self, table: sa.Table) -> Iterator[list[dict[str, Any]]]:
        """A table in batches, read by its key so that none of it has to be held."""
        after = -1
        while batch := self.rows(table, after):
            yield batch
            after = batch[-1]["minidvodb_id"]


def take_over(ledger: Ledger, old: OldTables, *, who: str) -> Imported:
    """Bring our record of the databases up to the old tables' and take over the copies they know; safe to repeat.

    Copies are taken over for hosts that are known here. What they call full is not proven: an audit does that. Of two
    rows for one database and host the first full one counts, else the first.
    """
    runs = sum(_merge(ledger, tables.run, batch) for batch in old.all_rows(_old_run))
    for batch in old.all_rows(_old_processed):
        _merge(ledger, tables.processed, [row for row in batch if row["fault"] is not None])
    copies, left_out = _take_over_copies(ledger, old)
    with ledger.begin() as connection:
        detail = {"runs": runs, "copies": copies, "left_out": len(left_out)}
        ledger.record_event(connection, who=who, room=ROOM, what="imported", subject=old.name[:500], detail=detail)
    return Imported(runs, copies, tuple(left_out))


def _merge(ledger: Ledger, table: sa.Table, batch: Sequence[Mapping[str, Any]]) -> int:
    """Insert what is new of a batch and update what changed; how many rows that were."""
    rows = {row["minidvodb_id"]: _aware({name: row[name] for name in row if name in table.c}) for row in batch}
    if table is tables.run:  # a database without name, group or path is none that could be copied
        needed = ("minidvodb_name", "minidvodb_group", "minidvodb_path", "state")
        rows = {number: row for number, row in rows.items() if all(row[name] for name in needed)}
    if table is tables.processed:
        rows = _of_known_runs(ledger, rows)
    if not rows:
        return 0
    key = table.c.minidvodb_id
    with ledger.begin() as connection:
        found = connection.execute(sa.select(table).where(key.in_(list(rows)))).mappings()
        known = {row["minidvodb_id"]: dict(row) for row in found}
        new = [row for number, row in rows.items() if number not in known]
        changed = [row for number, row in rows.items() if number in known and row != known[number]]
        if new:
            connection.execute(sa.insert(table), new)
        for row in changed:
            connection.execute(sa.update(table).where(key == row["minidvodb_id"]).values(**row))
    return len(new) + len(changed)


def _of_known_runs(ledger: Ledger, rows: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    with ledger.read() as connection:
        query = sa.select(tables.run.c.minidvodb_id).where(tables.run.c.minidvodb_id.in_(list(rows)))
        known = set(connection.scalars(query))
    return {number: row for number, row in rows.items() if number in known}


def _aware(row: dict[str, Any]) -> dict[str, Any]:
    """Times of the old tables are UTC without saying so."""
    return {
        name: value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
        for name, value in row.items()
    }


def _take_over_copies(ledger: Ledger, old: OldTables) -> tuple[int, list[str]]:
    rows = old.copies()
    with ledger.read() as connection:
        hosts = {row.name: row.id for row in connection.execute(sa.select(tables.destination))}
        known = {
            (row.minidvodb_id, row.destination_id)
            for row in connection.execute(sa.select(tables.copy.c.minidvodb_id, tables.copy.c.destination_id))
        }
        runs = set(connection.scalars(sa.select(tables.run.c.minidvodb_id)))
    left_out: list[str] = []
    chosen: dict[tuple[int, int], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["state"] != "full"):
        reason = _why_left_out(row, hosts, runs)
        if reason:
            left_out.append(f"minidvodbcopy_id {row['minidvodbcopy_id']}: {reason}")
            continue
        pair = (row["minidvodb_id"], hosts[row["destination_host"]])
        if pair in chosen:
            left_out.append(f"minidvodbcopy_id {row['minidvodbcopy_id']}: a second row for this database and host")
        elif pair not in known:
            chosen[pair] = row
    new = [_new_row(_aware(row), place) for (_, place), row in chosen.items()]
    for start in range(0, len(new), _BATCH):
        with ledger.begin() as connection:
            connection.execute(sa.insert(tables.copy), new[start : start + _BATCH])
    return len(new), left_out


def _why_left_out(row: Mapping[str, Any], hosts: Mapping[str, int], runs: Iterable[int]) -> str | None:
    if row["minidvodb_id"] not in runs:
        return f"no database {row['minidvodb_id']}"
    if row["destination_host"] not in hosts:
        return f"host {row['destination_host']} is not known here (custody minidvodb add-host)"
    if row["state"] not in {"new", "full"}:
        return f"state {row['state']!r} is neither new nor full"
    return None


def _new_row(row: Mapping[str, Any], place: int) -> dict[str, Any]:
    full = row["state"] == "full"
    return {
        "minidvodb_id": row["minidvodb_id"],
        "minidvodb_rsync_path": row["minidvodb_rsync_path"],
        "destination_host": row["destination_host"],
        "fault": row["fault"],
        "fault_text": "a fault of the old system, whose cause is in its log" if row["fault"] else None,
        "fault_kind": "needs_human" if row["fault"] else None,
        "state": row["state"],
        "epoch": row["epoch"] or now(),
        "dtime": row["dtime"],
        "destination_id": place,
        "step": "published" if full else "queued",
        "priority": 3,
        "queued_at": row["epoch"] or now(),
        "attempts": 0,
        "may_replace": False,
        "profile": {"imported": row["minidvodbcopy_id"]},
        "reserved_bytes": 0,
        "reserved_inodes": 0,
    }
