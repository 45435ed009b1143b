"""Run by a test as an ordinary user: an archive of its own, and a job that tries what an evil one would."""

from __future__ import annotations

import sys
from pathlib import Path

from bitarchive_site import FILES, make_site
from custody.bitarchive.batch import accounts
from custody.bitarchive.config import Limits
from custody.ledger import Ledger

JOB = """
import os, time
from custody.bitarchive.jobs import FileBatchJob

class Evil(FileBatchJob):
    def process_file(self, file, out):
        for action in (lambda: open(file.path, "r+b"), lambda: os.unlink(file.path), lambda: open("/etc/passwd")):
            try:
                action()
                out.write(b"done")
            except OSError:
                out.write(b"refused ")
        count = 0
        try:
            while count < 300:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                count += 1
        except OSError:
            out.write(b"stopped" if count < 40 else b"late")
"""


def main(root: Path) -> None:
    """Run, and print what came of it."""
    ledger = Ledger.upgrade(f"sqlite:///{root}/ledger.sqlite")
    site = make_site(root / "archive", ledger)
    site.reconfigure(limits=Limits(processes=32))
    before = site.digests()
    found = site.run(site.job(JOB), regexp=FILES[0])
    assert found.output, accounts.describe_errors(site.archive, found.batch.id)
    assert site.digests() == before
    print(found.output.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
