"""Any S3 server, through the client that the Amazon provider's connection makes.

boto3 signs and lists; the bytes of a file go out by our own sender, signed for an unsigned payload with
``Content-MD5``: the server refuses a body that is not the packed one, and answers with the md5 it received.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from custody.digests import Fixity, Hasher, Match, Progress
from custody.drain.targets import Item, Outgoing, Receipt, fixity_of, may_write_manifest
from custody.drain.targets.http_faults import classify, refuse, retry_after
from custody.drain.targets.http_put import Answer, Sender, Stopwatch
from custody.drain.targets.pace import Pacing
from custody.drain.targets.s3_parts import MIN_PART_BYTES, put_parts
from custody.faults import Fault, FaultKind

MANIFEST_KEY = "MANIFEST.txt"
MAX_SINGLE_PUT_BYTES = 5 << 30
METADATA_LIMIT_BYTES = 2048  # of S3, for all x-amz-meta headers together


class _UnsignedPayload(S3SigV4Auth):  # type: ignore[misc]  # botocore is untyped
    """Signature over the headers only: the body is guarded by Content-MD5, and is read once."""

    def payload(self, request: Any) -> str:
        return "UNSIGNED-PAYLOAD"


class S3Target:
    """A bucket; every item is a prefix in it.

    :param client: a boto3 S3 client.
    :param credentials: botocore credentials of the same connection.
    :param pacing: cap and floor of the speed of files.
    :param single_put_bytes: a larger file goes in parts, and is then proven only by ``proof: readback``.
    """

    def __init__(
        self,
        client: Any,
        credentials: Any,
        bucket: str,
        *,
        pacing: Pacing | None = None,
        single_put_bytes: int = MAX_SINGLE_PUT_BYTES,
    ) -> None:
        self._client = client
        self._credentials = credentials
        self._bucket = bucket
        self._pacing = pacing
        self._single_put_bytes = single_put_bytes
        self._region = client.meta.region_name or "us-east-1"
        self._idle: list[Sender] = []

    def place(self, item: str, name: str) -> str:
        """See :class:`Target`."""
        return f"s3://{self._bucket}/{item}/{name}"

    def url(self, item: str, name: str) -> str:
        """See :class:`Target`."""
        return self._base_url + quote(f"{item}/{name}", safe="/~")

    @cached_property
    def _base_url(self) -> str:
        """Where the bucket is, as the connection's addressing style has it; ends in a slash."""
        presigned: str = self._client.generate_presigned_url("get_object", Params={"Bucket": self._bucket, "Key": "x"})
        return presigned.partition("?")[0].removesuffix("x")

    @contextmanager
    def _sender(self, url: str) -> Iterator[Sender]:
        """Borrow an idle connection or make one; one that was part of a fault is hung up."""
        try:
            sender = self._idle.pop()
        except IndexError:
            sender = Sender(url, pacing=self._pacing)
        try:
            yield sender
        except BaseException:
            sender.close()
            raise
        self._idle.append(sender)

    def create(self, item: Item, manifest: bytes, earlier: Sequence[bytes] = ()) -> None:
        """See :class:`Target`. The bucket must be there; the item is made by its MANIFEST.txt."""
        key = f"{item.identifier}/{MANIFEST_KEY}"
        with _client_faults(f"s3://{self._bucket}"):
            self._client.head_bucket(Bucket=self._bucket)
        there = self.look(item.identifier, [MANIFEST_KEY])[MANIFEST_KEY]
        ours = fixity_of(manifest)
        verdict = may_write_manifest(manifest, earlier, there)
        if not verdict.allowed:
            next_command = "find out whose item it is; move it away, or give the configuration another item_naming"
            raise Fault(FaultKind.NEEDS_HUMAN, f"s3://{self._bucket}/{key}", str(verdict), next_command=next_command)
        with _client_faults(f"s3://{self._bucket}/{key}"):
            answer = self._client.put_object(
                Bucket=self._bucket, Key=key, Body=manifest, Metadata=_headers(item), ContentMD5=_md5_base64(manifest)
            )
        etag = answer.get("ETag", "").strip('"').lower()
        if not etag or _etag_digests(etag).get("md5", ours.digests["md5"]) != ours.digests["md5"]:
            reason = f"the server said yes and does not say what it received (ETag {etag or 'missing'})"
            raise Fault(FaultKind.TRANSIENT, f"s3://{self._bucket}/{key}", reason)

    def put(self, item: Item, outgoing: Outgoing, progress: Progress | None = None) -> Receipt:
        """See :class:`Target`."""
        place = self.place(item.identifier, outgoing.name)
        url = self.url(item.identifier, outgoing.name)
        if outgoing.state.size_bytes > self._single_put_bytes:
            return self._put_parts(item, outgoing, url, progress)
        parts = urlsplit(url)
        headers = {"Content-MD5": base64.b64encode(bytes.fromhex(outgoing.fixity.digests["md5"])).decode()}
        request = AWSRequest("PUT", url, headers=headers)
        _UnsignedPayload(self._credentials, "s3", self._region).add_auth(request)
        watch = Stopwatch()
        with self._sender(url) as sender:
            answer, read = sender.put_file(parts.path, dict(request.headers.items()), outgoing, progress)
        if answer.status not in {200, 201}:
            fault = refuse(answer, place)
            if fault.kind is FaultKind.DATA and outgoing.fixity.compare(read) is Match.EQUAL:
                fault = Fault(
                    FaultKind.TRANSIENT, place, f"the bytes arrived damaged; what was read is right ({fault})"
                )
            raise fault
        stated = Fixity(read.size_bytes, _etag_digests(answer.etag))
        return Receipt(url, read, stated, answer.status, watch.seconds)

    def _put_parts(self, item: Item, outgoing: Outgoing, url: str, progress: Progress | None) -> Receipt:
        watch = Stopwatch()
        key = f"{item.identifier}/{outgoing.name}"
        with _client_faults(f"s3://{self._bucket}/{key}"):
            part_bytes = min(MIN_PART_BYTES, self._single_put_bytes)
            read = put_parts(self._client, self._bucket, key, outgoing, progress, min_part_bytes=part_bytes)
        return Receipt(url, read, Fixity(read.size_bytes), 200, watch.seconds)

    def look(self, item: str, names: Sequence[str]) -> dict[str, Fixity | None]:
        """See :class:`Target`. One listing of the prefix; an ETag of a multipart upload is no digest."""
        found: dict[str, Fixity | None] = dict.fromkeys(names)
        with _client_faults(f"s3://{self._bucket}/{item}/"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{item}/")
            for page in pages:
                for entry in page.get("Contents", ()):
                    name = entry["Key"].removeprefix(f"{item}/")
                    if name in found:
                        found[name] = Fixity(entry["Size"], _etag_digests(entry.get("ETag", "").strip('"').lower()))
        return found

    def read_back(
        self, item: str, name: str, progress: Progress | None = None, into: IO[bytes] | None = None
    ) -> Fixity:
        """See :class:`Target`."""
        hasher = Hasher()
        with _client_faults(self.place(item, name)):
            body = self._client.get_object(Bucket=self._bucket, Key=f"{item}/{name}")["Body"]
            while block := body.read(1 << 20):
                hasher.update(block)
                if into:
                    into.write(block)
                if progress:
                    progress(len(block))
        return hasher.fixity()

    def finish(self, item: Item, names: Sequence[str]) -> None:
        """See :class:`Target`. There is nothing to do."""


@contextmanager
def _client_faults(subject: str) -> Iterator[None]:
    """Turn what boto3 raises into faults about ``subject``."""
    try:
        yield
    except ClientError as error:
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        code = error.response["Error"].get("Code", "")
        kind = classify(status, code)
        hint = "check bucket, endpoint and keys of the Airflow connection"
        next_command = hint if kind in {FaultKind.AUTH, FaultKind.CONFIG} else None
        headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
        until = retry_after(Answer(status, headers, b"")) if kind is FaultKind.THROTTLED else None
        reason = f"the server refused it: {status} {code}"
        raise Fault(kind, subject, reason, next_command=next_command, until=until) from error
    except (BotoCoreError, ResponseParserError) as error:
        reason = " ".join(f"the server does not answer properly ({error})"[:500].split())
        raise Fault(FaultKind.TRANSIENT, subject, reason) from error


def _etag_digests(etag: str) -> dict[str, str]:
    is_md5 = len(etag) == 32 and all(character in "0123456789abcdef" for character in etag)
    return {"md5": etag} if is_md5 else {}


def _md5_base64(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _headers(item: Item) -> dict[str, str]:
    """Metadata as S3 takes it: ASCII, within its limit; what does not fit stands in the manifest's item record."""
    headers: dict[str, str] = {}
    size = 0
    for name, value in item.metadata.items():
        text = ";".join(value) if isinstance(value, list) else value
        text = " ".join(text.split()).encode("ascii", "xmlcharrefreplace").decode()
        size += len(name) + len(text)
        if size > METADATA_LIMIT_BYTES:
            break
        headers[name] = text
    return headers
