"""One line for everything that can go wrong, and one kind."""

from __future__ import annotations

import errno
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind, from_os_error, os_errors_as_faults


def test_a_fault_says_what_it_is_about_and_what_to_do() -> None:
    fault = Fault(FaultKind.DATA, "a.warc.gz", "is cut off", next_command="custody drain status --stuck")
    assert str(fault) == "a.warc.gz: is cut off. Next: custody drain status --stuck"
    assert str(Fault(FaultKind.DATA, "a.warc.gz", "is cut off")) == "a.warc.gz: is cut off"


@pytest.mark.parametrize("next_command", [None, ""])
def test_who_needs_a_person_must_say_for_what(next_command: str | None) -> None:
    with pytest.raises(ValueError, match="next command"):
        Fault(FaultKind.NEEDS_HUMAN, "TAPE02", "every way on is closed", next_command=next_command)


def test_a_fault_travels_between_processes_with_all_it_knows() -> None:
    until = datetime(2026, 11, 22, 12, tzinfo=UTC)
    sent = Fault(FaultKind.THROTTLED, "s3", "come back later", next_command="wait", until=until)
    got = pickle.loads(pickle.dumps(sent))
    assert (got.kind, got.subject, got.reason, got.next_command, got.until) == (
        FaultKind.THROTTLED,
        "s3",
        "come back later",
        "wait",
        until,
    )
    assert str(got) == str(sent)


def test_only_what_time_mends_is_worth_a_retry() -> None:
    assert {kind for kind in FaultKind if kind.is_worth_a_retry} == {
        FaultKind.TRANSIENT,
        FaultKind.THROTTLED,
        FaultKind.CAPACITY,
    }


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, FaultKind.CAPACITY),
        (errno.EDQUOT, FaultKind.CAPACITY),
        (errno.EACCES, FaultKind.CONFIG),
        (errno.EROFS, FaultKind.CONFIG),
        (errno.ENOENT, FaultKind.CONFIG),
        (errno.ELOOP, FaultKind.CONFIG),
        (errno.EXDEV, FaultKind.CONFIG),
        (errno.EEXIST, FaultKind.CONFLICT),
        (errno.EIO, FaultKind.DATA),
        (errno.ECONNRESET, FaultKind.TRANSIENT),
        (errno.ESTALE, FaultKind.TRANSIENT),
    ],
)
def test_each_error_of_the_system_has_a_kind(code: int, kind: FaultKind) -> None:
    fault = from_os_error(OSError(code, "words", "/jobs/a.warc.gz"))
    assert fault.kind is kind
    assert str(fault).startswith("/jobs/a.warc.gz: words")
    assert bool(fault.next_command) is (kind is not FaultKind.TRANSIENT)


def test_a_name_that_is_not_utf8_is_printable_in_a_fault() -> None:
    fault = from_os_error(OSError(errno.EIO, "Input/output error", b"/jobs/\xff.warc.gz"))
    assert fault.subject == "/jobs/\\xff.warc.gz"
    str(fault).encode()


def test_an_error_without_number_and_file_is_still_one_line() -> None:
    assert str(from_os_error(TimeoutError())) == "operating system: TimeoutError"


def test_errors_of_the_system_become_faults_about_the_subject(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(Fault, match="DRAINME: No such file") as caught, os_errors_as_faults("DRAINME"):
        missing.read_bytes()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(Fault) as caught, os_errors_as_faults():
        missing.read_bytes()
    assert caught.value.subject == str(missing)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), os_errors_as_faults("x"):
        raise KeyError("y")
    fault = Fault(FaultKind.AUTH, "s3", "refuses us")
    with pytest.raises(Fault) as caught, os_errors_as_faults("x"):
        raise fault
    assert caught.value is fault
