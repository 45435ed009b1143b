"""A file too large for one PUT, sent to an S3 server in parts.

Every part carries its own Content-MD5, so that the server refuses a bad one; the whole file's md5 is made in the same
read. What the server says of the finished object is the md5 of the parts' md5s, which is no digest of the file: such an
object is proven by reading it back (``proof: readback``).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from typing import Any

from custody.digests import Fixity, Hasher, Progress, reading
from custody.drain.targets import Outgoing
from custody.faults import Fault, FaultKind

MIN_PART_BYTES = 32 << 20
MAX_PARTS = 10_000  # of S3


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

    A part that fails is repeated by the client. Whatever ends it early, the parts that arrived are given up at the
    server, and nothing is visible there. Errors are boto3's; faults: DATA where the file changed meanwhile.
    """
    where = {"Bucket": bucket, "Key": key}
    part_bytes = max(min_part_bytes, -(-outgoing.state.size_bytes // MAX_PARTS))
    upload = where | {"UploadId": client.create_multipart_upload(**where)["UploadId"]}
    try:
        hasher = Hasher(["md5"])
        sent = []
        for number, part in enumerate(_parts(outgoing, part_bytes), 1):
            hasher.update(part)
            md5 = base64.b64encode(hashlib.md5(part, usedforsecurity=False).digest()).decode()
            answer = client.upload_part(**upload, PartNumber=number, Body=part, ContentMD5=md5)
            sent.append({"PartNumber": number, "ETag": answer["ETag"]})
            if progress:
                progress(len(part))
        read = hasher.fixity()
        if read != Fixity(outgoing.state.size_bytes, {"md5": outgoing.fixity.digests["md5"]}):
            raise Fault(FaultKind.DATA, str(outgoing.path), "its bytes changed on disk; it was not sent")
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
    except BaseException:
        client.abort_multipart_upload(**upload)
        raise
    return read


def _parts(outgoing: Outgoing, part_bytes: int) -> Iterator[bytes]:
    with reading(outgoing.path) as descriptor:
        left = outgoing.state.size_bytes
        while left:
            part = bytearray(min(part_bytes, left))
            if os.readv(descriptor, [part]) != len(part):
                raise Fault(FaultKind.DATA, str(outgoing.path), "became shorter while it was sent")
            left -= len(part)
            yield bytes(part)
