"""Wiki dump: the sql engine against MediaWiki's own scripts and mariadb-dump, on one MariaDB; and the tools for bz2."""

from __future__ import annotations

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
from bench.measure import Contender, Goal, Result, compare
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


def _compare(name: str, job: str, what: str, goal: float, *, rounds: int, scale: float) -> Result:
    revisions = max(10_000, int(REVISIONS * scale))
    with _wiki(revisions) as wiki:
        whole = ["stub"] if what == "stub" else []
        span = [f"--start={FIRST}", f"--end={FIRST + PAGES + 1}"]
        theirs = wiki.script("--full", *[f"--{word}" for word in whole], *span, "--output=file:/dev/null")
        half = FIRST + PAGES // 2
        everything = [sys.executable, OURS, what, str(FIRST), str(FIRST + PAGES)]
        two = f'"$0" "$1" {what} {FIRST} {half - 1} & "$0" "$1" {what} {half} {FIRST + PAGES} && wait $!'
        contenders = [
            Contender("dumpBackup.php", lambda: theirs),
            Contender("engine sql", lambda: everything, env=wiki.env),
            Contender("engine sql, two parts", lambda: ["bash", "-c", two, sys.executable, OURS], env=wiki.env),
        ]
        if what == "full":
            argv = ["mariadb-dump", "--xml", "--quick", "--skip-lock-tables", "-h127.0.0.1"]
            argv += [f"-P{wiki.env['WIKI_PORT']}", "-uw", "benchwiki", "text", "--result-file=/dev/null"]
            contenders.append(Contender("mariadb-dump --xml, text only", lambda: argv, env=wiki.env))
        goals = [Goal("engine sql", "speed", at_least=goal)]
        result = compare(name, f"{job} of {revisions} revisions", contenders, rounds=rounds, goals=goals)
    lines = {line.contender: line for line in result.lines}
    ours = lines["engine sql"]
    result.notes.append(
        f"two parts against one: {ours.wall_s / lines['engine sql, two parts'].wall_s:.2f}x (goal 1.8x)"
    )
    if what == "full":
        dump = lines["mariadb-dump --xml, text only"]
        result.notes.append(f"against mariadb-dump --xml: {dump.wall_s / ours.wall_s:.2f}x of its speed (goal 0.6x)")
    return result


def wiki_full(*, rounds: int, scale: float) -> Result:
    """Full history, without compression."""
    return _compare("wiki_full", "full history, not compressed,", "full", 15, rounds=rounds, scale=scale)


def wiki_stub(*, rounds: int, scale: float) -> Result:
    """Stubs."""
    return _compare("wiki_stub", "stubs", "stub", 4, rounds=rounds, scale=scale)


def wiki_bz2(*, rounds: int, scale: float) -> Result:
    """A whole verification against the best decompressor, and the quick one against bzip2 -t."""
    home = Path(tempfile.mkdtemp(prefix="custody-bench-bz2-", dir="/dev/shm"))
    try:
        path = home / "x-pages.xml.bz2"
        pages = max(2000, int(60_000 * scale))
        with path.open("wb") as out:
            packer = subprocess.Popen(["lbzip2", "-c"], stdin=subprocess.PIPE, stdout=out)
            assert packer.stdin is not None
            packer.stdin.write(b"<mediawiki>\n  <siteinfo>\n  </siteinfo>\n")
            for n in range(1, pages + 1):
                words = " ".join(secrets.token_hex(3) for _ in range(250))
                packer.stdin.write(
                    f"  <page>\n    <title>T{n}</title>\n    <ns>0</ns>\n    <id>{n}</id>\n    <revision>\n"
                    f"      <id>{n}</id>\n      <text>{words}</text>\n    </revision>\n  </page>\n".encode()
                )
            packer.stdin.write(b"</mediawiki>\n")
            packer.stdin.close()
            packer.wait()
        size = path.stat().st_size / 1e6
        contenders = [
            Contender("bzip2 -t", lambda: ["bzip2", "-t", str(path)]),
            Contender("lbzip2 -t", lambda: ["lbzip2", "-t", str(path)]),
            Contender("custody verify", lambda: [sys.executable, OURS, "verify", str(path)]),
            Contender("custody verify --quick", lambda: [sys.executable, OURS, "quick", str(path)]),
            Contender("custody find-page", lambda: [sys.executable, OURS, "find", str(path), str(pages // 3)]),
        ]
        goals = [Goal("custody verify --quick", "speed", at_least=10)]
        result = compare("wiki_bz2", f"a bz2 dump of {size:.0f} MB", contenders, rounds=rounds, goals=goals)
        lines = {line.contender: line for line in result.lines}
        ratio = lines["custody verify"].wall_s / lines["lbzip2 -t"].wall_s
        result.notes.append(f"verify takes {ratio:.2f}x of lbzip2 -t (goal 1.1x), with three digests and counts")
        return result
    finally:
        shutil.rmtree(home, ignore_errors=True)
