"""A throw-away Ceph object gateway: the S3 server that is as strict as the big ones (about 16 s to start)."""

from __future__ import annotations

import http.client
import os
import secrets
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from custody_demo import processes
from custody_demo.processes import Family
from services.need import need

# The gateway waits five minutes for a secure connection that a cluster without keys cannot give.
_PLAIN_MONITOR = ("--ms_mon_client_mode", "crc secure")


@dataclass(frozen=True)
class CephRgw:
    """The S3 address and the keys of its only user."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)


@dataclass
class _Cluster:
    home: Path
    conf: Path
    family: Family = field(default_factory=Family)

    def run(self, program: str, *arguments: str, timeout_s: float = 60) -> str:
        argv = [need(program, package=_PACKAGES[program]), "-c", str(self.conf), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, env=self.env, cwd=self.home)
        assert done.returncode == 0, f"{program} {arguments[0]} failed: {done.stderr[-2000:]}"
        return done.stdout

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [need(program, package=_PACKAGES[program]), "-c", str(self.conf), *arguments]
        process = processes.start(argv, env=self.env, cwd=self.home, log=self.home / f"{program}.log")
        self.family.known |= {one for one in [processes.process_id(process.pid)] if one}
        return process

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.home)}


_PACKAGES = {
    "ceph": "ceph-common",
    "monmaptool": "ceph-common",
    "radosgw-admin": "ceph-common",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "radosgw": "radosgw",
}


@contextmanager
def run_ceph_rgw(home: Path, *, gateway_options: tuple[str, ...] = ()) -> Iterator[CephRgw]:
    """Run monitor, one storage daemon and gateway in `home` (a short path) until the end of the block.

    :param gateway_options: more options of radosgw, such as --rgw_max_concurrent_requests 2
    """
    for program, package in _PACKAGES.items():
        need(program, package=package)
    fsid = str(uuid.uuid4())
    v2_port, v1_port, s3_port = processes.free_ports(3)
    monitor = f"[v2:127.0.0.1:{v2_port},v1:127.0.0.1:{v1_port}]"
    cluster = _Cluster(home, home / "ceph.conf")
    cluster.conf.write_text(_conf(home, fsid, monitor, s3_port))
    started: list[subprocess.Popen[bytes]] = []
    try:
        (home / "osd").mkdir()
        monmap = str(home / "monmap")
        cluster.run("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", monitor, monmap)
        cluster.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        started.append(cluster.start("ceph-mon", "-f", "-i", "a"))
        osd_uuid = str(uuid.uuid4())
        cluster.run("ceph", "osd", "new", osd_uuid, "0")
        cluster.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)
        started.append(cluster.start("ceph-osd", "-f", "-i", "0"))
        options = ("-f", "-n", "client.rgw", "--no-mon-config", *_PLAIN_MONITOR, *gateway_options)
        started.append(cluster.start("radosgw", *options))
        log = home / "radosgw.log"
        assert processes.wait_until(lambda: _answers(s3_port, started), timeout_s=120), processes.last_lines(log)
        access_key, secret_key = "TESTACCESSKEY", secrets.token_hex(20)
        user = ("user", "create", "--uid=test", "--display-name=test", f"--access-key={access_key}")
        cluster.run("radosgw-admin", *user, f"--secret-key={secret_key}", *_PLAIN_MONITOR)
        yield CephRgw(f"http://127.0.0.1:{s3_port}", access_key, secret_key)
    finally:
        cluster.family.refresh()
        for process in reversed(started):
            process.terminate()
        cluster.family.end(grace_s=10)
        for process in started:
            process.wait(timeout=30)


def _answers(port: int, started: list[subprocess.Popen[bytes]]) -> bool:
    assert all(process.poll() is None for process in started), "a daemon of Ceph ended"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _conf(home: Path, fsid: str, monitor: str, s3_port: int) -> str:
    return f"""
[global]
fsid = {fsid}
mon_host = {monitor}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
run_dir = {home}
admin_socket = {home}/$name.asok
log_to_stderr = true
log_to_file = false
mon_cluster_log_to_file = false
crash_dir = {home}
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_osd_min_in_ratio = 0
[mon.a]
mon_data = {home}/mon
[osd.0]
osd_data = {home}/osd
osd_objectstore = bluestore
bluestore_block_size = 4294967296
osd_memory_target = 939524096
[client.rgw]
rgw_data = {home}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{s3_port}
"""
