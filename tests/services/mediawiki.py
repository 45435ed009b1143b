"""A real MediaWiki of Debian's, installed into a directory of its own: on SQLite or on a MariaDB that a test runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from custody.wiki_dump.engine.rows import Address
from services.need import need

MEDIAWIKI = Path("/usr/share/mediawiki")


@dataclass(frozen=True)
class MediaWiki:
    """An installed wiki: its settings, and how to reach its database."""

    home: Path
    name: str
    address: Address

    @property
    def settings(self) -> Path:
        """Its LocalSettings.php."""
        return self.home / "LocalSettings.php"

    def maintenance(self, script: str, *arguments: str, stdin: bytes | None = None) -> bytes:
        """Run one of its maintenance scripts and return what it wrote."""
        argv = [need("php", package="php-cli"), str(MEDIAWIKI / "maintenance" / script), "--conf", str(self.settings)]
        done = subprocess.run([*argv, *arguments], input=stdin, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0, (script, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def dump(self, *arguments: str) -> bytes:
        """What its own dumpBackup.php makes."""
        return self.maintenance("dumpBackup.php", "--quiet", *arguments)

    def sql(self, *statements: str) -> None:
        """Change its tables behind its back."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    @property
    def url(self) -> str:
        """Its database for SQLAlchemy."""
        address = self.address
        if address.sqlite:
            return f"sqlite:///{address.sqlite}"
        return (
            f"mysql+pymysql://{address.user}:{address.password}@{address.host}:{address.port}/{address.database}"
            "?charset=utf8mb4"
        )


def install(home: Path, name: str = "testwiki", *, mariadb: str | None = None, extra: Sequence[str] = ()) -> MediaWiki:
    """Install a wiki into ``home``. :param mariadb: SQLAlchemy URL of an empty database; without one, SQLite."""
    php = need("php", package="php-cli")
    if not (MEDIAWIKI / "maintenance/install.php").exists():
        pytest.skip("needs MediaWiki: apt-get install mediawiki php-mysql php-sqlite3 php-mbstring php-xml php-intl")
    home.mkdir(parents=True, exist_ok=True)
    if mariadb:
        url = sa.make_url(mariadb)
        address = Address(
            url.database or "", None, url.host or "", url.port or 3306, url.username or "", str(url.password)
        )
        where = [
            *("--dbtype=mysql", f"--dbserver={address.host}:{address.port}", f"--dbname={address.database}"),
            *(f"--dbuser={address.user}", f"--dbpass={address.password}"),
        ]
    else:
        address = Address(name, home / f"{name}.sqlite")
        where = ["--dbtype=sqlite", f"--dbpath={home}", f"--dbname={name}"]
    argv = [
        *(php, str(MEDIAWIKI / "maintenance/install.php"), f"--confpath={home}", *where, "--server=http://localhost"),
        *("--scriptpath=/w", "--pass=Adm1nPassw0rd99", "Test & Wiki", "Admin"),
    ]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=120, env={**os.environ, "TMPDIR": str(home)})
    assert done.returncode == 0 and (home / "LocalSettings.php").exists(), (done.stdout[-2000:], done.stderr[-2000:])
    with (home / "LocalSettings.php").open("a") as settings:
        settings.write("".join(f"\n{line}" for line in ("$wgJobRunRate = 0;", *extra)) + "\n")
    return MediaWiki(home, address.database, address)
