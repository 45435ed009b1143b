"""Write docs/DAGs.md from the DAGs themselves: ``python -m custody_airflow.dag_docs [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "DAGs.md"
HEAD = """# DAGs and their params

Made from the DAGs by `python -m custody_airflow.dag_docs`; a test fails when it is stale.
"""


def render() -> str:
    """The page as it should be."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(ROOT / "dags"))
    if bag.import_errors:
        raise SystemExit(f"these DAGs do not parse: {bag.import_errors}")
    return HEAD + "".join(_section(dag) for _, dag in sorted(bag.dags.items()))


def _section(dag: Any) -> str:
    tags = ", ".join(sorted(str(tag) for tag in dag.tags))
    lines = [f"\n## {dag.dag_id}", "", dag.description, ""]
    lines += [f"Schedule: `{dag.schedule or 'none'}`. Tags: {tags}.", ""]
    lines += ["| param | title | default | what it is |", "|---|---|---|---|"]
    for name in dag.params:
        param = dag.params.get_param(name)
        default = "" if param.value is None else f"`{param.value}`"
        lines.append(f"| `{name}` | {param.schema['title']} | {default} | {param.description} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` say whether it is stale."""
    wanted = render()
    if "--check" not in arguments:
        PAGE.write_text(wanted, "utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text("utf-8") == wanted:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is stale; run: python -m custody_airflow.dag_docs")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
