"""The targets of a drain, made from its configuration and the Airflow connections it names."""

from __future__ import annotations

from collections.abc import Callable

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from custody.drain.config import Destination, DrainConfig, TargetKind
from custody.drain.targets import Target
from custody.faults import Fault, FaultKind


def targets_of(config: DrainConfig) -> list[Target]:
    """Make every target of a configuration, in its order. Faults: CONFIG where a connection is missing or unfit."""
    return [_MAKERS[place.target](config, place) for place in config.destinations]


def _s3(config: DrainConfig, place: Destination) -> Target:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from custody.drain.targets.s3 import S3Target

    _connection(place, "aws", '--conn-login KEY --conn-password SECRET --conn-extra \'{"endpoint_url": "https://…"}\'')
    hook = S3Hook(aws_conn_id=place.connection_id)
    assert place.bucket is not None
    return S3Target(hook.get_conn(), hook.get_credentials(), place.bucket)


def _connection(place: Destination, conn_type: str, arguments: str) -> Connection:
    try:
        return BaseHook.get_connection(place.connection_id)
    except AirflowNotFoundException as error:
        command = f"airflow connections add {place.connection_id} --conn-type {conn_type} {arguments}"
        subject = f"connection {place.connection_id}"
        raise Fault(FaultKind.CONFIG, subject, "is not known to Airflow", next_command=command) from error


def _not_built(config: DrainConfig, place: Destination) -> Target:
    raise Fault(FaultKind.CONFIG, f"target {place.target}", "is not built yet", next_command="set target: s3")


_MAKERS: dict[TargetKind, Callable[[DrainConfig, Destination], Target]] = {
    TargetKind.S3: _s3,
    TargetKind.IAS3: _not_built,
    TargetKind.THUMPER: _not_built,
}
