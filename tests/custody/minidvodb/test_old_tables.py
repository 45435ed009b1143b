"""The old system's tables on a real MariaDB: taken over, read where they are, and never written to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from custody.cli.main import main
from custody.faults import Fault
from custody.ledger import Ledger
from custody.minidvodb import catalogue, destination, queue, switches
from custody.minidvodb.actions import Selection, select
from custody.minidvodb.audit import audit
from minidvodb_rig import WHO, Rig
from services.databases import DatabaseServer

pytestmark = pytest.mark.service

OLD = """
CREATE TABLE minidvodbRun (minidvodb_id BIGINT AUTO_INCREMENT PRIMARY KEY, minidvodb_name VARCHAR(64),
  minidvodb_group VARCHAR(64), minidvodb_path VARCHAR(255), minidvodb_host VARCHAR(64), state VARCHAR(64),
  note VARCHAR(255), creation_date DATETIME) ENGINE=innodb DEFAULT CHARSET=latin1;
CREATE TABLE minidvodbProcessed (minidvodb_id BIGINT UNIQUE, dtime_resort FLOAT, dtime_relphot FLOAT,
  dtime_script FLOAT, epoch TIMESTAMP, fault SMALLINT,
  FOREIGN KEY (minidvodb_id) REFERENCES minidvodbRun(minidvodb_id)) ENGINE=innodb DEFAULT CHARSET=latin1;
CREATE TABLE minidvodbCopy (minidvodbcopy_id BIGINT(20) NOT NULL AUTO_INCREMENT PRIMARY KEY,
  minidvodb_id BIGINT(20), minidvodb_rsync_path VARCHAR(255) NOT NULL, destination_host VARCHAR(255) NOT NULL,
  fault SMALLINT(6) NOT NULL, state VARCHAR(64) NOT NULL,
  epoch TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, dtime FLOAT,
  KEY (minidvodb_id), FOREIGN KEY (minidvodb_id) REFERENCES minidvodbRun(minidvodb_id))
  ENGINE=innodb DEFAULT CHARSET=latin1;
INSERT INTO minidvodbRun VALUES (1,'ThreePi.1','ThreePi','{minis}/ThreePi.1','ipp004','merged',NULL,'2014-03-01'),
  (2,'ThreePi.2','ThreePi','{minis}/ThreePi.2','ipp004','merged',NULL,'2014-03-02'),
  (3,'ThreePi.3','ThreePi','{minis}/ThreePi.3','ipp004','merged','failed','2014-03-03'),
  (4,'ThreePi.4','ThreePi','{minis}/ThreePi.4','ipp004','waiting',NULL,'2014-03-04'),
  (5,NULL,'ThreePi',NULL,NULL,'new',NULL,NULL);
INSERT INTO minidvodbProcessed VALUES (1,10,0,12,'2014-03-01',0),(2,10,0,12,'2014-03-02',0),(3,1,0,1,'2014-03-03',4);
INSERT INTO minidvodbCopy VALUES (1,1,'{there}','ipp022',0,'full','2014-03-05',120.5),
  (2,2,'{there}','ipp022',4,'new','2014-03-05',0), (3,1,'{there}','ipp022',4,'new','2014-03-06',0),
  (4,2,'/elsewhere','ipp099',0,'full','2014-03-06',1), (5,NULL,'/elsewhere','ipp022',0,'full','2014-03-06',1);
"""


@pytest.fixture
def old_url(mariadb: DatabaseServer, rig: Rig) -> str:
    url = mariadb.new_database()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    text = OLD.replace("{minis}", str(rig.home / "minis")).replace("{there}", str(rig.remote).replace("'", "''"))
    with engine.begin() as connection:
        for statement in text.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.replace("%", "%%"))
    return url


def test_old_rows_are_taken_over_once_and_go_on(rig: Rig, old_url: str) -> None:
    destination.put(rig.ledger, "ipp022", who=WHO, connection_id="ssh")
    old = catalogue.OldTables(old_url)
    taken = catalogue.take_over(rig.ledger, old, who=WHO)
    assert (taken.runs, taken.copies) == (4, 2)
    assert [line.split(":")[0] for line in taken.left_out] == [f"minidvodbcopy_id {number}" for number in (4, 5, 3)]
    first, second = select(rig.ledger)
    assert (first.state, first.fault, first.dtime, first.verified_at) == ("full", 0, 120.5, None)
    assert (second.state, second.fault) == ("new", 4)
    assert f"{first.epoch:%Y-%m-%d}" == "2014-03-05"
    again = catalogue.take_over(rig.ledger, old, who=WHO)
    assert (again.runs, again.copies) == (0, 0)
    switches.want(rig.ledger, "ThreePi", "ipp022", str(rig.remote), who=WHO)
    (made,) = queue.queue_wanted(rig.ledger, who=WHO)
    assert (made.queued, made.already) == (0, 2)  # one is full, one faulted: neither is queued again
    assert rig.pending() == []


def test_what_the_old_table_calls_full_is_proven_by_an_audit(rig: Rig, old_url: str) -> None:
    from custody_demo.minidvodb_sample import make

    destination.put(rig.ledger, "ipp022", who=WHO, connection_id="ssh")
    catalogue.take_over(rig.ledger, catalogue.OldTables(old_url), who=WHO)
    (full,) = select(rig.ledger, Selection(state="full"))
    source = make(rig.home / "minis/ThreePi.1")
    assert audit(rig.ledger, full.id, who=WHO, reach=rig.reach).state == "lost"
    rig.set(full.id, state="full", fault=0)
    host = rig.reach(rig.load(full.id).destination)
    host.run(["cp", "-a", str(source), str(rig.remote)])
    assert audit(rig.ledger, full.id, who=WHO, reach=rig.reach).state == "full"
    assert select(rig.ledger, Selection(state="full"))[0].verified_at is not None
    (rig.remote / "ThreePi.1/stale").touch()  # what the old copier kept, and DVO read
    found = audit(rig.ledger, full.id, who=WHO, reach=rig.reach)
    assert (found.state, found.complaint) == ("corrupt", "stale does not belong to it")


def test_the_old_table_is_read_where_it_is(old_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTODY_LEDGER", f"sqlite:///{tmp_path}/l.sqlite")
    monkeypatch.setenv("CUSTODY_MINIDVODB_OLD", old_url)
    done = CliRunner().invoke(main, ["minidvodb", "list", "--old", "--faulted", "--json"])
    assert done.exit_code == 0, done.output
    assert [(row["minidvodbcopy_id"], row["fault"]) for row in json.loads(done.output)] == [(2, 4), (3, 4)]


def test_a_database_without_the_old_tables_is_named_without_its_password(
    ledger: Ledger, mariadb: DatabaseServer
) -> None:
    url = mariadb.new_database()
    with pytest.raises(Fault) as raised:
        catalogue.take_over(ledger, catalogue.OldTables(url), who=WHO)
    assert "does not hold the old tables" in str(raised.value)
    assert mariadb.password not in str(raised.value)
