"""A large wiki in MediaWiki's own schema on a MariaDB, filled by SQL: importDump does some 160 revisions a second.

Each revision of a page changes one of the nine paragraphs of the one before it; sizes and digests are the true ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pymysql

from custody.wiki_dump.engine.sha1 import sha1_base36

PAGES = 10_000
BATCH = 20_000
PARAGRAPHS = 500
PARAGRAPHS_A_TEXT = 9
_MARKUP = ("[[Link]]", "<ref>Source</ref>", "&nbsp;", "''word''", "\u00e9t\u00e9")


def paragraphs() -> list[str]:
    """Some 200 characters of words and markup each; every eighth has a letter beyond ASCII."""
    dice = random.Random(7)
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "ing")]
    words = ["".join(dice.choices(syllables, k=dice.randint(1, 4))) for _ in range(3000)]
    found = []
    for number in range(PARAGRAPHS):
        text = " ".join(dice.choices(words, k=26))
        found.append(f"{text} {_MARKUP[number % 4]} {_MARKUP[4] if number % 8 == 0 else 'word'}.")
    return found


def texts(start: int, end: int, each: int) -> Iterator[bytes]:
    """The texts of some revisions, as :func:`fill` has the server make them."""
    known = paragraphs()
    for seq in range(start, end):
        page, number = divmod(seq - 1, each)
        chosen = ((page * 7 + at * 13 + (number + at) // PARAGRAPHS_A_TEXT) % PARAGRAPHS for at in range(9))
        yield "\n".join([f"'''Article''' {seq}", *(known[each] for each in chosen)]).encode()


def _text_sql(each: int) -> tuple[str, str]:
    page, number = f"((s.seq - 1) DIV {each})", f"((s.seq - 1) MOD {each})"
    span = range(PARAGRAPHS_A_TEXT)
    joins = " ".join(
        f"JOIN bench_paragraph p{at} ON p{at}.id = "
        f"({page} * 7 + {at * 13} + ({number} + {at}) DIV {PARAGRAPHS_A_TEXT}) MOD {PARAGRAPHS}"
        for at in span
    )
    fields = ", ".join(f"p{at}.content" for at in span)
    return f"CONCAT_WS('\\n', CONCAT('''''''Article'''''' ', s.seq), {fields})", joins


def fill(connect: dict[str, Any], revisions: int) -> int:
    """Add pages and revisions to an installed wiki; returns the number of revisions."""
    connection = pymysql.connect(**connect, autocommit=True, charset="utf8mb4")
    each = max(1, revisions // PAGES)
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = '', unique_checks = 0, foreign_key_checks = 0")
        cursor.execute("SELECT MAX(rev_id), MAX(page_id) FROM page, revision")
        rev0, page0 = (int(value) for value in cursor.fetchone())
        cursor.execute("SELECT MAX(old_id), MAX(content_id) FROM text, content")
        text0, content0 = (int(value) for value in cursor.fetchone())
        cursor.execute(
            "INSERT INTO actor (actor_user, actor_name) SELECT NULL, CONCAT('Editor ', seq) FROM seq_1_to_500"
        )
        cursor.execute("SELECT MIN(actor_id) FROM actor WHERE actor_name LIKE 'Editor %'")
        actor0 = int(cursor.fetchone()[0])
        cursor.execute(
            "INSERT INTO comment (comment_hash, comment_text) "
            "SELECT seq, CONCAT('change & <', seq, '>') FROM seq_1_to_5000"
        )
        cursor.execute("SELECT MAX(comment_id) - 4999 FROM comment")
        comment0 = int(cursor.fetchone()[0])
        cursor.execute("CREATE TABLE bench_paragraph (id INT PRIMARY KEY, content VARBINARY(1000))")
        cursor.executemany("INSERT INTO bench_paragraph VALUES (%s, %s)", list(enumerate(paragraphs())))
        text, joins = _text_sql(each)
        for start in range(1, PAGES * each + 1, BATCH):
            end = min(start + BATCH, PAGES * each + 1)
            span = f"seq_{start}_to_{end - 1} s"
            cursor.execute(
                f"INSERT INTO text (old_id, old_text, old_flags) SELECT STRAIGHT_JOIN {text0} + s.seq, {text}, 'utf-8' "
                f"FROM {span} {joins}"
            )
            known = [(seq, len(each_), sha1_base36(each_)) for seq, each_ in enumerate(texts(start, end, each), start)]
            cursor.execute(
                "INSERT INTO content (content_id, content_size, content_sha1, content_model, content_address) VALUES "
                + ",".join(f"({content0 + n},{size},'{sha1.decode()}',1,'tt:{text0 + n}')" for n, size, sha1 in known)
            )
            for statement in (
                f"INSERT INTO slots SELECT {rev0} + s.seq, 1, {content0} + s.seq, {rev0} + s.seq FROM {span}",
                "INSERT INTO revision (rev_id, rev_page, rev_comment_id, rev_actor, rev_timestamp, rev_minor_edit, "
                "rev_deleted, rev_len, rev_parent_id, rev_sha1) SELECT "
                f"{rev0} + s.seq, {page0} + 1 + ((s.seq - 1) DIV {each}), 0, {actor0} + s.seq MOD 500, "
                "DATE_FORMAT(FROM_UNIXTIME(1600000000 + s.seq * 60), '%Y%m%d%H%i%s'), s.seq MOD 2, 0, "
                f"content_size, IF((s.seq - 1) MOD {each} = 0, 0, {rev0} + s.seq - 1), content_sha1 "
                f"FROM {span} JOIN content ON content_id = {content0} + s.seq",
                "INSERT INTO revision_comment_temp (revcomment_rev, revcomment_comment_id) SELECT "
                f"{rev0} + s.seq, {comment0} + s.seq MOD 5000 FROM {span}",
            ):
                cursor.execute(statement)
        cursor.execute(
            "INSERT INTO page (page_id, page_namespace, page_title, page_is_redirect, page_is_new, page_random, "
            "page_touched, page_latest, page_len) SELECT "
            f"{page0} + s.seq, 0, CONCAT('Article_', s.seq), 0, 0, RAND(), '20260801000000', {rev0} + s.seq * {each}, "
            f"1800 FROM seq_1_to_{PAGES} s"
        )
        cursor.execute("DROP TABLE bench_paragraph")
        cursor.execute("ANALYZE TABLE page, revision, slots, content, text, comment, revision_comment_temp")
    connection.close()
    return PAGES * each
