"""The DAG minidvodb_copy, run as a whole in this process, its host behind a real sshd."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException

from custody import lease
from custody.faults import Fault, FaultKind
from custody.minidvodb import destination, switches
from custody.minidvodb.records import lease_of
from custody_airflow.operators.minidvodb import ChooseActionOperator, PreflightCopyOperator, QueueCopiesOperator
from custody_airflow.params.minidvodb import PARAMS
from custody_airflow.sensors.minidvodb import HostEnabledSensor, VerifyCopySensor
from custody_demo.airflow_stack import PROJECT
from empty_ledger import new_ledger
from minidvodb_rig import GROUP, HOST, Rig, make_rig, tree_of, visible
from services.ssh import SshServer

pytestmark = [pytest.mark.airflow, pytest.mark.service]

STEPS = ("preflight", "transfer", "verify", "publish")
ALL_GREEN = {f"copy.{step}": {"success"} for step in STEPS}


def states_of(run: Any) -> dict[str, set[str]]:
    """The states of every task of a run, by task id."""
    found: dict[str, set[str]] = {}
    for instance in run.get_task_instances():
        found.setdefault(instance.task_id, set()).add(str(instance.state))
    return found


@dataclass
class Site:
    """A rig whose ledger and connection Airflow finds in its environment."""

    rig: Rig

    def run(self, conf: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Run the DAG to its end in this process; parsed anew, for a run's conf stays in the params of the object."""
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
        assert not bag.import_errors, bag.import_errors
        return bag.dags["minidvodb_copy"].test(run_conf=conf or {}, **kwargs)


@pytest.fixture
def site(tmp_path: Path, sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    monkeypatch.setenv("CUSTODY_LEDGER", url)
    monkeypatch.setenv("AIRFLOW_CONN_SSH", sshd.airflow_connection())
    yield Site(make_rig(tmp_path, new_ledger(url), sshd))


def test_every_database_arrives_and_a_second_run_does_nothing(airflow_db: None, site: Site) -> None:
    sources = [site.rig.make(f"ThreePi.{number}", seed=number) for number in (1, 2)]
    site.rig.host()
    run = site.run()
    assert run.state == "success"
    assert states_of(run).items() >= ALL_GREEN.items()
    assert visible(site.rig.remote) == [source.name for source in sources]
    for source in sources:
        assert tree_of(site.rig.remote / source.name) == tree_of(source)
    for instance in run.get_task_instances():
        value = instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index)
        assert len(str(value)) < 10_000
        assert str(site.rig.home) not in str(value)
    again = site.run()
    assert again.state == "success"
    assert "success" not in states_of(again)["copy.preflight"]
    assert len(site.rig.events("publish")) == 2


@pytest.mark.parametrize("by_hand", ["transfer", "preflight|transfer|verify"])
def test_a_task_marked_as_success_by_hand_publishes_nothing(airflow_db: None, site: Site, by_hand: str) -> None:
    site.rig.make()
    site.rig.host()
    run = site.run(mark_success_pattern=rf"copy\.({by_hand})$")
    assert run.state == "failed"
    assert visible(site.rig.remote) == []
    assert site.rig.load(1).state == "new"
    site.rig.set(1, epoch=destination.now().replace(year=2020))  # as if that run were long over
    assert site.run().state == "success"
    assert visible(site.rig.remote) == ["ThreePi.1"]


def test_a_dry_run_explains_and_writes_nothing(airflow_db: None, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.rig.make()
    site.rig.host()
    assert site.run({"dry_run": True}).state == "success"
    assert "ThreePi.1 on ipp022: would be queued" in capfd.readouterr().out
    assert site.rig.events("queued") == []


def test_a_group_can_be_asked_for_by_the_form(airflow_db: None, site: Site) -> None:
    site.rig.make()
    destination.put(site.rig.ledger, HOST, who="test", connection_id="ssh")
    conf = {"group": GROUP, "host": HOST, "path": str(site.rig.remote), "priority": 1}
    assert site.run(conf).state == "success"
    assert visible(site.rig.remote) == ["ThreePi.1"]
    assert site.rig.load(1).row["priority"] == 1
    assert [one.path for one in switches.list_wanted(site.rig.ledger)] == [str(site.rig.remote)]


def test_an_unknown_key_is_refused_by_the_first_task(airflow_db: None, site: Site) -> None:
    run = site.run({"gruop": GROUP})
    assert run.state == "failed"
    assert states_of(run)["choose"] == {"failed"}


@pytest.mark.parametrize(
    "given",
    [{"config": "nosuch"}, {"host": "nosuch"}, {"copy": 99}, {"group": "nosuch"}, {"group": "no", "dry_run": True}],
)
def test_what_nobody_knows_is_refused_before_anything_is_queued(
    airflow_db: None, site: Site, given: dict[str, Any]
) -> None:
    site.rig.make()
    site.rig.host()
    first = QueueCopiesOperator if "group" in given else ChooseActionOperator
    more: dict[str, Any] = {} if "group" in given else {"actions": {"copy": "queue"}}
    params = {key: param.value for key, param in PARAMS.items()} | given
    ti = SimpleNamespace(dag_id="minidvodb_copy", run_id="r", task_id="first", map_index=-1)
    with pytest.raises(Fault, match=r"nosuch|99|'no'") as raised:
        first(task_id="first", **more).work({"params": params, "ti": ti})
    assert raised.value.kind is FaultKind.CONFIG
    assert site.rig.pending() == []


def test_one_copy_that_fails_keeps_no_other_and_is_shown(
    airflow_db: None, site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        site.rig.make(f"ThreePi.{number}")
    site.rig.host()
    (site.rig.remote / "ThreePi.1").mkdir()
    (site.rig.remote / "ThreePi.1/theirs").touch()
    run = site.run()
    assert run.state == "failed"
    states = states_of(run)
    assert (states["copy.verify"], states["copy.publish"]) == ({"success"}, {"failed"})  # they go together
    assert visible(site.rig.remote) == ["ThreePi.1", "ThreePi.2"]
    assert "custody minidvodb revert --copy 1 --replace" in capfd.readouterr().out


def test_a_copy_in_another_runs_hands_is_waited_for(airflow_db: None, site: Site) -> None:
    site.rig.make()
    site.rig.host()
    (copy_id,) = site.rig.queue()
    operator = PreflightCopyOperator(task_id="preflight", copy_ids=[copy_id])
    ti = SimpleNamespace(
        dag_id="minidvodb_copy", run_id="r", task_id="preflight", map_index=0, try_number=1, max_tries=1
    )
    context: Any = {"ti": ti}
    with lease.hold(site.rig.ledger, lease_of(copy_id)), pytest.raises(Fault) as raised:
        operator.work(context)
    assert raised.value.kind is FaultKind.THROTTLED
    assert site.rig.load(copy_id).row["fault"] == 0


def test_all_hosts_together_take_so_many_at_a_time(airflow_db: None) -> None:
    """Steps that move or read bytes are in one pool, over all hosts and machines; what only looks is not."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).dags["minidvodb_copy"]
    pools = json.loads((PROJECT / "include/config/pools.json").read_text())
    used = {step: dag.get_task(f"copy.{step}").pool for step in STEPS}
    assert used["transfer"] == used["verify"] == "custody_copy"
    assert used["preflight"] == used["publish"] == "default_pool"
    assert pools["custody_copy"]["slots"] == 4
    assert pools["custody_copy"]["include_deferred"] is False  # who waits for his turn takes nobody's


def test_a_stage_that_is_off_stops_its_part_only(airflow_db: None, site: Site) -> None:
    site.rig.make()
    site.rig.host()
    switches.turn(site.rig.ledger, switches.Stage.RUN, False, who="test")
    run = site.run()
    assert run.state == "success"
    assert states_of(run)["copy.preflight"] == {"skipped"}
    assert visible(site.rig.remote) == []
    switches.turn(site.rig.ledger, switches.Stage.RUN, True, who="test")
    switches.turn(site.rig.ledger, switches.Stage.QUEUE, False, who="test")
    assert site.run().state == "success"
    assert visible(site.rig.remote) == ["ThreePi.1"]


def test_an_audit_finds_what_was_altered(airflow_db: None, site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.rig.make()
    site.rig.host()
    (copy_id,) = site.rig.queue()
    site.rig.do(copy_id)
    assert site.run({"action": "audit", "older_than_days": 0}).state == "success"
    victim = site.rig.remote / "ThreePi.1/n0000/0000.cpm"
    status = victim.stat()
    victim.write_bytes(victim.read_bytes()[::-1])
    os.utime(victim, ns=(status.st_mtime_ns, status.st_mtime_ns))
    run = site.run({"action": "audit", "older_than_days": 0})
    assert run.state == "failed"
    assert states_of(run)["queue"] == {"skipped"}
    assert site.rig.load(copy_id).state == "corrupt"
    assert "n0000/0000.cpm holds other bytes" in capfd.readouterr().out


def test_the_sensors_look_and_say(airflow_db: None, site: Site) -> None:
    site.rig.make()
    site.rig.host()
    on = HostEnabledSensor(task_id="on", host=HOST)
    proven = VerifyCopySensor(task_id="proven", host=HOST, group=GROUP)
    assert on.poke({}) is True
    assert proven.poke({}) is False
    (copy_id,) = site.rig.queue()
    assert proven.poke({}) is False
    site.rig.do(copy_id)
    assert proven.poke({}) is True
    destination.switch_off(site.rig.ledger, HOST, who="test")
    assert on.poke({}) is False
    with pytest.raises(AirflowException, match="is not known"):
        HostEnabledSensor(task_id="none", host="nowhere").poke({})
