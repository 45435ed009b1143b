"""Tables as SQL: MariaDB's own client reads them back; rows are counted; a snapshot is one moment."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pymysql
import pytest
import sqlalchemy as sa

from custody.faults import Fault
from custody.wiki_dump.engine.rows import MysqlRows, SqliteRows, opened
from custody.wiki_dump.jobs import PRIVATE_TABLES, PUBLIC_TABLES
from custody.wiki_dump.tabledump import table_sql
from services.databases import DatabaseServer
from services.mediawiki import MediaWiki
from services.need import need
from wiki_farm import FarmSite

TABLES = ("page", "redirect", "category", "site_stats", "user_groups")


def whole(rows: MysqlRows | SqliteRows, table: str) -> bytes:
    return b"".join(chunk for chunk, _ in table_sql(rows, "testwiki", table))


@pytest.mark.service
def test_mariadb_s_own_client_reads_the_tables_back(
    mariadb_wiki: MediaWiki, mariadb: DatabaseServer, tmp_path: Path
) -> None:
    url = sa.make_url(mariadb.new_database())
    client = need("mariadb", package="mariadb-client")
    options = tmp_path / "client.cnf"
    options.write_text(f"[client]\nuser={url.username}\npassword={url.password}\nhost={url.host}\nport={url.port}\n")
    with opened(mariadb_wiki.address) as rows:
        assert rows.snapshot()["engine"]
        for table in TABLES:
            content = whole(rows, table)
            assert content.splitlines()[-1].startswith(b"-- Dump completed on ")
            subprocess.run([client, f"--defaults-extra-file={options}", url.database], input=content, check=True)
    old, new = mariadb_wiki.address, url
    with (
        pymysql.connect(host=old.host, port=old.port, user=old.user, password=old.password) as connection,
        connection.cursor() as cursor,
    ):
        for table in TABLES:
            cursor.execute(f"CHECKSUM TABLE {old.database}.{table}, {new.database}.{table}")
            sums = [row[1] for row in cursor.fetchall()]
            assert sums[0] == sums[1] is not None, table


@pytest.mark.service
def test_bytes_of_every_kind_come_back(mariadb: DatabaseServer) -> None:
    url = sa.make_url(mariadb.new_database())
    everything = bytes(range(256)) + b"'\\\"\r\n\x1a\0;--"
    with (
        pymysql.connect(
            host=url.host,
            port=url.port,
            user=url.username,
            password=str(url.password),
            database=url.database,
            autocommit=True,
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("CREATE TABLE `odd ``name` (a INT, b BLOB, c DOUBLE, d VARBINARY(600), e DECIMAL(9,2))")
        cursor.execute("INSERT INTO `odd ``name` VALUES (-7, %s, 1.5, NULL, 12.50)", (everything,))
        cursor.execute("INSERT INTO `odd ``name` VALUES (NULL, '', 0, %s, NULL)", (everything,))
        address = _address(url)
        with opened(address) as rows:
            content = whole(rows, "odd `name")  # type: ignore[arg-type]
        cursor.execute("SELECT * FROM `odd ``name`")
        before = cursor.fetchall()
        client = [need("mariadb"), f"-h{url.host}", f"-P{url.port}", f"-u{url.username}", url.database]
        subprocess.run(client, input=content, check=True, env={"MYSQL_PWD": str(url.password)})
        cursor.execute("SELECT * FROM `odd ``name`")
        assert cursor.fetchall() == before


def _address(url: sa.URL) -> object:
    from custody.wiki_dump.engine.rows import Address

    return Address(url.database or "", None, url.host or "", url.port or 0, url.username or "", str(url.password))


def test_rows_that_are_missing_at_the_end_are_noticed(farm: FarmSite) -> None:
    path = farm.add_wiki("aawiki")

    class Short(SqliteRows):
        def query(self, sql: str):  # type: ignore[no-untyped-def]
            found = list(super().query(sql))
            return iter(found[:-1] if sql.startswith("SELECT * FROM") else found)

    from custody.wiki_dump.engine.rows import Address

    with pytest.raises(Fault, match="has 12 rows, but 11 were read"):
        whole(Short(Address("aawiki", path)), "page")


def test_a_snapshot_does_not_see_what_comes_later(mariadb_wiki: MediaWiki) -> None:
    with opened(mariadb_wiki.address) as rows, opened(mariadb_wiki.address) as other:
        rows.snapshot()
        before = next(rows.query("SELECT COUNT(*) FROM category"))
        address = mariadb_wiki.address
        with (
            pymysql.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password,
                database=address.database,
                autocommit=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("INSERT INTO category (cat_title, cat_pages) VALUES ('Later', 1)")
            try:
                assert next(rows.query("SELECT COUNT(*) FROM category")) == before
                assert next(other.query("SELECT COUNT(*) FROM category")) != before
            finally:
                cursor.execute("DELETE FROM category WHERE cat_title = 'Later'")


def test_what_nobody_named_is_private() -> None:
    assert not set(PUBLIC_TABLES) & set(PRIVATE_TABLES)
    for name in ("user", "user_properties", "watchlist", "ipblocks", "archive", "revision", "text", "content", "actor"):
        assert name not in PUBLIC_TABLES
    for name in (
        "cu_changes",
        "recentchanges",
        "bot_passwords",
        "comment",
        "slots",
        "filearchive",
        "objectcache",
        "job",
    ):
        assert name not in PUBLIC_TABLES


def test_tables_nobody_knows_are_in_no_dump(farm: FarmSite) -> None:
    from custody.wiki_dump.runs import Options
    from custody.wiki_dump.whole import dump

    farm.add_wiki("aawiki")
    farm.lists(["aawiki"])
    farm.database("aawiki").execute("CREATE TABLE secrets (word TEXT)")
    farm.configure(private_tables=True)
    dump(farm.ledger, "farm", farm.config, who="t", wiki="aawiki", date="20260801", options=Options(jobs=("tables",)))
    names = {path.name for path in farm.home.rglob("*-20260801-*.sql.gz")}
    assert not any("secrets" in name or "revision" in name for name in names) and len(names) == 8
    page = farm.public("aawiki", "20260801") / "aawiki-20260801-page.sql.gz"
    assert b"INSERT INTO `page` VALUES (1," in gzip.decompress(page.read_bytes())
