"""What a refusal of archive.org means: Amazon's codes, and the archive's own ways to say them."""

from __future__ import annotations

from custody.digests import Fixity
from custody.drain.targets.http_faults import refuse
from custody.drain.targets.http_put import Answer
from custody.faults import Fault, FaultKind

STAFF = "info@archive.org"
_RACES = (
    b"bucket namespace is shared",
    b"failed to get necessary short term bucket lock",
    b"auto_make_bucket requested",
)
_RACE_CODES = (b"<code>operationaborted</code>", b"<code>nosuchbucket</code>")
_BAD_DIGEST = (b"<code>baddigest</code>", b"<code>invaliddigest</code>")
_BUSY = {423: "is locked by other work of the archive", 502: "bad gateway", 504: "gateway time-out"}


def is_race(answer: Answer) -> bool:
    """Whether the item is just being made, by us or by another of our own requests: ask again at once."""
    body = answer.body.lower()
    return answer.status >= 400 and any(sign in body for sign in (*_RACES, *_RACE_CODES))


def refuse_ias3(answer: Answer, subject: str, item: str) -> Fault:
    """The fault that an answer other than success stands for."""
    if answer.status == 503 and b"spam" in answer.body.lower():
        reason = "the archive takes this item for spam, and no repetition will change its mind"
        ask = f"write to {STAFF} that {item} is your web crawl; once they have cleared it, airflow dags trigger drain"
        return Fault(FaultKind.NEEDS_HUMAN, subject, reason, next_command=ask)
    if is_race(answer):
        return Fault(FaultKind.TRANSIENT, subject, f"the item is still being made ({answer.status})")
    if answer.status in _BUSY:
        return Fault(FaultKind.TRANSIENT, subject, f"{_BUSY[answer.status]} ({answer.status})")
    return refuse(answer, subject)


def refuse_file(answer: Answer, subject: str, item: str, packed: Fixity, read: Fixity) -> Fault:
    """As :func:`refuse_ias3`, for a file whose bytes were hashed while they were sent.

    Where the server says that they are not the promised ones, our own hash tells who is wrong: the disk (DATA, no
    repetition helps) or the way (TRANSIENT: send again).
    """
    if answer.status != 400 or not any(sign in answer.body.lower() for sign in _BAD_DIGEST):
        return refuse_ias3(answer, subject, item)
    if read.digests == {"md5": packed.digests.get("md5")}:
        return Fault(FaultKind.TRANSIENT, subject, "its bytes were damaged on the way (BadDigest); they are sent again")
    reason = f"its bytes changed on disk: packed md5 {packed.digests.get('md5')}, read now {read.digests.get('md5')}"
    return Fault(FaultKind.DATA, subject, reason, next_command="check the disk; the file is kept")
