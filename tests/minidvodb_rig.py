"""What the tests of minidvodb work on: a ledger with databases and destinations, and the steps by name."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from custody.host import Host, LocalHost, SshTarget
from custody.ledger import Ledger
from custody.ledger.tables import event, metadata
from custody.minidvodb import catalogue, destination, load, queue, switches, tables
from custody.minidvodb.destination import Destination
from custody.minidvodb.records import Copy
from custody.minidvodb.records import load as load_copy
from custody.minidvodb.run import STEPS
from custody.minidvodb.ssh import SharedSshHost
from custody_demo.minidvodb_sample import T0, Shape, make
from empty_ledger import new_ledger
from services.ssh import SshServer

WHO = "test"
GROUP = "ThreePi"
HOST = "ipp022"
ODD = 'mini-cat dirs\'s "$(half)" & more'


def open_ledger(url: str) -> Ledger:
    """A ledger with this room's tables."""
    ledger = new_ledger(url)
    metadata.create_all(ledger.engine)
    assert Ledger.open(ledger.url)
    return ledger


@dataclass
class Rig:
    """Everything a copy needs. ``remote`` is the directory over there."""

    home: Path
    ledger: Ledger
    sshd: SshServer | None
    remote: Path

    def reach(self, known: Destination) -> Host:
        """The machine of a destination."""
        if self.sshd is None or not known.connection:
            return LocalHost()
        return SharedSshHost(target_of(self.sshd), ciphers=known.settings.ciphers, name=known.name)

    def make(self, name: str = "ThreePi.1", shape: Shape = T0, *, group: str = GROUP, seed: int = 1) -> Path:
        """A database on disk and on record."""
        path = make(self.home / "minis" / name, shape, seed=seed)
        catalogue.add(self.ledger, group, str(path), who=WHO)
        return path

    def host(self, name: str = HOST, path: Path | None = None, *, group: str = GROUP, **settings: Any) -> Destination:
        """A destination that is on, and that the group is wanted on."""
        settings.setdefault("shared_disk", True)  # all of them are one disk here
        made = destination.put(self.ledger, name, who=WHO, connection_id="ssh" if self.sshd else "", settings=settings)
        switches.want(self.ledger, group, name, str(path or self.remote), who=WHO)
        return made

    def queue(self) -> list[int]:
        """Queue all that is wanted; the numbers of all copies."""
        queue.queue_wanted(self.ledger, who=WHO)
        with self.ledger.read() as connection:
            return list(connection.scalars(sa.select(tables.copy.c.minidvodbcopy_id).order_by(sa.text("1"))))

    def one(self, **settings: Any) -> int:
        """One database, one host, one copy."""
        self.make()
        self.host(**settings)
        return self.queue()[0]

    def do(self, copy_id: int, *names: str) -> Copy:
        """Some steps, or all."""
        for name in names or STEPS:
            STEPS[name](self.ledger, copy_id, who=WHO, reach=self.reach)
        return load_copy(self.ledger, copy_id)

    def pending(self) -> list[int]:
        """What may go next."""
        return [one.id for one in load.choose(self.ledger)]

    def load(self, copy_id: int) -> Copy:
        """As the ledger has it."""
        return load_copy(self.ledger, copy_id)

    def events(self, what: str) -> list[Any]:
        """The audit of one verb."""
        with self.ledger.read() as connection:
            return list(connection.execute(sa.select(event).where(event.c.what == what).order_by(event.c.id)))

    def set(self, copy_id: int, **values: Any) -> None:
        """Change columns of a copy behind everybody's back."""
        with self.ledger.begin() as connection:
            table = tables.copy
            connection.execute(sa.update(table).where(table.c.minidvodbcopy_id == copy_id).values(**values))


def make_rig(home: Path, ledger: Ledger, sshd: SshServer | None) -> Rig:
    """An empty rig."""
    remote = home / ODD
    remote.mkdir()
    return Rig(home, ledger, sshd, remote)


def target_of(sshd: SshServer) -> SshTarget:
    """How to reach the test's sshd."""
    return SshTarget(sshd.host, sshd.host_key, user=sshd.user, port=sshd.port, key_file=sshd.key_file)


def tree_of(root: Path) -> dict[bytes, tuple[object, ...]]:
    """All that must be equal of a directory: kind, permissions, size, time, content, link target, by path."""
    top = os.fsencode(root)
    found: dict[bytes, tuple[object, ...]] = {}
    for directory, subdirectories, files in os.walk(top):
        for name in subdirectories + files:
            path = directory + b"/" + name
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                found[path[len(top) :]] = ("link", os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                found[path[len(top) :]] = ("directory", mode)
            else:
                with open(path, "rb") as stream:
                    digest = hashlib.blake2b(stream.read()).hexdigest()
                found[path[len(top) :]] = ("file", mode, status.st_size, status.st_mtime_ns, digest)
    return found


def visible(directory: Path) -> list[str]:
    """What a reader sees in a directory."""
    return sorted(name for name in os.listdir(directory) if name not in {".incoming", ".custody"})
