"""What a refusal of an S3 server means, and when it wants to hear from us again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.drain.targets.http_faults import classify, refuse, retry_after
from custody.drain.targets.http_put import Answer
from custody.faults import FaultKind


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "SlowDown", FaultKind.THROTTLED),
        (503, "", FaultKind.THROTTLED),
        (429, "", FaultKind.THROTTLED),
        (403, "AccessDenied", FaultKind.AUTH),
        (403, "SignatureDoesNotMatch", FaultKind.AUTH),
        (401, "", FaultKind.AUTH),
        (404, "NoSuchBucket", FaultKind.CONFIG),
        (400, "BadDigest", FaultKind.DATA),
        (400, "RequestTimeout", FaultKind.TRANSIENT),
        (400, "", FaultKind.CONFIG),
        (409, "OperationAborted", FaultKind.TRANSIENT),
        (409, "BucketAlreadyExists", FaultKind.CONFLICT),
        (500, "InternalError", FaultKind.TRANSIENT),
        (502, "", FaultKind.TRANSIENT),
        (507, "", FaultKind.CAPACITY),
        (307, "TemporaryRedirect", FaultKind.CONFIG),
    ],
)
def test_kinds(status: int, code: str, kind: FaultKind) -> None:
    assert classify(status, code) is kind


def test_the_line_names_the_object_and_what_the_server_said() -> None:
    body = b"<Error><Code>SlowDown</Code><Message>Reduce\n your rate</Message></Error>"
    fault = refuse(Answer(503, {"retry-after": "30"}, body), "s3://b/item/a.warc.gz")
    assert fault.kind is FaultKind.THROTTLED
    assert "s3://b/item/a.warc.gz" in str(fault)
    assert "503 SlowDown" in str(fault)
    assert "\n" not in str(fault)
    assert fault.until is not None
    assert timedelta(seconds=25) < fault.until - datetime.now(UTC) <= timedelta(seconds=30)


def seconds(value: str) -> float:
    headers = {"retry-after": value} if value else {}
    return (retry_after(Answer(503, headers, b"")) - datetime.now(UTC)).total_seconds()


def test_retry_after_in_seconds_and_as_a_date() -> None:
    assert 118 < seconds("120") <= 120
    in_ten_minutes = datetime.now(UTC) + timedelta(minutes=10)
    assert 597 < seconds(format_datetime(in_ten_minutes, usegmt=True)) <= 600
    assert 597 < seconds(format_datetime(in_ten_minutes.replace(tzinfo=None))) <= 600
    assert 58 < seconds("") <= 60
    assert seconds("Wed, 21 Oct 2015 07:28:00 GMT") <= 0
    assert 86000 < seconds("999999999") <= 86400
    assert 86000 < seconds("Wed, 21 Oct 9015 07:28:00 GMT") <= 86400


@given(st.text(max_size=40) | st.sampled_from(["²", "-5", "9" * 5000, "Mon, 01 Jan 0001 00:00:00 +1400", "1.5"]))
def test_any_header_gives_a_time_within_a_day(value: str) -> None:
    assert -1 <= seconds(value) <= 86400
