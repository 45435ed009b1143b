"""The drive of the virtual machine, seen from inside: its hands are on the other side, which listens in /out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from custody.tape.drives import Drive, open_drive
from custody.tape.drives.device import TapeDevice
from custody.tape.drives.st import KernelDevice

OUT = Path("/out")
PATIENCE_S = 60.0


_NO_BLANK_CHECK = "tgt knows no blank check: a read at the end of data gives what was in its buffer"
_NO_END = "tgt has no physical end: behind early warning it takes every second block, and every mark, for ever"
_DIFFERENCES = {
    "test_the_physical_end_is_enospc_again_and_again": _NO_END,
    "test_a_filemark_behind_the_physical_end_is_eio": _NO_END,
    "test_an_unloaded_drive_is_empty": "tgt takes the command to unload and keeps the cartridge",
    "test_after_spacing_back_the_mark_is_next": "tgt spaces back to before the last block, not before the mark",
    "test_spacing_over_blocks_stops_behind_a_mark": "tgt spaces over blocks without seeing marks",
    "test_end_of_data_is_a_second_empty_read_and_then_eio": _NO_BLANK_CHECK,
    "test_a_blank_tape_is_eio_at_once": _NO_BLANK_CHECK,
    "test_a_blank_tape_is_end_of_data_and_no_error": _NO_BLANK_CHECK,
    "test_a_drive_reads_what_it_wrote_and_knows_where_it_ends": _NO_BLANK_CHECK,
    "test_spacing_past_the_end_of_data_is_eio_and_says_so": "tgt fails without sense data for a blank check",
    "test_eom_knows_the_file_number": "tgt tells no residual, from which the driver would count",
}


class VmRig:
    """The st driver of a Debian kernel on the tape that tgt emulates."""

    device = "/dev/nst0"
    unsafe: frozenset[str] = frozenset()
    differences: Mapping[str, str] = _DIFFERENCES

    def __init__(self) -> None:
        self._numbers = itertools.count(int(time.time() * 1000))

    def _ask(self, *words: str) -> None:
        number = next(self._numbers)
        draft = OUT / f"draft.{number}"
        draft.write_text(" ".join([str(number), *words]))
        draft.rename(OUT / "request")
        answer = OUT / f"answer.{number}"
        until = time.monotonic() + PATIENCE_S
        while not answer.exists():
            assert time.monotonic() < until, f"nobody answered {words}"
            time.sleep(0.02)
        said = answer.read_text().strip()
        answer.unlink()
        assert said == "done", f"{words}: {said}"

    def blank(self, capacity_bytes: int | None = None, early_warning_bytes: int = 0) -> None:
        # How far before the end tgt warns cannot be chosen. It tells nobody of a new cartridge, as a drive would (unit
        # attention): so the kernel is made to look into the empty drive first.
        self.unload()
        self._ask("blank", str(max(1, (capacity_bytes or 64 << 20) >> 20)))

    def unload(self) -> None:
        self._ask("unload")
        with closing(self.raw(is_look=True)):
            pass

    def protect(self, on: bool) -> None:
        self._ask("protect", str(int(on)))

    def damage(self, content: bytes) -> None:
        self._ask("damage", content[:64].hex())

    def raw(self, *, writable: bool = False, is_look: bool = False) -> TapeDevice:
        return KernelDevice(self.device, writable=writable, is_look=is_look)

    def drive(self, *, writable: bool = False) -> Drive:
        return open_drive(self.device, writable=writable)
