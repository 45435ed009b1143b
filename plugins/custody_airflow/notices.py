"""Telling a person that a run waits for them, or that it failed: by mail, a web hook, or a program of the site's own.

Where a notice goes is the Airflow connection ``custody_notify``; where there is none, nothing is sent.

| its type | a notice is |
|---|---|
| ``smtp`` | a mail to ``to`` of the extra, from ``from_email`` |
| ``http`` | a POST of JSON to ``host``, an address with its http:// or https://; ``password`` is a bearer token |
| anything else | standard input of the program in ``command`` of the extra, an argument vector |

The keys of the JSON are those of :class:`Notice`; ``text`` is what chat systems show. A notice that cannot be sent is a
warning in the log, and never changes what becomes of a task.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from airflow.configuration import conf
from airflow.sdk import BaseHook, BaseNotifier, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from custody.faults import Fault, FaultKind
from custody.host import LocalHost

CONNECTION_ID = "custody_notify"
TIMEOUT_S = 30.0
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Notice:
    """One message. ``link`` leads to the question or the log in Airflow; empty where Airflow has no address."""

    subject: str
    text: str
    dag_id: str
    run_id: str
    task_id: str
    link: str = ""

    @property
    def letter(self) -> str:
        """What a person reads."""
        lines = [self.text, "", f"DAG {self.dag_id}, run {self.run_id}, task {self.task_id}", self.link]
        return "\n".join(lines).strip() + "\n"


class CustodyNotifier(BaseNotifier):
    """For ``notifiers`` of a question, and for ``on_failure_callback`` of the task that reports what a run came to."""

    def notify(self, context: Any) -> None:
        """Send what the context tells; whatever goes wrong is logged and no more."""
        _send_or_warn(lambda: notice_of(context), self.log)


def tell(context: Any, subject: str, text: str) -> None:
    """Send a message about a task that goes on; whatever goes wrong is logged and no more."""
    instance = context["ti"]
    named = instance.dag_id, instance.run_id, instance.task_id
    _send_or_warn(
        lambda: Notice(_line(f"{named[0]}: {subject}"), _clean(text), *named, _link(*named)), CustodyNotifier().log
    )


def _send_or_warn(make: Callable[[], Notice], log: Any) -> None:
    """A task does its work whether anybody is told of it or not."""
    try:
        connection = BaseHook.get_connection(CONNECTION_ID)
    except AirflowNotFoundException:
        return
    except Exception as error:
        log.warning("nobody was told: connection %s cannot be read: %s", CONNECTION_ID, error)
        return
    try:
        send(connection, make())
    except Exception as error:
        log.warning("nobody was told: %s", error)


def notice_of(context: Any) -> Notice:
    """The notice for a task: the fault it ended with, or the question it asks."""
    task, instance = context.get("task"), context["ti"]
    dag_id, run_id, task_id = instance.dag_id, instance.run_id, instance.task_id
    error, asked = context.get("exception"), getattr(task, "subject", "")
    if error is not None or not asked:
        subject, text = f"{dag_id}: {task_id} failed", str(error or "see its log")
    else:
        subject, text = f"{dag_id}: {asked}", str(getattr(task, "body", "") or asked)
    is_question = error is None and bool(asked)
    link = _link(dag_id, run_id, task_id, "/required_actions" if is_question else "")
    return Notice(_line(subject), _clean(text), dag_id, run_id, task_id, link)


def _link(dag_id: str, run_id: str, task_id: str, page: str = "") -> str:
    base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id)}/tasks/{quote(task_id)}{page}" if base else ""


def _line(text: str) -> str:
    return " ".join(_clean(text).split())


def send(connection: Connection, notice: Notice) -> None:
    """Send a notice.

    Faults: CONFIG where the connection lacks something, TRANSIENT where the other side does not take it; and whatever
    Airflow's mail hook raises.
    """
    address = connection.host or ""
    if connection.conn_type == "smtp":
        _mail(connection, notice)
    elif connection.conn_type in {"http", "https"} or address.startswith(_WEB):
        _post(address, connection.password, notice)
    else:
        _run(connection.extra_dejson, notice)


def _mail(connection: Connection, notice: Notice) -> None:
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    extra: Mapping[str, Any] = connection.extra_dejson
    to, sender = extra.get("to"), extra.get("from_email") or connection.login
    if not to or not sender:
        raise _incomplete("names no `to` and `from_email` in its extra")
    # The hook, not its notifier: that one would take the braces in the name of a file for a template.
    with SmtpHook(smtp_conn_id=CONNECTION_ID) as server:
        content = f"<pre>{html.escape(notice.letter)}</pre>"
        server.send_email_smtp(to=to, from_email=sender, subject=notice.subject, html_content=content)


def _post(address: str, token: str | None, notice: Notice) -> None:
    import httpx

    if not address.startswith(_WEB):
        raise _incomplete(f"has the host {address!r}, which is no address that begins with http:// or https://")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = asdict(notice) | {"text": f"{notice.subject}\n{notice.letter}"}
    try:
        answer = httpx.post(address, json=body, headers=headers, timeout=TIMEOUT_S)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        # Its address may hold the key: chat systems give such ones out.
        host = httpx.URL(address).host
        status = f" ({error.response.status_code})" if isinstance(error, httpx.HTTPStatusError) else ""
        reason = f"took no notice: {type(error).__name__}{status}"
        raise Fault(FaultKind.TRANSIENT, f"web hook at {host}", reason) from None


def _run(extra: Mapping[str, Any], notice: Notice) -> None:
    command = extra.get("command")
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise _incomplete('needs a program in its extra: {"command": ["/path/of/it", "argument"]}')
    stdin = (json.dumps(asdict(notice)) + "\n").encode()
    done = LocalHost().run(command, stdin=stdin, timeout_s=TIMEOUT_S)
    if done.returncode:
        reason = f"ended with {done.returncode}: {done.stderr_tail}"
        raise Fault(FaultKind.TRANSIENT, command[0], reason)


def _incomplete(reason: str) -> Fault:
    return Fault(
        FaultKind.CONFIG, f"connection {CONNECTION_ID}", reason, next_command=f"airflow connections get {CONNECTION_ID}"
    )


def _clean(text: str) -> str:
    """A text that can go anywhere, whatever bytes a file name in it had."""
    return text.encode("utf-8", "backslashreplace").decode()
