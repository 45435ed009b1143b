"""The status page "Custody": what waits, runs and is stuck, where every file is, and the exact next command."""
