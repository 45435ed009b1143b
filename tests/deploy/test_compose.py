"""docker-compose.yaml without a Docker daemon: its schema, its variables, and what a service is when resolved."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess

import pytest
import yaml

from deploy.composed import (
    COMPOSE,
    ONE_SHOT,
    PATHS,
    POOLS,
    PROFILES,
    ROOT,
    SECRETS,
    VIEWER,
    airflow_services,
    documented_blocks,
    example,
    mounts,
    schema_errors,
    tool,
)

# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_fits_the_schema_of_compose():
    assert schema_errors(COMPOSE) == ""


def test_the_schema_check_can_fail(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text(COMPOSE.read_text().replace("condition: service_healthy", "condition: service_well"))
    assert "service_well" in schema_errors(broken)


def test_yamllint_finds_nothing():
    rules = "{extends: default, rules: {line-length: {max: 140}, braces: disable, document-start: disable}}"
    done = subprocess.run([tool("yamllint"), "-d", rules, COMPOSE], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""


def test_all_services_are_there(services):
    assert set(services) == {
        "postgres",
        "redis",
        "airflow-init",
        "airflow-apiserver",
        "airflow-scheduler",
        "airflow-dag-processor",
        "airflow-triggerer",
        "worker",
        *(f"worker-{profile}" for profile in PROFILES),
        *VIEWER.values(),
    }


def test_workers_of_a_kind_start_by_profile_only(services):
    for profile in PROFILES:
        assert services[f"worker-{profile}"]["profiles"] == [profile]
    others = {name: service for name, service in services.items() if name.removeprefix("worker-") == name}
    started = {name: service["profiles"] for name, service in others.items() if "profiles" in service}
    assert started == {name: [profile] for profile, name in VIEWER.items()}


# --- variables --------------------------------------------------------------------------------------------------------


def test_every_variable_is_explained_in_the_example_and_none_too_much():
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", COMPOSE.read_text()))
    assert used == set(example())
    lines = (ROOT / ".env.example").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match("[A-Z_]+=", line):
            assert before.startswith("#") or re.match("[A-Z_]+=", before), f"{line} has no comment before it"


def test_no_secret_has_a_default():
    assert {name for name, value in example().items() if not value} == SECRETS | PATHS
    for name in SECRETS:
        uses = re.findall(r"(?<!\$)\$\{" + name + r"([^}]*)\}", COMPOSE.read_text())
        assert uses and set(uses) == {":?is missing in .env, see .env.example"}, name


@pytest.mark.parametrize("missing", ["POSTGRES_PASSWORD", "AIRFLOW_ADMIN_PASSWORD"])
def test_a_missing_secret_stops_the_start_with_its_name(resolve, values, missing):
    code, _, complaints = resolve(values | {missing: ""})
    assert code != 0
    assert "is missing in .env" in complaints


def test_secrets_reach_only_environments(services, values):
    given = {values[name] for name in SECRETS}
    for name, service in services.items():
        without = json.dumps({key: value for key, value in service.items() if key != "environment"})
        assert not [secret for secret in given if secret in without], f"{name} shows a secret outside its environment"
    for name, service in services.items():
        if name not in ONE_SHOT:
            assert values["AIRFLOW_ADMIN_PASSWORD"] not in json.dumps(service)


def test_the_commands_of_the_example_make_fit_secrets():
    from cryptography.fernet import Fernet

    commands = re.findall(r"^# (openssl rand [^.\n]*)", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(commands) == len(SECRETS) - 2
    made = [subprocess.check_output(command, shell=True, text=True, timeout=30).strip() for command in commands]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32,}=?", value) for value in made), made
    assert len(Fernet(next(value for value in made if value.endswith("="))).encrypt(b"x")) > 1


# --- what a service is ------------------------------------------------------------------------------------------------


def test_every_service_has_a_healthcheck_but_the_one_that_ends(services):
    assert {name for name, service in services.items() if not service.get("healthcheck", {}).get("test")} == ONE_SHOT
    assert services["airflow-init"]["restart"] == "no"


def test_only_the_loopback_is_bound(services):
    ports = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert ports == {
        "airflow-apiserver": ["127.0.0.1:8080:8080"],
        "bitarchive-viewer": ["127.0.0.1:8075:8075", "127.0.0.1:8076:8076"],
    }


def test_what_is_mounted_exists(services):
    named = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for service in services.values():
        for source, _, _, _ in mounts(service):
            if source.startswith("."):
                assert (ROOT / source).is_dir(), source
            elif not source.startswith("/"):
                assert source in named, source


def test_every_airflow_service_sees_the_code_and_cannot_change_it(services):
    for name, service in airflow_services(services).items():
        seen = {target: read_only for _, target, read_only, _ in mounts(service)}
        for part in ("dags", "plugins", "include"):
            assert seen[f"/opt/airflow/{part}"] is True, name
        assert service["environment"]["PYTHONPATH"] == "/opt/airflow/include:/opt/airflow/plugins:/opt/airflow/dags"
        assert service["user"] == "50000:0"


@pytest.mark.parametrize(
    ("name", "queue", "variable"),
    [
        ("worker-crawler", "crawler", "CUSTODY_DISK"),
        ("worker-tape", "tape", "TAPE_SOURCE"),
        ("worker-wiki", "wiki", "WIKI_DUMPS"),
        ("worker-archive-node", "archive-node", "ARCHIVE_FILES"),
    ],
)
def test_a_worker_of_a_kind_serves_its_queue_and_sees_its_disk_under_one_name(services, values, name, queue, variable):
    command = services[name]["command"]
    assert command[command.index("--queues") + 1] == queue
    disk = values[variable]
    assert [m for m in mounts(services[name]) if m[0].startswith("/")] == [(disk, disk, False, False)]


def test_the_tape_worker_has_its_devices(services, values):
    assert services["worker-tape"]["devices"] == ["/dev/nst0:/dev/nst0", f"{values['TAPE_SG']}:{values['TAPE_SG']}"]
    assert services["worker-tape"]["group_add"] == ["26"]


def test_a_forgotten_disk_is_named_by_the_error(resolve, values):
    _, document, _ = resolve(values | dict.fromkeys(PATHS, ""))
    for name, variable in (("crawler", "CUSTODY_DISK"), ("tape", "TAPE_SOURCE"), ("wiki", "WIKI_DUMPS")):
        (mount,) = [m for m in mounts(document["services"][f"worker-{name}"]) if m[0].startswith("/")]
        assert mount[0] == f"/{variable}-is-missing-in-.env" and mount[3] is False


def test_workers_on_other_machines_find_the_middle(resolve, values):
    there = {"POSTGRES_HOST": "10.8.0.1", "REDIS_HOST": "10.8.0.2", "AIRFLOW_API_URL": "http://10.8.0.3:8080"}
    _, document, _ = resolve(values | there)
    env = document["services"]["worker-crawler"]["environment"]
    assert env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://10.8.0.3:8080/execution/"
    assert "@10.8.0.2:6379/" in env["AIRFLOW__CELERY__BROKER_URL"]
    for name in ("AIRFLOW__CELERY__RESULT_BACKEND", "CUSTODY_LEDGER", "AIRFLOW_CONN_CUSTODY_LEDGER"):
        assert "@10.8.0.1/" in env[name]


def test_the_settings_that_cost_somebody_an_afternoon(services):
    env = services["worker"]["environment"]
    assert env["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"] == "1209600"
    assert env["AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT"] == "60"
    assert env["AIRFLOW__CORE__LOAD_EXAMPLES"] == "false"
    assert env["DUMB_INIT_SETSID"] == "0"


# --- pools ------------------------------------------------------------------------------------------------------------


def pools_in(source):
    """Return the pools named in calls of a Python source as pool="..."."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "pool" and isinstance(node.value, ast.Constant):
            yield node.value.value


def test_the_pools_are_those_that_dags_use():
    pools = json.loads((ROOT / "include" / "config" / "pools.json").read_text())
    assert {name: pool["slots"] for name, pool in pools.items()} == POOLS
    assert all(pool["description"] and pool["include_deferred"] is False for pool in pools.values())
    assert set(pools_in('f(pool="custody_disk")\n@task(pool="x")\ndef g(): ...')) == {"custody_disk", "x"}
    for path in (ROOT / "dags").glob("*.py"):
        assert set(pools_in(path.read_text())) <= set(POOLS), path


# --- docs/deployment.md -----------------------------------------------------------------------------------------------


def test_the_compose_files_of_the_page_fit(resolve, values, tmp_path):
    blocks = [block for block in documented_blocks("yaml") if "services:" in block]
    overrides = [tmp_path / f"override{number}.yaml" for number in range(len(blocks))]
    for override, block in zip(overrides, blocks, strict=True):
        override.write_text(block)
    assert len(overrides) == 3
    assert schema_errors(*overrides) == ""
    code, document, complaints = resolve(values | {"EDGE_LEDGER_URL": "postgresql://x"}, COMPOSE, *overrides)
    assert code == 0, complaints
    assert document["services"]["postgres"]["ports"] == ["10.8.0.1:5432:5432"]
    assert document["services"]["worker-crawler"]["hostname"] == "crawl1.internal"
    edge = document["services"]["worker-edge"]
    assert edge["command"] == [
        "edge",
        "worker",
        "--queues",
        "crawl7",
        "--edge-hostname",
        "crawl7",
        "--concurrency",
        "4",
    ]
    assert edge["image"] == document["services"]["worker"]["image"]
