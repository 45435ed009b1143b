"""A job on a file of another machine: the same sandbox, over there.

The order goes in on one line; what comes back is the output, then one line of JSON, then its length in 8 bytes. The
connection stays open as long as the caller lives: when it closes, what runs over there is ended.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from custody.bitarchive.batch import sandbox
from custody.bitarchive.batch.inside import Order, Result
from custody.bitarchive.batch.watch import Ended
from custody.bitarchive.config import Isolation, Limits
from custody.bitarchive.nodes_ssh import SshNode
from custody.digests import Hasher
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.host import classify_ssh, end_group

_GRACE_S = 60.0
_LENGTH_BYTES = 8
_LIMIT_OF_ACCOUNT = 64 << 20


def run_there(node: SshNode, task: sandbox.Task, output: Path) -> Ended:
    """As :func:`custody.bitarchive.batch.sandbox.run`, on a node's machine. Faults: also TRANSIENT and AUTH."""
    order = {
        "order": asdict(task.order),
        "source": str(task.source),
        "code": base64.b64encode(task.code.read_bytes()).decode() if task.code else None,
        "code_name": task.code.name if task.code else "",
        "limits": task.limits.model_dump(),
        "timeout_s": task.timeout_s,
        "isolation": task.isolation,
    }
    import shlex

    words = shlex.join([*node.command, "bitarchive", "node-job"])
    argv = [*node.host.ssh_command(), node.host.name, "--", words]
    with os_errors_as_faults(str(output)), output.open("w+b") as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, process_group=0)
        with process:
            timer = threading.Timer(task.timeout_s + _GRACE_S, end_group, [process])
            timer.start()
            sandbox.register(process)
            try:
                _talk(process, json.dumps(order).encode() + b"\n", out, task.limits.output + _LIMIT_OF_ACCOUNT)
            finally:
                timer.cancel()
                if process.poll() is None:
                    end_group(process)
                sandbox.unregister(process, task.order.name)
        errors.seek(0)
        return _ended(node, process.returncode, out, errors.read().decode("utf-8", "replace"))


def _talk(process: subprocess.Popen[bytes], order: bytes, out: IO[bytes], limit: int) -> None:
    assert process.stdin and process.stdout
    try:
        process.stdin.write(order)
        process.stdin.flush()
    except BrokenPipeError:
        pass  # its standard error says why
    count = 0
    while block := process.stdout.read(1 << 18):
        count += len(block)
        if count > limit:
            return
        out.write(block)
    process.wait()


def _ended(node: SshNode, returncode: int, out: IO[bytes], complaint: str) -> Ended:
    size = out.seek(0, os.SEEK_END)
    where = f"{node.host.name}: {' '.join(node.command)}"
    if returncode == 255:
        raise classify_ssh(node.host.name, complaint)
    if returncode or size < _LENGTH_BYTES:
        last = complaint.strip().splitlines()[-1:] or [f"ended with status {returncode}"]
        raise Fault(
            FaultKind.CONFIG, where, last[0], next_command="install Custody there, or set `command` of the node"
        )
    out.seek(size - _LENGTH_BYTES)
    length = int.from_bytes(out.read(_LENGTH_BYTES), "big")
    if length + _LENGTH_BYTES > size:
        raise Fault(FaultKind.TRANSIENT, where, "its answer was cut")
    out.seek(size - _LENGTH_BYTES - length)
    values: dict[str, Any] = json.loads(out.read(length))
    if "fault" in values:
        raise Fault(FaultKind(values["fault"]), f"{node.host.name}: {values['subject']}", values["reason"])
    out.truncate(size - _LENGTH_BYTES - length)
    out.flush()
    os.fsync(out.fileno())
    result = values.pop("result")
    ended = Ended(**values, result=Result(**result) if result else None)
    _require_equal(where, out, ended)
    return ended


def _require_equal(where: str, out: IO[bytes], ended: Ended) -> None:
    hasher = Hasher(("sha256",))
    out.seek(0)
    while block := out.read(1 << 20):
        hasher.update(block)
    if hasher.fixity().digests["sha256"] != ended.output_sha256:
        raise Fault(FaultKind.TRANSIENT, where, "its output was changed on the way")


def serve() -> int:
    """The other side: one order from standard input, its answer on standard output."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    given = json.loads(stdin.readline())
    threading.Thread(target=_end_with_caller, args=[stdin], daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="custody-batch-") as directory:
        home = Path(directory)
        home.chmod(0o755)
        code = None
        if given["code"] is not None:
            code = home / Path(given["code_name"]).name
            code.write_bytes(base64.b64decode(given["code"]))
            code.chmod(0o755)
        limits = Limits(**given["limits"])
        isolation = Isolation(given["isolation"])
        task = sandbox.Task(Order(**given["order"]), Path(given["source"]), code, limits, given["timeout_s"], isolation)
        output = home / "output"
        try:
            answer = asdict(sandbox.run(task, output))
        except Fault as fault:
            answer = {"fault": fault.kind, "subject": fault.subject, "reason": fault.reason}
            output.write_bytes(b"")
        with output.open("rb") as source:
            while block := source.read(1 << 20):
                stdout.write(block)
        text = json.dumps(answer).encode()
        stdout.write(text + len(text).to_bytes(_LENGTH_BYTES, "big"))
        stdout.flush()
    return 0


def _end_with_caller(stdin: IO[bytes]) -> None:
    while os.read(stdin.fileno(), 1):  # unbuffered: a buffer's lock would outlive the interpreter
        pass
    sandbox.end_all()
    os._exit(1)
