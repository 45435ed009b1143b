"""Indexes: CDXJ lines, sorted and merged, kept in caches that never hold a half-made thing."""
