"""The start scripts of the compose file, run against a real PostgreSQL and a real Redis."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.composed import POOLS, ROOT
from services.need import need

pytestmark = pytest.mark.service


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def postgres(values):
    """Start a PostgreSQL as its image would: one superuser `airflow`, one database. Yields its port."""
    server, initdb = need("postgres", package="postgresql"), need("initdb", package="postgresql")
    need("psql", package="postgresql-client")
    # Not below pytest's own folder: PostgreSQL refuses to run as root, and its user may not look in there.
    folder = Path(tempfile.mkdtemp(prefix="custody-pg-"))
    try:
        folder.chmod(0o755)
        with run_postgres(folder, server, initdb, values["POSTGRES_PASSWORD"]) as port:
            wait_for(lambda: psql(port, values, "airflow", "SELECT 1", database="postgres")[0] == 0)
            assert psql(port, values, "airflow", "CREATE DATABASE airflow", database="postgres")[0] == 0
            yield port
    finally:
        shutil.rmtree(folder)


@contextmanager
def run_postgres(folder, server, initdb, password):
    as_owner = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    port = free_port()
    secret = folder / "password"
    secret.write_text(password + "\n")
    secret.chmod(0o644)
    make = [*as_owner, initdb, "-D", folder / "data", "-U", "airflow", "-A", "scram-sha-256", f"--pwfile={secret}"]
    make += ["--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    command = [*as_owner, server, "-D", folder / "data", *options]
    with (folder / "log").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as running:
        try:
            yield port
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(30)


def psql(port, values, user, sql, database="airflow", password=None):
    env = os.environ | {"PGPASSWORD": password or values["POSTGRES_PASSWORD"]}
    command = ["psql", "-XAt", "-h", "127.0.0.1", "-p", str(port), "-U", user, "-d", database, "-c", sql]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout.strip()


def wait_for(condition, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.1)


def run_init(services, port, home, script=lambda text: text, **changed):
    """Run the script of airflow-init as it stands in the resolved file, with paths and ports of this machine."""
    init = services["airflow-init"]
    assert init["command"][:2] == ["bash", "-c"]
    env = {name: value.replace("@postgres/", f"@127.0.0.1:{port}/") for name, value in init["environment"].items()}
    env |= {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PYTHONPATH": ":".join(str(ROOT / part) for part in ("include", "plugins", "dags")),
    }
    command = ["bash", "-c", script(init["command"][2].replace("/opt/airflow/", f"{ROOT}/"))]
    return subprocess.run(
        command, env=env | changed, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def only_sql(text):
    return text[: text.index("airflow db migrate")]


def test_init_makes_the_database_of_the_ledger_and_renews_its_password(services, values, postgres, tmp_path):
    for password in (values["CUSTODY_LEDGER_PASSWORD"], "it's-another_one", values["CUSTODY_LEDGER_PASSWORD"]):
        done = run_init(services, postgres, tmp_path, only_sql, LEDGER_PASSWORD=password)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        code, owner = psql(postgres, values, "custody", "SELECT current_user", "custody", password)
        assert (code, owner) == (0, "custody")
        assert psql(postgres, values, "custody", "CREATE TABLE t (); DROP TABLE t", "custody", password)[0] == 0
    assert psql(postgres, values, "custody", "SELECT 1", "custody", "it's-another_one")[0] != 0


def test_init_stops_at_the_first_line_that_fails(services, postgres, tmp_path):
    def break_sql(text):
        text = text.replace("datname = 'custody'", "datname = 'other'")
        text = only_sql(text).replace("DATABASE custody OWNER custody", "DATABASE other OWNER nobody_of_that_name")
        return text + "\necho went on\n"

    done = run_init(services, postgres, tmp_path, break_sql)
    assert done.returncode != 0
    assert "went on" not in done.stdout and "nobody_of_that_name" in done.stderr


def test_init_makes_everything_the_other_services_need(services, values, postgres, tmp_path):
    done = run_init(services, postgres, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert values["AIRFLOW_ADMIN_PASSWORD"] not in done.stdout + done.stderr
    pools = psql(postgres, values, "airflow", "SELECT pool || '=' || slots FROM slot_pool WHERE pool LIKE 'custody%'")
    assert set(pools[1].split()) == {f"{name}={slots}" for name, slots in POOLS.items()}
    user = psql(postgres, values, "airflow", "SELECT username FROM ab_user")
    assert user == (0, values["AIRFLOW_ADMIN_USER"])
    sql = "SELECT tablename FROM pg_tables"
    tables = psql(postgres, values, "custody", sql, "custody", values["CUSTODY_LEDGER_PASSWORD"])
    assert {"file", "copy", "proof", "event"} <= set(tables[1].split())


def test_redis_asks_for_the_password_and_hides_it_from_the_process_list(services, values, tmp_path):
    need("redis-server", package="redis-server")
    need("redis-cli", package="redis-tools")
    port = free_port()
    entrypoint = tmp_path / "docker-entrypoint.sh"
    # As the one of the image runs what follows, here with a port and a folder of our own.
    entrypoint.write_text(
        f'#!/bin/sh\nsed "s#^dir .*#dir {tmp_path}#" > {tmp_path}/conf\n'
        f'exec "$@" --port {port} --bind 127.0.0.1 < {tmp_path}/conf\n'
    )
    entrypoint.chmod(0o755)
    redis = services["redis"]
    env = redis["environment"] | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    with (tmp_path / "log").open("wb") as out:
        server = subprocess.Popen([*redis["entrypoint"], *redis["command"]], env=env, stdout=out, stderr=out)

    def ask(password):
        check = redis["healthcheck"]["test"][1].replace("redis-cli", f"redis-cli -p {port}")
        return subprocess.run(check, shell=True, env=env | {"REDISCLI_AUTH": password}, capture_output=True).returncode

    try:
        wait_for(lambda: ask(values["REDIS_PASSWORD"]) == 0)
        assert ask("wrong") != 0
        seen = Path(f"/proc/{server.pid}/cmdline").read_bytes().decode()
        assert "redis-server" in seen and values["REDIS_PASSWORD"] not in seen
        assert (tmp_path / "appendonlydir").is_dir()
    finally:
        server.terminate()
        server.wait(30)
