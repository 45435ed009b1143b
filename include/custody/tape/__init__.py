"""Tape backup: directories to tape, one tape file each, with a proof for every member.

Follow one target in the order of the modules: :mod:`~custody.tape.scan`, :mod:`~custody.tape.assign`,
:mod:`~custody.tape.session`, :mod:`~custody.tape.archive`, :mod:`~custody.tape.confirm`, :mod:`~custody.tape.restore`.
"""
