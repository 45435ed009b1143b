"""What a wiki says of itself (an error page is never published), and the one letter about a failure."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from email import message_from_string
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from custody.faults import Fault, FaultKind
from custody.wiki_dump import report, runs
from custody.wiki_dump.engine import siteinfo
from custody.wiki_dump.engines import _as_answer
from custody.wiki_dump.runs import Options
from custody.wiki_dump.whole import dump
from wiki_farm import FarmSite

GOOD = _as_answer(siteinfo.plain("aawiki"))


class Api:
    """An api.php that answers as it is told."""

    status, body = 200, GOOD

    def __init__(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(api.status)
                self.end_headers()
                self.wfile.write(api.body)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api.php"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def api() -> Iterator[Api]:
    found = Api()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, b"<html>error</html>", FaultKind.TRANSIENT),
        (503, GOOD, FaultKind.TRANSIENT),
        (200, b"<html>maintenance</html>", FaultKind.DATA),
        (200, b'{"error": {"code": "readapidenied"}}', FaultKind.DATA),
        (200, b"{}", FaultKind.DATA),
        (200, GOOD[:-40], FaultKind.DATA),
        (200, b"", FaultKind.DATA),
    ],
)
def test_an_error_of_the_api_is_never_published(
    farm: FarmSite, api: Api, status: int, body: bytes, kind: FaultKind
) -> None:
    farm.add_wiki("aawiki", pages=2)
    farm.lists(["aawiki"])
    farm.configure(api=api.url)
    api.status, api.body = status, body
    with pytest.raises(Fault) as caught:
        dump(
            farm.ledger, "farm", farm.config, who="t", wiki="aawiki", date="20260801",
            options=Options(jobs=("namespaces",)),
        )  # fmt: skip
    assert caught.value.kind is kind
    assert not list(farm.home.rglob("*siteinfo*.gz"))


def test_the_answer_of_the_api_is_published_in_both_forms(farm: FarmSite, api: Api) -> None:
    farm.add_wiki("aawiki", pages=2)
    farm.lists(["aawiki"])
    farm.configure(api=api.url)
    options = Options(jobs=("namespaces", "namespacesv2"))
    dump(farm.ledger, "farm", farm.config, who="t", wiki="aawiki", date="20260801", options=options)
    directory = farm.public("aawiki", "20260801")
    for name in ("siteinfo-namespaces", "siteinfo2-namespacesv2"):
        content = gzip.decompress((directory / f"aawiki-20260801-{name}.json.gz").read_bytes())
        assert siteinfo.parse(content, "aawiki", name) == siteinfo.plain("aawiki")


def test_nothing_answers_at_all() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Fault) as caught:
            siteinfo.fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/api.php", "x")
    assert caught.value.kind is FaultKind.TRANSIENT
    with pytest.raises(Fault, match="is no http address"):
        siteinfo.fetch("file:///etc/passwd", "x")


class MailServer:
    """Takes letters by SMTP, and keeps them."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                stream.write(b"220 here\r\n")
                stream.flush()
                self._talk(stream)

    def _talk(self, stream) -> None:  # type: ignore[no-untyped-def]
        while line := stream.readline():
            word = line[:4].upper()
            stream.write(b"354 go on\r\n" if word == b"DATA" else b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
            stream.flush()
            if word == b"DATA":
                letter = b""
                while (line := stream.readline()) != b".\r\n":
                    letter += line
                self.letters.append(letter.decode())
                stream.write(b"250 kept\r\n")
                stream.flush()
            if word == b"QUIT":
                return

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_a_failure_is_told_once_with_what_failed_and_why(farm: FarmSite) -> None:
    server = MailServer()
    farm.add_wiki("aawiki", pages=2)
    farm.lists(["aawiki"])
    path = farm.home / "wikidump.conf"
    mail = f"adminmail=ops@example.org\nsmtpserver=127.0.0.1:{server.port}"
    path.write_text(path.read_text().replace("adminmail=nomail", mail))
    farm.database("aawiki").execute("ALTER TABLE logging RENAME COLUMN log_params TO log_things")
    with pytest.raises(Fault):
        dump(farm.ledger, "farm", farm.config, who="t", wiki="aawiki", date="20260801")
    run = runs.select(farm.ledger)[0]
    line = report.line_of(farm.ledger, run)
    assert report.notify(farm.ledger, run, line, who="t")
    assert not report.notify(farm.ledger, run, line, who="t")
    server.close()
    letter = message_from_string(server.letters[0], policy=default)
    assert len(server.letters) == 1
    assert letter["Subject"] == "Dump of aawiki on 20260801: Partial dump, 1 item failed"
    assert "xmlpagelogsdump" in letter.get_content() and "log_params" in letter.get_content()
    status = report.list_runs(farm.ledger, "farm", stuck_only=True)
    assert [one.failed for one in status] == [("xmlpagelogsdump",)]
    with pytest.raises(Fault, match="takes no mail"):
        report.notify(farm.ledger, run, line, who="another")
    assert json.dumps(line.progress) == "{}"
