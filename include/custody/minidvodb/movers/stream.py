"""One tar stream over ssh: many small files in one go. Every byte is hashed as it is read to be sent."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fcntl import F_SETPIPE_SZ, fcntl
from functools import lru_cache

from custody.digests import Hasher
from custody.faults import Fault, FaultKind
from custody.host import Host, SshHost, end_group
from custody.minidvodb.codes import CopyFault, FaultCode, classify_saying, from_ssh
from custody.minidvodb.manifest import DIRECTORY, FILE, Entry, chunks, demand_same, join
from custody.minidvodb.movers import Job, Sent
from custody.minidvodb.movers.process import Watch, running
from custody.minidvodb.ssh import SharedSshHost, address_of

_BLOCK = 512
_BUFFER_BYTES = 1 << 20
_RECORD_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20
PART_BYTES = 64 << 20
"""What is less does not pay for a connection of its own."""
_LARGEST_OCTAL = 8**11 - 1
_ZEROS = bytes(_BLOCK)
_UNTAR = ["tar", "--extract", "--file=-", "--preserve-permissions", "--no-same-owner", "--delay-directory-restore"]
_UNTAR += [f"--record-size={_RECORD_BYTES}", "--read-full-records", "--no-selinux", "--no-acls", "--no-xattrs"]


def send(job: Job) -> Sent:
    """See :class:`Mover`."""
    parts = partition(job.entries, job.streams) if isinstance(job.far.host, SharedSshHost) else []
    return _send_parts(job, job.far.host, parts) if len(parts) > 1 else _send(job)


def _send(job: Job, *, is_part: bool = False) -> Sent:
    with unpacking(job) as descriptor:
        packer = _Packer(job, descriptor)
        packer.pack(is_part=is_part)
    return Sent(packer.sent_bytes, packer.digests)


def partition(entries: Sequence[Entry], most: int) -> list[list[Entry]]:
    """Divide entries into parts of about the same size, each worth a connection; each has all directories.

    One part where it does not pay. Links are in the first.
    """
    files = sorted((entry for entry in entries if entry.kind == FILE), key=lambda entry: -entry.size_bytes)
    count = min(most, len(files), sum(entry.size_bytes for entry in files) // PART_BYTES)
    if count < 2:
        return [list(entries)]
    sizes = [0] * count
    part_of: dict[bytes, int] = {}
    for entry in files:
        smallest = sizes.index(min(sizes))
        sizes[smallest] += entry.size_bytes + _BLOCK
        part_of[entry.path] = smallest
    everywhere = {entry.path for entry in entries if entry.kind == DIRECTORY}
    return [
        [entry for entry in entries if entry.path in everywhere or part_of.get(entry.path, 0) == number]
        for number in range(count)
    ]


def _send_parts(job: Job, host: Host, parts: Sequence[Sequence[Entry]]) -> Sent:
    """Send parts side by side, each over a connection of its own; permissions of directories when all are through."""
    assert isinstance(host, SharedSshHost)
    others: list[Sent] = []
    faults: list[BaseException] = []
    stop = threading.Event()

    def check() -> None:
        job.check()
        if stop.is_set():
            raise Fault(FaultKind.CANCELLED, job.far.where, "another of its streams has failed")

    def rate() -> int | None:
        whole = job.rate()
        return whole and max(1024, whole // len(parts))

    def send_part(entries: Sequence[Entry]) -> None:
        line = host.another()
        try:
            part = replace(job, far=job.far.over(line), entries=entries, check=check, rate=rate)
            others.append(_send(part, is_part=True))
        except BaseException as error:
            faults.append(error)
            stop.set()
        finally:
            line.close()

    threads = [threading.Thread(target=send_part, args=(entries,), daemon=True) for entries in parts[1:]]
    for thread in threads:
        thread.start()
    try:
        first = _send(replace(job, entries=parts[0], check=check, rate=rate), is_part=True)
    except BaseException as error:
        faults.append(error)
        stop.set()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    last = _send(replace(job, entries=[entry for entry in job.entries if entry.kind == DIRECTORY]))
    digests = {path: digest for sent in (first, *others) for path, digest in sent.digests.items()}
    return Sent(sum(sent.sent_bytes for sent in (first, *others, last)), digests)


def relay(job: Job, source: Host, argv: Sequence[str]) -> int:
    """Send entries that a program on another machine packs, through this one; returns the bytes that travelled.

    :param source: the machine they are on.
    :param argv: reads names, NUL-ended, and writes a tar stream in whole records.
    """
    listed = b"".join(chunks(b"./" + entry.path for entry in job.entries))
    with tempfile.TemporaryFile() as names, unpacking(job) as descriptor:
        names.write(listed)
        names.seek(0)
        pace, sent = _Pace(job), 0
        with subprocess.Popen(_on(source, argv), stdin=names, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as packer:
            assert packer.stdout and packer.stderr
            try:
                while block := packer.stdout.read(_BUFFER_BYTES):
                    view = memoryview(block)
                    while view:
                        count = os.write(descriptor, view[: pace.allow(len(view))])
                        view = view[count:]
                        sent += count
                        job.moved(count)
            except BrokenPipeError:
                packer.terminate()  # the end of the one that writes says why
                raise
            complaint = packer.stderr.read().decode("utf-8", "replace")
        if packer.returncode:
            raise classify_saying(f"{source.name}, as the source", complaint, exit_status=packer.returncode)
    return sent


@contextmanager
def unpacking(job: Job) -> Iterator[int]:
    """Tar over there, in the staging directory: a descriptor for its stream, which must fill whole records.

    Faults: what the watch found, what it said; nothing of it is left behind here or over there.
    """
    argv, host = job.far.writer(_UNTAR), job.far.host
    if isinstance(host, SharedSshHost):
        with _unpacking_through(host, job, argv) as descriptor:
            yield descriptor
        return
    with running(_on(host, argv), job) as program:
        assert program.process.stdin
        with suppress(BrokenPipeError):  # its end says why
            yield program.process.stdin.fileno()
        program.process.stdin.close()
        program.process.wait()
        if program.process.returncode and program.fault is None:
            raise _fault(job, program.process.returncode, program.stderr_tail)


@contextmanager
def _unpacking_through(host: SharedSshHost, job: Job, argv: Sequence[str]) -> Iterator[int]:
    feed = host.feed(argv)
    watch = Watch(job, lambda: end_group(feed.channel.process))
    try:
        with suppress(BrokenPipeError):  # its end says why
            yield feed.channel.descriptor
        done = feed.end()
    except BaseException:
        watch.stop()
        host.abandon()  # it waits for the rest of its stream
        if watch.fault:
            raise watch.fault from None
        raise
    watch.stop()
    if watch.fault:
        host.abandon()
        raise watch.fault
    if done is None:
        try:
            host.lost()
        except Fault as fault:
            raise from_ssh(fault) from fault
    elif done.returncode:
        host.drop()  # the shell over there does not outlive a stream that it could not take
        raise _fault(job, done.returncode, done.stderr_tail)


def _on(host: Host, argv: Sequence[str]) -> list[str]:
    """An argument vector that runs there."""
    return [*host.ssh_command(), address_of(host), "--", shlex.join(argv)] if isinstance(host, SshHost) else list(argv)


class _Packer:
    """Writes a tar stream: GNU long names (any bytes), pax times to the nanosecond."""

    def __init__(self, job: Job, descriptor: int) -> None:
        self.digests: dict[bytes, str] = {}
        self.sent_bytes = 0
        self._job = job
        self._root = os.fsencode(job.root)
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._pace = _Pace(job)
        with suppress(OSError):  # a small pipe is only slower
            fcntl(self._descriptor, F_SETPIPE_SZ, _PIPE_BYTES)

    def pack(self, *, is_part: bool = False) -> None:
        """Every entry: directories first, to be there, and once more at the end, with their own permissions.

        :param is_part: others still write into these directories: they stay writable.
        """
        directories = [entry for entry in self._job.entries if entry.kind == DIRECTORY]
        for entry in directories:
            self._buffer += header(entry.path + b"/", b"5", entry.mode | 0o700)
        for entry in self._job.entries:
            if entry.kind == FILE:
                self._add_file(entry)
            elif entry.kind != DIRECTORY:
                self._buffer += header(entry.path, b"2", 0o777, target=entry.target)
            if len(self._buffer) >= _BUFFER_BYTES:
                self._flush()
        for entry in () if is_part else reversed(directories):
            self._buffer += header(entry.path + b"/", b"5", entry.mode)
        self._buffer += _ZEROS * 2
        self._buffer += bytes(-(self.sent_bytes + len(self._buffer)) % _RECORD_BYTES)
        self._flush()

    def _add_file(self, entry: Entry) -> None:
        path = join(self._root, entry.path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            demand_same(os.fstat(descriptor), entry, path)
            self._buffer += header(entry.path, b"0", entry.mode, size=entry.size_bytes, mtime_ns=entry.mtime_ns)
            hasher = Hasher((self._job.algorithm,))
            for block in self._read(descriptor, entry, path):
                hasher.update(block)
            self._buffer += _ZEROS[: -entry.size_bytes % _BLOCK]
            demand_same(os.fstat(descriptor), entry, path)
        finally:
            os.close(descriptor)
        self.digests[entry.path] = hasher.fixity().digests[self._job.algorithm]

    def _read(self, descriptor: int, entry: Entry, path: bytes) -> Iterator[bytes | memoryview]:
        left = entry.size_bytes
        large = memoryview(bytearray(_BUFFER_BYTES)) if left > _BUFFER_BYTES // 4 else None
        while left:
            try:
                if large is None:
                    block: bytes | memoryview = os.read(descriptor, left)
                else:
                    block = large[: os.readv(descriptor, [large[: min(left, _BUFFER_BYTES)]])]
            except OSError as error:
                raise _unreadable(path, error) from error
            if not block:
                raise CopyFault(FaultCode.SOURCE_CHANGED, os.fsdecode(path), "became shorter while it was read")
            left -= len(block)
            yield block
            if large is None:
                self._buffer += block
            else:
                self._flush()
                self._write(block)

    def _flush(self) -> None:
        if self._buffer:
            self._write(memoryview(self._buffer))
            self._buffer = bytearray()

    def _write(self, block: bytes | memoryview) -> None:
        view = memoryview(block)
        while view:
            allowed = self._pace.allow(len(view))
            count = os.write(self._descriptor, view[:allowed])
            view = view[count:]
            self.sent_bytes += count
            self._job.moved(count)


class _Pace:
    """Keeps a stream below the cap of the moment, which is asked for again every second."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._rate: int | None = None
        self._asked_at = float("-inf")
        self._due = 0.0

    def allow(self, wanted: int) -> int:
        """How many bytes may go now; waits for its turn."""
        at = time.monotonic()
        if at - self._asked_at > 1:
            self._rate, self._asked_at = self._job.rate(), at
        if self._rate is None:
            return wanted
        count = max(1, min(wanted, self._rate // 10))
        self._due = max(self._due, at)
        while (wait_s := self._due - time.monotonic()) > 0:
            time.sleep(min(wait_s, 0.2))
            self._job.moved(0)  # it waits because it was told to
        self._due += count / self._rate
        return count


def header(name: bytes, kind: bytes, mode: int, *, size: int = 0, mtime_ns: int = 0, target: bytes = b"") -> bytes:
    """The blocks in front of a member's data."""
    parts = b""
    if len(target) > 100:
        parts += _long(b"K", target)
    if len(name) > 100:
        parts += _long(b"L", name)
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    if nanoseconds or seconds < 0:
        parts += _pax(b"mtime", _pax_time(mtime_ns))
    return parts + _block(name[:100], kind, mode, size, max(0, seconds), target[:100])


def _pax_time(mtime_ns: int) -> bytes:
    sign = "-" if mtime_ns < 0 else ""
    seconds, nanoseconds = divmod(abs(mtime_ns), 1_000_000_000)
    return f"{sign}{seconds}.{nanoseconds:09d}".encode()


def _long(kind: bytes, text: bytes) -> bytes:
    content = text + b"\0"
    return _block(b"././@LongLink", kind, 0, len(content), 0, b"") + content + _ZEROS[: -len(content) % _BLOCK]


def _pax(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while length != len(b"%d" % length) + len(key) + len(value) + 3:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    record = b"%d %s=%s\n" % (length, key, value)
    return _pax_block(len(record)) + record + _ZEROS[: -len(record) % _BLOCK]


@lru_cache(maxsize=64)
def _pax_block(length: int) -> bytes:
    return _block(b"././@PaxHeader", b"x", 0o644, length, 0, b"")


def _block(name: bytes, kind: bytes, mode: int, size: int, seconds: int, target: bytes) -> bytes:
    fields = b"%s%07o\x000000000\x000000000\x00%s%s        %s%sustar  \x00" % (
        name.ljust(100, b"\0"),
        mode,
        _number(size),
        _number(seconds),
        kind,
        target.ljust(100, b"\0"),
    )
    whole = fields.ljust(_BLOCK, b"\0")
    return b"%s%06o\x00 %s" % (whole[:148], sum(whole), whole[156:])


def _number(value: int) -> bytes:
    """Octal, or base 256 where that is too short (GNU)."""
    return b"%011o\x00" % value if value <= _LARGEST_OCTAL else b"\x80" + value.to_bytes(11, "big")


def _unreadable(path: bytes, error: OSError) -> CopyFault:
    code = FaultCode.SOURCE_CHANGED if isinstance(error, FileNotFoundError) else FaultCode.SOURCE_INVALID
    return CopyFault(
        code, os.fsdecode(path), f"cannot be read ({error.strerror})", next_command="check its rights, its disk"
    )


def _fault(job: Job, status: int, text: str) -> CopyFault:
    if status in {66, 67}:
        return job.far.fault_of(status, text)
    return job.far.sharpen(classify_saying(job.far.where, text, exit_status=status))
