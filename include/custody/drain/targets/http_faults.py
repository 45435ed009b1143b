"""What an S3 server's refusal means."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from custody.drain.targets.http_put import Answer
from custody.faults import Fault, FaultKind

_CODE = re.compile(rb"<Code>([^<]{1,80})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,500})</Message>")
DEFAULT_PAUSE = timedelta(seconds=60)

_BY_CODE = {
    "SlowDown": FaultKind.THROTTLED,
    "ServiceUnavailable": FaultKind.THROTTLED,
    "BadDigest": FaultKind.DATA,
    "InvalidDigest": FaultKind.DATA,
    "IncompleteBody": FaultKind.TRANSIENT,
    "RequestTimeout": FaultKind.TRANSIENT,
    "NoSuchBucket": FaultKind.CONFIG,
    "NoSuchUpload": FaultKind.TRANSIENT,  # it was finished or given up by another attempt: begun anew
    "QuotaExceeded": FaultKind.CAPACITY,
    "BucketAlreadyExists": FaultKind.CONFLICT,
    "OperationAborted": FaultKind.TRANSIENT,
}
_BY_STATUS = {
    400: FaultKind.CONFIG,
    401: FaultKind.AUTH,
    403: FaultKind.AUTH,
    404: FaultKind.CONFIG,
    408: FaultKind.TRANSIENT,
    409: FaultKind.TRANSIENT,
    412: FaultKind.CONFLICT,
    429: FaultKind.THROTTLED,
    503: FaultKind.THROTTLED,
    507: FaultKind.CAPACITY,
}
_NEXT = {
    FaultKind.AUTH: "check login and password of the Airflow connection",
    FaultKind.CONFIG: "check bucket and endpoint in the configuration and the Airflow connection",
    FaultKind.CAPACITY: "make room at the target",
}


def refuse(answer: Answer, subject: str) -> Fault:
    """The fault that an answer other than success stands for; ``subject`` names the object or bucket."""
    code = _text(_CODE, answer.body)
    message = _text(_MESSAGE, answer.body)
    kind = classify(answer.status, code)
    said = " ".join(filter(None, (str(answer.status), code, message and f"({message})")))
    until = retry_after(answer) if kind is FaultKind.THROTTLED else None
    return Fault(kind, subject, f"the server refused it: {said}", next_command=_NEXT.get(kind), until=until)


def classify(status: int, code: str = "") -> FaultKind:
    """The kind of a refusal by its S3 error code, else by its HTTP status."""
    default = FaultKind.TRANSIENT if status >= 500 or status < 300 else FaultKind.CONFIG
    return _BY_CODE.get(code) or _BY_STATUS.get(status, default)


def retry_after(answer: Answer) -> datetime:
    """The time before which the server does not want to hear from us; a minute from now where it does not say."""
    now = datetime.now(UTC)
    value = answer.headers.get("retry-after", "").strip()
    try:
        if value.isascii() and value.isdigit():
            return now + timedelta(seconds=min(int(value), 86400))
        asked = parsedate_to_datetime(value)
        asked = asked.astimezone(UTC) if asked.tzinfo else asked.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return now + DEFAULT_PAUSE
    return min(max(asked, now), now + timedelta(days=1))


def _text(pattern: re.Pattern[bytes], body: bytes) -> str:
    found = pattern.search(body)
    return " ".join(found[1].decode("utf-8", "replace").split()) if found else ""
