"""The crawler of a disk, while a run looks at it: paused under pressure, woken when there is room."""

from __future__ import annotations

from airflow.sdk import Context

from custody.drain.config import DrainConfig
from custody.drain.crawler import Standing, standing, watch_crawler
from custody.faults import Fault
from custody.ledger import Ledger
from custody_airflow.hooks.drain_crawler import crawler_of
from custody_airflow.operators.common import CustodyOperator, run_of


def watch(
    task: CustodyOperator, context: Context, name: str, config: DrainConfig, ledger: Ledger, *, may_pause: bool
) -> None:
    """Have the crawler pause or go on as the disk wants it; one that cannot be asked stops nothing."""
    if config.crawler is None:
        return
    try:
        crawler = crawler_of(config.crawler)
        said = watch_crawler(ledger, name, config, crawler, who=run_of(context), may_pause=may_pause)
    except Fault as fault:
        task.log.warning("the crawler was not asked: %s", fault)
    else:
        if said:
            task.log.info(said)
        elif (stands := standing(ledger, name)) is not Standing.FREE:
            task.log.info("%s: %s", crawler.name, stands)
