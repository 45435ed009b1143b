"""Hooks: Airflow connections become what the domain works with."""
