"""Ours: what the upload step does to the files of one series at an S3 target, in a process of its own.

``our_upload.py ENDPOINT BUCKET ITEM CONNECTIONS DIRECTORY``; MANIFEST in the directory holds the md5 that the packing
read has made. Three digests must agree: packed, read now, received.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from botocore.config import Config

from custody.digests import FileState, Fixity, Match
from custody.drain.targets import Item, Outgoing
from custody.drain.targets.s3 import S3Target


def main() -> None:
    """Send, and compare the three."""
    endpoint, bucket, item, connections, directory = sys.argv[1:]
    session = boto3.session.Session("key", "secret", region_name="us-east-1")
    client = session.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
    target = S3Target(client, session.get_credentials(), bucket)
    files = []
    for line in (Path(directory) / "MANIFEST").read_text().splitlines():
        md5, name = line.split("  ", 1)
        path = Path(directory) / name
        state = FileState.of_path(path)
        files.append(Outgoing(path, name, Fixity(state.size_bytes, {"md5": md5}), state))

    def send(outgoing: Outgoing) -> None:
        receipt = target.put(Item(item), outgoing, lambda count: None)
        packed = outgoing.fixity
        if packed.compare(receipt.read) is not Match.EQUAL or packed.compare(receipt.stated) is not Match.EQUAL:
            raise SystemExit(f"{outgoing.name}: {receipt}")

    with ThreadPoolExecutor(int(connections)) as pool:
        list(pool.map(send, files))


main()
