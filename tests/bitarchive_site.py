"""An archive for tests: two nodes of one replica, a second replica, checksums, a ledger, and jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitarchive_samples import sample
from custody.bitarchive import catalogue
from custody.bitarchive.archive import Archive
from custody.bitarchive.batch import accounts, finish, plan, work
from custody.bitarchive.batch.plan import Request
from custody.bitarchive.batch.spec import resolve
from custody.bitarchive.config import parse
from custody.bitarchive.nodes import LocalNode
from custody.ledger import Ledger

FILES = ("a-1.warc.gz", "b-2.arc", "c-3.warc", "d-4.arc.gz")


@dataclass
class Site:
    """An archive below ``root``: files a and c on node one, b and d on node two."""

    root: Path
    archive: Archive

    def path(self, name: str, node: str | None = None) -> Path:
        """Where a file lies."""
        number = node or ("one" if FILES.index(name) % 2 == 0 else "two")
        return self.root / number / "filedir" / name

    def digests(self) -> dict[str, str]:
        """Every file of the archive by its sha256."""
        found = {}
        for path in sorted(self.root.glob("*/filedir/*")):
            found[f"{path.parent.parent.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def job(self, text: str, name: str = "job.py") -> str:
        """Write a job of one's own; returns its path."""
        path = self.root / "jobs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def reconfigure(self, **changes: Any) -> None:
        """Change the configuration."""
        values = self.archive.config.model_dump() | changes
        self.archive.config = parse(values, "test")

    def run(
        self, job: str, *arguments: str, class_name: str | None = None, key: str = "test", **request: Any
    ) -> accounts.Account:
        """A whole batch."""
        given = resolve(job, class_name, arguments)
        made = plan.create(self.archive, given, Request(**request), key=key, who="test")
        return self.go_on(made.id)

    def go_on(self, batch_id: int) -> accounts.Account:
        """What is left of a batch."""
        for bucket in plan.buckets_to_run(self.archive, batch_id):
            work.run_bucket(self.archive, batch_id, bucket.number)
        return finish.collect(self.archive, batch_id, who="test")


def site_at(root: Path, ledger: Ledger, name: str = "news") -> Site:
    """An archive as it lies there."""
    values = {
        "replicas": [
            {
                "id": "ONE",
                "name": "replicaOne",
                "nodes": [{"name": name, "directory": str(root / name)} for name in ("one", "two")],
            },
            {"id": "TWO", "name": "replicaTwo", "nodes": [{"name": "far", "directory": str(root / "far")}]},
            {"id": "THREE", "name": "replicaCs", "type": "checksum", "file": str(root / "checksum_THREE.md5")},
        ],
        "use_replica": "ONE",
        "work_dir": str(root / "work"),
        "file_timeout_s": 60,
        "min_space_left": 1000,
    }
    return Site(root, Archive(name, parse(values, "test"), ledger))


def make_site(root: Path, ledger: Ledger, make_file: Callable[[Path], object] = sample, *, name: str = "news") -> Site:
    """An archive with four files on record."""
    site = site_at(root, ledger, name)
    archive = site.archive
    for replica in archive.config.replicas:
        for node in archive.nodes(replica) if replica.nodes else ():
            assert isinstance(node, LocalNode)
            node.prepare()
    for file in FILES:
        make_file(site.path(file))
    catalogue.adopt(archive, archive.config.replica("ONE"), who="test")
    return site
