"""Drain: empty a filling crawler disk into an archive (draintasker's successor).

One WARC's way, a module a step: survey, pack, manifest, upload, prove, delete. Beside them: what files are called
(names), which go together (plan), what is on record (series), what lies beside the data (markers), where it all goes
(targets).
"""
