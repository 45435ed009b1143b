"""Opening the engine of a run, and what a wiki says of itself, which is asked once and kept for the run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from custody.faults import Fault, FaultKind
from custody.publish import write_atomic
from custody.wiki_dump.engine import siteinfo
from custody.wiki_dump.engine.base import Engine
from custody.wiki_dump.engine.mediawiki import mediawiki_engine
from custody.wiki_dump.engine.siteinfo import SiteInfo
from custody.wiki_dump.engine.sql import sql_engine
from custody.wiki_dump.farm_config import EngineKind
from custody.wiki_dump.making import tool
from custody.wiki_dump.work import Work


@contextmanager
def engine_of(work: Work) -> Iterator[Engine]:
    """The engine of a run. Faults: CONFIG, and those of its database or scripts."""
    run = work.run
    if run.farm.engine is EngineKind.MEDIAWIKI:
        if not run.settings.dir:
            raise Fault(FaultKind.CONFIG, "wiki.dir", "is not set: where is MediaWiki?")
        temp = run.places.temp_run(run.date)
        php = tool(run.settings, "php")
        local = run.farm.local_settings or ""
        limit_s = float(run.farm.no_progress_s)

        ends_at = None if run.farm.script_timeout_s is None else time.monotonic() + run.farm.script_timeout_s

        def progress(size_bytes: int) -> None:
            work.heartbeat.advance(looks=1)
            if ends_at is not None and time.monotonic() > ends_at:
                reason = f"did not end within script_timeout_s ({run.farm.script_timeout_s} s)"
                raise Fault(FaultKind.TRANSIENT, f"scripts of {run.wiki.name}", reason)

        with mediawiki_engine(php, run.settings.dir, local, run.wiki.name, temp, limit_s, progress) as mediawiki:
            yield mediawiki
        return
    with sql_engine(run.wiki.name, site_of(work), run.farm, work.access) as sql:
        yield sql


def site_of(work: Work) -> SiteInfo:
    """What the wiki said of itself when this run first asked."""
    return siteinfo.parse(site_json(work), work.run.wiki.name, f"siteinfo of {work.run.wiki.name}")


def site_json(work: Work, formatversion: int = 1) -> bytes:
    """The API's answer, kept in the private tree for the length of the run. Faults: CONFIG, DATA, TRANSIENT."""
    run = work.run
    path = run.places.private_run(run.date) / f"siteinfo-v{formatversion}.json"
    if path.exists():
        return path.read_bytes()
    raw = _ask(work, formatversion)
    write_atomic(path, raw, mode=0o600)
    return raw


def _ask(work: Work, formatversion: int) -> bytes:
    run = work.run
    if run.farm.siteinfo_dir is not None:
        path = run.farm.siteinfo_dir / f"{run.wiki.name}.json"
        if path.exists() or run.farm.api is None:
            raw = siteinfo.read_file(path, run.wiki.name)[1]
            return raw if formatversion == 1 else _second_version(raw)
    if run.farm.api is not None:
        url = run.farm.api.replace("{wiki}", run.wiki.name)
        return siteinfo.fetch(url, run.wiki.name, formatversion=formatversion)[1]
    if run.farm.engine is EngineKind.MEDIAWIKI:
        with engine_of(work) as engine:
            site = engine.site
    else:
        site = siteinfo.plain(run.wiki.name)
    raw = _as_answer(site)
    return raw if formatversion == 1 else _second_version(raw)


def _as_answer(site: SiteInfo) -> bytes:
    general = {key: getattr(site, key) for key in ("sitename", "base", "generator", "case")}
    spaces = {str(n): {"id": n, "case": case, "*": name} for n, (name, case) in site.namespaces.items()}
    content = {"query": {"general": {**general, "lang": site.language, "wikiid": site.dbname}, "namespaces": spaces}}
    return json.dumps(content).encode() + b"\n"


def _second_version(raw: bytes) -> bytes:
    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {("name" if key == "*" else key): convert(each) for key, each in value.items()}
        return [convert(each) for each in value] if isinstance(value, list) else value

    return json.dumps(convert(json.loads(raw))).encode() + b"\n"
