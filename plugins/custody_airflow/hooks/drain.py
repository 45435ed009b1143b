"""The target of a drain, made from its configuration and the Airflow connection it names."""

from __future__ import annotations

from custody.drain.config import DrainConfig, TargetKind
from custody.drain.targets import Target
from custody.faults import Fault, FaultKind


def target_of(config: DrainConfig) -> Target:
    """Make the target of a configuration. Faults: CONFIG where its connection is missing or of another kind."""
    if config.target is TargetKind.S3:
        return _s3(config)
    raise Fault(FaultKind.CONFIG, f"target {config.target}", "is not built yet", next_command="set target: s3")


def _s3(config: DrainConfig) -> Target:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.sdk.exceptions import AirflowNotFoundException

    from custody.drain.targets.s3 import S3Target

    hook = S3Hook(aws_conn_id=config.connection)
    try:
        client = hook.get_conn()
    except AirflowNotFoundException as error:
        raise Fault(
            FaultKind.CONFIG,
            f"connection {config.connection}",
            "is not known to Airflow",
            next_command=f"airflow connections add {config.connection} --conn-type aws --conn-login KEY "
            '--conn-password SECRET --conn-extra \'{"endpoint_url": "https://..."}\'',
        ) from error
    assert config.bucket is not None
    return S3Target(client, hook.get_credentials(), config.bucket)
