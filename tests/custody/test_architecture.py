"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INCLUDE = sorted((ROOT / "include").rglob("*.py"))
CUSTODY = [path for path in INCLUDE if path.is_relative_to(ROOT / "include" / "custody")]
EVERYTHING = sorted(path for floor in ("include", "plugins", "dags") for path in (ROOT / floor).rglob("*.py"))


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute or a name; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def breaches(tree: ast.Module) -> list[str]:
    """What nobody does here: a shell given a string, an edited module path."""
    found = []
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            if any(
                word.arg == "shell" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                for word in node.keywords
            ):
                found.append(f"{where}: shell=True")
            if _dotted(node.func) in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}:
                found.append(f"{where}: {_dotted(node.func)}")
            if _dotted(node.func).startswith("sys.path.") or _dotted(node.func) in {"site.addsitedir"}:
                found.append(f"{where}: {_dotted(node.func)}")
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
        targets = [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else targets
        for target in targets:
            inner = target.value if isinstance(target, ast.Subscript) else target
            if _dotted(inner) == "sys.path":
                found.append(f"{where}: sys.path is changed")
        if isinstance(node, ast.ImportFrom) and node.module in {"os", "sys"}:
            names = {alias.name for alias in node.names} & {"system", "popen", "path"}
            found += [
                f"{where}: from {node.module} import {name}" for name in names if (node.module, name) != ("os", "path")
            ]
    return found


def without_docstring(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods that say nothing of themselves."""
    found = [] if ast.get_docstring(tree) else ["the module"]

    def look(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                found.append(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                look(node.body, f"{prefix}{node.name}.")

    look(tree.body, "")
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(CUSTODY) > 15
    assert any(path.is_relative_to(ROOT / "plugins") for path in EVERYTHING)
    assert any(path.is_relative_to(ROOT / "dags") for path in EVERYTHING)


@pytest.mark.parametrize("path", INCLUDE, ids=_id)
def test_include_never_imports_airflow(path: Path) -> None:
    assert [name for name in _imported(_tree(path)) if name.split(".")[0] in {"airflow", "custody_airflow"}] == []


@pytest.mark.parametrize("path", EVERYTHING, ids=_id)
def test_no_shell_strings_and_no_edited_path(path: Path) -> None:
    assert breaches(_tree(path)) == []


# Alembic writes the head of a migration, and a migration is read with its file name
@pytest.mark.parametrize("path", [path for path in CUSTODY if "migrations" not in path.parts], ids=_id)
def test_everything_public_says_what_it_is(path: Path) -> None:
    assert without_docstring(_tree(path)) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import subprocess as s\ns.run('ls', shell=True)", 1),
        ("run('ls', shell=flag)", 1),
        ("run(['ls'], shell=False)", 0),
        ("import os\nos.system('ls')", 1),
        ("from os import system", 1),
        ("import os\nos.path.join('a')", 0),
        ("from os import path", 0),
        ("import sys\nsys.path.insert(0, 'x')", 1),
        ("import sys\nsys.path += ['x']", 1),
        ("import sys\nsys.path[0] = 'x'", 1),
        ("import sys\nsys.path = []", 1),
        ("from sys import path", 1),
        ("import sys\nprint(sys.path)", 0),
    ],
)
def test_the_checks_themselves_see_a_breach(source: str, count: int) -> None:
    assert len(breaches(ast.parse(source))) == count


def test_the_checks_themselves_see_a_missing_docstring() -> None:
    source = (
        '"""M."""\ndef f(): ...\nclass C:\n    """C."""\n    def m(self): ...\n    def _p(self): ...\ndef _q(): ...'
    )
    assert without_docstring(ast.parse(source)) == ["f", "C.m"]
    assert list(_imported(ast.parse("import airflow.sdk as s\nfrom airflow import x"))) == ["airflow.sdk", "airflow"]


def test_the_contracts_of_the_import_linter_are_kept() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    assert program.exists(), f"{program}: is not installed; requirements-dev.txt names import-linter"
    path = os.pathsep.join(str(ROOT / floor) for floor in ("include", "plugins", "dags"))
    done = subprocess.run(
        [str(program), "--no-cache"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout
