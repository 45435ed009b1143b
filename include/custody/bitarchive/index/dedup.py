"""The index for deduplication: lines ``digest url file,offset timestamp``, from CDXJ."""

from __future__ import annotations

import json
import re
from pathlib import Path

_TEXT = re.compile(r"text/")


def dedup_of(path: Path, directory: Path) -> Path:
    """Make the lines of one CDXJ, sorted, in ``directory``: everything but text and revisits. Returns where."""
    lines = []
    with path.open("rb") as source:
        for line in source:
            _, timestamp, text = line.split(b" ", 2)
            values = json.loads(text)
            mime, digest = values.get("mime", ""), values.get("digest")
            if not digest or mime == "warc/revisit" or _TEXT.match(mime):
                continue
            origin = f"{values['filename']},{values['offset']}"
            url = values["url"].replace(" ", "%20")
            lines.append(f"{digest} {url} {origin} {timestamp.decode()}".encode("utf-8", "surrogateescape"))
    lines.sort()
    made = directory / f"{path.name}.dedup"
    made.write_bytes(b"".join(line + b"\n" for line in lines))
    return made
