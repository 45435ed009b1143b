"""The command line: ``custody drain|where-is|status|ledger ...``. It answers without Airflow."""
