"""A sample wiki in a SQLite file: MediaWiki's schema, a few hundred revisions, no MediaWiki needed to make it."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from pathlib import Path

_SCHEMA = """
CREATE TABLE page (page_id INTEGER PRIMARY KEY, page_namespace INTEGER NOT NULL, page_title BLOB NOT NULL,
  page_is_redirect INTEGER NOT NULL DEFAULT 0, page_is_new INTEGER NOT NULL DEFAULT 0, page_random REAL NOT NULL,
  page_touched BLOB NOT NULL, page_latest INTEGER NOT NULL, page_len INTEGER NOT NULL, page_content_model BLOB);
CREATE UNIQUE INDEX page_name_title ON page (page_namespace, page_title);
CREATE TABLE revision (rev_id INTEGER PRIMARY KEY, rev_page INTEGER NOT NULL, rev_comment_id INTEGER NOT NULL,
  rev_actor INTEGER NOT NULL, rev_timestamp BLOB NOT NULL, rev_minor_edit INTEGER NOT NULL DEFAULT 0,
  rev_deleted INTEGER NOT NULL DEFAULT 0, rev_len INTEGER, rev_parent_id INTEGER, rev_sha1 BLOB NOT NULL);
CREATE INDEX rev_page_timestamp ON revision (rev_page, rev_timestamp);
CREATE TABLE slots (slot_revision_id INTEGER NOT NULL, slot_role_id INTEGER NOT NULL, slot_content_id INTEGER NOT NULL,
  slot_origin INTEGER NOT NULL, PRIMARY KEY (slot_revision_id, slot_role_id));
CREATE TABLE slot_roles (role_id INTEGER PRIMARY KEY, role_name BLOB NOT NULL);
CREATE TABLE content (content_id INTEGER PRIMARY KEY, content_size INTEGER NOT NULL, content_sha1 BLOB NOT NULL,
  content_model INTEGER NOT NULL, content_address BLOB NOT NULL);
CREATE TABLE content_models (model_id INTEGER PRIMARY KEY, model_name BLOB NOT NULL);
CREATE TABLE text (old_id INTEGER PRIMARY KEY, old_text BLOB NOT NULL, old_flags BLOB NOT NULL);
CREATE TABLE actor (actor_id INTEGER PRIMARY KEY, actor_user INTEGER, actor_name BLOB NOT NULL);
CREATE TABLE comment (comment_id INTEGER PRIMARY KEY, comment_hash INTEGER NOT NULL, comment_text BLOB NOT NULL,
  comment_data BLOB);
CREATE TABLE redirect (rd_from INTEGER PRIMARY KEY, rd_namespace INTEGER NOT NULL, rd_title BLOB NOT NULL,
  rd_interwiki TEXT, rd_fragment BLOB);
CREATE TABLE logging (log_id INTEGER PRIMARY KEY, log_type BLOB NOT NULL, log_action BLOB NOT NULL,
  log_timestamp BLOB NOT NULL, log_actor INTEGER NOT NULL, log_namespace INTEGER NOT NULL, log_title BLOB NOT NULL,
  log_page INTEGER, log_comment_id INTEGER NOT NULL, log_params BLOB NOT NULL, log_deleted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE site_stats (ss_row_id INTEGER PRIMARY KEY, ss_total_edits INTEGER, ss_total_pages INTEGER);
CREATE TABLE category (cat_id INTEGER PRIMARY KEY, cat_title BLOB NOT NULL, cat_pages INTEGER NOT NULL);
CREATE TABLE user (user_id INTEGER PRIMARY KEY, user_name BLOB NOT NULL, user_email BLOB NOT NULL);
CREATE TABLE watchlist (wl_id INTEGER PRIMARY KEY, wl_user INTEGER NOT NULL, wl_title BLOB NOT NULL);
CREATE TABLE archive (ar_id INTEGER PRIMARY KEY, ar_title BLOB NOT NULL);
"""

_WORDS = (
    *("tide", "harbour", "archive", "ferry", "lantern", "granite", "orchard", "ledger", "compass"),
    *("meadow", "signal", "bakery", "quarry", "heron", "tunnel"),
)
_PEOPLE = ((1, "Ada"), (2, "Bela"), (None, "192.0.2.44"), (None, "2001:DB8:0:0:0:0:0:7"))


def make_sample_wiki(path: Path, *, pages: int = 40, revisions: int = 6, seed: int = 7) -> Path:
    """Make a wiki: ``pages`` pages with ``revisions`` revisions each, talk and user pages, a redirect, a log."""
    rng = random.Random(f"{path.stem}{seed}")  # noqa: S311 - sample data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _SCHEMA)
    database.execute("BEGIN")
    database.execute("INSERT INTO slot_roles VALUES (1, 'main')")
    database.execute("INSERT INTO content_models VALUES (1, 'wikitext')")
    database.executemany("INSERT INTO actor VALUES (?, ?, ?)", [(n, *who) for n, who in enumerate(_PEOPLE, 1)])
    database.executemany("INSERT INTO user VALUES (?, ?, ?)", [(1, "Ada", "ada@example.org"), (2, "Bela", "")])
    database.execute("INSERT INTO watchlist VALUES (1, 1, 'Harbour')")
    rev_id = 0
    for page_id in range(1, pages + 1):
        namespace = (0, 0, 0, 1, 2, 10)[page_id % 6]
        title = f"{rng.choice(_WORDS).capitalize()}_{rng.choice(_WORDS)}_{page_id}"
        is_redirect = page_id % 11 == 5
        text = "#REDIRECT [[Somewhere & else]]" if is_redirect else f"'''{title.replace('_', ' ')}''' is a <page>.\n"
        for turn in range(1 if is_redirect else revisions):
            rev_id += 1
            text += "" if is_redirect else f"\n== Part {turn} ==\n{' '.join(rng.choices(_WORDS, k=60))} & more.\n"
            _add_revision(database, rev_id, page_id, text.encode(), first=turn == 0, rng=rng)
        row = (page_id, namespace, title, int(is_redirect), rng.random(), rev_id, len(text.encode()))
        database.execute(
            "INSERT INTO page VALUES (?, ?, CAST(? AS BLOB), ?, 0, ?, '20260801000000', ?, ?, 'wikitext')", row
        )
        if is_redirect:
            database.execute("INSERT INTO redirect VALUES (?, 0, 'Somewhere_&_else', '', '')", (page_id,))
        log = (page_id, "create", "create", "20260801000000", 1 + page_id % 2, namespace, title, page_id)
        database.execute("INSERT INTO logging VALUES (?, ?, ?, ?, ?, ?, CAST(? AS BLOB), ?, 1, '', 0)", log)
    database.execute("INSERT INTO site_stats VALUES (1, ?, ?)", (rev_id, pages))
    database.execute("INSERT INTO category VALUES (1, 'Harbours', 3)")
    database.execute("COMMIT")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("PRAGMA journal_mode=DELETE")
    database.close()
    return path


def _add_revision(
    database: sqlite3.Connection, rev_id: int, page_id: int, text: bytes, *, first: bool, rng: random.Random
) -> None:
    sha1 = _base36(hashlib.sha1(text, usedforsecurity=False).digest())
    minute = rev_id % 60
    time = f"202607{1 + (rev_id // 60) % 28:02}12{minute:02}00"
    comment = f"change {rev_id} & <more>"
    database.execute("INSERT INTO text VALUES (?, ?, 'utf-8')", (rev_id, text))
    database.execute("INSERT INTO content VALUES (?, ?, ?, 1, ?)", (rev_id, len(text), sha1, f"tt:{rev_id}"))
    database.execute("INSERT INTO slots VALUES (?, 1, ?, ?)", (rev_id, rev_id, rev_id))
    database.execute("INSERT INTO comment VALUES (?, 0, ?, NULL)", (rev_id, comment))
    database.execute(
        "INSERT INTO revision VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
        (rev_id, page_id, rev_id, rng.randint(1, 4), time, rev_id % 2, len(text), 0 if first else rev_id - 1, sha1),
    )


def _base36(digest: bytes) -> str:
    number, digits = int.from_bytes(digest, "big"), ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits.rjust(31, "0")
