"""The shim, built once, and a drive that programs see through it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from custody.tape.drives import ImageDrive
from custody.tape.drives.cartridges import make_cartridge, make_drive
from custody.tape.drives.changer import load
from services.need import need
from services.tape_shim.rig import build_shim, shim_environment


@pytest.fixture(scope="session")
def tape_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared object that shows programs an image drive as a tape node."""
    return build_shim(tmp_path_factory.mktemp("tape-shim"))


@dataclass(frozen=True)
class Shimmed:
    """An image drive, and the node at which programs see it."""

    drive: Path
    node: Path
    environment: dict[str, str]

    def run(self, *argv: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a program that sees the node."""
        words = [str(word) for word in argv]
        return subprocess.run(words, env=self.environment, input=stdin, capture_output=True, check=False, timeout=60)

    def must(self, *argv: str | Path, stdin: bytes | None = None) -> bytes:
        """Run a program that has to end with status 0; its standard output."""
        done = self.run(*argv, stdin=stdin)
        assert done.returncode == 0, f"{argv}: {done.stderr.decode()}"
        return done.stdout

    def shell(self, script: str) -> subprocess.CompletedProcess[bytes]:
        """Run lines as a person types them; $T is the node."""
        return subprocess.run(
            ["bash", "-c", script],
            env=self.environment | {"T": str(self.node)},
            capture_output=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def shimmed(tmp_path: Path, tape_shim: Path) -> Shimmed:
    """A drive with a rewound blank cartridge of 2 MB, seen as `nst0` by real programs."""
    need("mt-st")
    drive, image, node = tmp_path / "drive0", tmp_path / "A.tap", tmp_path / "nst0"
    make_drive(drive)
    make_cartridge(image, capacity_bytes=2_000_000, early_warning_bytes=200_000)
    load(drive, image)
    with ImageDrive(str(drive)) as opened:
        opened.rewind()
    return Shimmed(drive, node, shim_environment(tape_shim, drive, node))
