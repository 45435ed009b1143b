"""What goes wrong at three in the morning: lists that changed, disks that are full, rights that are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from custody.cli.main import main
from custody.faults import Fault, FaultKind
from custody.host import LocalHost
from custody.wiki_dump import claim, conf, finish, lockfile, monitor, report, runs
from custody.wiki_dump.access import from_environment, from_files
from custody.wiki_dump.farm import farm_of
from custody.wiki_dump.runs import Options
from custody.wiki_dump.settings import Settings
from custody.wiki_dump.status import RunState
from custody.wiki_dump.whole import dump
from wiki_farm import CONF, FarmSite

DATE = "20260801"
TABLE = Options(jobs=("pagetable",))
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounts or becomes another user: as root")


@pytest.fixture
def one(farm: FarmSite) -> FarmSite:
    farm.add_wiki("officewiki", pages=2, revisions=1)
    farm.lists(["officewiki"])
    return farm


def run_one(farm: FarmSite, **kwargs: Any) -> RunState:
    values = {"who": "t", "wiki": "officewiki", "date": DATE, "options": TABLE, **kwargs}
    return dump(farm.ledger, farm.name, farm.config, **values)[1]


# -- private ----------------------------------------------------------------------------------------------------------


def test_a_private_name_that_is_no_wiki_stops_everything(one: FarmSite) -> None:
    (one.home / "private.dblist").write_text("officewik\n")
    with pytest.raises(Fault, match="names officewik, which is no wiki of dblist; did you mean officewiki") as caught:
        run_one(one)
    assert caught.value.kind is FaultKind.CONFIG and not (one.home / "public").exists()
    path = one.home / "wikidump.conf"
    path.write_text(path.read_text().replace("[wiki]", f"[wiki]\nskipdblist={one.home}/elsewhere.dblist"))
    (one.home / "elsewhere.dblist").write_text("officewik\n")
    assert run_one(one) is RunState.PARTIAL  # a wiki of another farm: somebody knows it


def test_a_wiki_that_was_private_is_not_published_because_a_list_lost_its_name(one: FarmSite) -> None:
    one.add_wiki("aawiki", pages=1)
    one.lists(["officewiki", "aawiki"], private=["officewiki"])
    run_one(one)
    one.lists(["officewiki", "aawiki"])  # cut, or misspelt and corrected in the wrong place
    with pytest.raises(Fault, match="is a dump of officewiki as a private wiki") as caught:
        run_one(one)
    assert caught.value.kind is FaultKind.NEEDS_HUMAN
    taken = claim.claim(one.ledger, one.name, one.config, owner="next")
    assert taken.wiki.name == "aawiki"  # the other wikis are dumped
    finish.give_back(one.ledger, taken.id, owner="next")
    found = monitor.sweep(one.ledger, one.config, who="m")
    assert [line.split(":")[0] for line in found.broken] == ["officewiki"]
    assert not (one.home / "public/officewiki").exists()
    one.private("officewiki", DATE).rename(one.home / "away")  # a person's word
    assert run_one(one) is RunState.PARTIAL
    one.lists(["officewiki", "aawiki"], private=["officewiki"])
    for look in (run_one, lambda farm: monitor.sweep(farm.ledger, farm.config, who="m").broken):
        try:
            said = str(look(one))
        except Fault as fault:
            said = str(fault)
        assert "is the public directory of a private wiki" in said


# -- configuration ----------------------------------------------------------------------------------------------------


def test_a_misspelt_section_of_a_wiki_is_an_error_and_others_are_named(one: FarmSite) -> None:
    one.configure("[officewikii]\nkeep=2")
    with pytest.raises(Fault, match=r"\[officewikii\]: is neither a section nor a wiki of dblist; did you mean \[offi"):
        run_one(one)
    one.configure("[bigwikis]\nkeep=2")
    said = CliRunner().invoke(main, ["wiki", "check", "farm"])
    assert said.exit_code == 0, said.output
    assert "section [bigwikis] is no wiki of the db list and not chosen" in said.output
    assert "database: that of officewiki answers, its last revision is 2" in said.output
    path = one.home / "wikidump.conf"
    assert farm_of(conf.load(path, "bigwikis")).wiki("officewiki")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prefetchdate": "9"}, "is no date"),
        ({"prefetchdate": "20250101"}, "has no dump of that date"),
        ({"jobs": ("pagetable",), "restartfrom": "articlesdump"}, "exclude each other"),
    ],
)
def test_options_that_cannot_be_right_are_refused(one: FarmSite, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Fault, match=words) as caught:
        run_one(one, options=Options(**options))
    assert caught.value.kind is FaultKind.CONFIG
    assert not (one.home / "public").exists()


@pytest.mark.parametrize("name", ["../officewiki", "officewiki/../../x", "", "-x", "office wiki", "x" * 65])
def test_a_wiki_is_a_name_of_the_list_and_never_a_path(one: FarmSite, name: str) -> None:
    with pytest.raises(Fault) as caught:
        run_one(one, wiki=name)
    assert caught.value.kind is FaultKind.CONFIG
    if name:
        (one.home / "all.dblist").write_text(f"{name}\n")
        with pytest.raises(Fault, match="is no db name"):
            run_one(one)


def test_lists_as_other_systems_write_them(one: FarmSite) -> None:
    (one.home / "all.dblist").write_bytes("\ufeffofficewiki\r\n\r\n# closed: x\r\nofficewiki\r\n".encode())
    (one.home / "private.dblist").write_bytes("\ufeffOfficeWiki\r\n".encode())
    (wiki,) = farm_of(conf.load(one.home / "wikidump.conf")).wikis
    assert (wiki.name, wiki.private) == ("officewiki", True)
    (one.home / "private.dblist").write_bytes("officewiki".encode("utf-16"))
    with pytest.raises(Fault, match=r"nothing is dumped|no db name"):
        run_one(one)


# -- the way to the databases -----------------------------------------------------------------------------------------


def test_a_connection_of_airflow_s_is_asked_of_the_environment_and_never_guessed(
    one: FarmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.configure(connection="custody_wiki", sqlite_dir=None)
    with pytest.raises(Fault, match="nobody knows where the databases are") as caught:
        from_files(one.config, Settings())
    assert caught.value.kind is FaultKind.CONFIG
    said = CliRunner().invoke(main, ["wiki", "check", "farm"])
    assert said.exit_code == 0 and "is known to Airflow alone" in said.output
    for text in (
        "mysql://dumper:s%40cret%2F@db1.example.org:3307/?unix_socket=%2Frun%2Fx.sock",
        json.dumps(
            {"host": "db1.example.org", "port": 3307, "login": "dumper", "password": "s@cret/",
             "extra": '{"unix_socket": "/run/x.sock"}'}
        ),
    ):  # fmt: skip
        monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_WIKI", text)
        found = from_files(one.config, Settings())
        assert (found.host, found.port, found.user, found.password, found.socket) == (
            *("db1.example.org", 3307, "dumper", "s@cret/", "/run/x.sock"),
        )
        assert "s@cret/" not in repr(found)
    for wrong in ("nonsense", "{", '{"port": "x"}', "mysql://:pw@/", "[1]"):
        monkeypatch.setenv("AIRFLOW_CONN_CUSTODY_WIKI", wrong)
        with pytest.raises(Fault, match="AIRFLOW_CONN_CUSTODY_WIKI") as caught:
            from_environment("custody_wiki")
        assert "pw" not in str(caught.value)


# -- disks and rights -------------------------------------------------------------------------------------------------


@ROOT_ONLY
def test_a_full_disk_leaves_no_lock_and_the_next_run_goes_on_at_once(one: FarmSite) -> None:
    public = one.home / "public"
    public.mkdir()
    mounted = LocalHost().run(("mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(public)))
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr_tail}")
    try:
        with pytest.raises(Fault) as caught:
            dump(one.ledger, one.name, one.config, who="t", wiki="officewiki", date=DATE)
        assert caught.value.kind is FaultKind.CAPACITY
        (public / "ballast").write_bytes(b"x" * 4096 * max(0, os.statvfs(public).f_bavail))
        run = claim.claim(one.ledger, one.name, one.config, owner="again", wiki="officewiki", date=DATE)
        finish.give_back(one.ledger, run.id, owner="again")  # not a byte of room for a status file
        assert not list(one.home.rglob("lock_*")) and runs.load(one.ledger, run.id).state.is_over
        assert LocalHost().run(("mount", "-o", "remount,size=8m", str(public))).returncode == 0
        monitor.sweep(one.ledger, one.config, who="m")
        assert "Dump in progress" not in (one.public("officewiki", DATE) / "status.html").read_text()
        assert dump(one.ledger, one.name, one.config, who="t", wiki="officewiki", date=DATE)[1] is RunState.DONE
    finally:
        LocalHost().run(("umount", str(public)))


@ROOT_ONLY
def test_a_tree_that_cannot_be_written_is_named_and_nothing_is_left(one: FarmSite) -> None:
    public = one.home / "public"
    public.mkdir()
    mounted = LocalHost().run(("mount", "-t", "tmpfs", "-o", "ro,size=48k", "tmpfs", str(public)))
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr_tail}")
    try:
        with pytest.raises(Fault, match="Read-only file system") as caught:
            run_one(one)
        assert caught.value.kind is FaultKind.CONFIG
        assert not list(one.home.rglob("lock_*"))
    finally:
        LocalHost().run(("umount", str(public)))


def test_readers_can_read_whatever_the_umask_of_the_worker_is(one: FarmSite) -> None:
    path = one.home / "wikidump.conf"
    path.write_text(path.read_text().replace("[output]", "[output]\nfileperms=0o644"))
    before = os.umask(0o077)
    try:
        run_one(one)
        monitor.sweep(one.ledger, one.config, who="m")
    finally:
        os.umask(before)
    public = one.home / "public"
    for found in [public, *public.rglob("*")]:
        wanted = 0o755 if found.is_dir() else 0o644
        if not found.is_symlink() and not found.name.startswith("."):
            assert found.stat().st_mode & 0o777 == wanted, found
    for found in (one.home / "private").rglob("*"):
        assert (
            found.name.startswith("lock")
            or found.stat().st_mode & 0o077 == 0
            or found.parent.stat().st_mode & 0o077 == 0
        )


@ROOT_ONLY
def test_who_may_not_look_is_told_in_one_line(one: FarmSite) -> None:
    run_one(one)
    for path in (one.home, *one.home.parents):
        if path.stat().st_uid == 0 and len(path.parts) > 2:
            path.chmod(path.stat().st_mode | 0o055)
    one.ledger.close()
    for path in (one.home, *one.home.glob("ledger*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    script = (  # once as root, so that all is imported, then as nobody
        "import os, sys; from custody.cli.main import main; words = ['wiki', *sys.argv[1:]];"
        "main(words, standalone_mode=False); os.setgroups([]); os.setgid(65534); os.setuid(65534); main(words)"
    )
    for words in (["check", "farm"], ["dump", "farm", "--wiki", "officewiki", "--job", "pagetable"]):
        env = {**os.environ, "CUSTODY_LEDGER": one.ledger.url}
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60, env=env, check=False
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "Permission denied. Next: give this user the right to it" in done.stderr


def test_a_lost_text_is_named_with_its_page_and_the_way_on(one: FarmSite, monkeypatch: pytest.MonkeyPatch) -> None:
    database = one.database("officewiki")
    kept = database.execute("SELECT * FROM text WHERE old_id = 2").fetchall()
    database.execute("DELETE FROM text WHERE old_id = 2")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert dump(one.ledger, one.name, one.config, who="t", date=DATE)[1] is RunState.PARTIAL
    (path,) = one.private("officewiki", DATE).glob("exceptions-*meta-history*")
    assert path.read_text().startswith("page 2\trevision 2\t")
    monkeypatch.setenv("CUSTODY_LEDGER", one.ledger.url)
    said = CliRunner().invoke(main, ["wiki", "status", "--stuck"]).output
    (line,) = report.list_runs(one.ledger, stuck_only=True)
    jobs = ["articlesdump", "metacurrentdump", "metahistorybz2dump", "metahistory7zdump", "articlesmultistreamdump"]
    assert (line.lost, list(line.to_make_again)) == (1, jobs)
    words = ["wiki", "dump", "farm", "--wiki", "officewiki", "--date", DATE, "--job", ",".join(jobs)]
    assert f"1 text could not be had, see {path.parent}/exceptions-*.txt. Next: custody {' '.join(words)}" in said
    database.executemany("INSERT INTO text VALUES (?, ?, ?)", kept)  # found in a backup
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0 and f"officewiki {DATE}: done" in done.output
    assert not report.list_runs(one.ledger, stuck_only=True) and not path.exists()


def test_the_newest_run_is_that_of_the_newest_date(one: FarmSite) -> None:
    run_one(one)
    run_one(one, date="20200101")
    assert [line.date for line in report.list_runs(one.ledger)] == [DATE]


def test_the_lock_names_a_host_that_others_can_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: "localhost.localdomain")
    monkeypatch.setattr("socket.gethostname", lambda: "dumps3")
    assert lockfile.identity() == f"dumps3 {os.getpid()}"


def test_the_template_of_the_farm_is_what_the_tests_think(tmp_path: Path) -> None:
    path = tmp_path / "wikidump.conf"
    path.write_text(CONF.format(home=tmp_path, more=""))
    assert conf.load(path).of().fileperms == 0o640


def test_flow_is_named_as_not_made_and_never_passed_over_in_silence(one: FarmSite) -> None:
    path = one.home / "wikidump.conf"
    path.write_text(path.read_text().replace("[wiki]", f"[wiki]\nflowlist={one.home}/all.dblist"))
    run_one(one)
    directory = one.public("officewiki", DATE)
    status = json.loads((directory / "dumpstatus.json").read_bytes())["jobs"]
    assert {status[name]["status"] for name in ("flowdump", "flowhistorydump")} == {"skipped"}
    assert "not made here: MediaWiki&#x27;s own script" in (directory / "index.html").read_text()
    with pytest.raises(Fault, match="job flowdump: is not made here") as caught:
        run_one(one, options=Options(jobs=("flowdump",)))
    assert caught.value.kind is FaultKind.CONFIG
