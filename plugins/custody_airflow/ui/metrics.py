"""Gauges for a monitoring system, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Gauge:
    """One number at this moment. Bytes, seconds and shares (0 to 1) are base units, as the format's own rules ask."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def render(gauges: Iterable[Gauge]) -> str:
    """The whole answer: gauges of one name together, each name with its help."""
    lines: list[str] = []
    for name, group in groupby(sorted(gauges, key=lambda gauge: gauge.name), key=lambda gauge: gauge.name):
        members = list(group)
        lines += [f"# HELP {name} {members[0].help}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(gauge.labels)} {gauge.value:.17g}" for gauge in members]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(labels.items())) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
