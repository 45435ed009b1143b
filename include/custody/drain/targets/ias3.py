"""The Internet Archive, by IA-S3 and its metadata and tasks APIs.

A file that was taken ("200") is staged first and stored by a catalog task later. So what proves a copy here is the
item's own listing (size, md5, sha1), with no task of the item failed and none under way; the answer to the PUT is a
receipt and no more.

Every PUT carries the item's whole metadata and ``x-archive-auto-make-bucket``: whichever request makes the item makes
it complete. ``Content-MD5`` is sent as RFC 1864 has it, in base64: IA-S3 takes that from every Amazon client (its own
documentation names boto, which knows nothing else) and takes hexadecimal too, which other servers refuse.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO
from urllib.parse import quote

from custody.digests import Fixity, Hasher, Match, Progress
from custody.drain.targets import Item, Outgoing, Receipt, fixity_of, may_write_manifest
from custody.drain.targets.http_put import Answer, Stopwatch
from custody.drain.targets.ias3_api import DERIVE, ArchiveApi, StoredItem, Task
from custody.drain.targets.ias3_client import ArchiveClient, Keys, Manners
from custody.drain.targets.ias3_faults import STAFF, is_race, refuse_file, refuse_ias3
from custody.faults import Fault, FaultKind

S3_ENDPOINT = "https://s3.us.archive.org"
METADATA_ENDPOINT = "https://archive.org"
MANIFEST_KEY = "MANIFEST.txt"
LONGEST_WAIT_S = 1800.0
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class IAS3Target:
    """archive.org, or a server with its manners.

    :param derive: queue one derive for each item once it is proven.
    :param uploader: the account the keys belong to; the archive is asked where it is not given.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        s3_endpoint: str = S3_ENDPOINT,
        metadata_endpoint: str = METADATA_ENDPOINT,
        derive: bool = False,
        uploader: str | None = None,
        manners: Manners | None = None,
    ) -> None:
        self._manners = manners or Manners()
        self._s3 = ArchiveClient(s3_endpoint, keys, self._manners)
        self._archive = ArchiveClient(metadata_endpoint, keys, self._manners)
        self._api = ArchiveApi(self._archive, self._s3, keys)
        self._derive = derive
        self._uploader = uploader

    def place(self, item: str, name: str) -> str:
        """See :class:`Target`."""
        return f"ias3://{item}/{name}"

    def url(self, item: str, name: str) -> str:
        """See :class:`Target`."""
        return f"{self._archive.endpoint}/download/{quote(item)}/{quote(name)}"

    def create(self, item: Item, manifest: bytes, earlier: Sequence[bytes] = ()) -> None:
        """See :class:`Target`. NEEDS_HUMAN where the item is somebody else's."""
        name = item.identifier
        ours = fixity_of(manifest)
        stored = self._find(name)
        there = stored.files.get(MANIFEST_KEY) if stored else None
        verdict = may_write_manifest(manifest, earlier, there)
        if not verdict.allowed:
            ask = "find out which crawl it is, and give the configuration another item_naming"
            raise Fault(FaultKind.NEEDS_HUMAN, self.place(name, MANIFEST_KEY), str(verdict), next_command=ask)
        if there and ours.compare(there) is Match.EQUAL:
            return
        self._demand_room(name)
        headers = self._headers(item, ours.digests["md5"])
        answer = self._outlast_races(lambda: self._s3.request("PUT", self._path(name, MANIFEST_KEY), headers, manifest))
        if answer.status not in {200, 201}:
            raise refuse_ias3(answer, self.place(name, MANIFEST_KEY), name)

    def put(self, item: Item, outgoing: Outgoing, progress: Progress | None = None) -> Receipt:
        """See :class:`Target`."""
        name = item.identifier
        self._demand_room(name)
        headers = self._headers(item, outgoing.fixity.digests["md5"])
        path = self._path(name, outgoing.name)
        read = Fixity(0)

        def send() -> Answer:
            nonlocal read
            if progress and read.size_bytes:
                progress(-read.size_bytes)
            answer, read = self._s3.put_file(path, headers, outgoing, progress)
            return answer

        watch = Stopwatch()
        answer = self._outlast_races(send)
        if answer.status not in {200, 201}:
            raise refuse_file(answer, self.place(name, outgoing.name), name, outgoing.fixity, read)
        stated = Fixity(read.size_bytes, {"md5": answer.etag} if re.fullmatch("[0-9a-f]{32}", answer.etag) else {})
        return Receipt(self.url(name, outgoing.name), read, stated, answer.status, watch.seconds)

    def look(self, item: str, names: Sequence[str]) -> dict[str, Fixity | None]:
        """See :class:`Target`. What is staged but not stored yet is None."""
        stored = self._find(item)
        return {name: stored.files.get(name) if stored else None for name in names}

    def settle(self, item: str) -> None:
        """See :class:`Settling`. A failed task of the item is for a person; a derive that is under way is no matter."""
        tasks = self._api.tasks(item)
        failed = [task.id for task in tasks if task.status == "error"]
        if failed:
            reason = f"{len(failed)} of the archive's tasks failed ({', '.join(failed[:5])}); nothing is proven"
            log = f"read https://catalogd.archive.org/log/{failed[0]}"
            ask = f"{log}, ask {STAFF} to mend and rerun it, then airflow dags trigger drain"
            raise Fault(FaultKind.NEEDS_HUMAN, self.place(item, ""), reason, next_command=ask)
        pending = [task for task in tasks if task.command != DERIVE and task.status != "done"]
        if pending:
            until = datetime.now(UTC) + self._pause(pending)
            first = pending[0]
            reason = f"the archive has {len(pending)} tasks under way on it, first {first.id} ({first.status})"
            raise Fault(FaultKind.THROTTLED, self.place(item, ""), reason, until=until)

    def finish(self, item: Item, names: Sequence[str]) -> None:
        """See :class:`Target`. Queues the one derive of an item, unless one is queued, running or done already."""
        if self._derive and not self._api.tasks(item.identifier, history=True, command=DERIVE):
            self._api.submit(item.identifier, DERIVE)

    def read_back(
        self, item: str, name: str, progress: Progress | None = None, into: IO[bytes] | None = None
    ) -> Fixity:
        """See :class:`Target`."""
        hasher = Hasher()

        def consume(block: bytes) -> None:
            hasher.update(block)
            if into:
                into.write(block)
            if progress:
                progress(len(block))

        answer = self._s3.read(self._path(item, name), consume)
        if answer.status != 200:
            raise refuse_ias3(answer, self.place(item, name), item)
        return hasher.fixity()

    def _find(self, item: str) -> StoredItem | None:
        """An item that is ours, or nobody's yet. Faults: NEEDS_HUMAN where it is not ours."""
        stored = self._api.find_item(item)
        if stored is None:
            return None
        subject = self.place(item, "")
        if stored.is_dark:
            ask = f"ask {STAFF} why {item} is dark, then airflow dags trigger drain"
            raise Fault(FaultKind.NEEDS_HUMAN, subject, "is dark: nobody can see what it stores", next_command=ask)
        if stored.uploader:
            self._uploader = self._uploader or self._api.account()
            if self._uploader and self._uploader.lower() != stored.uploader.lower():
                reason = f"belongs to {stored.uploader}, our keys to {self._uploader}; nothing was sent"
                ask = "use the keys of its owner, or another item_naming, then airflow dags trigger drain"
                raise Fault(FaultKind.NEEDS_HUMAN, subject, reason, next_command=ask)
        return stored

    def _demand_room(self, item: str) -> None:
        if self._manners.asks_limit:
            self._api.demand_room(item)

    def _outlast_races(self, ask: Callable[[], Answer]) -> Answer:
        """Repeat what was refused only because the item is being made this moment; it costs nothing."""
        for pause_s in self._manners.race_pauses_s:
            answer = ask()
            if not is_race(answer):
                return answer
            time.sleep(pause_s)
        return ask()

    def _pause(self, pending: Sequence[Task]) -> timedelta:
        """Half of what the oldest task has waited already, within limits: it grows without being remembered."""
        ages = [datetime.now(UTC) - task.submitted_at for task in pending if task.submitted_at]
        half_s = max(ages, default=timedelta()).total_seconds() / 2
        return timedelta(seconds=min(max(half_s, self._manners.shortest_wait_s), LONGEST_WAIT_S))

    def _headers(self, item: Item, md5_hex: str) -> dict[str, str]:
        md5 = md5_hex
        if self._manners.content_md5 == "base64":
            md5 = base64.b64encode(bytes.fromhex(md5_hex)).decode()
        return {
            "Content-MD5": md5,
            "x-archive-auto-make-bucket": "1",
            "x-archive-queue-derive": "0",
            "x-archive-keep-old-version": "1",
            "x-archive-size-hint": str(item.size_hint_bytes),
            **metadata_headers(item, f"{METADATA_ENDPOINT}/details/{item.identifier}"),
        }

    @staticmethod
    def _path(item: str, name: str) -> str:
        return f"/{quote(item)}/{quote(name)}"


def metadata_headers(item: Item, details_url: str) -> dict[str, str]:
    """The metadata of an item as headers: lists are numbered from 01, what no header can carry is ``uri(…)``."""
    headers = {}
    for name, value in {"identifier-access": details_url, **item.metadata}.items():
        if not _FIELD.fullmatch(name):
            raise Fault(FaultKind.CONFIG, f"metadata {name!r}", "is no name of a field: letters, digits, _ and -")
        field = name.replace("_", "--")
        values = value if isinstance(value, list) else [value]
        for number, text in enumerate(values, 1):
            where = f"meta{number:02d}" if isinstance(value, list) else "meta"
            headers[f"x-archive-{where}-{field}"] = _header_value(text)
    return headers


def _header_value(text: str) -> str:
    is_plain = text.isascii() and text.isprintable() and text == text.strip() and not text.startswith("uri(")
    return text if is_plain else f"uri({quote(text, safe='')})"
