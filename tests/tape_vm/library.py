"""A tape library of one drive that tgt emulates on the loopback, and the hands that serve the guest's requests."""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

IQN = "iqn.2026-11.test.custody:drive"


def _free_port() -> int:
    """A port of the loopback that is also a control number of tgtd: those end at 32767."""
    for port in random.sample(range(20000, 32000), 50):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


class Library:
    """One drive (target 1, unit 1) and cartridges that are files."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._count = 0
        self._loaded = home / "none"
        self.port = _free_port()
        self._control = str(self.port)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run tgtd on the loopback until the end of the block."""
        argv = ["tgtd", "-f", "-C", self._control, "--iscsi", f"portal=127.0.0.1:{self.port}"]
        with (self._home / "tgtd.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
            try:
                self._wait()
                self._admin("target", "new", "--tid", "1", "-T", IQN)
                self._make_cartridge(64)
                self._admin(
                    "logicalunit", "new", "--tid", "1", "--lun", "1", "-b", str(self._loaded),
                    "--device-type=tape", "--bstype=ssc",
                )  # fmt: skip
                self._admin("target", "bind", "--tid", "1", "-I", "ALL")
                yield
            finally:
                process.kill()  # it ignores SIGTERM while it has a target

    def _wait(self) -> None:
        until = time.monotonic() + 10
        while subprocess.run(
            ["tgtadm", "-C", self._control, "--op", "show", "--mode", "target"], capture_output=True, check=False
        ).returncode:
            if time.monotonic() > until:
                raise RuntimeError(f"tgtd did not start: {(self._home / 'tgtd.log').read_text()[-300:]}")
            time.sleep(0.1)

    def _admin(self, mode: str, op: str, *words: str) -> None:
        argv = ["tgtadm", "-C", self._control, "--lld", "iscsi", "--mode", mode, "--op", op, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv[5:])}: {done.stderr.strip()}")

    def _update(self, what: str) -> None:
        self._admin("logicalunit", "update", "--tid", "1", "--lun", "1", "--params", what)

    def _make_cartridge(self, size_mib: int) -> None:
        self._loaded.unlink(missing_ok=True)
        self._loaded = self._home / f"TAPE{self._count:04}"
        self._count += 1
        argv = ["tgtimg", "--op", "new", "--device-type", "tape", f"--barcode={self._loaded.name}"]
        argv += [f"--size={size_mib}", "--type=data", f"--file={self._loaded}"]
        subprocess.run(argv, check=True, capture_output=True)

    def blank(self, size_mib: str) -> None:
        """Take the cartridge out and put a blank one in."""
        self._update("online=0")
        self._make_cartridge(int(size_mib))
        self._update(f"path={self._loaded}")
        self._update("readonly=0")
        self._update("online=1")

    def unload(self) -> None:
        """Take the cartridge out."""
        self._update("online=0")

    def protect(self, on: str) -> None:
        """Flip the tab."""
        self._update(f"readonly={on}")

    def damage(self, content: str) -> None:
        """Flip a bit where the cartridge holds these bytes (hexadecimal)."""
        wanted = bytes.fromhex(content)
        with self._loaded.open("r+b") as stream:
            at = stream.read().index(wanted)
            stream.seek(at)
            stream.write(bytes([wanted[0] ^ 1]))

    @contextmanager
    def listening(self, out: Path) -> Iterator[None]:
        """Serve requests that the guest puts into the directory it shares with us."""
        stop = threading.Event()
        thread = threading.Thread(target=self._serve, args=(out, stop), name="tape-hands")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _serve(self, out: Path, stop: threading.Event) -> None:
        verbs: dict[str, Callable[..., None]] = {
            "blank": self.blank,
            "unload": self.unload,
            "protect": self.protect,
            "damage": self.damage,
        }
        request = out / "request"
        while not stop.wait(0.03):
            if not request.exists():
                continue
            number, verb, *words = request.read_text().split()
            request.unlink()
            try:
                verbs[verb](*words)
                said = "done"
            except Exception as error:  # the test in the guest is told, whatever it was
                said = f"{type(error).__name__}: {error}"
            draft = out / f"said.{number}"
            draft.write_text(said)
            draft.rename(out / f"answer.{number}")
