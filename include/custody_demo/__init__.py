"""The demo: a throw-away Airflow, an object store and sample disks, all below one directory and on the loopback."""
