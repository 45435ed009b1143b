"""A file too large for one PUT, sent to an S3 server in parts; taken up where an earlier attempt was cut off.

Every part carries its own Content-MD5, so that the server refuses a bad one; the whole file's md5 is made in the same
read. What the server says of the finished object is the md5 of the parts' md5s, which is no digest of the file: such an
object is proven by reading it back (``proof: readback``).

What an interrupted attempt sent is asked for by part: one whose md5 the server states as ours is read and hashed here,
and not sent again. Nothing of it is visible there before the last part.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from custody.digests import Fixity, Hasher, Progress, reading
from custody.drain.targets import Outgoing
from custody.faults import Fault, FaultKind

MIN_PART_BYTES = 32 << 20
MAX_PARTS = 10_000  # of S3


@dataclass(frozen=True)
class _Begun:
    """An upload that is under way at the server: the md5 and size of each part it has, as it states them.

    ``resumable`` says whether the server can be asked for it later.
    """

    upload: dict[str, str]
    parts: dict[int, tuple[str, int]] = field(default_factory=dict)
    resumable: bool = True


def put_parts(
    client: Any,
    bucket: str,
    key: str,
    outgoing: Outgoing,
    progress: Progress | None = None,
    *,
    min_part_bytes: int = MIN_PART_BYTES,
) -> Fixity:
    """Send a file part by part; returns size and md5 of what was read and sent.

    A part that fails is repeated by the client. What ends it early leaves the parts at the server for the next attempt;
    they are given up where the file itself has changed, and where the server cannot say what it has. Errors are
    boto3's; faults: DATA where the file changed meanwhile.
    """
    where = {"Bucket": bucket, "Key": key}
    part_bytes = max(min_part_bytes, -(-outgoing.state.size_bytes // MAX_PARTS))
    begun = _begin(client, where, _sizes(outgoing.state.size_bytes, part_bytes))
    try:
        read, sent = _send(client, begun, outgoing, part_bytes, progress)
        if read != Fixity(outgoing.state.size_bytes, {"md5": outgoing.fixity.digests["md5"]}):
            raise Fault(FaultKind.DATA, str(outgoing.path), "its bytes changed on disk; it was not sent")
        client.complete_multipart_upload(**begun.upload, MultipartUpload={"Parts": sent})
    except BaseException as error:
        if not begun.resumable or isinstance(error, Fault):
            client.abort_multipart_upload(**begun.upload)
        raise
    return read


def _sizes(size_bytes: int, part_bytes: int) -> dict[int, int]:
    """What the parts of a file will be: bytes by number."""
    starts = range(0, size_bytes, part_bytes)
    return {number: min(part_bytes, size_bytes - start) for number, start in enumerate(starts, 1)}


def _begin(client: Any, where: dict[str, str], sizes: dict[int, int]) -> _Begun:
    """Take up the youngest upload of this key, if its parts are cut as ours, and give up the others; or begin one."""
    try:
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=where["Bucket"], Prefix=where["Key"])
        listed = [one for page in pages for one in page.get("Uploads", ()) if one["Key"] == where["Key"]]
        ours = sorted(listed, key=lambda one: one["Initiated"])
        uploads = [where | {"UploadId": one["UploadId"]} for one in ours]
        parts = _parts_there(client, uploads[-1]) if uploads else {}
    except ClientError as error:
        # Not every server, and not every key, may list them; and some say in this way that there are none.
        none = error.response.get("Error", {}).get("Code") == "NoSuchUpload"
        return _Begun(where | {"UploadId": client.create_multipart_upload(**where)["UploadId"]}, resumable=none)
    fits = all(sizes.get(number) == size for number, (_, size) in parts.items())
    for upload in uploads[:-1] if fits else uploads:
        client.abort_multipart_upload(**upload)
    if uploads and fits:
        return _Begun(uploads[-1], parts)
    return _Begun(where | {"UploadId": client.create_multipart_upload(**where)["UploadId"]})


def _parts_there(client: Any, upload: dict[str, str]) -> dict[int, tuple[str, int]]:
    pages = client.get_paginator("list_parts").paginate(**upload)
    return {
        part["PartNumber"]: (part["ETag"].strip('"').lower(), part["Size"])
        for page in pages
        for part in page.get("Parts", ())
    }


def _send(
    client: Any, begun: _Begun, outgoing: Outgoing, part_bytes: int, progress: Progress | None
) -> tuple[Fixity, list[dict[str, Any]]]:
    hasher = Hasher(["md5"])
    sent = []
    for number, part in enumerate(_parts(outgoing, part_bytes), 1):
        hasher.update(part)
        md5 = hashlib.md5(part, usedforsecurity=False)
        etag = f'"{md5.hexdigest()}"'
        if begun.parts.get(number) != (md5.hexdigest(), len(part)):
            digest = base64.b64encode(md5.digest()).decode()
            etag = client.upload_part(**begun.upload, PartNumber=number, Body=part, ContentMD5=digest)["ETag"]
        sent.append({"PartNumber": number, "ETag": etag})
        if progress:
            progress(len(part))
    return hasher.fixity(), sent


def _parts(outgoing: Outgoing, part_bytes: int) -> Iterator[bytes]:
    with reading(outgoing.path) as descriptor:
        left = outgoing.state.size_bytes
        while left:
            part = bytearray(min(part_bytes, left))
            if os.readv(descriptor, [part]) != len(part):
                raise Fault(FaultKind.DATA, str(outgoing.path), "became shorter while it was sent")
            left -= len(part)
            yield bytes(part)
