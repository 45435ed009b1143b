"""Batch jobs over every file of a replica."""
