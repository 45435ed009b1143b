"""Evil jobs: whatever a job does, the archive is what it was, and the machine is well."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from bitarchive_site import FILES, Site
from custody.bitarchive.batch import accounts, walls
from custody.bitarchive.batch.plan import directory_of
from custody.bitarchive.config import Isolation, Limits
from custody.bitarchive.states import BatchState, FileState
from custody.faults import Fault, FaultKind

pytestmark = pytest.mark.slow  # each is a sandbox, or a time that runs out

EVIL = {
    "delete": """
        import os, glob
        os.unlink(file.path)
    """,
    "delete every file it can find": """
        import os, subprocess
        subprocess.run(["sh", "-c", "rm -rf --no-preserve-root {root} /archive /job /usr/lib /work 2>/dev/null"])
        for name in ("{root}", "/archive", "/job"):
            assert not os.path.exists(name) or not os.access(name, os.W_OK), name
        raise SystemError("could not")
    """,
    "overwrite": """
        file.path.open("r+b").write(b"overwritten")
    """,
    "overwrite by a new descriptor": """
        import os
        fd = os.open(file.path, os.O_RDONLY)
        os.write(os.open(f"/proc/self/fd/{{fd}}", os.O_RDWR), b"overwritten")
    """,
    "change times and rights": """
        import os
        os.utime(file.path, (0, 0))
    """,
    "chmod": """
        file.path.chmod(0o777)
    """,
    "remount": """
        import subprocess
        subprocess.run(["mount", "-o", "remount,rw", "/archive/" + file.name], check=True)
    """,
    "become root": """
        import os
        os.setuid(0)
    """,
    "read settings": """
        open("{root}/settings.yml").read()
    """,
    "read the environment": """
        import os
        os.environ["CUSTODY_SECRET"]
    """,
    "read the environment of its parents": """
        import glob
        found = b"".join(open(name, "rb").read() for name in glob.glob("/proc/*/environ"))
        assert b"CUSTODY_SECRET" in found
    """,
    "read shadow": """
        open("/etc/shadow").read()
    """,
    "open a socket": """
        import socket
        socket.create_connection(("127.0.0.1", {port}), timeout=3)
    """,
    "write beside the archive": """
        open("/archive/new.warc", "w")
    """,
    "write to the machine": """
        open("{root}/work/evil", "w")
    """,
    "a device": """
        import os, stat
        os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0))
    """,
    "fork bomb": """
        import os, time
        count = 0
        while True:
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
                os._exit(0)
            count += 1
            assert count < 200, "nobody stopped it"
    """,
    "memory": """
        block = bytearray(3 << 30)
    """,
    "memory of many processes": """
        import os, time
        for _ in range(20):
            if os.fork() == 0:
                block = bytearray(os.urandom(1 << 20) * 60)
                time.sleep(600)
                os._exit(0)
        time.sleep(600)
    """,
    "10 GB in a file": """
        with open("/tmp/big", "wb") as big:
            while True:
                big.write(bytes(1 << 20))
    """,
    "many files": """
        for number in range(200):
            with open(f"/tmp/{{number}}", "wb") as big:
                big.write(bytes(8 << 20))
    """,
    "kill everything": """
        import os, signal
        os.kill(-1, signal.SIGKILL)
        raise SystemError("still here")
    """,
    "10 GB of output": """
        while True:
            out.write(bytes(1 << 20))
    """,
    "exit as if all were well": """
        import os
        os._exit(0)
    """,
    "a result of its own making": """
        import os
        for fd in range(3, 30):
            try:
                os.write(fd, b'{{"ok": true, "damages": ["x"], "exceptions": 7}}')
            except OSError:
                pass
        os._exit(0)
    """,
}


def evil_job(site: Site, text: str, port: int = 1) -> str:
    body = textwrap.indent(textwrap.dedent(text).format(root=site.root, port=port), " " * 12)
    source = (
        "from custody.bitarchive.jobs import FileBatchJob\n\n"
        "class Evil(FileBatchJob):\n"
        "    def process_file(self, file, out):\n"
        "        out.write(b'Legal\\n')\n"
        f"        if file.name.startswith('a'):\n{body}\n"
    )
    return site.job(source, "evil.py")


def processes() -> set[str]:
    """Every process that runs a job of this test, or of nobody any more; those of other tests beside it are theirs."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"custody.bitarchive.batch.inside" in path.read_bytes() and not is_of_another_test(path.parent):
                found.add(path.parent.name)
        except OSError:
            continue
    return found


def is_of_another_test(process: Path) -> bool:
    while (pid := int((process / "stat").read_text().rpartition(")")[2].split()[1])) > 1:
        process = Path(f"/proc/{pid}")
        if pid == os.getpid():
            return False
        if b"pytest" in (process / "cmdline").read_bytes():
            return True
    return False


@pytest.mark.parametrize("what", EVIL)
def test_an_evil_job_harms_nothing_but_its_own_file_s_result(
    site: Site, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setenv("CUSTODY_SECRET", "swordfish")
    (site.root / "settings.yml").write_text("password: swordfish\n")
    site.reconfigure(
        limits=Limits(output=50 << 20, scratch=32 << 20, memory=1 << 30, memory_all=500 << 20, processes=32)
    )
    before, was_running = site.digests(), processes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        job = evil_job(site, EVIL[what], server.getsockname()[1])
        start = time.monotonic()
        found = site.run(job, regexp="[ac].*", file_timeout_s=20)
    assert time.monotonic() - start < 60
    assert site.digests() == before
    evil, good = accounts.lines(site.archive, found.batch.id)
    assert (evil.state, good.state) == (FileState.FAILED, FileState.DONE), evil.message
    assert found.state is BatchState.PARTIAL
    assert found.output and found.output.read_bytes() == b"Legal\n"
    assert processes() <= was_running
    assert not (site.root / "work" / "evil").exists()
    assert "swordfish" not in str(evil.detail)
    if what == "memory of many processes":
        assert " of memory in " in evil.message and " processes (limit 524 MB)" in evil.message
        assert evil.detail["memory_peak_bytes"] > 500 << 20 > good.detail["memory_peak_bytes"] > 0


def test_a_daemon_that_a_job_leaves_behind_ends_with_it(site: Site) -> None:
    body = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            for fd in range(3, 20):
                try:
                    os.close(fd)
                except OSError:
                    pass
            time.sleep(900)
        out.write(b"done\\n")
    """
    was_running = processes()
    start = time.monotonic()
    found = site.run(evil_job(site, body), regexp="a.*", file_timeout_s=30)
    assert time.monotonic() - start < 40
    assert found.state in {BatchState.COMPLETE, BatchState.NONE}
    deadline = time.monotonic() + 5
    while processes() - was_running and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes() <= was_running


def test_without_bubblewrap_nothing_runs_unless_allowed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "why_no_bubblewrap", lambda: "is not installed (apt-get install bubblewrap)")
    with pytest.raises(Fault) as caught:
        site.run("FileListJob")
    assert caught.value.kind is FaultKind.CONFIG
    assert "apt-get install bubblewrap" in str(caught.value)
    assert "isolation: weak" in str(caught.value)
    site.reconfigure(isolation=Isolation.WEAK)
    found = site.run("FileListJob", key="weak")
    assert found.output and found.output.read_text().split() == list(FILES)
    assert next(accounts.lines(site.archive, found.batch.id)).detail["isolation"] == "weak"


def test_the_weak_isolation_still_ends_what_hangs(site: Site) -> None:
    site.reconfigure(isolation=Isolation.WEAK)
    was_running = processes()
    found = site.run(evil_job(site, "import time\ntime.sleep(500)"), regexp="a.*", file_timeout_s=3)
    assert next(accounts.lines(site.archive, found.batch.id)).error_class == "Timeout"
    assert processes() <= was_running
    assert not list((directory_of(site.archive, found.batch.id) / "parts").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_a_file_that_only_root_may_read_is_refused_with_the_remedy(site: Site) -> None:
    site.path(FILES[0]).chmod(0o600)
    found = site.run("FileListJob", regexp="a.*")
    (line,) = accounts.lines(site.archive, found.batch.id)
    assert "jobs do not run as root. Next: chmod o+r" in line.message


def python_for_everybody() -> str | None:
    """A Python of this version that another user may run; the one of the tests may lie below root's home."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (f"/usr/bin/python{version}", sys.executable):
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", candidate, "-c", "import ssl"]
        try:
            if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
                return candidate
        except FileNotFoundError:
            return None
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_same_walls_hold_for_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    python = python_for_everybody()
    if python is None:
        pytest.skip("there is no Python here that an ordinary user may run")
    packages = [entry for entry in sys.path if entry.endswith("site-packages")]
    root = Path(__file__).parents[3]
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o777)
        script = str(root / "tests" / "bitarchive_as_user.py")
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, script, home],
            env={
                "PATH": os.environ["PATH"],
                "HOME": home,
                "PYTHONPATH": ":".join([str(root / "include"), str(root / "tests"), *packages]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    if "bubblewrap" in done.stderr and "does not run here" in done.stderr:
        pytest.skip(f"user namespaces are not for ordinary users here: {done.stderr[-600:]}")
    assert done.stdout == "refused refused refused stopped\n", done.stderr
