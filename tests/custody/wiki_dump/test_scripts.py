"""Engine mediawiki with scripts that misbehave: a program in PHP's place that never ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.wiki_dump import runs
from custody.wiki_dump.engine import siteinfo
from custody.wiki_dump.runs import Options
from custody.wiki_dump.whole import dump
from wiki_farm import FarmSite

# says what it is when asked for nothing but its head; else writes into the first --output until somebody ends it
PHP = """#!/bin/sh
for word in "$@"; do
  case "$word" in
    --start=1) cat {home}/head.xml; exit 0;;
    --output=gzip:*) out="${{out:-${{word#--output=gzip:}}}}";;
  esac
done
echo $$ > {home}/pid
sleep 300 &
while {goes_on}; do echo more >> "$out"; sleep 0.1; done
wait
"""


def configure(farm: FarmSite, goes_on: str, **keys: object) -> None:
    farm.add_wiki("aawiki", pages=2, revisions=1)
    farm.lists(["aawiki"])
    home = farm.home
    (home / "head.xml").write_bytes(siteinfo.plain("aawiki").header())
    (home / "maintenance").mkdir()
    for script in ("dumpBackup.php", "dumpTextPass.php"):
        (home / "maintenance" / script).touch()
    (home / "php").write_text(PHP.format(home=home, goes_on=goes_on))
    (home / "php").chmod(0o755)
    farm.configure(f"[tools]\nphp={home}/php", engine="mediawiki", local_settings="/x/LocalSettings.php", **keys)
    path = home / "wikidump.conf"
    path.write_text(path.read_text().replace("dir=/usr/share/mediawiki", f"dir={home}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("goes_on", "keys", "words"),
    [
        ("true", {"script_timeout_s": 1, "no_progress_s": 60}, r"did not end within script_timeout_s \(1 s\)"),
        ("false", {"script_timeout_s": 60, "no_progress_s": 5}, "no progress for 5 s|wrote nothing for 5 s"),
    ],
)
def test_a_script_that_writes_on_and_on_is_ended(
    farm: FarmSite, goes_on: str, keys: dict[str, int], words: str
) -> None:
    configure(farm, goes_on, **keys)
    began = time.monotonic()
    options = Options(jobs=("xmlstubsdump",))
    with pytest.raises(Fault, match=words) as caught:
        dump(farm.ledger, farm.name, farm.config, who="t", wiki="aawiki", date="20260801", options=options)
    assert caught.value.kind is FaultKind.TRANSIENT and time.monotonic() - began < 50
    pid = int((farm.home / "pid").read_text())
    deadline = time.monotonic() + 10
    while _group_lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _group_lives(pid)  # what it had started is gone with it
    assert not list(farm.home.rglob("*.inprog")) and not list(farm.home.rglob("lock_*"))
    assert runs.select(farm.ledger)[0].state.is_over


def _group_lives(group: int) -> bool:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(found) == group and state not in {"Z", "X"}:
            return True
    return False
