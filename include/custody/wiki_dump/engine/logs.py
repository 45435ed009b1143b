"""The public log of a wiki as XML: suppressed parts absent, restricted kinds of log left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from custody.wiki_dump.engine.clean import element
from custody.wiki_dump.engine.rows import Row, Rows
from custody.wiki_dump.engine.siteinfo import SiteInfo
from custody.wiki_dump.engine.stubs import COMMENT, USER, contributor

ITEMS_A_QUERY = 10_000
RESTRICTED = ("suppress",)
ACTION = 1


def last_log_id(rows: Rows) -> int:
    """The number of the last log item; 0 where there is none."""
    return next((int(row[0] or 0) for row in rows.query(f"SELECT {rows.number('MAX(log_id)')} FROM logging")), 0)  # noqa: S608


def log_items(
    rows: Rows, site: SiteInfo, *, first: int = 1, last: int | None = None, restricted: Sequence[str] = RESTRICTED
) -> Iterator[bytes]:
    """Chunks of ``logitem`` elements, by number. :param restricted: kinds of log that nobody may see."""
    number = rows.number
    prefixes = site.prefixes()
    hidden = "".join(f" AND log_type <> '{_word(kind)}'" for kind in restricted)
    end = last_log_id(rows) if last is None else last
    straight = "STRAIGHT_JOIN" if rows.dialect == "mysql" else ""
    select = (
        f"SELECT {straight} {number('log_id')}, log_timestamp, {number('log_deleted')}, {number('actor_user')}, "  # noqa: S608
        f"actor_name, comment_text, log_type, log_action, {number('log_namespace')}, log_title, log_params "
        "FROM logging JOIN actor ON actor_id = log_actor LEFT JOIN comment ON comment_id = log_comment_id WHERE log_id "
    )
    for start in range(first, end + 1, ITEMS_A_QUERY):
        stop = min(end, start + ITEMS_A_QUERY - 1)
        items = sorted(rows.query(f"{select}BETWEEN {start} AND {stop}{hidden}"), key=_by_number)
        if items:
            yield b"".join(_item(row, prefixes) for row in items)


def _word(kind: str) -> str:
    if not kind.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{kind!r} is no kind of log")
    return kind


def _by_number(row: Row) -> int:
    return int(row[0])


def _item(row: Row, prefixes: dict[bytes, bytes]) -> bytes:
    log_id, time, deleted, user, name, comment, kind, action, namespace, title, params = row
    hidden = int(deleted)
    parts = [
        b"  <logitem>\n    <id>%b</id>\n    <timestamp>%b-%b-%bT%b:%b:%bZ</timestamp>\n"
        % (log_id, time[:4], time[4:6], time[6:8], time[8:10], time[10:12], time[12:14]),
        b'    <contributor deleted="deleted" />\n' if hidden & USER else contributor(user, name, b"    "),
    ]
    if hidden & COMMENT:
        parts.append(b'    <comment deleted="deleted" />\n')
    elif comment:
        parts.append(b"    %b\n" % element(b"comment", comment))
    parts.append(b"    %b\n    %b\n" % (element(b"type", kind), element(b"action", action)))
    if hidden & ACTION:
        parts.append(b'    <text deleted="deleted" />\n')
    else:
        where = prefixes.get(namespace, b"") + title.replace(b"_", b" ")
        text = element(b"params", params or b"", b' xml:space="preserve"')
        parts.append(b"    %b\n    %b\n" % (element(b"logtitle", where), text))
    parts.append(b"  </logitem>\n")
    return b"".join(parts)
