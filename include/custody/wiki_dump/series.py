"""Running several programs at once: pipelines one after another, several such series side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from custody.faults import Fault, FaultKind
from custody.wiki_dump.commands import Pipeline, Progress, Result, run


@dataclass(frozen=True)
class Series:
    """Pipelines one after another; the first that fails ends the series.

    :param when_done: called after the last one; what it raises is the failure of the series.
    """

    pipelines: tuple[Pipeline, ...]
    when_done: Callable[[], None] | None = None


def run_in_parallel(series: Sequence[Series], *, at_once: int, progress: Progress | None = None) -> list[list[Result]]:
    """Run several series, at most ``at_once`` at a time; returns their results in order.

    The first failure ends all others, and is the one that is raised. Faults: see :func:`run`.
    """
    stop = threading.Event()

    def work(one: Series) -> list[Result]:
        try:
            results = []
            for pipeline in one.pipelines:
                if stop.is_set():
                    raise Fault(FaultKind.CANCELLED, "pipeline", "was not begun since another part failed")
                results.append(run(pipeline, progress=progress, stop=stop))
            if one.when_done:
                one.when_done()
            return results
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max_workers=max(1, at_once), thread_name_prefix="series") as pool:
        futures = [pool.submit(work, one) for one in series]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if any(future.done() and future.exception() for future in futures):
                stop.set()
    errors = [error for future in futures if (error := future.exception())]
    if errors:
        raise next((error for error in errors if not _is_cancelled(error)), errors[0])
    return [future.result() for future in futures]


def _is_cancelled(error: BaseException) -> bool:
    return isinstance(error, Fault) and error.kind is FaultKind.CANCELLED
