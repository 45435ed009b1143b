"""draintasker's hooks: a command of the operator's before (``beforepack``) and after (``onpack``) a step.

The command is split into words as a shell would split it, but no shell runs: ``%(job_dir)s`` and the like are filled in
after the splitting, so that no name can become a second command. What needs a shell names one: ``sh -c '...'``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from custody.drain.config import DrainConfig
from custody.faults import Fault, FaultKind
from custody.host import LocalHost

TIMEOUT_S = 600.0
_LEGACY_NAMES = {"pack": "pack", "manifest": "manifest", "upload": "ingest", "delete": "clean"}


def run_hook(config: DrainConfig, when: str, step: str, facts: Mapping[str, str]) -> None:
    """Run the hook of a step, if there is one.

    :param when: ``before`` or ``on``.
    :param facts: what the command may use beside the configuration: ``item``, ``directory``.

    Faults: CONFIG where the command cannot be built, TRANSIENT where it fails or does not end in ten minutes.
    """
    if step not in _LEGACY_NAMES:
        return
    key = f"{when}{_LEGACY_NAMES[step]}"
    command = getattr(config, key)
    if not command:
        return
    values = {name: str(value) for name, value in config.model_dump(mode="json").items()} | dict(facts)
    try:
        argv = [word % values for word in shlex.split(command)]
    except (ValueError, KeyError, TypeError) as error:
        raise Fault(FaultKind.CONFIG, key, f"cannot be made a command ({error})") from error
    if not argv:
        return
    ended = LocalHost().run(argv, timeout_s=TIMEOUT_S)
    if ended.returncode:
        reason = f"{argv[0]} ended with status {ended.returncode}: {ended.stderr_tail or 'without a word'}"
        raise Fault(FaultKind.TRANSIENT, key, reason)
