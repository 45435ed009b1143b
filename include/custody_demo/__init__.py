"""The demo: a throw-away Airflow, sample disks and what they are drained to, below one directory on the loopback."""
