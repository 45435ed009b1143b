"""Comparisons of minidvodb: a copy proven on both sides against plain ``rsync -a``, which proves nothing.

Everything goes over a loopback sshd that the comparison starts itself. Both sides are counted: the CPU of the
contender and that of the sshd's sessions. Ours is the whole way of a copy (preflight, transfer, verification,
publication, with the ledger) in a worker that is warm, as Airflow's are: a forked child.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench import minidvodb_airflow
from bench.measure import Cost, Goal, Result, _line, machine, scratch

from custody.host import Host, SshTarget
from custody.ledger import Ledger
from custody.minidvodb import audit, catalogue, destination, queue, switches
from custody.minidvodb.destination import Destination
from custody.minidvodb.run import STEPS, carry_out
from custody.minidvodb.ssh import SharedSshHost
from custody.minidvodb.step import Work
from custody_demo.minidvodb_sample import T2, T3, Shape, make
from custody_demo.second_machine import SshServer, run_sshd

WHO = "bench"
PLAIN = "rsync -a over ssh (unproven)"
OURS = "custody: sent, proven on both sides, published"
WHOLE = "custody: the same after the check of all tables"


@dataclass
class Site:
    """A database, a host behind ssh, and a fresh ledger for every copy."""

    home: Path
    sshd: SshServer
    source: Path
    port: int

    def reach(self, known: Destination) -> Host:
        """The host."""
        sshd = self.sshd
        target = SshTarget(sshd.host, sshd.host_key, user=sshd.user, port=self.port, key_file=sshd.key_file)
        return SharedSshHost(target, ciphers=known.settings.ciphers)

    def ssh(self) -> str:
        """Ssh as a user types it."""
        known = f"-o UserKnownHostsFile={self.sshd.known_hosts} -o StrictHostKeyChecking=yes -o BatchMode=yes"
        if self.port != self.sshd.port:
            known += f" -o HostKeyAlias=[127.0.0.1]:{self.sshd.port}"
        return f"ssh -F /dev/null -p {self.port} -i {self.sshd.key_file} {known}"

    def rsync(self, there: Path) -> Callable[[], None]:
        """Plain rsync to a directory."""
        place = f"{self.sshd.user}@{self.sshd.host}:{there}/"
        return lambda: _run(["rsync", "-a", "--rsh", self.ssh(), str(self.source), place])

    def copy(self, there: Path, **settings: object) -> tuple[Ledger, int]:
        """A copy that is queued, in a ledger of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.home))
        ledger = Ledger.upgrade(f"sqlite:///{folder}/ledger.sqlite")
        destination.put(ledger, "there", who=WHO, connection_id="ssh", settings=dict(settings))
        catalogue.add(ledger, "bench", str(self.source), who=WHO)
        switches.want(ledger, "bench", "there", str(there), who=WHO)
        queue.queue_wanted(ledger, who=WHO)
        return ledger, 1

    def place(self) -> Path:
        """An empty directory over there."""
        return Path(tempfile.mkdtemp(prefix="there-", dir=self.home))


@contextmanager
def site(shape: Shape, needed_bytes: int, *, delay_s: float = 0.0) -> Iterator[Site]:
    """Make a database and start the host."""
    with scratch(needed_bytes) as home, tempfile.TemporaryDirectory(prefix="custody-sshd-", dir="/tmp") as keys:
        source = make(home / "bench.1", shape)
        with run_sshd(Path(keys)) as sshd, _relay(sshd.port, delay_s) as port:
            yield Site(home, sshd, source, port)


def compare_sides(
    name: str,
    job: str,
    contenders: dict[str, Callable[[], Callable[[], None]]],
    *,
    rounds: int,
    goals: Sequence[Goal],
    sshd_pid: int,
) -> Result:
    """As :func:`bench.measure.compare`, in forked children, with the CPU of the sshd's sessions.

    :param contenders: prepare a run and return it; the first is the reference.
    """
    dice = random.Random(0)
    costs: dict[str, list[Cost]] = {each: [] for each in contenders}
    load_before = os.getloadavg()[0]
    for _ in range(rounds):
        for each in dice.sample(list(contenders), len(contenders)):
            run = contenders[each]()
            far = _cpu_of(sshd_pid)
            cost = _in_child(run)
            time.sleep(0.3)  # sessions over there end a moment later
            costs[each].append(replace(cost, cpu_s=cost.cpu_s + _cpu_of(sshd_pid) - far))
    at = datetime.now(UTC).isoformat(timespec="seconds")
    loads = (round(load_before, 1), round(os.getloadavg()[0], 1))
    result = Result(name, job, rounds, at, machine(), *loads)
    reference = costs[next(iter(contenders))]
    result.lines = [_line(each, costs[each], reference) for each in contenders]
    result.judge(goals)
    return result


def _in_child(run: Callable[[], None]) -> Cost:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException as error:
            print(f"bench: {error!r}", flush=True)
            os._exit(1)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError("a contender failed")
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process, its living children and those it has reaped."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(entry.name) == pid or int(fields[1]) == pid:
                total += sum(int(field) for field in fields[11:15])
    return total / ticks


def _sshd_pid(sshd: SshServer) -> int:
    return int((sshd.key_file.parent / "pid").read_text())


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(list(argv), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])


def _ours(
    where: Site, places: list[Path], *, checked: bool = True, **settings: object
) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        there = _fresh(where, places)
        ledger, copy_id = where.copy(there, **settings)
        if checked:
            STEPS["preflight"](ledger, copy_id, who=WHO, reach=where.reach)
        return lambda: _demand_full(carry_out(ledger, copy_id, who=WHO, reach=where.reach).state)

    return prepare


def _demand_full(state: str) -> None:
    if state != "full":
        raise RuntimeError(f"the copy is {state}")


def _fresh(where: Site, places: list[Path]) -> Path:
    while places:
        shutil.rmtree(places.pop())
    places.append(where.place())
    return places[-1]


def _plain(where: Site, places: list[Path]) -> Callable[[], Callable[[], None]]:
    return lambda: where.rsync(_fresh(where, places))


def copy_big(*, rounds: int, scale: float) -> Result:
    """Four large files."""
    shape = replace(T3, detections=int(T3.detections * scale), objects=int(T3.objects * scale))
    with site(shape, int(5e9 * scale)) as where:
        places: list[Path] = []
        size = sum(path.stat().st_size for path in where.source.rglob("*") if path.is_file())
        return compare_sides(
            "minidvodb_copy_big",
            f"one database, 4 large files, {size / 1e6:.0f} MB, over loopback ssh",
            {PLAIN: _plain(where, places), OURS: _ours(where, places), WHOLE: _ours(where, places, checked=False)},
            rounds=rounds,
            goals=[Goal(OURS, "speed", at_least=1.3), Goal(OURS, "cpu", at_most=1 / 1.3)],
            sshd_pid=_sshd_pid(where.sshd),
        )


def copy_small(*, rounds: int, scale: float) -> Result:
    """Many small files, first sent, then found unchanged."""
    with site(replace(T2, regions=int(T2.regions * scale)), int(2e9 * scale)) as where:
        places: list[Path] = []
        files = sum(path.is_file() for path in where.source.rglob("*"))
        return compare_sides(
            "minidvodb_copy_small",
            f"one database, {files} small files, over loopback ssh",
            {PLAIN: _plain(where, places), OURS: _ours(where, places), WHOLE: _ours(where, places, checked=False)},
            rounds=rounds,
            goals=[Goal(OURS, "speed", at_least=1.0), Goal(OURS, "cpu", at_most=1.0)],
            sshd_pid=_sshd_pid(where.sshd),
        )


def copy_again(*, rounds: int, scale: float) -> Result:
    """Nothing to send: look whether all is as it was."""
    with site(replace(T2, regions=int(T2.regions * scale)), int(3e9 * scale)) as where:
        there = where.place()
        ledger, copy_id = where.copy(there)
        carry_out(ledger, copy_id, who=WHO, reach=where.reach)
        plain = where.place()
        where.rsync(plain)()

        def look() -> None:
            if complaint := audit.glance(ledger, copy_id, reach=where.reach):
                raise RuntimeError(complaint)

        return compare_sides(
            "minidvodb_copy_again",
            f"{int(T2.regions * scale) * 4} files that are there already and unchanged on both sides",
            {PLAIN: lambda: where.rsync(plain), "custody audit --glance": lambda: look},
            rounds=rounds,
            goals=[Goal("custody audit --glance", "speed", at_least=1.0)],
            sshd_pid=_sshd_pid(where.sshd),
        )


def copy_far(*, rounds: int, scale: float) -> Result:
    """A host that is 10 ms away."""
    with site(Shape(int(500 * scale), 380), int(1e9), delay_s=0.005) as where:
        places: list[Path] = []
        return compare_sides(
            "minidvodb_copy_far",
            f"{int(500 * scale) * 4} small files to a host at 10 ms round trip (a relay that delays)",
            {PLAIN: _plain(where, places), OURS: _ours(where, places), WHOLE: _ours(where, places, checked=False)},
            rounds=rounds,
            goals=[Goal(OURS, "speed", at_least=1.1)],
            sshd_pid=_sshd_pid(where.sshd),
        )


def copy_resume(*, rounds: int, scale: float) -> Result:
    """A copy that is killed at 60 %; what the second run sends of it."""
    shape = replace(T3, detections=int(T3.detections * scale), objects=int(T3.objects * scale))
    with site(shape, int(5e9 * scale)) as where:
        places: list[Path] = []

        def prepare() -> Callable[[], None]:
            ledger, copy_id = where.copy(_fresh(where, places))
            _killed_at(0.6, ledger, copy_id, where)
            report = where.home / "sent"

            def run() -> None:
                copy = carry_out(ledger, copy_id, who=WHO, reach=where.reach)
                _demand_full(copy.state)
                report.write_text(str(copy.row["sent_bytes"] / copy.row["bytes"]))

            return run

        result = compare_sides(
            "minidvodb_copy_resume",
            "one database of 4 large files, killed at 60 % and taken up again",
            {PLAIN: _plain(where, places), "custody, the second run": prepare},
            rounds=rounds,
            goals=[],
            sshd_pid=_sshd_pid(where.sshd),
        )
        share = float((where.home / "sent").read_text())
        result.goals.append(("bytes the second run sends: <= 0.41 of all", round(share, 3), share <= 0.41))
        return result


def copy_beside_a_slow_host(*, rounds: int, scale: float) -> Result:
    """Two hosts at once, alone and beside a third one that is throttled."""
    two, three = "two hosts at once", "the same beside a throttled third"
    with site(replace(T2, regions=int(2500 * scale)), int(3e9 * scale)) as where:

        def prepare(with_third: bool) -> Callable[[], Callable[[], None]]:
            def made() -> Callable[[], None]:
                for old in where.home.glob("there-*"):
                    shutil.rmtree(old, ignore_errors=True)
                jobs = [where.copy(where.place()) for _ in range(2)]
                slow = where.copy(where.place(), max_rate=200_000) if with_third else None
                return lambda: _at_once(where, jobs, slow)

            return made

        return compare_sides(
            "minidvodb_slow_host",
            f"{int(2500 * scale) * 4} small files to each of two hosts at the same time",
            {two: prepare(False), three: prepare(True)},
            rounds=rounds,
            goals=[Goal(three, "speed", at_least=1 / 1.05)],
            sshd_pid=_sshd_pid(where.sshd),
        )


def _at_once(where: Site, jobs: Sequence[tuple[Ledger, int]], slow: tuple[Ledger, int] | None) -> None:
    """Carry copies out side by side, until all but the slow one are full."""

    def start(job: tuple[Ledger, int]) -> int:
        child = os.fork()
        if child == 0:
            ledger = Ledger(job[0].url)
            os._exit(carry_out(ledger, job[1], who=WHO, reach=where.reach).state != "full")
        return child

    third = start(slow) if slow else 0
    ended = [os.waitpid(child, 0)[1] for child in [start(job) for job in jobs]]
    if third:
        os.kill(third, 9)
        os.waitpid(third, 0)
    if any(ended):
        raise RuntimeError("a copy failed")


def sftp_small(*, rounds: int, scale: float) -> Result:
    """Airflow's own way to send a directory, many small files."""
    return _against_sftp("minidvodb_sftp_small", Shape(int(2500 * scale), 380), 35, rounds=rounds)


def sftp_big(*, rounds: int, scale: float) -> Result:
    """The same, few large ones."""
    objects = int(T3.objects * 0.5 * scale)
    shape = replace(T3, objects=objects, detections=int(T3.detections * 0.5 * scale))
    return _against_sftp("minidvodb_sftp_big", shape, 8, rounds=rounds)


def _against_sftp(name: str, shape: Shape, times: float, *, rounds: int) -> Result:
    from airflow.providers.sftp.hooks.sftp import SFTPHook

    sftp = "Airflow's SFTPHook.store_directory (unproven)"
    with site(shape, int(2e9)) as where:
        places: list[Path] = []
        extra = {"key_file": str(where.sshd.key_file), "no_host_key_check": True}
        connection = {"conn_type": "sftp", "host": where.sshd.host, "port": where.sshd.port, "login": where.sshd.user}
        os.environ["AIRFLOW_CONN_BENCH_SFTP"] = json.dumps({**connection, "extra": extra})

        def by_sftp() -> Callable[[], None]:
            there = _fresh(where, places) / "bench.1"
            return lambda: SFTPHook(ssh_conn_id="bench_sftp").store_directory(str(there), str(where.source))

        size = sum(path.stat().st_size for path in where.source.rglob("*") if path.is_file())
        files = sum(path.is_file() for path in where.source.rglob("*"))
        return compare_sides(
            name,
            f"one database, {files} files, {size / 1e6:.0f} MB",
            {sftp: by_sftp, OURS: _ours(where, places)},
            rounds=rounds,
            goals=[Goal(OURS, "speed", at_least=times)],
            sshd_pid=_sshd_pid(where.sshd),
        )


def _killed_at(share: float, ledger: Ledger, copy_id: int, where: Site) -> None:
    """Run a copy in a child that ends itself, without a word, at a share of its bytes."""

    def run() -> None:
        STEPS["preflight"](ledger, copy_id, who=WHO, reach=where.reach)
        row = ledger_row(ledger, copy_id)
        done = 0

        def advance(work: Work, count: int) -> None:
            nonlocal done
            done += count
            if done >= share * row:
                os.kill(os.getpid(), 9)

        Work.advance = advance  # type: ignore[method-assign]
        STEPS["transfer"](ledger, copy_id, who=WHO, reach=where.reach)

    child = os.fork()
    if child == 0:
        run()
        os._exit(0)
    os.waitpid(child, 0)


def ledger_row(ledger: Ledger, copy_id: int) -> int:
    """Bytes of a copy."""
    from custody.minidvodb.records import load

    return int(load(ledger, copy_id).row["bytes"])


@contextmanager
def _relay(port: int, delay_s: float) -> Iterator[int]:
    """A port that leads to another one, every byte later by ``delay_s`` in each direction; none: the port itself."""
    if not delay_s:
        yield port
        return
    program = Path(__file__).with_name("minidvodb_delay.py")
    argv = [sys.executable, str(program), str(port), str(delay_s)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout
        try:
            yield int(relay.stdout.readline())
        finally:
            relay.terminate()


COMPARISONS = {
    "minidvodb_copy_big": copy_big,
    "minidvodb_copy_small": copy_small,
    "minidvodb_copy_again": copy_again,
    "minidvodb_copy_far": copy_far,
    "minidvodb_copy_resume": copy_resume,
    "minidvodb_slow_host": copy_beside_a_slow_host,
    "minidvodb_sftp_small": sftp_small,
    "minidvodb_sftp_big": sftp_big,
    "minidvodb_orchestration": minidvodb_airflow.orchestration,
}
