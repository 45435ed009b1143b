"""The jobs of a dump: their names and titles as the world knows them, their order, and what each needs."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from custody.faults import Fault, FaultKind
from custody.wiki_dump.farm import Wiki
from custody.wiki_dump.farm_config import FarmConfig
from custody.wiki_dump.settings import Settings

PUBLIC_TABLES: dict[str, str] = {
    "site_stats": "A few statistics such as the page count.",
    "image": "Metadata on current versions of uploaded media/files.",
    "pagelinks": "Wiki page-to-page link records.",
    "categorylinks": "Wiki category membership link records.",
    "imagelinks": "Wiki media/files usage records.",
    "templatelinks": "Wiki template inclusion link records.",
    "linktarget": "Titles that links of other tables point to.",
    "externallinks": "Wiki external URL link records.",
    "langlinks": "Wiki interlanguage link records.",
    "user_groups": "User group assignments.",
    "user_former_groups": "Groups that users have been removed from.",
    "category": "Category information.",
    "page": "Base per-page data (id, title, old restrictions, etc).",
    "page_restrictions": "Newer per-page restrictions table.",
    "page_props": "Name/value pairs for pages.",
    "protected_titles": "Nonexistent pages that have been protected.",
    "redirect": "Redirect list",
    "iwlinks": "Interwiki link tracking records",
    "interwiki": "Set of defined interwiki prefixes and links for this wiki.",
    "geo_tags": "List of pages' geographical coordinates",
    "change_tag": "List of annotations (tags) for revisions and log entries",
    "change_tag_def": "Names of the annotations (tags).",
    "flaggedpages": "This contains a row for each flagged article.",
    "flaggedrevs": "This contains a row for each flagged revision.",
    "sites": "This contains the SiteMatrix information.",
    "wbc_entity_usage": "Tracks which pages use which Wikidata items or properties.",
    "wb_items_per_site": "For each Wikidata item, this contains rows with the corresponding page name.",
    "wb_terms": "For each Wikidata item, this contains rows with a label, an alias and a description.",
    "wb_entity_per_page": "Contains a mapping of page ids and entity ids.",
    "wb_property_info": "Contains a mapping of Wikidata property ids and data types.",
    "wb_changes_subscription": "Tracks which Wikibase Client wikis subscribe to which items.",
    "globalimagelinks": "Global wiki media/files usage records.",
    "babel": "Language proficiency information per user.",
}
"""What may be published whole. Whatever is not named here is private."""

PRIVATE_TABLES: dict[str, str] = {
    "user": "User account data.",
    "watchlist": "Users' watchlist settings.",
    "ipblocks": "Data for blocks of IP addresses, ranges, and users.",
    "archive": "Deleted page and revision data.",
    "logging": "Data for various events (deletions, uploads, etc), with what is hidden.",
    "oldimage": "Metadata on prior versions of uploaded images.",
}
"""The tables that were dumped into the private tree until 2020."""


class Stage(StrEnum):
    """Which task makes a job's files."""

    TABLES = "tables"
    PRIVATE_TABLES = "private_tables"
    SITE = "site"
    STUBS = "stubs"
    LOGS = "logs"
    TEXT = "text"
    RECOMBINE = "recombine"
    RECOMPRESS = "recompress"
    NOT_MADE = "not made"


@dataclass(frozen=True)
class Job:
    """A job. ``needs`` must be done before it can begin. ``table`` is the table it dumps."""

    name: str
    title: str
    stage: Stage
    needs: str | None = None
    private: bool = False
    table: str | None = None


ALL_TABLES = "tables"
"""Stands for the jobs of all tables where jobs are named."""

FLOW = {
    "flowdump": "Flow pages, the current versions of topics and posts.",
    "flowhistorydump": "Flow pages with the complete history of topics and posts.",
}
NOT_MADE = "not made here: MediaWiki's own script, extensions/Flow/maintenance/dumpBackup.php, makes it"
"""What readers are told of the jobs in ``FLOW``, which only that extension knows how to do."""

_ARTICLES = "Articles, templates, media/file descriptions, and primary meta-pages."
_CURRENT = "All pages, current versions only."
_HISTORY = "All pages with complete page edit history (.bz2)"
_HISTORY_7Z = "All pages with complete edit history (.7z)"
_STUBS = "First-pass for page XML data dumps"
_LOGS = "Log events to all pages and users."
_MULTI = "Articles, templates, media/file descriptions, and primary meta-pages, in multiple bz2 streams, 100 pages each"


def all_jobs(wiki: Wiki, settings: Settings, farm: FarmConfig, tables: Iterable[str]) -> list[Job]:
    """Every job of a wiki, in order. :param tables: those that its database has."""
    found: list[Job] = []
    there = set(tables)
    if farm.private_tables:
        found += [
            Job(f"{name}table", title, Stage.PRIVATE_TABLES, private=True, table=name)
            for name, title in PRIVATE_TABLES.items()
            if name in there
        ]
    found += [
        Job(f"{name}table", title, Stage.TABLES, table=name) for name, title in PUBLIC_TABLES.items() if name in there
    ]
    found += [
        Job("namespaces", "Namespaces, namespace aliases, magic words.", Stage.SITE),
        Job("namespacesv2", "Namespaces, namespace aliases, magic words (format version 2).", Stage.SITE),
        Job("pagetitlesdump", "List of page titles in main namespace", Stage.SITE),
        Job("allpagetitlesdump", "List of all page titles", Stage.SITE),
        Job("xmlstubsdump", _STUBS, Stage.STUBS),
    ]
    has_parts = is_in_parts(settings)
    if has_parts:
        found.append(_recombined("xmlstubsdump", _STUBS))
    found.append(Job("articlesdump", _ARTICLES, Stage.TEXT, "xmlstubsdump"))
    if has_parts:
        found.append(_recombined("articlesdump", _ARTICLES))
    if farm.abstracts:
        needs = "articlesdumprecombine" if has_parts else "articlesdump"
        found.append(Job("abstractsdump", "Extracted page abstracts", Stage.RECOMPRESS, needs))
    found.append(Job("metacurrentdump", _CURRENT, Stage.TEXT, "xmlstubsdump"))
    if has_parts and settings.recombineMetaCurrent:
        found.append(_recombined("metacurrentdump", _CURRENT))
    found.append(Job("xmlpagelogsdump", _LOGS, Stage.LOGS))
    found.append(Job("metahistorybz2dump", _HISTORY, Stage.TEXT, "xmlstubsdump"))
    if has_parts and settings.recombineHistory:
        found.append(_recombined("metahistorybz2dump", _HISTORY))
    if wiki.flow:
        found += [Job(name, title, Stage.NOT_MADE) for name, title in FLOW.items()]
    found.append(Job("metahistory7zdump", _HISTORY_7Z, Stage.RECOMPRESS, "metahistorybz2dump"))
    if settings.multistream:
        found.append(Job("articlesmultistreamdump", _MULTI, Stage.RECOMPRESS, "articlesdump"))
    return found


def check_names(names: Iterable[str], wiki: Wiki) -> None:
    """Refuse names that are no job of any configuration. Faults: CONFIG."""
    every = all_jobs(
        wiki,
        Settings(multistream=True, checkpointTime=1),
        FarmConfig.model_validate({"conf": "-", "private_tables": True, "abstracts": True}),
        [*PUBLIC_TABLES, *PRIVATE_TABLES],
    )
    known = {job.name for job in every} | {"sitelistdump", *FLOW}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise Fault(
                FaultKind.CONFIG, f"job {name!r}", f"is not known{f'; did you mean {near[0]}?' if near else ''}"
            )


def is_in_parts(settings: Settings) -> bool:
    """Whether content files may be several."""
    return settings.chunksEnabled or settings.checkpointTime > 0


def _recombined(name: str, title: str) -> Job:
    return Job(f"{name}recombine", f"Recombine {title[:1].lower()}{title[1:]}", Stage.RECOMBINE, name)


def choose_jobs(
    jobs: Sequence[Job],
    *,
    only: Collection[str] = (),
    restart_from: str | None = None,
    skip: Collection[str] = (),
    done: Collection[str] = (),
) -> tuple[list[str], list[str]]:
    """Which jobs a run does, and which it skips for good, by name. Prerequisites that are not done are added.

    :param only: do just these; ``tables`` stands for all tables.
    :param restart_from: do this one and all after it.
    :param skip: leave these out, whatever else is asked for.
    :param done: those that need not be done again.

    Faults: CONFIG for a name that is no job.
    """
    names = [job.name for job in jobs]
    known = {*names, "tables"}
    for name in (*only, *([restart_from] if restart_from else ())):
        if name not in known:
            raise Fault(FaultKind.CONFIG, f"job {name!r}", f"is not known; known are: {', '.join(sorted(known))}")
    wanted = set(names)
    if only:
        wanted = {job.name for job in jobs if job.name in only or ("tables" in only and job.table)}
    if restart_from:
        wanted &= set(names[names.index(restart_from) :]) if restart_from in names else set()
    wanted -= {name for name in names if name in skip}
    by_name = {job.name: job for job in jobs}
    for name in list(wanted):
        needed = by_name[name].needs
        while needed and needed not in done and needed not in wanted and needed not in skip:
            wanted.add(needed)
            needed = by_name[needed].needs
    skipped = [name for name in names if name in skip]
    return [name for name in names if name in wanted and name not in done], skipped


OUTPUTS: dict[str, tuple[str, str, str]] = {
    "articlesdump": ("pages-articles", "xml", "bz2"),
    "metacurrentdump": ("pages-meta-current", "xml", "bz2"),
    "metahistorybz2dump": ("pages-meta-history", "xml", "bz2"),
    "metahistory7zdump": ("pages-meta-history", "xml", "7z"),
    "xmlpagelogsdump": ("pages-logging", "xml", "gz"),
    "abstractsdump": ("abstract", "xml", "gz"),
    "namespaces": ("siteinfo-namespaces", "json", "gz"),
    "namespacesv2": ("siteinfo2-namespacesv2", "json", "gz"),
    "pagetitlesdump": ("all-titles-in-ns0", "", "gz"),
    "allpagetitlesdump": ("all-titles", "", "gz"),
}
STUBS_OF = {
    "articlesdump": "stub-articles",
    "metacurrentdump": "stub-meta-current",
    "metahistorybz2dump": "stub-meta-history",
}
STUBS = ("stub-meta-history", "stub-meta-current", "stub-articles")

_SAME_CONTENT = {
    "metahistory7zdump": "metahistorybz2dump",
    "articlesmultistreamdump": "articlesdump",
    "abstractsdump": "articlesdump",
    "namespacesv2": "namespaces",
}


def content_of(job: str) -> str:
    """The job whose content this one holds in another form: ``metahistorybz2dump`` for ``metahistory7zdump``."""
    name = job.removesuffix("recombine")
    return _SAME_CONTENT.get(name, name)
