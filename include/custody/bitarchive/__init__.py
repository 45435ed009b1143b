"""Bitarchive: batch jobs, upload, preservation, indexes and a viewer over stores of WARC and ARC files."""

ROOM = "bitarchive"
