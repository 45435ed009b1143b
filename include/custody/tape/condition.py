"""The condition of drive and cartridge around a job: what is put on record, and what forbids to begin."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from custody.faults import Fault, FaultKind
from custody.tape.config import Encryption, PoolConfig
from custody.tape.drives import Drive, DriveHealth
from custody.tape.drives.health import critical_alerts

_CLEANING = {20, 21, 22}


@dataclass
class Condition:
    """Health before a job; :func:`since` tells what the job changed."""

    before: DriveHealth = field(default_factory=DriveHealth)


def look_at(drive: Drive) -> Condition:
    """Ask the drive. Reading its alerts clears them in the drive: from here on they are on our record only."""
    return Condition(drive.health())


def require_fit(condition: Condition, pool: PoolConfig, device: str) -> None:
    """Refuse to write with a drive that reports trouble, or without the encryption that the pool demands.

    Faults: NEEDS_HUMAN.
    """
    critical = critical_alerts(condition.before)
    if critical:
        words = ", ".join(f"{number} {name}" for number, name in critical.items())
        cure = "run a cleaning cartridge, then go on" if critical.keys() & _CLEANING else "look at drive and cartridge"
        raise Fault(FaultKind.NEEDS_HUMAN, device, f"reports TapeAlert {words}", next_command=cure)
    state = condition.before.encryption
    if pool.encryption is Encryption.REQUIRED and state != "on":
        reason = f"the pool demands encryption, and the drive says {state or 'nothing about it'}; nothing was written"
        raise Fault(FaultKind.NEEDS_HUMAN, device, reason, next_command=f"stenc -f {device} -e on -k KEYFILE -a 1")
    if pool.encryption is Encryption.OFF and state == "on":
        reason = "the pool demands plain tapes, and the drive encrypts; nothing was written"
        raise Fault(FaultKind.NEEDS_HUMAN, device, reason, next_command=f"stenc -f {device} -e off")


def since(condition: Condition, drive: Drive) -> dict[str, Any]:
    """What the audit keeps of a job: health before and after, by how much each counter grew, alerts that came up."""
    after = drive.health()
    came_up = {number: name for number, name in critical_alerts(after).items() if number not in condition.before.alerts}
    grown = {
        name: value - condition.before.counters.get(name, 0)
        for name, value in after.counters.items()
        if value != condition.before.counters.get(name, 0)
    }
    alarms = [f"TapeAlert {number} {name}" for number, name in came_up.items()]
    return {"before": _plain(condition.before), "after": _plain(after), "grown": grown, "alarms": alarms}


def _plain(health: DriveHealth) -> dict[str, Any]:
    values = asdict(health)
    return values | {"alerts": {str(number): name for number, name in health.alerts.items()}}
