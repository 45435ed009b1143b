"""Copies of survey databases (minidvodbs) on other hosts: queued, sent, proven equal, visible only when complete.

A minidvodb is a directory of FITS tables. Read ``queue``, ``load``, ``preflight``, ``transfer``, ``verify`` and
``publish``: one copy's way, in this order. ``far`` is all that is ever run on the other host.
"""
