"""rsync over ssh: takes up a file where it was cut off, and tells the digest of what it read."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import IO

from custody.host import SshHost, classify_ssh
from custody.minidvodb.codes import CopyFault, FaultCode, classify_saying, from_ssh
from custody.minidvodb.far import Far
from custody.minidvodb.far_answers import unescape
from custody.minidvodb.manifest import FILE, Entry, chunks
from custody.minidvodb.movers import Job, Sent
from custody.minidvodb.movers.process import Program, running
from custody.minidvodb.ssh import address_of

_LITERAL = re.compile(rb"^Literal data: ([0-9]+)")
_TOLD = re.compile(rb"=([0-9a-f]{32}) (.+)")
_PROGRESS = re.compile(rb" *([0-9]+) +[0-9]+%")
_BATCH_BYTES = 4 << 30
_VANISHED, _TIMEOUT = 24, 30


def send(job: Job) -> Sent:
    """See :class:`Mover`. While a cap may change, files go in batches, so that the next one goes by the new cap."""
    digests: dict[bytes, str] = {}
    sent_bytes = 0
    for batch in _batches(job):
        some, digested = _send(job, batch, job.rate())
        sent_bytes += some
        digests |= digested
    return Sent(sent_bytes, digests)


def _batches(job: Job) -> Iterator[Sequence[Entry]]:
    if job.rate() is None:
        yield job.entries
        return
    batch: list[Entry] = []
    size = 0
    for entry in job.entries:
        batch.append(entry)
        size += entry.size_bytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _send(job: Job, entries: Sequence[Entry], rate: int | None) -> tuple[int, dict[bytes, str]]:
    argv = ["rsync", "-lptd", "-O", "-J", "--inplace", "--no-whole-file", "--from0", "--files-from=-"]
    argv += ["-s", f"--timeout={max(1, int(job.stall_s))}", "--info=progress2,stats2", "--no-human-readable"]
    argv += ["--checksum-choice=xxh128", "--out-format==%C %n"] if job.algorithm == "xxh128" else []
    argv += [f"--bwlimit={max(1, rate // 1024)}"] if rate else []
    argv += [*_target(job.far)]
    argv[-1:-1] = ["--", f"{job.root}/"]
    listed = _Listed()
    with running(argv, job) as program:
        assert program.process.stdin and program.process.stdout
        feeder = threading.Thread(
            target=_feed, args=(program.process.stdin, [entry.path for entry in entries]), daemon=True
        )
        feeder.start()
        for line in _lines(program.process.stdout):
            listed.take(line, job)
        program.process.wait()
        feeder.join()
        if program.process.returncode and program.fault is None:
            raise _fault(job, program)
    files = {entry.path for entry in entries if entry.kind == FILE}
    return listed.literal, {path: digest for path, digest in listed.digests.items() if path in files}


def _target(far: Far) -> list[str]:
    """The arguments that name the other side; the last is the target."""
    host = far.host
    if not isinstance(host, SshHost):
        return [f"{far.staging}/"]
    address = address_of(host)
    name = f"[{address}]" if ":" in address else address
    return ["--rsh", remote_shell(host.ssh_command()), "--rsync-path", far.writer_line(["rsync"]), f"{name}:./"]


def remote_shell(ssh: Sequence[str]) -> str:
    """An ssh argument vector as ``--rsh`` wants it: in rsync's own quoting, which is no shell's."""
    return " ".join(
        f"""'{word.replace("'", "''")}'""" if set(word) & set(" '\"\t") or not word else word for word in ssh
    )


class _Listed:
    """What rsync has told so far."""

    def __init__(self) -> None:
        self.digests: dict[bytes, str] = {}
        self.literal = 0
        self._done = 0

    def take(self, line: bytes, job: Job) -> None:
        if found := _TOLD.fullmatch(line):
            self.digests[unescape(found[2])] = found[1].decode()
            job.moved(0)
        elif found := _PROGRESS.match(line):
            done = int(found[1])
            job.moved(max(0, done - self._done))
            self._done = max(done, self._done)
        elif found := _LITERAL.match(line):
            self.literal = int(found[1])


def _feed(stdin: IO[bytes], paths: Sequence[bytes]) -> None:
    try:
        for record in chunks(paths):
            stdin.write(record)
        stdin.close()
    except BrokenPipeError:
        return  # its end says why


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
        *lines, rest = (rest + block).replace(b"\r", b"\n").split(b"\n")
        yield from lines
    yield rest


def _fault(job: Job, program: Program) -> CopyFault:
    """What the end of rsync means, told by its words: its status alone cannot be trusted."""
    status, text = program.process.returncode, program.stderr_tail
    host = job.far.host.name
    own = [line for line in text.splitlines() if line.strip() and not line.startswith("rsync")]
    if status == 255 or (status == 12 and own and not any("custody:" in line for line in own)):
        classified = from_ssh(classify_ssh(host, "\n".join(own)))
        if isinstance(classified, CopyFault):
            return classified
    if status == _TIMEOUT or "timeout in data send/receive" in text:
        return CopyFault(
            FaultCode.TIMEOUT,
            job.far.where,
            f"nothing moved for {job.stall_s:g} s",
            exit_status=status,
            stderr_tail=text[-2000:],
        )
    if status == _VANISHED or ("link_stat" in text and "No such file" in text):
        return CopyFault(
            FaultCode.SOURCE_CHANGED,
            str(job.root),
            "files went away meanwhile",
            exit_status=status,
            stderr_tail=text[-2000:],
        )
    if status in {66, 67}:
        return job.far.fault_of(status, text)
    fault = job.far.sharpen(classify_saying(job.far.where, text, exit_status=status))
    return job.far.blame_room(fault, sum(entry.size_bytes for entry in job.entries))
