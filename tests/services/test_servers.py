"""The servers the other tests lean on are real: they refuse what must be refused."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import uuid
from typing import Any

import boto3
import pytest
import sqlalchemy as sa
from botocore.config import Config
from botocore.exceptions import ClientError

from services.ceph import CephRgw
from services.databases import DatabaseServer
from services.need import need
from services.ssh import SshServer

pytestmark = pytest.mark.service


@pytest.fixture(params=["s3_server", "ceph_rgw"])
def s3(request: pytest.FixtureRequest) -> Any:
    server = request.getfixturevalue(request.param)
    return _client(server.endpoint_url, server.access_key, server.secret_key)


def _client(endpoint_url: str, access_key: str, secret_key: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


@pytest.fixture
def bucket(s3: Any) -> str:
    name = f"bucket-{uuid.uuid4()}"
    s3.create_bucket(Bucket=name)
    return name


def test_put_tells_the_md5_it_received(s3: Any, bucket: str) -> None:
    content = b"one page" * 1000
    answer = s3.put_object(Bucket=bucket, Key="item/a.warc.gz", Body=content, ContentMD5=_md5(content))
    assert answer["ETag"].strip('"') == hashlib.md5(content).hexdigest()
    assert s3.get_object(Bucket=bucket, Key="item/a.warc.gz")["Body"].read() == content


def test_put_with_a_wrong_md5_is_refused_and_stores_nothing(s3: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as refusal:
        s3.put_object(Bucket=bucket, Key="item/a.warc.gz", Body=b"other bytes", ContentMD5=_md5(b"these bytes"))
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert refusal.value.response["Error"]["Code"] == "BadDigest"
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_wrong_secret_is_refused(s3_server: Any, ceph_rgw: CephRgw) -> None:
    for server in (s3_server, ceph_rgw):
        with pytest.raises(ClientError) as refusal:
            _client(server.endpoint_url, server.access_key, "wrong").list_buckets()
        assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_ceph_keeps_an_object_that_is_there(ceph_rgw: CephRgw) -> None:
    s3 = _client(ceph_rgw.endpoint_url, ceph_rgw.access_key, ceph_rgw.secret_key)
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="a", Body=b"first")
    with pytest.raises(ClientError) as refusal:
        s3.put_object(Bucket="kept", Key="a", Body=b"second", IfNoneMatch="*")
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412


def test_the_anonymous_store_takes_the_login_of_archive_org(anonymous_s3_server: Any) -> None:
    curl = need("curl")
    (anonymous_s3_server.folder / "item").mkdir()
    url = f"{anonymous_s3_server.endpoint_url}/item/a.warc.gz"
    argv = [curl, "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", "authorization: LOW key:secret", "-X", "PUT"]
    put = subprocess.run([*argv, "--data-binary", "page", url], capture_output=True, text=True, check=True)
    assert put.stdout == "200"
    assert (anonymous_s3_server.folder / "item/a.warc.gz").read_bytes() == b"page"


def _ssh(server: SshServer, *command: str, known_hosts: str | None = None) -> subprocess.CompletedProcess[str]:
    options = [
        "-F/dev/null",
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=yes",
        f"-oUserKnownHostsFile={known_hosts or server.known_hosts}",
        "-oIdentitiesOnly=yes",
        f"-i{server.key_file}",
        f"-p{server.port}",
    ]
    argv = [need("ssh", package="openssh-client"), *options, f"{server.user}@{server.host}", *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30)


def test_sshd_runs_a_command_for_its_key(sshd: SshServer) -> None:
    done = _ssh(sshd, "echo", "here", "$SSH_CONNECTION")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("here 127.0.0.1 ")


def test_sshd_shows_the_key_that_is_pinned(sshd: SshServer) -> None:
    done = _ssh(sshd, "true", known_hosts="/dev/null")
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_databases_keep_rows_and_constraints(name: str, request: pytest.FixtureRequest) -> None:
    server: DatabaseServer = request.getfixturevalue(name)
    first, second = server.new_database(), server.new_database()
    table = sa.Table("t", sa.MetaData(), sa.Column("name", sa.String(80), primary_key=True))
    engine = sa.create_engine(first, poolclass=sa.NullPool)
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), {"name": "käse-日本.warc.gz"})
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(table.insert(), {"name": "käse-日本.warc.gz"})
    with engine.connect() as connection:
        assert connection.scalars(sa.select(table.c.name)).all() == ["käse-日本.warc.gz"]
    assert sa.inspect(sa.create_engine(second, poolclass=sa.NullPool)).get_table_names() == []
