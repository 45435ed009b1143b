"""A site with one virtual tape drive, a few cartridges, and directories worth a backup."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from custody.host import Host, LocalHost
from custody.ledger import Ledger
from custody.tape import archive, assign, close, confirm, recover, session, tables, tapes, targets
from custody.tape.catalog import Backup, Tape, find_tape, list_backups
from custody.tape.config import TapeConfig
from custody.tape.config import parse as parse_config
from custody.tape.drives import cartridges, changer
from custody.tape.outcome import Archived, Outcome
from custody.tape.states import AttemptResult

WHO = "a test"

HOSTILE_NAMES = (
    b"plain",
    b"with blank",
    b"new\nline",
    b"back\\slash",
    b"\xff\xfe",
    b"c[1]",
    b"c1",
    b"*",
    b"-rf",
    b"%s",
    b"x" * 255,
)


@dataclass
class TapeSite:
    """Everything a tape test needs."""

    root: Path
    ledger_url: str
    config: TapeConfig
    host: Host

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.ledger_url)  # a crash test hands a site from process to process

    @property
    def drive(self) -> Path:
        return self.root / "drive0"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def image(self, name: str) -> Path:
        return self.root / "shelf" / f"{name}.tap"

    def make_tape(
        self, name: str, *, capacity_bytes: int | None = None, load: bool = True, on_record: bool = True
    ) -> None:
        cartridges.make_cartridge(self.image(name), capacity_bytes=capacity_bytes)
        if load:
            self.insert(name)
        if on_record:
            tapes.open_tape(self.ledger, self.config, name, who=WHO)

    def insert(self, name: str) -> None:
        changer.unload(self.drive)
        changer.load(self.drive, self.image(name))

    def make_target(self, name: str, *, files: int = 3, size_bytes: int = 5000) -> Path:
        directory = self.data / name
        (directory / "sub").mkdir(parents=True)
        for number in range(files):
            (directory / "sub" / f"file{number}").write_bytes(os.urandom(size_bytes))
        return directory

    def make_hostile_target(self, name: str = "hostile") -> Path:
        directory = bytes(self.make_target(name))
        for one in HOSTILE_NAMES:
            with open(directory + b"/" + one, "wb") as stream:
                stream.write(one * 3)
        path = Path(os.fsdecode(directory))
        os.link(path / "sub" / "file0", path / "a second name")
        (path / "link").symlink_to("../some where\n")
        os.mkfifo(path / "fifo")
        (path / "empty").mkdir()
        with (path / "sparse").open("wb") as stream:
            stream.truncate(3 << 20)
            stream.seek(1 << 20)
            stream.write(b"an island")
        return path

    def import_all(self, *paths: Path) -> list[int]:
        wanted = [os.fsencode(path) for path in paths]
        found = targets.import_targets(self.ledger, self.config, self.host, wanted, who=WHO)
        for target in found.to_scan:
            targets.scan_target(self.ledger, self.config, self.host, target, who=WHO)
        return [target.id for target in found.new + found.known]

    def import_again(self, *paths: Path) -> None:
        wanted = [os.fsencode(path) for path in paths]
        found = targets.import_targets(self.ledger, self.config, self.host, wanted, who=WHO, rescan=True)
        for target in found.to_scan:
            targets.scan_target(self.ledger, self.config, self.host, target, who=WHO)

    def close(self, tape: str | None = None, *, force: bool = False) -> Tape:
        return close.close_tape(self.ledger, self.config, tape, who=WHO, force=force)

    def assign(self, tape: str | None = None) -> None:
        assign.assign(self.ledger, tape, who=WHO)

    def tape(self, name: str | None = None) -> Tape:
        with self.ledger.read() as connection:
            return find_tape(connection, name)

    def archive(self, tape: str | None = None) -> Archived:
        with session.mounted(self.ledger, self.config, self.tape(tape), who=WHO, write=True) as mounted:
            recover.settle(mounted)
            return archive.archive_one(mounted, self.host)

    def archive_all(self, tape: str | None = None) -> list[Archived]:
        done = []
        while (one := self.archive(tape)).outcome is Outcome.RECORDED:
            done.append(one)
        return done

    def confirm_all(self, tape: str | None = None, *, retry: bool = False) -> list[confirm.Confirmed]:
        with session.mounted(self.ledger, self.config, self.tape(tape), who=WHO) as mounted:
            with self.ledger.read() as connection:
                wanted = confirm.to_confirm(connection, mounted.tape, retry=retry)
            return [confirm.confirm_one(mounted, backup) for backup in wanted]

    def read_back(self, tape: str) -> list[confirm.Confirmed]:
        """Compare everything that is on record with the tape, and leave the catalogue as it is."""
        with self.ledger.read() as connection:
            wanted = [one for one in list_backups(connection) if one.state.is_on_tape and one.tape_name == tape]
        if not wanted:
            return []
        with session.mounted(self.ledger, self.config, self.tape(tape), who=WHO) as mounted:
            return [confirm.confirm_one(mounted, backup, update=False) for backup in wanted]

    def unfinished_attempts(self) -> list[int]:
        with self.ledger.read() as connection:
            table = tables.attempt
            return list(connection.scalars(sa.select(table.c.id).where(table.c.result == AttemptResult.INTENT)))

    def backups(self) -> list[Backup]:
        with self.ledger.read() as connection:
            return list_backups(connection)


def make_site(root: Path, ledger: Ledger, **settings: str) -> TapeSite:
    """A site below ``root``; ``settings`` go into its tape.conf."""
    for name in ("shelf", "data"):
        (root / name).mkdir()
    cartridges.make_drive(root / "drive0")
    lines = {"tape_device": "drive0", "buffer": "8MiB"} | settings
    text = "[default]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
    (root / "tape.conf").write_text(text)
    return TapeSite(root, ledger.url, parse_config(text, "tape.conf", base=root), LocalHost())
