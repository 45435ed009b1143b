"""Manifest: write down size, md5, sha256 and state of every packed file, from the read that packed it.

Nothing is read again. That the files are still the packed ones is told by size, time and inode; that all are there, by
the count of PACKED.
"""

from __future__ import annotations

import shlex

from custody.digests import FileState
from custody.drain import markers
from custody.drain.markers import ManifestEntry
from custody.drain.series import Series, SeriesFile, SeriesState
from custody.drain.step import Work, series_step
from custody.faults import Fault, FaultKind


@series_step("manifest", needs=SeriesState.PACKED, makes=SeriesState.LISTED)
def manifest(work: Work) -> None:
    """Write MANIFEST and ``.custody/manifest.json``; see the module."""
    series = work.series
    _, count, size_bytes = markers.read_packed(series.directory)
    if (count, size_bytes) != (len(series.files), series.size_bytes):
        reason = f"says {count} files, {size_bytes} bytes; the series has {len(series.files)}, {series.size_bytes}"
        raise Fault(FaultKind.DATA, str(series.directory / markers.PACKED), reason)
    markers.write_manifest(series.directory, [_entry(series, member) for member in series.files])
    work.detail |= {"files": count, "size_bytes": size_bytes}


def _entry(series: Series, member: SeriesFile) -> ManifestEntry:
    path = series.path(member)
    if member.fixity is None:
        raise Fault(FaultKind.DATA, str(path), "was never hashed", next_command=series.next_command)
    if FileState.of_path(path) != member.state:
        raise Fault(
            FaultKind.DATA,
            str(path),
            "is not the file that was packed (size, time or inode differ)",
            next_command=f"custody drain set-aside {series.id} {shlex.quote(member.name)} --because WHY "
            f"(find out who wrote to it; it was packed with sha256 {member.fixity.digests['sha256']})",
        )
    return ManifestEntry(member.name, str(member.source), member.fixity, member.state)
