"""What a crawl leaves beside its WARCs is stored when it is drained, proven, and on record like any file."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from custody.digests import Fixity
from custody.drain import bundles
from custody.drain.config import parse
from custody.drain.targets import Item
from custody.drain.targets.s3 import S3Target
from custody.faults import Fault, FaultKind
from custody.ledger import CopyState
from drain_site import WHO, Site, make_site


@pytest.fixture
def crawled(site: Site) -> Site:
    """A site whose crawl left logs and a report."""
    for name in ("logs/crawl.log", "reports/seeds.txt", "warcs/not-in-it.log"):
        path = site.root / "crawl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    site.values["bundle_from"] = [str(site.root / "crawl")]
    return site


def stored(site: Site) -> dict[str, tuple[str, int]]:
    assert site.store is not None
    return {key: found for key, found in site.store.objects().items() if key.endswith("-bundle.tar.gz")}


def test_it_is_stored_proven_on_record_and_not_made_twice(crawled: Site) -> None:
    (done,) = bundles.bundle_crawl(crawled.ledger, crawled.config, [crawled.target], who=WHO)
    with tarfile.open(done.path) as archive:
        assert archive.getnames() == ["logs/crawl.log", "reports/seeds.txt"]
    assert list(stored(crawled).values()) == [(done.fixity.digests["md5"], done.fixity.size_bytes)]
    lines = {line.place: (line.state, line.proof) for line in crawled.ledger.where_is(done.path.name)}
    assert lines.pop(done.place) == (CopyState.PROVEN, "listing")
    assert list(lines.values()) == [(CopyState.PRESENT, None)]
    assert [event.subject for event in crawled.events("bundle")] == [done.path.name]
    assert bundles.bundle_crawl(crawled.ledger, crawled.config, [crawled.target], who=WHO) == []
    assert crawled.plan().adopted == ()  # its directory is none of a series

    late = crawled.root / "crawl/logs/late.log"
    late.write_text("the crawler went on")
    os.utime(late, (time.time() + 5, time.time() + 5))
    (again,) = bundles.bundle_crawl(crawled.ledger, crawled.config, [crawled.target], who=WHO)
    assert again.path.name > done.path.name
    assert len(stored(crawled)) == 2


def test_one_that_was_sent_and_not_recorded_is_not_sent_again(crawled: Site) -> None:
    sent: list[str] = []

    class Counted(S3Target):
        def put(self, item: Item, outgoing: object, progress: object = None) -> object:  # type: ignore[override]
            sent.append(item.identifier)
            return super().put(item, outgoing)  # type: ignore[arg-type]

    target = crawled.target
    target.__class__ = Counted
    (made,) = bundles.bundle_crawl(crawled.ledger, crawled.config, [target], who=WHO)
    another = make_another_ledger(crawled)
    assert bundles.bundle_crawl(another.ledger, crawled.config, [target], who=WHO) == [made]
    assert len(sent) == 1


def make_another_ledger(site: Site) -> Site:
    """The same place after its ledger was lost."""
    (site.root / "second").mkdir()
    return make_site(site.root / "second", site.store)


def test_what_is_stored_otherwise_is_no_proof(crawled: Site) -> None:
    class Liar(S3Target):
        def look(self, item: str, names: Sequence[str]) -> dict[str, Fixity | None]:
            found = super().look(item, names)
            return {name: there and Fixity(there.size_bytes, {"md5": "0" * 32}) for name, there in found.items()}

    target = crawled.target
    target.__class__ = Liar
    with pytest.raises(Fault, match=r"expected .* found") as refused:
        bundles.bundle_crawl(crawled.ledger, crawled.config, [target], who=WHO)
    assert refused.value.kind is FaultKind.DATA
    assert CopyState.PROVEN not in crawled.copies().values()


def test_a_keeper_without_digests_is_read_back(crawled: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custody.drain.targets.s3._etag_digests", lambda etag: {})
    (done,) = bundles.bundle_crawl(crawled.ledger, crawled.config, [crawled.target], who=WHO)
    assert crawled.copies()[done.place] == CopyState.PROVEN


def test_nothing_to_bundle_is_said(crawled: Site, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    crawled.values["bundle_from"] = [str(tmp_path / "empty")]
    with pytest.raises(Fault, match="holds nothing to bundle"):
        bundles.bundle_crawl(crawled.ledger, crawled.config, [crawled.target], who=WHO)


def test_the_directories_are_relative_to_the_configuration(disk: Site, tmp_path: Path) -> None:
    config = parse(disk.values | {"bundle_from": ["logs", "/2/crawling"]}, "the test", base=tmp_path)
    assert config.bundle_from == (tmp_path / "logs", Path("/2/crawling"))
