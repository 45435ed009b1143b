"""Wiki dump: the sql engine against MediaWiki's own scripts and mariadb-dump, on one MariaDB; and the tools for bz2."""

from __future__ import annotations

import bz2
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pymysql
from bench.measure import Contender, Goal, Result, compare, run_once, scratch
from bench.wiki_fill import PAGES, fill

from custody_demo.processes import free_ports

OURS = str(Path(__file__).parent / "wiki_ours.py")
REVISIONS = 200_000
MEDIAWIKI = Path("/usr/share/mediawiki/maintenance")
FIRST = 2  # MediaWiki's own first page


@dataclass(frozen=True)
class Wiki:
    """A filled MediaWiki on a MariaDB."""

    home: Path
    env: dict[str, str]

    def script(self, *arguments: str) -> list[str]:
        """dumpBackup.php."""
        conf = str(self.home / "LocalSettings.php")
        return ["php", str(MEDIAWIKI / "dumpBackup.php"), "--conf", conf, "--quiet", *arguments]


@contextmanager
def _wiki(revisions: int) -> Iterator[Wiki]:
    home = Path(tempfile.mkdtemp(prefix="custody-bench-wiki-", dir="/tmp"))
    user = pwd.getpwnam("mysql")
    os.chown(home, user.pw_uid, user.pw_gid)
    home.chmod(0o755)
    as_mysql = ["setpriv", "--reuid=mysql", f"--regid={user.pw_gid}", "--clear-groups"]
    data, port, password = home / "data", free_ports(1)[0], secrets.token_hex(16)
    argv = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    subprocess.run([*as_mysql, *argv, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
    first = home / "first.sql"
    first.write_text(f"CREATE USER w@'127.0.0.1' IDENTIFIED BY '{password}';\nGRANT ALL ON *.* TO w@'127.0.0.1';\n")
    server = subprocess.Popen(
        [
            *(*as_mysql, "mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={home}/socket"),
            *("--bind-address=127.0.0.1", f"--port={port}", f"--init-file={first}", "--skip-name-resolve"),
            *("--innodb-buffer-pool-size=1G", "--innodb-flush-log-at-trx-commit=0", "--character-set-server=utf8mb4"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        connect = {"host": "127.0.0.1", "port": port, "user": "w", "password": password}
        _wait(connect)
        _install(home, port, password)
        fill({**connect, "database": "benchwiki"}, revisions)
        env = {"WIKI_DB": "benchwiki", "WIKI_PORT": str(port), "WIKI_USER": "w", "WIKI_PASSWORD": password}
        yield Wiki(home, {**env, "MYSQL_PWD": password})
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(home, ignore_errors=True)


def _wait(connect: dict[str, object]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            pymysql.connect(**connect).close()
        except pymysql.err.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _install(home: Path, port: int, password: str) -> None:
    argv = [
        *("php", str(MEDIAWIKI / "install.php"), f"--confpath={home}", "--dbtype=mysql", "--dbname=benchwiki"),
        *(f"--dbserver=127.0.0.1:{port}", "--dbuser=w", f"--dbpass={password}", "--server=http://localhost"),
        *("--scriptpath=/w", f"--pass={password}", "Bench", "Admin"),
    ]
    subprocess.run(argv, check=True, capture_output=True)


LAST = FIRST + PAGES
NOWHERE = os.devnull


def _ours(*arguments: object) -> list[str]:
    return [sys.executable, OURS, *map(str, arguments)]


def _two_parts(what: str) -> list[str]:
    half = FIRST + PAGES // 2
    script = f'"$0" "$1" {what} {FIRST} {half - 1} {NOWHERE} & "$0" "$1" {what} {half} {LAST} {NOWHERE} && wait $!'
    return ["bash", "-c", script, sys.executable, OURS]


def _revisions(scale: float) -> int:
    return max(10_000, int(REVISIONS * scale))


def wiki_full(*, rounds: int, scale: float) -> Result:
    """Full history, without compression: both passes in one process, and the second one alone."""
    revisions = _revisions(scale)
    with _wiki(revisions) as wiki, scratch(1 << 30) as home:
        stubs = str(home / "stubs.xml.gz")
        run_once(_ours("stub", FIRST, LAST, stubs), Contender("stubs", list, env=wiki.env))
        theirs = wiki.script("--full", f"--start={FIRST}", f"--end={LAST + 1}", f"--output=file:{NOWHERE}")
        xml = ["mariadb-dump", "--xml", "--quick", "--skip-lock-tables", "-h127.0.0.1", f"-P{wiki.env['WIKI_PORT']}"]
        xml += ["-uw", "benchwiki", "text", f"--result-file={NOWHERE}"]
        contenders = [
            Contender("dumpBackup.php", lambda: theirs),
            Contender("engine sql", lambda: _ours("full", FIRST, LAST, NOWHERE), env=wiki.env),
            Contender("engine sql, two parts", lambda: _two_parts("full"), env=wiki.env),
            Contender("engine sql, text pass over stubs", lambda: _ours("text", stubs, NOWHERE), env=wiki.env),
            Contender("mariadb-dump --xml, text only", lambda: xml, env=wiki.env),
        ]
        goals = [Goal("engine sql", "speed", at_least=15), Goal("engine sql", "rss_mb", at_most=80)]
        job = f"full history of {revisions} revisions, not compressed"
        result = compare("wiki_full", job, contenders, rounds=rounds, goals=goals)
    lines = {line.contender: line for line in result.lines}
    one, two = lines["engine sql"], lines["engine sql, two parts"]
    text, dump = lines["engine sql, text pass over stubs"], lines["mariadb-dump --xml, text only"]
    speed, cpu = one.wall_s / two.wall_s, two.cpu_s / one.cpu_s
    result.notes.append(
        f"two parts against one: {speed:.2f}x of its speed for {cpu:.2f}x of its CPU (goal 1.8x of its speed; one part "
        "keeps one core busy and the server half of another: two parts ask for three)"
    )
    speed, cpu = dump.wall_s / text.wall_s, text.cpu_s / dump.cpu_s
    result.notes.append(
        f"the text pass against mariadb-dump --xml of the same text: {speed:.2f}x of its speed (goal 0.6x), {cpu:.2f}x "
        "of its CPU"
    )
    return result


def wiki_stub(*, rounds: int, scale: float) -> Result:
    """Stubs."""
    revisions = _revisions(scale)
    with _wiki(revisions) as wiki:
        theirs = wiki.script("--full", "--stub", f"--start={FIRST}", f"--end={LAST + 1}", f"--output=file:{NOWHERE}")
        contenders = [
            Contender("dumpBackup.php", lambda: theirs),
            Contender("engine sql", lambda: _ours("stub", FIRST, LAST, NOWHERE), env=wiki.env),
            Contender("engine sql, two parts", lambda: _two_parts("stub"), env=wiki.env),
        ]
        goals = [Goal("engine sql", "speed", at_least=4)]
        return compare("wiki_stub", f"stubs of {revisions} revisions", contenders, rounds=rounds, goals=goals)


def wiki_pack(*, rounds: int, scale: float) -> Result:
    """A bz2 file of a dump out of the database, against lbzip2 of the same text that lies there already."""
    revisions = _revisions(scale)
    with _wiki(revisions) as wiki, scratch(2 << 30) as home:
        stubs, text, packed = home / "stubs.xml.gz", home / "text.xml", home / "packed.bz2"
        run_once(_ours("stub", FIRST, LAST, stubs), Contender("stubs", list, env=wiki.env))
        run_once(_ours("text", stubs, text), Contender("text", list, env=wiki.env))
        script = 'lbzip2 -n 2 -c "$0" > "$1" && sync "$1"'
        contenders = [
            Contender("lbzip2 -n 2", lambda: ["bash", "-c", script, str(text), str(packed)]),
            Contender("engine sql through lbzip2 -n 2", lambda: _ours("pack", stubs, packed), env=wiki.env),
        ]
        goals = [Goal("engine sql through lbzip2 -n 2", "speed", at_least=0.95)]
        job = f"{text.stat().st_size / 1e6:.0f} MB of text of {revisions} revisions compressed with bz2"
        return compare("wiki_pack", job, contenders, rounds=rounds, goals=goals)


def wiki_bz2(*, rounds: int, scale: float) -> Result:
    """A whole verification against the best decompressor, and the quick one against bzip2 -t."""
    with scratch(1 << 30) as home:
        path = home / "x-pages.xml.bz2"
        pages = max(2000, int(200_000 * scale))
        _write_dump(path, pages)
        size = path.stat().st_size / 1e6
        contenders = [
            Contender("bzip2 -t", lambda: ["bzip2", "-t", str(path)]),
            Contender("lbzip2 -t", lambda: ["lbzip2", "-t", str(path)]),
            Contender("custody verify", lambda: _ours("verify", path)),
            Contender("custody verify --quick", lambda: _ours("quick", path)),
        ]
        goals = [Goal("custody verify --quick", "cpu", at_most=0.1)]
        result = compare("wiki_bz2", f"a bz2 dump of {size:.0f} MB", contenders, rounds=rounds, goals=goals)
    lines = {line.contender: line for line in result.lines}
    best = min(lines["bzip2 -t"].wall_s, lines["lbzip2 -t"].wall_s)
    ours = lines["custody verify"]
    time, cpu = ours.wall_s / best, ours.cpu_s / lines["lbzip2 -t"].cpu_s
    result.notes.append(
        f"verify takes {time:.2f}x of the time of the faster of the two (goal 1.1x), {cpu:.2f}x of the CPU of "
        "lbzip2 -t; it makes three digests and counts pages and revisions"
    )
    return result


def _write_dump(path: Path, pages: int) -> None:
    with path.open("wb") as out:
        packer = subprocess.Popen(["lbzip2", "-c"], stdin=subprocess.PIPE, stdout=out)
        assert packer.stdin is not None
        packer.stdin.write(b"<mediawiki>\n  <siteinfo>\n  </siteinfo>\n")
        for n in range(1, pages + 1):
            packer.stdin.write(_page(n, secrets.token_hex(875).encode()))
        packer.stdin.write(b"</mediawiki>\n")
        packer.stdin.close()
        packer.wait()


def _page(number: int, text: bytes) -> bytes:
    return (
        b"  <page>\n    <title>T%d</title>\n    <ns>0</ns>\n    <id>%d</id>\n    <revision>\n      <id>%d</id>\n"
        b"      <text>%b</text>\n    </revision>\n  </page>\n" % (number, number, number, text)
    )


def wiki_find(*, rounds: int, scale: float) -> Result:
    """A page in a dump of 1 GB: the goal is in seconds."""
    with scratch(2 << 30) as home:
        path = home / "x-pages.xml.bz2"
        pages = _write_large(path, int((1 << 30) * scale))
        size = path.stat().st_size / 1e6
        contenders = [
            Contender("custody find-page, the middle", lambda: _ours("find", path, pages // 2)),
            Contender("custody find-page, near the end", lambda: _ours("find", path, pages - 2)),
        ]
        goals = [Goal(each.name, "wall_s", at_most=1.0) for each in contenders]
        return compare("wiki_find", f"one page in a bz2 dump of {size:.0f} MB", contenders, rounds=rounds, goals=goals)


def _write_large(path: Path, size_bytes: int) -> int:
    """Pages of some blocks each, whose text is the same and compressed once; returns their number."""
    text = bz2.compress(secrets.token_hex(900_000).encode())
    tail = _page(0, b"|").partition(b"|")[2]
    number = 0
    with path.open("wb") as out:
        out.write(bz2.compress(b"<mediawiki>\n  <siteinfo>\n  </siteinfo>\n"))
        while out.tell() < size_bytes:
            number += 1
            head = _page(number, b"|").partition(b"|")[0]
            out.write(bz2.compress(head) + text + bz2.compress(tail))
        out.write(bz2.compress(b"</mediawiki>\n"))
    return number
