"""Batch jobs: the contract they keep, and the library of those that come with Custody."""

from custody.bitarchive.jobs.contract import ArchiveFile, FileBatchJob, RecordBatchJob, RecordError, RecordFilter

__all__ = ["ArchiveFile", "FileBatchJob", "RecordBatchJob", "RecordError", "RecordFilter"]
