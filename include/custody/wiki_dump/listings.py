"""Tables, titles, siteinfo and logs of a wiki: what is made at once beside the stubs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from custody.wiki_dump.engine.logs import log_items
from custody.wiki_dump.engine.rows import opened
from custody.wiki_dump.engine.siteinfo import FOOTER
from custody.wiki_dump.engines import site_json, site_of
from custody.wiki_dump.jobs import OUTPUTS, Stage
from custody.wiki_dump.making import is_made, making
from custody.wiki_dump.steps import begin, file_name, jobs_to_do, planned
from custody.wiki_dump.tabledump import table_sql
from custody.wiki_dump.work import Work


def make_tables(work: Work, stage: Stage) -> int:
    """Dump the public tables, or the private ones, all in one snapshot; returns their number."""
    todo = jobs_to_do(work, stage)
    made = 0
    with opened(work.access.address(work.run.wiki.name)) as rows:
        snapshot = rows.snapshot()
        for job in todo:
            assert job.table is not None
            file = planned(work, job, file_name(work.run, job.table, "sql", "gz"))
            if is_made(work.run, file):
                continue
            begin(work, job.name)
            with making(work, file) as making_, making_.gz() as sink:
                for chunk, count in table_sql(rows, work.run.wiki.name, job.table):
                    sink.write(chunk)
                    making_.count(rows=count)
                    work.heartbeat.advance(rows=count, bytes=len(chunk))
            made += 1
    work.log(f"{stage}: {made} tables in the snapshot {json.dumps(snapshot)}")
    return made


def make_site(work: Work) -> int:
    """What the wiki says of itself, and the lists of its titles; returns the number of files."""
    todo = jobs_to_do(work, Stage.SITE)
    for job in todo:
        dump, kind, compression = OUTPUTS[job.name]
        file = planned(work, job, file_name(work.run, dump, kind, compression))
        if is_made(work.run, file):
            continue
        begin(work, job.name)
        with making(work, file) as made, made.gz() as sink:
            for chunk in _site_chunks(work, job.name):
                sink.write(chunk)
                made.count(lines=chunk.count(b"\n"))
                work.heartbeat.advance(bytes=len(chunk))
    return len(todo)


def _site_chunks(work: Work, job: str) -> Iterator[bytes]:
    if job in {"namespaces", "namespacesv2"}:
        yield site_json(work, 2 if job == "namespacesv2" else 1).rstrip(b"\n") + b"\n"
        return
    main_only = job == "pagetitlesdump"
    yield b"page_title\n" if main_only else b"page_namespace\tpage_title\n"
    with opened(work.access.address(work.run.wiki.name)) as rows:
        number = rows.number("page_namespace")
        sql = f"SELECT {number}, page_title FROM page ORDER BY page_namespace, page_title"  # noqa: S608
        if main_only:
            sql = f"SELECT {number}, page_title FROM page WHERE page_namespace = 0 ORDER BY page_title"  # noqa: S608
        lines: list[bytes] = []
        for namespace, title in rows.query(sql):
            lines.append(title if main_only else b"%b\t%b" % (namespace, title))
            if len(lines) >= 10_000:
                yield b"\n".join(lines) + b"\n"
                lines = []
        if lines:
            yield b"\n".join(lines) + b"\n"


def make_logs(work: Work) -> int:
    """The public log; returns the number of files."""
    todo = jobs_to_do(work, Stage.LOGS)
    for job in todo:
        file = planned(work, job, file_name(work.run, *OUTPUTS[job.name]))
        if is_made(work.run, file):
            continue
        begin(work, job.name)
        with opened(work.access.address(work.run.wiki.name)) as rows, making(work, file) as made, made.gz() as sink:
            rows.snapshot()
            site = site_of(work)
            sink.write(site.header())
            for chunk in log_items(rows, site, restricted=work.run.farm.restricted_logs):
                sink.write(chunk)
                made.count(log_items=chunk.count(b"\n  </logitem>\n") + chunk.startswith(b"  </logitem>"))
                work.heartbeat.advance(bytes=len(chunk))
            sink.write(FOOTER)
    return len(todo)
