"""The states of tapes and backups: the rules of the program are the rules of the database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from custody.faults import Fault
from custody.ledger import Ledger
from custody.ledger.store import now
from custody.tape import states, tables


@pytest.mark.parametrize(
    ("table", "rules"),
    [
        (tables.tape_transition, states.TAPE_TRANSITIONS),
        (tables.backup_transition, states.BACKUP_TRANSITIONS),
    ],
)
def test_the_database_holds_the_same_transitions(
    any_ledger: Ledger, table: sa.Table, rules: frozenset[tuple[str, str]]
) -> None:
    with any_ledger.read() as connection:
        found = {(row.state_before, row.state) for row in connection.execute(sa.select(table))}
    assert found == {(str(before), str(after)) for before, after in rules}


def test_a_step_that_the_rules_do_not_know_is_refused_by_the_database(any_ledger: Ledger) -> None:
    row = {
        "name": "T1",
        "label": "custody",
        "pool": "default",
        "block_bytes": 1 << 20,
        "opened_at": now(),
        "changed_at": now(),
        "state_before": "",
        "state": "new",
    }
    with any_ledger.begin() as connection:
        connection.execute(sa.insert(tables.tape).values(row))
    with pytest.raises(Fault), any_ledger.begin() as connection:
        connection.execute(sa.update(tables.tape).values(state_before=tables.tape.c.state, state="full"))
    with any_ledger.read() as connection:
        assert connection.scalar(sa.select(tables.tape.c.state)) == "new"
