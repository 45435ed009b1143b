"""An anonymous rclone S3 server, started so that its own housekeeping does not disturb what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from custody_demo import processes
from custody_demo.object_store import find_rclone


@dataclass(frozen=True)
class Server:
    """Where it is, and the folder of its buckets."""

    endpoint_url: str
    folder: Path


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Run it until the end of the block.

    With ``--dir-cache-time 0``, which tests use for its exact listings, rclone keeps a core busy after the first PUT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = processes.free_ports(1)[0]
    env = {"RCLONE_CONFIG": "/dev/null", "HOME": str(folder.parent), "RCLONE_ADDR": f"127.0.0.1:{port}"}
    argv = [str(find_rclone()), "serve", "s3", str(folder.resolve())]
    log = folder.parent / "server.log"
    process = processes.start(argv, env=env, cwd=folder, log=log)
    try:
        if not processes.wait_until(lambda: not processes.is_free(port), timeout_s=20):
            raise processes.StartError(f"rclone does not answer: {processes.last_lines(log)}")
        yield Server(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait(timeout=20)
