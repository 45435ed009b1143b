"""What a monitoring system is told of drain: enough to be warned before a disk is full or a proof is overdue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from custody_airflow.ui.drain_status import ConfigStatus, DrainStatus
from custody_airflow.ui.metrics import Gauge


def gauges(status: DrainStatus, now: datetime) -> Iterator[Gauge]:
    """Every gauge of drain."""
    yield Gauge("custody_drain_needs_you", "Things that wait for a person.", len(status.needs_you))
    yield Gauge("custody_drain_stuck_series", "Series with a fault on record.", status.stuck_count)
    yield Gauge("custody_drain_running_series", "Series a step is working on now.", status.running_count)
    for config in status.configs:
        yield from _of_config(config, now)


def _of_config(config: ConfigStatus, now: datetime) -> Iterator[Gauge]:
    name = {"config": config.name}
    for total in config.standing.totals:
        labels = {**name, "state": str(total.state)}
        yield Gauge("custody_drain_series", "Series by state.", total.series, labels)
        yield Gauge("custody_drain_files", "Files by state of their series.", total.files, labels)
        yield Gauge("custody_drain_bytes", "Bytes by state of their series.", total.size_bytes, labels)
    yield Gauge("custody_drain_left_bytes", "Bytes that still have to go.", config.left_bytes, name)
    rate = config.standing.drained.bytes_per_hour / 3600
    yield Gauge("custody_drain_rate_bytes_per_second", "Bytes drained a second, over the last day.", rate, name)
    if config.until_empty:
        seconds = config.until_empty.total_seconds()
        yield Gauge("custody_drain_empty_in_seconds", "Until nothing is left, at that rate.", seconds, name)
    if config.until_full is not None:
        seconds = config.until_full.total_seconds()
        yield Gauge("custody_drain_full_in_seconds", "Until the disk is full, as it filled in a day.", seconds, name)
    if config.standing.oldest_unproven:
        age = (now - config.standing.oldest_unproven).total_seconds()
        yield Gauge("custody_drain_oldest_unproven_seconds", "Age of the oldest series without a proof.", age, name)
    for kind, count in Counter(stuck.kind for stuck in config.stuck).items():
        yield Gauge("custody_drain_faults", "Stuck series by the kind of fault.", count, {**name, "kind": kind})
    if config.look:
        look = config.look
        yield Gauge("custody_drain_disk_used_ratio", "Share of the disk in use.", look.used_pct / 100, name)
        yield Gauge("custody_drain_disk_free_bytes", "Free bytes of the disk.", look.free_bytes, name)
        yield Gauge("custody_drain_draining", "1 where DRAINME is there.", float(look.draining), name)
        yield Gauge("custody_drain_quarantined_files", "Files set aside as damaged.", look.quarantined_files, name)
        yield Gauge(
            "custody_drain_look_age_seconds",
            "Since the disk was looked at.",
            (now - look.seen_at).total_seconds(),
            name,
        )
