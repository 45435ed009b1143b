"""A large wiki in MediaWiki's own schema on a MariaDB, filled by SQL: importDump does some 160 revisions a second."""

from __future__ import annotations

from typing import Any

import pymysql

PAGES = 10_000
BATCH = 20_000


def fill(connect: dict[str, Any], revisions: int, *, text_bytes: int = 1800) -> int:
    """Add pages and revisions to an installed wiki; returns the number of revisions."""
    connection = pymysql.connect(**connect, autocommit=True)
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
        words = "CONCAT('Article ', s.seq, ' & <ref>', MD5(s.seq), '</ref> ')"
        text = f"RPAD({words}, {text_bytes}, 'words of a text, and more & ')"
        for start in range(1, PAGES * each + 1, BATCH):
            span = f"seq_{start}_to_{min(start + BATCH - 1, PAGES * each)} s"
            for statement in (
                f"INSERT INTO text (old_id, old_text, old_flags) SELECT {text0} + s.seq, {text}, 'utf-8' FROM {span}",
                "INSERT INTO content (content_id, content_size, content_sha1, content_model, content_address) SELECT "
                f"{content0} + s.seq, LENGTH(t.old_text), "
                "LPAD(LOWER(CONV(LEFT(SHA1(t.old_text), 15), 16, 36)), 31, '0'), 1, "
                f"CONCAT('tt:', t.old_id) FROM {span} JOIN text t ON t.old_id = {text0} + s.seq",
                f"INSERT INTO slots SELECT {rev0} + s.seq, 1, {content0} + s.seq, {rev0} + s.seq FROM {span}",
                "INSERT INTO revision (rev_id, rev_page, rev_comment_id, rev_actor, rev_timestamp, rev_minor_edit, "
                "rev_deleted, rev_len, rev_parent_id, rev_sha1) SELECT "
                f"{rev0} + s.seq, {page0} + 1 + ((s.seq - 1) DIV {each}), 0, {actor0} + s.seq MOD 500, "
                "DATE_FORMAT(FROM_UNIXTIME(1600000000 + s.seq * 60), '%%Y%%m%%d%%H%%i%%s'), s.seq MOD 2, 0, "
                f"{text_bytes}, IF((s.seq - 1) MOD {each} = 0, 0, {rev0} + s.seq - 1), "
                f"LPAD(LOWER(CONV(s.seq * 7919, 10, 36)), 31, '0') FROM {span}",
                "INSERT INTO revision_comment_temp (revcomment_rev, revcomment_comment_id) SELECT "
                f"{rev0} + s.seq, {comment0} + s.seq MOD 5000 FROM {span}",
            ):
                cursor.execute(statement.replace("%%", "%"))
        cursor.execute(
            "INSERT INTO page (page_id, page_namespace, page_title, page_is_redirect, page_is_new, page_random, "
            "page_touched, page_latest, page_len) SELECT "
            f"{page0} + s.seq, 0, CONCAT('Article_', s.seq), 0, 0, RAND(), '20260801000000', {rev0} + s.seq * {each}, "
            f"{text_bytes} FROM seq_1_to_{PAGES} s"
        )
        cursor.execute("ANALYZE TABLE page, revision, slots, content, text, comment, revision_comment_temp")
    connection.close()
    return PAGES * each
