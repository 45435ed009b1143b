"""What job to run: told by name, frozen as bytes, so that a second run months later runs the same."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from custody.bitarchive.jobs.library import LIBRARY
from custody.faults import Fault, FaultKind, os_errors_as_faults
from custody.publish import write_atomic

MAX_JOB_BYTES = 256 << 20
ARGUMENT_SEPARATOR = "##"


class JobKind(StrEnum):
    """How a job is given."""

    LIBRARY = "library"
    FILE = "file"  # a Python file with the class
    PACKAGE = "package"  # a zip (or wheel) with the module of the class
    EXECUTABLE = "executable"


@dataclass(frozen=True)
class Job:
    """A job as it was asked for.

    :param name: of the library's job, or of the frozen file.
    :param class_name: ``Class`` in a file, ``package.module.Class`` in a package; empty otherwise.
    :param arguments: strings for the constructor, or for the program after the file's path.
    """

    kind: JobKind
    name: str
    class_name: str = ""
    arguments: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {"kind": self.kind, "name": self.name, "class_name": self.class_name, "arguments": list(self.arguments)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """The other way."""
        return cls(JobKind(values["kind"]), values["name"], values["class_name"], tuple(values["arguments"]))

    def __str__(self) -> str:
        return f"{self.name}:{self.class_name}" if self.class_name else self.name


@dataclass(frozen=True)
class Given:
    """A job and the file its code is in, before it is frozen."""

    job: Job
    source: Path | None


def split_arguments(arguments: str | Sequence[str] | None) -> tuple[str, ...]:
    """Arguments as a list, or as one text ``a##b##c``."""
    if not arguments:
        return ()
    if isinstance(arguments, str):
        return tuple(arguments.split(ARGUMENT_SEPARATOR))
    return tuple(arguments)


def resolve(text: str, class_name: str | None = None, arguments: str | Sequence[str] | None = None) -> Given:
    """Tell what is meant by ``text``: a job of the library, a module (``pkg.mod:Class``), a path.

    Faults: CONFIG, naming what is missing.
    """
    given = split_arguments(arguments)
    if text in LIBRARY:
        if class_name:
            raise Fault(FaultKind.CONFIG, f"job {text}", "is one of the library, and takes no class name")
        return Given(Job(JobKind.LIBRARY, text, arguments=given), None)
    module, colon, name = text.partition(":")
    path = Path(module if colon and module.endswith(".py") else text)
    if colon and not module.endswith(".py") and "/" not in text:
        return _of_module(module, name, given)
    if colon and module.endswith(".py"):
        class_name = class_name or name
    if "/" not in str(path) and not path.exists():
        known = ", ".join(LIBRARY)
        raise Fault(FaultKind.CONFIG, f"job {text!r}", f"is no file, no module:Class, none of the library: {known}")
    return _of_path(path, class_name, given)


def _of_path(path: Path, class_name: str | None, arguments: tuple[str, ...]) -> Given:
    subject = str(path)
    with os_errors_as_faults(subject):
        size = path.stat().st_size
        if not path.is_file():
            raise Fault(FaultKind.CONFIG, subject, "is no file")
        if size > MAX_JOB_BYTES:
            raise Fault(FaultKind.CONFIG, subject, f"is larger than {MAX_JOB_BYTES} bytes")
        with path.open("rb") as stream:
            head = stream.read(4)
    if path.suffix == ".class" or (path.suffix == ".jar" and class_name):
        raise Fault(FaultKind.CONFIG, subject, "is Java; give a Python class, a zip of them, or a program that runs it")
    if path.suffix == ".py":
        _check_class(path, class_name)
        return Given(Job(JobKind.FILE, path.name, class_name or "", arguments), path)
    if path.suffix in {".zip", ".whl"} or (class_name and head == b"PK\x03\x04"):
        if not class_name or "." not in class_name:
            raise Fault(FaultKind.CONFIG, subject, "is a package: name the class as package.module.Class")
        if not zipfile.is_zipfile(path):
            raise Fault(FaultKind.CONFIG, subject, "is no zip file")
        return Given(Job(JobKind.PACKAGE, path.name, class_name, arguments), path)
    if class_name:
        raise Fault(FaultKind.CONFIG, subject, "is neither a .py nor a .zip file, and a class was named")
    if not os.access(path, os.X_OK):
        raise Fault(FaultKind.CONFIG, subject, "is no .py, no .zip and not executable", next_command=f"chmod +x {path}")
    return Given(Job(JobKind.EXECUTABLE, path.name, "", arguments), path)


def _check_class(path: Path, class_name: str | None) -> None:
    """Look for the job's class in a file, without running it. Faults: CONFIG where there is none, or several."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Fault(FaultKind.CONFIG, str(path), f"is no Python ({error})") from error
    bases = {
        node.name: [ast.unparse(base).rpartition(".")[2] for base in node.bases]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    jobs = [name for name, above in bases.items() if any(base.endswith("BatchJob") or base in bases for base in above)]
    if not class_name and len(jobs) > 1:
        command = f"-N {jobs[-1]}, or {path}:{jobs[-1]}"
        raise Fault(FaultKind.CONFIG, str(path), f"has several jobs: {', '.join(jobs)}", next_command=command)
    if class_name and bases and class_name not in bases:
        known = ", ".join(jobs or bases)
        raise Fault(FaultKind.CONFIG, str(path), f"has no class {class_name}; it has {known}")


def _of_module(module: str, class_name: str, arguments: tuple[str, ...]) -> Given:
    """A module that can be imported here is frozen as its file."""
    subject = f"job {module}:{class_name}"
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError) as error:
        raise Fault(FaultKind.CONFIG, subject, f"cannot be found ({error})") from error
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise Fault(FaultKind.CONFIG, subject, "is no module of one Python file on PYTHONPATH")
    path = Path(found.origin)
    return Given(Job(JobKind.FILE, path.name, class_name, arguments), path)


def freeze(given: Given, directory: Path) -> tuple[Path | None, str]:
    """Keep the job's code in ``directory``; returns where, and its sha256. May be called again."""
    if given.source is None:
        return None, hashlib.sha256(given.job.name.encode()).hexdigest()
    with os_errors_as_faults(str(given.source)):
        content = given.source.read_bytes()
    with os_errors_as_faults(str(directory)):
        directory.mkdir(parents=True, exist_ok=True)
    target = directory / given.job.name
    write_atomic(target, content, mode=0o755)
    target.chmod(0o755)  # the sandbox's user must read and run it, whatever the umask
    return target, hashlib.sha256(content).hexdigest()


def frozen(job: Job, directory: Path, sha256: str) -> Path | None:
    """The code of a job as it was frozen. Faults: DATA where it is not what it was."""
    if job.kind is JobKind.LIBRARY:
        return None
    path = directory / job.name
    with os_errors_as_faults(str(path)):
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise Fault(
            FaultKind.DATA, str(path), "is not the code this batch began with", next_command="start a new batch"
        )
    return path
