"""Parse a DAG file as Airflow does, once airflow itself is imported; prints how many seconds that took."""

from __future__ import annotations

import importlib.util
import sys
import time

import airflow.models  # noqa: F401  # what the DAG processor has in memory before it forks

started = time.monotonic()
spec = importlib.util.spec_from_file_location("parsed", sys.argv[1])
assert spec and spec.loader
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
seconds = time.monotonic() - started
# @dag registers with the module's globals only where it is assigned; the file is fine if it made tasks without a fault.
print(seconds)
