"""Somebody is told of an open question and of a run that failed; a notice that goes nowhere stops nothing."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput

from custody_airflow import notices
from custody_airflow.operators import questions

pytestmark = pytest.mark.airflow

HOSTILE = "Insert tape {{ 1/0 }}\r\nBcc: all@example.org \udcff <b>"


def context(task: Any = None, **more: Any) -> Any:
    instance = SimpleNamespace(dag_id="tape_backup", run_id="manual__2026", task_id="mount.insert")
    return {"ti": instance, "task": task, **more}


def question(subject: str = "Insert tape T2", body: str = "It is not in.") -> Any:
    return SimpleNamespace(subject=subject, body=body)


@pytest.fixture
def notify(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the connection, then tell of a context; returns what was warned of."""
    warned: list[str] = []
    log = SimpleNamespace(warning=lambda text, *values: warned.append(text % values))
    monkeypatch.setattr(notices.CustodyNotifier, "log", log)

    def tell(values: dict[str, Any] | None, told: Any) -> str:
        if values is not None:
            monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_NOTIFY", json.dumps(values))
        notices.CustodyNotifier()(told)
        return "\n".join(warned)

    return tell


@pytest.fixture
def hook() -> Iterator[Any]:
    """A web server that keeps what is posted to it; ``status`` is its answer."""
    server: Any = HTTPServer(("127.0.0.1", 0), _Hook)
    server.got, server.status = [], 200
    yield from _running(server)


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.got.append((self.path, self.headers["Authorization"], json.loads(body)))
        self.send_response(server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mail_server() -> Iterator[Any]:
    """A mail server that keeps its letters, as ``got``: recipients and bytes."""
    server: Any = ThreadingTCPServer(("127.0.0.1", 0), _Mail)
    server.daemon_threads, server.got = True, []
    yield from _running(server)


class _Mail(StreamRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        recipients: list[bytes] = []
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"RCPT":
                recipients.append(line.strip())
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                letter = b"".join(iter(self.rfile.readline, b".\r\n"))
                server.got.append((recipients, letter))
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")


def _running(server: Any) -> Iterator[Any]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_a_connection_nobody_is_told(notify: Any) -> None:
    assert notify(None, context(question())) == ""


def test_a_mail_tells_of_the_question_and_names_can_do_nothing_to_it(notify: Any, mail_server: Any) -> None:
    extra = {"to": "ops@example.org", "from_email": "c@example.org", "disable_ssl": True, "disable_tls": True}
    port = mail_server.server_address[1]
    values = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
    notify(values, context(question(HOSTILE, "x & <script>")))
    ((recipients, letter),) = mail_server.got
    assert recipients == [b"rcpt TO:<ops@example.org>"]
    found = message_from_bytes(letter, policy=policy.default)
    assert found["Subject"] == "tape_backup: Insert tape {{ 1/0 }} Bcc: all@example.org \\udcff <b>"
    assert found["Bcc"] is None
    (text,) = [part.get_content() for part in found.walk() if part.get_content_type() == "text/html"]
    assert "x &amp; &lt;script&gt;" in text and "run manual__2026, task mount.insert" in text


def test_a_web_hook_gets_what_happened_and_where_to_look(notify: Any, hook: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org/base/")
    address = f"http://127.0.0.1:{hook.server_address[1]}/room?key=k"
    values = {"conn_type": "http", "host": address, "password": "token"}
    notify(values, context(question()))
    notify(values, context(question(), exception=ValueError("tape T1: is suspect")))
    (path, token, asked), (_, _, failed) = hook.got
    assert (path, token) == ("/room?key=k", "Bearer token")
    assert asked["subject"] == "tape_backup: Insert tape T2"
    assert "It is not in." in asked["text"]
    base = "https://airflow.example.org/base/dags/tape_backup/runs/manual__2026/tasks/mount.insert"
    assert (asked["link"], failed["link"]) == (f"{base}/required_actions", base)
    assert failed["subject"] == "tape_backup: mount.insert failed"
    assert "tape T1: is suspect" in failed["text"]


def test_a_task_that_goes_on_can_say_something_too(notify: Any, hook: Any) -> None:
    address = f"http://127.0.0.1:{hook.server_address[1]}/"
    notify({"conn_type": "http", "host": address}, context(question()))
    notices.tell(context(), "disk /1 fills", "It will be full in\n3 hours.")
    told = hook.got[1][2]
    assert told["subject"] == "tape_backup: disk /1 fills"
    assert "It will be full in\n3 hours." in told["text"]


def test_a_program_gets_it_on_its_standard_input(notify: Any, tmp_path: Path) -> None:
    program = f"import sys; open({str(tmp_path / 'got')!r}, 'wb').write(sys.stdin.buffer.read())"
    values = {"conn_type": "generic", "extra": {"command": [sys.executable, "-c", program]}}
    notify(values, context(question(HOSTILE)))
    got = json.loads((tmp_path / "got").read_text())
    assert got["subject"].startswith("tape_backup: Insert tape {{ 1/0 }} Bcc")
    assert got["run_id"] == "manual__2026"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"conn_type": "http", "host": "hooks.example.org"}, "is no address that begins with http"),
        ({"conn_type": "smtp", "host": "127.0.0.1", "port": 1}, "names no `to`"),
        ({"conn_type": "generic"}, "needs a program"),
        ({"conn_type": "generic", "extra": {"command": "mail ops"}}, "needs a program"),
        ({"conn_type": "generic", "extra": {"command": ["/nowhere/at/all"]}}, "/nowhere/at/all"),
        ({"conn_type": "generic", "extra": {"command": ["false"]}}, "false: ended with 1"),
        ({"conn_type": "http", "host": "http://127.0.0.1:1/SECRET"}, "web hook at 127.0.0.1: took no notice"),
    ],
)
def test_a_notice_that_goes_nowhere_is_a_warning(values: dict[str, Any], said: str, notify: Any) -> None:
    warned = notify(values, context(question()))
    assert warned.startswith("nobody was told: ") and said in warned
    assert "SECRET" not in warned


def test_a_refusal_of_the_other_side_is_a_warning(notify: Any, hook: Any) -> None:
    hook.status = 503
    address = f"http://127.0.0.1:{hook.server_address[1]}/SECRET"
    warned = notify({"conn_type": "http", "host": address}, context(question()))
    assert warned == "nobody was told: web hook at 127.0.0.1: took no notice: HTTPStatusError (503)"


def test_a_question_is_told_once_and_parked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **_: None)
    monkeypatch.setattr(notices.CustodyNotifier, "notify", lambda self, context: told.append(context["task"].subject))
    asking = questions.QuestionOperator(task_id="ask", options=["yes", "no"])
    ours = context(asking) | {"task_instance": SimpleNamespace(id="0")}
    with pytest.raises(TaskAwaitingInput) as parked:
        asking.ask(ours, "Really?", "It is a lot.")
    assert (parked.value.timeout, parked.value.method_name) == (questions.LOOK_AGAIN, "execute_complete")
    assert asking.answer(ours, {"error": "late", "error_type": "timeout"}) is None
    with pytest.raises(TaskAwaitingInput) as parked:
        asking.wait_on()
    assert parked.value.timeout == questions.LOOK_AGAIN
    assert told == ["Really?"]
