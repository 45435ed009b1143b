"""The queue policy: how it reads configurations, what it moves, and that nothing ever leaves it."""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from custody_airflow import queues

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def configs(tmp_path, monkeypatch):
    directory = tmp_path / "config"
    (directory / "drain").mkdir(parents=True)
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(directory))
    queues._remembered.clear()
    queues._warned.clear()
    return directory


@pytest.fixture
def plain_defaults(monkeypatch):
    """Airflow's own defaults, so that the pure tests need no Airflow."""
    monkeypatch.setattr(queues, "_defaults", lambda: ("default", "default_pool"))
    monkeypatch.setattr(queues, "_executors", lambda: frozenset({"EdgeExecutor"}))


def task(dag_id="drain", queue="default", pool="default_pool", executor=None):
    return SimpleNamespace(dag_id=dag_id, queue=queue, pool=pool, executor=executor)


def run(conf):
    return SimpleNamespace(conf=conf)


@pytest.mark.parametrize(
    ("dag_id", "room"),
    [
        ("drain", "drain"),
        ("wiki_dump", "wiki_dump"),
        ("minidvodb_copy", "minidvodb"),
        ("bitarchive_batch", "bitarchive"),
    ],
)
def test_each_dag_has_its_room(configs, dag_id, room):
    assert queues.config_path(dag_id, {"config": "A-1_b.c"}) == configs / room / "A-1_b.c.yml"


def test_the_queue_of_a_drive_stands_in_its_tape_conf(configs, plain_defaults, caplog):
    (configs / "tape").mkdir()
    (configs / "tape" / "lto.conf").write_text("[default]\ntape_device = /dev/nst0\nqueue = tapehost\n")
    (configs / "tape" / "broken.conf").write_text("queue = tapehost\n")
    found = task("tape_backup")
    queues.place(found, run({"config": "lto"}))
    assert found.queue == "tapehost"
    found = task("tape_backup")
    queues.place(found, run({"config": "broken"}))
    assert found.queue == "default"
    assert "stay on the default queue" in caplog.text


@pytest.mark.parametrize(
    "conf",
    [
        None,
        {},
        [],
        "crawl1",
        {"config": None},
        {"config": 7},
        {"config": ["crawl1"]},
        {"config": "all"},
        {"config": ""},
        {"config": "."},
        {"config": ".."},
        {"config": ".hidden"},
        {"config": "../drain/crawl1"},
        {"config": "/etc/passwd"},
        {"config": "a/b"},
        {"config": "crawl1\n"},
        {"config": "crawl1\0"},
        {"config": "crawl 1"},
        {"config": "crawlé"},
    ],
)
def test_only_a_plain_name_names_a_configuration(configs, conf):
    assert queues.config_path("drain", conf) is None


def test_a_dag_of_somebody_else_is_left_alone(configs, plain_defaults):
    (configs / "drain" / "crawl1.yml").write_text("queue: crawl1\n")
    other = task(dag_id="other")
    queues.place(other, run({"config": "crawl1"}))
    assert other.queue == "default"


def test_without_override_the_configurations_of_this_checkout_are_read(monkeypatch):
    monkeypatch.delenv("CUSTODY_CONFIG_DIR", raising=False)
    assert queues.config_dir() == ROOT / "include" / "config"
    assert queues.config_dir().is_dir()


def test_queue_pool_and_executor_come_from_the_configuration(configs, plain_defaults):
    (configs / "drain" / "crawl1.yml").write_text(
        "job_dir: /d\nqueue: crawl1\npool: custody_disk\nexecutor: EdgeExecutor\n"
    )
    moved = task()
    queues.place(moved, run({"config": "crawl1"}))
    assert (moved.queue, moved.pool, moved.executor) == ("crawl1", "custody_disk", "EdgeExecutor")


def test_what_the_dag_says_is_kept(configs, plain_defaults):
    (configs / "drain" / "crawl1.yml").write_text("queue: crawl1\npool: custody_disk\nexecutor: EdgeExecutor\n")
    kept = task(queue="central", pool="custody_upload", executor="LocalExecutor")
    queues.place(kept, run({"config": "crawl1"}))
    assert (kept.queue, kept.pool, kept.executor) == ("central", "custody_upload", "LocalExecutor")


def test_without_the_keys_nothing_changes(configs, plain_defaults, caplog):
    (configs / "drain" / "crawl1.yml").write_text("job_dir: /d\n")
    untouched = task()
    queues.place(untouched, run({"config": "crawl1"}))
    queues.place(untouched, None)
    assert untouched == task()
    assert not caplog.records


def test_an_executor_that_is_not_configured_is_refused_and_said_once(configs, plain_defaults, caplog):
    (configs / "drain" / "crawl1.yml").write_text("queue: crawl1\nexecutor: KubernetesExecutor\n")
    tasks = [task(), task()]
    for each in tasks:
        queues.place(each, run({"config": "crawl1"}))
    assert {(each.queue, each.executor) for each in tasks} == {("crawl1", None)}
    assert [r.message for r in caplog.records] == [
        "executor 'KubernetesExecutor' is not in [core] executor; its tasks use the default one"
    ]


def make_fifo(path):
    os.mkfifo(path)


def make_alias_bomb(path):
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path.write_text("\n".join(["a0: &a0 [x]", *levels, "queue: *a11\n"]))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "is not a plain file"),
        (make_fifo, "is not a plain file"),
        (lambda path: path.write_bytes(b"#" * 100_001), "is not a plain file of at most 100000 bytes"),
        (lambda path: path.write_text("queue: [unclosed"), "expected ',' or ']'"),
        (lambda path: path.write_bytes(b"queue: \xff\xfe"), "invalid"),
        (lambda path: path.write_text("- a list"), "holds no mapping"),
        (lambda path: path.write_text("[" * 50_000), "recursion"),
        (make_alias_bomb, "is not a name"),
        (lambda path: path.write_text("queue: 7"), "queue: 7 is not a name"),
        (lambda path: path.write_text("queue: 'a b'"), "queue: 'a b' is not a name"),
        (lambda path: path.write_text(f"queue: {'q' * 251}"), "is not a name"),
        (lambda path: path.write_text("queue: q\npool: [p]"), "pool: ['p'] is not a name"),
    ],
)
def test_a_file_that_cannot_be_used_moves_nothing_and_is_said_once(configs, plain_defaults, caplog, make, complaint):
    path = configs / "drain" / "crawl1.yml"
    make(path)
    untouched = task()
    for _ in range(3):
        queues.place(untouched, run({"config": "crawl1"}))
    assert untouched == task()
    (record,) = caplog.records
    assert str(path) in record.message and complaint in record.message
    assert record.levelno == logging.WARNING and "\n" not in record.message


@contextmanager
def without_rights_of_root():
    """Root may read everything, so that a refusal needs another user."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_that_becomes_readable_is_read(plain_defaults):
    with tempfile.TemporaryDirectory(prefix="custody-queues-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "crawl1.yml"
        path.write_text("queue: crawl1\n")
        path.chmod(0)
        with without_rights_of_root():
            assert queues.read_placement(path) == queues.NOWHERE
        path.chmod(0o644)
        with without_rights_of_root():
            assert queues.read_placement(path).queue == "crawl1"


def test_nothing_leaves_the_policy(configs, plain_defaults, caplog):
    class Detached:
        @property
        def conf(self):
            raise RuntimeError("the session is closed")

    untouched = task()
    for _ in range(3):
        queues.place(untouched, Detached())
    assert untouched == task()
    assert [r.message for r in caplog.records] == [
        "queue policy: a task stays on its queue: RuntimeError: the session is closed"
    ]


def test_an_unchanged_file_is_not_read_again_and_a_changed_one_is(configs, plain_defaults):
    path = configs / "drain" / "crawl1.yml"
    path.write_text("queue: one\n")
    before = path.stat()
    assert queues.read_placement(path).queue == "one"
    with path.open("r+") as same_inode:
        same_inode.write("queue: two\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert queues.read_placement(path).queue == "one", "read although inode, size and time are the same"
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert queues.read_placement(path).queue == "two"
    replacement = path.with_suffix(".new")
    replacement.write_text("queue: six\n")
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    replacement.replace(path)
    assert queues.read_placement(path).queue == "six", "a renamed file of the same size and time is another file"
    path.unlink()
    assert queues.read_placement(path) == queues.NOWHERE


def test_what_is_remembered_is_bounded(configs, plain_defaults):
    for number in range(queues._MAX_REMEMBERED + 20):
        (configs / "drain" / f"c{number}.yml").write_text(f"queue: q{number}\n")
        queues.place(task(), run({"config": f"c{number}"}))
        queues.place(task(), run({"config": f"missing{number}"}))
    assert 0 < len(queues._remembered) <= queues._MAX_REMEMBERED
    assert 0 < len(queues._warned) <= queues._MAX_REMEMBERED
