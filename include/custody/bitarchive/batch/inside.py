"""What runs inside the sandbox, before and around the job: limits, the drop of rights, the four hooks, the result.

``python -m custody.bitarchive.batch.inside FD`` reads one JSON line (an :class:`Order`) from standard input. The job's
output is standard output; the result is one JSON text on descriptor FD. A job can lie in that result only about itself:
each file has a process of its own.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MAX_TRACEBACK_CHARS = 8000
MAX_MESSAGE_CHARS = 2000


@dataclass
class Order:
    """One thing to do.

    :param mode: ``file`` (the three hooks) or ``post`` (post_process).
    :param path: the archive file, or the output of all.
    :param code: where the job's code lies; empty for one of the library.
    :param uid: whom to become; None to stay.
    """

    mode: str
    kind: str
    job: str
    class_name: str
    arguments: list[str]
    code: str
    name: str
    path: str
    limits: dict[str, int]
    max_exceptions: int = 100
    uid: int | None = None
    gid: int | None = None


@dataclass
class Result:
    """What the job did, as it says itself."""

    ok: bool = False
    keep_output: bool = False
    records: int = 0
    damages: list[dict[str, Any]] = field(default_factory=list)
    exceptions: list[dict[str, Any]] = field(default_factory=list)
    exceptions_dropped: int = 0
    made_output: bool = True


class _Counted:
    """Standard output, counted."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.count = 0

    def write(self, data: bytes, /) -> int:
        self._raw.write(data)
        self.count += len(data)
        return len(data)


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (bound, bound))


def _drop_rights(order: Order) -> None:
    if order.uid is None or order.gid is None:
        return
    os.setgroups([])
    os.setresgid(order.gid, order.gid, order.gid)
    os.setresuid(order.uid, order.uid, order.uid)


def _exception(result: Result, order: Order, error: BaseException, *, offset: int, output: int, phase: str) -> None:
    if len(result.exceptions) >= order.max_exceptions:
        result.exceptions_dropped += 1
        return
    text = "".join(traceback.format_exception(error))
    result.exceptions.append(
        {
            "file": order.name if phase == "process_file" else None,
            "offset_bytes": offset,
            "output_offset_bytes": output,
            "class": type(error).__name__,
            "message": str(error)[:MAX_MESSAGE_CHARS],
            "traceback": text[-MAX_TRACEBACK_CHARS:],
            "phase": phase,
        }
    )


def _load(order: Order) -> Any:
    """The job's class, made with its arguments."""
    if order.kind == "library":
        from custody.bitarchive.jobs.library import LIBRARY

        return LIBRARY[order.job](*order.arguments)
    if order.kind == "package":
        import importlib

        module, _, name = order.class_name.rpartition(".")  # the zip is on PYTHONPATH
        return getattr(importlib.import_module(module), name)(*order.arguments)
    import importlib.util

    spec = importlib.util.spec_from_file_location("custody_batch_job", order.code)
    assert spec is not None and spec.loader is not None
    module_object = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module_object
    spec.loader.exec_module(module_object)
    return _class_of(module_object, order.class_name)(*order.arguments)


def _class_of(module: Any, name: str) -> Any:
    from custody.bitarchive.jobs import FileBatchJob

    if name:
        return getattr(module, name)
    own = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, FileBatchJob) and thing.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise TypeError(f"{len(own)} job classes in the file: name one")
    return own[0]


def _process(order: Order, out: _Counted, result: Result) -> None:
    from custody.bitarchive.jobs import ArchiveFile

    path = Path(order.path)
    file = ArchiveFile(order.name, path, path.stat().st_size)
    job = None
    ready = crashed = False
    try:
        job = _load(order)
        job.initialize(out)
        ready = True
    except Exception as error:
        _exception(result, order, error, offset=-1, output=out.count, phase="initialize")
    said: bool | None = False
    if ready and job is not None:
        try:
            said = job.process_file(file, out)
        except Exception as error:
            crashed = True
            if not any(problem.error is error for problem in file.problems):
                _exception(result, order, error, offset=-1, output=out.count, phase="process_file")
    finished = job is not None
    if job is not None:
        try:
            job.finish(out)
        except Exception as error:
            finished = False
            _exception(result, order, error, offset=-1, output=out.count, phase="finish")
    for problem in file.problems:
        if problem.error is None:
            place = {"offset_bytes": problem.offset_bytes, "length_bytes": problem.length_bytes}
            result.damages.append(place | {"reason": problem.reason})
        else:
            _exception(
                result,
                order,
                problem.error,
                offset=problem.offset_bytes,
                output=problem.output_offset_bytes,
                phase="process_file",
            )
    result.records = file.records_done
    result.ok = ready and finished and not crashed and said is not False
    result.keep_output = ready and finished and not crashed


def _post_process(order: Order, out: _Counted, result: Result) -> None:
    try:
        with Path(order.path).open("rb") as source:
            result.made_output = _load(order).post_process(source, out) is not False
        result.ok = result.keep_output = True
    except Exception as error:
        result.made_output = False
        _exception(result, order, error, offset=-1, output=out.count, phase="post_process")


def main(arguments: list[str]) -> int:
    """Do one order."""
    answer = os.fdopen(int(arguments[0]), "w", encoding="utf-8", errors="backslashreplace")
    order = Order(**json.loads(sys.stdin.buffer.readline()))
    if order.kind != "executable":
        import custody.bitarchive.jobs.library  # noqa: F401 - the job's user may not be able to read the checkout
    _limit(order.limits)
    _drop_rights(order)
    if order.kind == "executable":
        os.set_inheritable(answer.fileno(), False)
        os.execv(order.code, [order.code, order.path, *order.arguments])  # noqa: S606 - a vector, and no shell
    raw = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)  # what a job prints is no output: it goes where complaints go
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), errors="backslashreplace", line_buffering=True)
    out, result = _Counted(raw), Result()
    (_process if order.mode == "file" else _post_process)(order, out, result)
    raw.close()
    sys.stdout.flush()
    with answer:
        json.dump(asdict(result), answer)
    sys.stderr.flush()
    os._exit(0)  # threads and exit handlers of a job have nothing more to say


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
