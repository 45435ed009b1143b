"""The trigger form of tape_backup."""

from __future__ import annotations

from airflow.sdk import Param

BACKUP = "backup"
STEPS = ["import", "assign", "archive", "confirm"]

_WHAT = "What to back up"
_TAPES = "Tapes"
_RESTORE = "Restore"
_MORE = "More"


def _text(title: str, description: str, section: str, **schema: object) -> Param:
    return Param(None, type=["null", "string"], title=title, description=description, section=section, **schema)


PARAMS = {
    "config": Param(
        None,
        type=["null", "string"],
        title="Configuration",
        description="Name of a file in include/config/tape/ (without .conf): the drive, and where the data lies. "
        "Empty: the only one there is.",
        examples=["lto"],
    ),
    "action": Param(
        BACKUP,
        type="string",
        enum=[BACKUP, "import", "assign", "archive", "confirm", "close", "open", "activate", "scan", "restore"],
        values_display={
            BACKUP: "Back up: the steps below, one after the other",
            "import": "Import targets",
            "assign": "Assign targets to the tape",
            "archive": "Archive what is assigned",
            "confirm": "Confirm: read back and compare",
            "close": "Close the tape",
            "open": "Open new tapes",
            "activate": "Make a tape the active one",
            "scan": "Scan the tape: what really is on it",
            "restore": "Restore files",
        },
        title="What to do",
        description="One verb of tapeop, or `backup`: several of them, those in *Steps*.",
    ),
    "steps": Param(
        STEPS,
        type="array",
        items={"type": "string", "enum": ["open", "activate", *STEPS, "close"]},
        uniqueItems=True,
        examples=["open", "activate", *STEPS, "close"],
        title="Steps of a backup",
        description="Which steps `backup` takes; they are always taken in this order: open, activate, import, assign, "
        "archive, confirm, close.",
    ),
    "targets": Param(
        [],
        type=["null", "array"],
        items={"type": "string"},
        title="Targets",
        description="Directories to back up: whole paths, one a line. Odd bytes as Custody prints them: "
        "`\\n`, `\\377`, `\\\\`.",
        section=_WHAT,
    ),
    "targets_file": _text(
        "List of targets", "File with one path a line (or NUL-separated), on the worker's machine.", _WHAT
    ),
    "find_below": _text("Every directory below", "Each directory directly below this one is a target.", _WHAT),
    "find_name": _text("... of this name", "Only those whose name matches, as in the shell: 2026-*.", _WHAT),
    "tapes": Param(
        [],
        type=["null", "array"],
        items={"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"},
        title="Tapes, in order",
        description="The first is used; when it is full, a run for the rest starts with the next. Empty: the active "
        "one.",
        section=_TAPES,
    ),
    "pool": _text("Pool", "For `open`: onsite, offsite, ... as in the configuration.", _TAPES),
    "serial": _text("Serial number", "For `open` of one tape.", _TAPES),
    "barcode": _text("Barcode", "For `open` of one tape.", _TAPES),
    "mount_timeout_s": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Wait for a tape (seconds)",
        description="How long the run waits for somebody to insert the tape; empty: as the configuration says.",
        section=_TAPES,
    ),
    "patterns": Param(
        [],
        type=["null", "array"],
        items={"type": "string"},
        title="Restore: what",
        description="Paths, names or patterns (*, ?) of files or whole targets.",
        section=_RESTORE,
    ),
    "into": _text("Restore: directory", "Where to put it, on the worker's machine.", _RESTORE, examples=["/restored"]),
    "adopt_as": _text(
        "Scan: adopt as", "Name for a tape without a label, of the old system; its archives are put on record.", _TAPES
    ),
    "overwrite": Param(
        False,
        type="boolean",
        title="Restore: overwrite",
        description="Replace files that are there.",
        section=_RESTORE,
    ),
    "ask": Param(
        False,
        type="boolean",
        title="Ask before",
        description="Ask in *Required Actions* before anything is imported, assigned or closed.",
        section=_MORE,
    ),
    "retry": Param(
        False,
        type="boolean",
        title="Retry",
        description="Scan known targets again, assign those that failed again, confirm what was confirmed or failed.",
        section=_MORE,
    ),
    "force": Param(
        False,
        type="boolean",
        title="Force",
        description="Close a tape though targets on it are not confirmed.",
        section=_MORE,
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Say in the log of `choose` what would be done, and touch nothing. `scan` reads the tape.",
        section=_MORE,
    ),
}
