"""wikidump.conf: every key, strictly; lists that fail closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.wiki_dump import conf
from custody.wiki_dump.farm import read_farm
from custody.wiki_dump.layout import Places, check_date, parse_name
from custody.wiki_dump.settings import Settings, by_section

SAMPLE = """
[wiki]
dblist={home}/all.dblist
privatelist={home}/private.dblist
closedlist={home}/closed.dblist
dir=/srv/mediawiki
[output]
public={home}/public
private={home}/private
temp={home}/temp
fileperms=0644
[chunks]
chunksEnabled=0
[cleanup]
keep=3
[big]
keep=8
chunksEnabled=1
pagesPerChunkHistory=100,200
checkpointTime=720
[zh_min_nanwiki]
keep=2
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "all.dblist").write_text("\ufeff# all\naawiki\r\nzh_min_nanwiki # note\n\nofficewiki\nbe-x-oldwiki\n")
    (tmp_path / "private.dblist").write_text("OfficeWiki\n")
    (tmp_path / "closed.dblist").write_text("aawiki\n")
    (tmp_path / "wikidump.conf").write_text(SAMPLE.format(home=tmp_path))
    return tmp_path


def edit(home: Path, old: str, new: str) -> Path:
    path = home / "wikidump.conf"
    path.write_text(path.read_text().replace(old, new))
    return path


def test_a_wiki_s_own_section_comes_before_the_override_and_that_before_the_common_one(home: Path) -> None:
    path = home / "wikidump.conf"
    assert conf.load(path).of("aawiki").keep == 3
    big = conf.load(path, "big")
    assert big.of("aawiki").keep == 8
    assert big.of("aawiki").pagesPerChunkHistory == (100, 200)
    assert big.of("zh_min_nanwiki").keep == 2
    assert big.of("zh_min_nanwiki").checkpointTime == 720
    assert conf.parse_place("/etc/w.conf:big") == (Path("/etc/w.conf"), "big")
    assert conf.parse_place("/etc/w.conf") == (Path("/etc/w.conf"), None)


def test_every_key_of_every_section_is_known_under_the_name_of_its_section() -> None:
    keys = by_section()
    assert {section: len(found) for section, found in keys.items()} == {
        "wiki": 13,
        "output": 9,
        "reporting": 6,
        "database": 4,
        "tools": 17,
        "cleanup": 1,
        "chunks": 19,
        "otherformats": 1,
        "query": 1,
        "stubs": 2,
        "misc": 5,
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("keep=3", "keeep=3", "cleanup.keeep: is not known; did you mean keep?"),
        ("keep=3", "staleage=900", "it belongs to [reporting]"),
        ("[cleanup]", "[clean_up]", "[clean_up]: is no section; did you mean [cleanup]?"),
        ("keep=3", "keep=three", "cleanup.keep: its value 'three' is no whole number"),
        ("keep=3", "keep=0", "the last good dump is never let go"),
        ("keep=3", "keep=3\nkeep=4", "already exists"),
        ("chunksEnabled=0", "chunksEnabled=perhaps", "is neither 0 nor 1"),
        ("fileperms=0644", "fileperms=rw", "is no mode"),
        ("fileperms=0644", "fileperms=0o040", "cannot read back"),
        ("[cleanup]", "[tools]\nphp=/bin/php,\n[cleanup]", "tools.php: its value '/bin/php,' is no absolute path"),
        ("checkpointTime=720", "checkpointTime=720\n[chunks_x]\nnothing=1", "chunks_x"),
        ("keep=2", "keep=2\nrevsPerJob=0", "at least 1"),
        ("keep=2", "keep=2\njobsperbatch=xmlstubsdump=0", "is not job=number"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_guessed(home: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(Fault) as caught:
        conf.load(edit(home, old, new)).of("zh_min_nanwiki")
    assert caught.value.kind is FaultKind.CONFIG
    assert words in str(caught.value)


def test_a_private_tree_within_the_public_one_is_refused(home: Path) -> None:
    path = edit(home, f"private={home}/private\n", f"private={home}/public/private\n")
    with pytest.raises(Fault, match="lies within"):
        conf.load(path).of()
    (home / "public").mkdir()
    (home / "private").symlink_to(home / "public")
    with pytest.raises(Fault, match="lies within"):
        conf.load(edit(home, f"{home}/public/private", f"{home}/private")).of()


def test_a_secret_is_neither_shown_nor_frozen(home: Path) -> None:
    path = edit(home, "[cleanup]", "[database]\npassword=hunter2\n[cleanup]")
    settings = conf.load(path).of()
    assert settings.password == "hunter2"
    assert "hunter2" not in repr(settings) + str(settings.frozen())
    assert Settings.thaw(settings.frozen()) == Settings(**{**settings.__dict__, "password": ""})
    assert len(conf.digest_of(settings.frozen())) == 64


def test_a_farm_knows_what_each_wiki_is(home: Path) -> None:
    farm = read_farm(conf.load(home / "wikidump.conf").of())
    assert [wiki.name for wiki in farm.wikis] == ["aawiki", "zh_min_nanwiki", "officewiki", "be-x-oldwiki"]
    assert [wiki.name for wiki in farm.wikis if wiki.private] == ["officewiki"]
    assert farm.wiki("aawiki").closed
    with pytest.raises(Fault, match="not in the db list"):
        farm.wiki("nowiki")


@pytest.mark.parametrize("spoil", ["missing", "directory", "unset", "binary", "path"])
def test_a_private_list_fails_closed(home: Path, spoil: str) -> None:
    listed = home / "private.dblist"
    if spoil == "unset":
        edit(home, f"privatelist={listed}\n", "")
    elif spoil == "binary":
        listed.write_bytes(b"\xff\xfe\x00o")
    elif spoil == "path":
        listed.write_text("../officewiki\n")
    else:
        listed.unlink()
        if spoil == "directory":
            listed.mkdir()
    settings = conf.load(home / "wikidump.conf").of()
    with pytest.raises(Fault) as caught:
        read_farm(settings)
    assert caught.value.kind is FaultKind.CONFIG
    assert "privatelist" in str(caught.value)


def test_names_are_taken_apart_even_with_underscores_and_dashes() -> None:
    for name in (
        "zh_min_nanwiki-20260801-pages-meta-history1.xml-p1p41242.bz2",
        "be-x-oldwiki-20260801-pages-articles-multistream-index.txt.bz2",
        "enwiki-latest-stub-articles27.xml.gz",
        "enwiki-20260801-page.sql.gz",
    ):
        found = parse_name(name)
        assert found is not None and str(found) == name
    found = parse_name("zh_min_nanwiki-20260801-pages-meta-history1.xml-p1p41242.bz2")
    assert found and (found.wiki, found.part, found.pages) == ("zh_min_nanwiki", 1, (1, 41242))


def test_a_private_wiki_has_no_directory_in_the_public_tree(home: Path) -> None:
    settings = conf.load(home / "wikidump.conf").of()
    farm = read_farm(settings)
    places = Places.of(farm.wiki("officewiki"), settings)
    places.make("20260801")
    assert places.run("20260801") == home / "private/officewiki/20260801"
    assert not (home / "public").exists()
    with pytest.raises(Fault, match="is no date"):
        check_date("20260231")
