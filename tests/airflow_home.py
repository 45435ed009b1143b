"""One throw-away Airflow home for the whole test session, set before anything imports Airflow."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = Path(tempfile.mkdtemp(prefix="custody-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

KEPT = {"CUSTODY_REQUIRE_SERVICES", "CUSTODY_CRASH_POINTS", "CUSTODY_VENV", "CUSTODY_ROOT"}
for name in [name for name in os.environ if name.startswith(("AIRFLOW", "CUSTODY_")) and name not in KEPT]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "PYTHONPATH": os.pathsep.join(str(ROOT / floor) for floor in ("include", "plugins", "dags")),
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db?timeout=120",
    "AIRFLOW__API_AUTH__JWT_SECRET": "tests-only-" + "0" * 64,
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
}
