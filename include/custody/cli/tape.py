"""``custody tape ...``: tapeop's verbs under their names, and what Custody adds to them."""

from __future__ import annotations

import click

from custody.cli import tape_back, tape_catalog, tape_drives, tape_tapes, tape_work
from custody.cli.tape_group import TapeGroup


@click.group(cls=TapeGroup)
def tape() -> None:
    """Directories to tape, proven file by file, and back. Without a verb: where things stand.

    It ends with 0 when done, 40 where there is no work, 41 where it was asked to stop, 42 where the tape is full,
    2 for wrong usage and 1 for everything else.
    """


for _part in (tape_catalog, tape_work, tape_tapes, tape_back, tape_drives):
    for _command in _part.COMMANDS:
        tape.add_command(_command)
