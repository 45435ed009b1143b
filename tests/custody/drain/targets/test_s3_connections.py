"""Files of one series share connections; one that was closed meanwhile costs nothing but a new one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from custody.digests import FileState, read_file
from custody.drain.targets import Item, Outgoing
from custody.drain.targets.http_put import BLOCK_BYTES
from drain_site import Store

pytestmark = pytest.mark.service
ITEM = Item("WIDE-1")


class Wire:
    """Hands bytes on to a server, counts connections, and cuts those that are idle when it is told to."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self.open: list[tuple[socket.socket, socket.socket]] = []
        self.made = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self.made += 1
            self.open.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        try:
            while block := source.recv(1 << 16):
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def cut(self) -> None:
        for pair in self.open:
            for end in pair:
                with contextlib.suppress(OSError):  # the other side may have gone first
                    end.shutdown(socket.SHUT_RDWR)
        self.open.clear()

    def close(self) -> None:
        self._listener.close()
        for pair in self.open:
            for end in pair:
                end.close()


@pytest.fixture
def wire(store: Store) -> Iterator[Wire]:
    parts = urlsplit(store.endpoint_url)
    assert parts.hostname and parts.port
    found = Wire((parts.hostname, parts.port))
    yield found
    found.close()


def _outgoing(path: Path, size_bytes: int) -> Outgoing:
    path.write_bytes(os.urandom(size_bytes))
    return Outgoing(path, path.name, read_file(path).fixity, FileState.of_path(path))


def test_two_threads_make_two_connections_for_many_files(store: Store, wire: Wire, tmp_path: Path) -> None:
    target = store.target(endpoint_url=f"http://127.0.0.1:{wire.address[1]}")
    files = [_outgoing(tmp_path / f"{number}.warc", 5000 + number) for number in range(20)]
    with ThreadPoolExecutor(2) as pool:
        receipts = list(pool.map(lambda outgoing: target.put(ITEM, outgoing), files))
    assert 1 <= wire.made <= 2
    for outgoing, receipt in zip(files, receipts, strict=True):
        assert receipt.read.digests["md5"] == receipt.stated.digests["md5"] == outgoing.fixity.digests["md5"]


def test_a_connection_that_was_closed_while_idle_is_made_anew(store: Store, wire: Wire, tmp_path: Path) -> None:
    target = store.target(endpoint_url=f"http://127.0.0.1:{wire.address[1]}")
    target.put(ITEM, _outgoing(tmp_path / "a.warc", 5000))
    wire.cut()
    receipt = target.put(ITEM, _outgoing(tmp_path / "b.warc", 5000))
    assert receipt.status == 200
    assert wire.made == 2


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_the_digest_is_right_however_it_is_made(store: Store, tmp_path: Path, size_bytes: int) -> None:
    outgoing = _outgoing(tmp_path / "a.warc", size_bytes)
    receipt = store.target().put(ITEM, outgoing)
    md5 = hashlib.md5(outgoing.path.read_bytes()).hexdigest()
    assert (receipt.read.size_bytes, receipt.read.digests) == (size_bytes, {"md5": md5})
    assert store.objects()["WIDE-1/a.warc"] == (md5, size_bytes)


@pytest.mark.parametrize("name", ["a~b.warc", "a+b=c,d@e%25.warc", "a%b.warc"])
def test_the_address_is_the_one_boto3_would_use(store: Store, name: str) -> None:
    client = store.client()
    parameters = {"Bucket": store.bucket, "Key": f"WIDE-1/{name}"}
    presigned = client.generate_presigned_url("get_object", Params=parameters).partition("?")[0]
    assert store.target().url("WIDE-1", name) == presigned
