"""An index as Parquet, for those who count and compare; written by pyarrow, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from custody.bitarchive.archive import Archive
from custody.bitarchive.environment import CONFIG, is_whole, make_environment
from custody.faults import Fault, FaultKind

LOCK = CONFIG / "parquet" / "requirements.txt"
_WRITER = Path(__file__).with_name("parquet_writer.py")


def environment_of(archive: Archive) -> Path:
    """Where the environment with pyarrow lies."""
    return archive.config.work_dir / "parquet" / "env"


def install_pyarrow(archive: Archive) -> Path:
    """Make that environment from its lock, or find it. Returns its Python. Faults: TRANSIENT, CAPACITY."""
    make_environment(environment_of(archive), LOCK)
    return environment_of(archive) / "bin" / "python"


def find_python(archive: Archive) -> Path:
    """A Python that has pyarrow: ``$CUSTODY_PARQUET_PYTHON``, this one, or the environment's. Faults: CONFIG."""
    if named := os.environ.get("CUSTODY_PARQUET_PYTHON"):
        return Path(named)
    if find_spec("pyarrow"):
        return Path(sys.executable)
    if is_whole(environment_of(archive), LOCK):
        return environment_of(archive) / "bin" / "python"
    command = f"custody bitarchive index {archive.name} --install-parquet"
    raise Fault(FaultKind.CONFIG, "pyarrow", "is not installed; it writes Parquet", next_command=command)


def write_parquet(python: Path, source: Path, out: BinaryIO) -> None:
    """Write a sorted CDXJ as Parquet. Faults: DATA where it is no CDXJ, CONFIG where that Python has no pyarrow.

    The bytes go through a pipe: when the one who asked is gone, nobody writes on.
    """
    argv = [str(python), "-I", str(_WRITER), str(source)]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            raise Fault(FaultKind.CONFIG, str(python), f"does not run ({error.strerror})") from error
        with process:
            assert process.stdout
            try:
                shutil.copyfileobj(process.stdout, out, 1 << 20)
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        complaint = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
    if process.returncode:
        lacks = bool(complaint) and "ModuleNotFoundError" in complaint[0]
        kind = FaultKind.CONFIG if lacks else FaultKind.DATA
        raise Fault(kind, str(python if lacks else source), (complaint or ["could not be written as Parquet"])[0])
