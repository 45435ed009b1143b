"""Custody: no copy is let go before another one is proven.

The domain, in plain Python: five rooms (drain, wiki_dump, minidvodb, bitarchive, tape) on one ground floor
(ledger, gate, lease, faults, host, digests, publish). Nothing below this package imports Airflow.
"""

__version__ = "0.1.0"
