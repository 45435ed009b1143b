"""The Airflow layer: translates params to configurations, faults to outcomes, progress to logs and the ledger."""
