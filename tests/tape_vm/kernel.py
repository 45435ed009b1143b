"""A Debian kernel that has the st driver, and the little initial file system that reaches the host's files."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

GUEST_INIT = Path(__file__).with_name("guest-init")
# What it takes to reach the host's files; the rest is loaded by the guest from there.
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")


class NoKernel(Exception):
    """No kernel is here and none can be had."""


@dataclass(frozen=True)
class Kernel:
    """A kernel and where its modules are."""

    image: Path
    release: str
    root: Path

    @property
    def modules(self) -> Path:
        return (self.root / "lib" / "modules" / self.release).resolve()


def find_kernel(cache: Path) -> Kernel:
    """The kernel that the cache holds; else Debian's linux-image-amd64, unpacked there, not installed."""
    found = _kernel_in(cache)
    if found is None:
        _download(cache)
        found = _kernel_in(cache)
    if found is None:
        raise NoKernel(f"{cache} holds no boot/vmlinuz-* and lib/modules of a kernel package")
    return found


def _kernel_in(root: Path) -> Kernel | None:
    for image in sorted((root / "boot").glob("vmlinuz-*"), reverse=True):
        kernel = Kernel(image, image.name.removeprefix("vmlinuz-"), root)
        if (kernel.modules / "kernel").is_dir():
            return kernel
    return None


def _download(cache: Path) -> None:
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=False
    ).stdout
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if package is None:
        raise NoKernel("apt knows no linux-image-amd64: apt-get update first")
    with tempfile.TemporaryDirectory(prefix="custody-kernel-") as scratch:
        os.chmod(scratch, 0o755)  # apt fetches as a user of its own
        got = subprocess.run(["apt-get", "download", "-q", package[1]], cwd=scratch, capture_output=True, check=False)
        if got.returncode:
            raise NoKernel(f"cannot download {package[1]}: {got.stderr.decode('utf-8', 'replace').strip()[-300:]}")
        cache.mkdir(parents=True, exist_ok=True)
        for archive in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(archive), str(cache)], check=True)
    release = package[1].removeprefix("linux-image-")
    subprocess.run(["depmod", "-b", str(cache), release], check=True, capture_output=True)


def make_initrd(kernel: Kernel, into: Path) -> None:
    """Pack busybox, the modules to boot with, and guest-init."""
    with tempfile.TemporaryDirectory(prefix="custody-initrd-") as scratch:
        tree = Path(scratch)
        for name in ("bin", "proc", "sys", "dev", "modules", "lower", "upper", "root"):
            (tree / name).mkdir()
        shutil.copy("/bin/busybox", tree / "bin" / "busybox")
        (tree / "bin" / "sh").symlink_to("busybox")
        shutil.copy(GUEST_INIT, tree / "init")
        (tree / "init").chmod(0o755)
        order = [_unpack_module(path, tree / "modules") for path in _modules_in_order(kernel)]
        (tree / "modules" / "order").write_text("".join(f"{name}\n" for name in order))
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        packed = subprocess.run(
            ["cpio", "--create", "--format=newc", "--quiet"],
            cwd=tree,
            input=names.encode(),
            capture_output=True,
            check=True,
        )
        into.write_bytes(packed.stdout)


def _modules_in_order(kernel: Kernel) -> list[Path]:
    found: dict[Path, None] = {}
    for module in BOOT_MODULES:
        argv = ["modprobe", "-d", str(kernel.root), "-S", kernel.release, "--show-depends", module]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        for line in said.splitlines():
            if line.startswith("insmod "):
                found[Path(line.split()[1])] = None
    return list(found)


def _unpack_module(path: Path, into: Path) -> str:
    name = path.name
    content = path.read_bytes()
    if name.endswith(".xz"):
        name, content = name.removesuffix(".xz"), lzma.decompress(content)
    elif name.endswith(".zst"):
        said = subprocess.run(["zstd", "-qdc", str(path)], capture_output=True, check=True)
        name, content = name.removesuffix(".zst"), said.stdout
    (into / name).write_bytes(content)
    return name
