"""Records of WARC and ARC files: every whole one, and exactly where the others are."""

from custody.bitarchive.records.model import Damage, Damaged, Record
from custody.bitarchive.records.read import read_records, whole_records

__all__ = ["Damage", "Damaged", "Record", "read_records", "whole_records"]
