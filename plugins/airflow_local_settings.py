"""Airflow's cluster policy of this deployment: a run's tasks go to the machine that its configuration names.

Airflow imports this module by name in every one of its processes, so it imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from custody_airflow.queues import place

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

__all__ = ["task_instance_mutation_hook"]


# No defaults here: Airflow hands its policies only the arguments that have none.
def task_instance_mutation_hook(task_instance: TaskInstance, dag_run: DagRun | None) -> None:
    """Set queue, pool and executor of a task instance from the configuration its run works on."""
    place(task_instance, dag_run)
