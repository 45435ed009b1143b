"""Read what tasks need once, in the process that the workers are forked from, and not in every task again.

To know S3, boto3 and the Amazon hook take a fifth of a CPU second; a series has four tasks that speak to it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module

MODULES = (
    "airflow.providers.amazon.aws.hooks.s3",
    "airflow.providers.standard.operators.trigger_dagrun",
    "airflow.providers.standard.triggers.temporal",
    "custody.drain.targets.s3",
    "custody_airflow.operators.drain",
)
_PARENTS = (["scheduler"], ["celery", "worker"])


def forks_tasks(argv: Sequence[str]) -> bool:
    """Whether the ``airflow`` of this command line is one whose children do tasks."""
    return any(list(argv[1 : 1 + len(parent)]) == parent for parent in _PARENTS)


def preload(argv: Sequence[str]) -> None:
    """Import it, where it is of use; what cannot be imported is left to the task that needs it, to say so there."""
    if not forks_tasks(argv):
        return
    try:
        for name in MODULES:
            import_module(name)
        import boto3

        # the first client reads some megabytes of descriptions; this one never speaks to anybody
        boto3.session.Session("none", "none", region_name="us-east-1").client("s3")
    except Exception as error:
        logging.getLogger(__name__).warning("not read beforehand: %s", error)
