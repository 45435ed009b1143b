"""What is said of an item when it is made: draintasker's fields, in UTC, with its typing error mended."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

from custody.drain.names import WarcName, naming
from custody.drain.series import Series
from custody.drain.software import software_of
from custody.drain.targets import Item


def describe_item(series: Series) -> Item:
    """The item of a series: identifier, metadata, size. Times come from the file names, which are UTC."""
    config = series.config
    names = [_parse(config.warc_naming, member.source.name) for member in series.files]
    first, last = names[0], names[-1]
    start, end = _time(first), _time(last)
    words = {
        "CRAWLHOST": first.host or socket.gethostname(),
        "CRAWLJOB": config.crawljob,
        "START_DATE": f"{start:%a %b %e %H:%M:%S UTC %Y}",
        "END_DATE": f"{end:%a %b %e %H:%M:%S UTC %Y}",
    }
    description = config.description
    for word, value in words.items():
        description = description.replace(word, value)
    newest_ns = max(member.state.mtime_ns for member in series.files)
    fields: dict[str, str | list[str]] = {
        "mediatype": "web",
        "subject": "crawldata",
        "collection": list(config.collections),
        "title": f"{config.title_prefix} {start:%Y-%m-%dT%H:%M:%S}UTC to {end:%Y-%m-%dT%H:%M:%S}UTC".strip(),
        "description": description,
        "creator": config.creator,
        "sponsor": config.sponsor,
        "contributor": config.contributor,
        "operator": config.operator,
        "scanningcenter": config.scanningcenter,
        "crawljob": config.crawljob,
        "scandate": first.timestamp14,
        "date": first.timestamp[:4],
        "numwarcs": str(len(series.files)),
        "sizehint": str(series.size_bytes),
        "firstfiledate": first.timestamp,
        "lastfiledate": last.timestamp,
        "lastdate": f"{datetime.fromtimestamp(newest_ns / 1e9, UTC):%Y%m%d%H%M%S}",
        "firstfileserial": first.serial,
        "lastfileserial": last.serial,
        "crawler": software_of(series.path(series.files[0])) or "",
    }
    for name, own in config.metadata.items():
        if any(character.isspace() for character in name):
            continue  # no header can be called so; draintasker drops it too
        fields[name] = [str(one) for one in own] if isinstance(own, list) else str(own or "")
    return Item(series.item, {name: value for name, value in fields.items() if value}, series.size_bytes)


def _parse(pattern: str, name: str) -> WarcName:
    """A name taken apart; draintasker's compact names are known too, of others only the name is."""
    kinds = (naming(pattern), naming("{prefix}-{timestamp}-{serial}"))
    return next((found for kind in kinds if (found := kind.parse(name))), WarcName(name, ""))


def _time(name: WarcName) -> datetime:
    stamp = name.timestamp14
    try:
        return datetime.strptime(stamp, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
