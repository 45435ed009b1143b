"""Run a command in a virtual machine that has a real st driver and a tape: `python -m tape_vm [options] -- COMMAND`.

The machine is QEMU without acceleration, so that it runs anywhere; its root is the host's, read-only below a layer in
memory; its drive is a SCSI tape that tgt emulates. The exit status is the command's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tape_vm.kernel import Kernel, NoKernel, find_kernel, make_initrd
from tape_vm.library import IQN, Library

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "tgtd": "tgt",
    "tgtadm": "tgt",
    "tgtimg": "tgt",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "cpio": "cpio",
}
GUEST_FAILED = 124


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run it."""
    parser = argparse.ArgumentParser(prog="tape_vm", description=__doc__)
    parser.add_argument("--kernel", type=Path, help="where a kernel package is, or will be, unpacked")
    parser.add_argument("--memory-mib", type=int, default=2048)
    parser.add_argument("--timeout-s", type=float, default=1200)
    parser.add_argument("--home", type=Path, help="where everything is left to be looked at; must not exist")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        print(f"tape-vm: apt-get install --no-install-recommends {' '.join(missing)}", file=sys.stderr)
        return 2
    cache = options.kernel or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "custody" / "tape-vm"
    try:
        kernel = find_kernel(cache)
    except NoKernel as error:
        print(f"tape-vm: {error}", file=sys.stderr)
        return 2
    if options.home:
        options.home.mkdir(parents=True)
        return run(kernel, options.home, options.command, options.memory_mib, options.timeout_s)
    with tempfile.TemporaryDirectory(prefix="custody-tape-vm-") as home:
        return run(kernel, Path(home), options.command, options.memory_mib, options.timeout_s)


def run(kernel: Kernel, home: Path, command: list[str], memory_mib: int, timeout_s: float) -> int:
    """Boot, run ``command`` in the guest, say what it said."""
    out = home / "out"
    out.mkdir()
    initrd = home / "initrd"
    make_initrd(kernel, initrd)
    (out / "task").write_text(_task(command))
    library = Library(home)
    with library.running(), library.listening(out):
        argv = _qemu(kernel, initrd, out, home / "console", library.port, memory_mib)
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as machine:
            try:
                _follow(machine, out / "log", time.monotonic() + timeout_s)
            finally:
                if machine.poll() is None:
                    machine.kill()
    status = out / "status"
    if status.exists():
        return int(status.read_text())
    console = (home / "console").read_text("utf-8", "replace") if (home / "console").exists() else ""
    print("tape-vm: the guest did not come to an end. Its console ended with:", file=sys.stderr)
    print("\n".join(console.splitlines()[-20:]), file=sys.stderr)
    return GUEST_FAILED


def _task(command: list[str]) -> str:
    words = " ".join(shlex.quote(word) for word in command)
    path = os.environ["PATH"]
    return f"""
export HOME=/tmp PATH={shlex.quote(path)} LC_ALL=C.UTF-8
export PYTHONPATH={shlex.quote(os.environ.get("PYTHONPATH", ""))} PYTHONDONTWRITEBYTECODE=1
export CUSTODY_TAPE_RIG=vm
unset TAPE
for module in virtio_scsi sg st; do modprobe $module || exit 90; done
n=0
until [ -c /dev/nst0 ]; do n=$((n + 1)); [ $n -lt 100 ] || exit 91; sleep 0.1; done
cd {shlex.quote(str(Path.cwd()))} || exit 92
exec {words}
"""


def _qemu(kernel: Kernel, initrd: Path, out: Path, console: Path, port: int, memory_mib: int) -> list[str]:
    drive = (
        f"driver=iscsi,node-name=tape0,transport=tcp,portal=127.0.0.1:{port},target={IQN},lun=1,"
        "initiator-name=iqn.2026-11.test.custody:machine"
    )
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(memory_mib)),
        *("-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{console}"),
        *("-kernel", str(kernel.image), "-initrd", str(initrd)),
        *("-append", f"console=ttyS0 panic=-1 loglevel=4 custody.modules={kernel.modules}"),
        *("-device", "virtio-scsi-pci,id=scsi0", "-blockdev", drive),
        *("-device", "scsi-generic,bus=scsi0.0,drive=tape0"),
        *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-fsdev", f"local,id=out,path={out},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=out,mount_tag=out"),
    ]


def _follow(machine: subprocess.Popen[bytes], log: Path, until: float) -> None:
    """Pass on what the command says, as it says it, until the machine goes off or the time is over."""
    at = 0
    while True:
        is_over = machine.poll() is not None or time.monotonic() > until
        if log.exists():
            with log.open("rb") as stream:
                stream.seek(at)
                said = stream.read()
            at += len(said)
            sys.stdout.buffer.write(said)
            sys.stdout.buffer.flush()
        if is_over:
            return
        time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())
