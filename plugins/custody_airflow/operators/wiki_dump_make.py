"""The operators of wiki_dump that make the files of a run and prove them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from airflow.sdk import Context

from custody.wiki_dump import proving, recompress, runs, steps, stubs, texts
from custody.wiki_dump.whole import MAKERS
from custody.wiki_dump.work import Work
from custody_airflow.operators.wiki_dump import DumpOperator

MAX_UNITS_A_RUN = 1000  # Airflow maps at most 1024 units; the next run of the wiki takes the rest


class PlanJobsOperator(DumpOperator):
    """Put the jobs on record; returns what is made at once beside the stubs."""

    def step(self, work: Work, context: Context) -> list[str]:
        """Plan."""
        jobs = steps.plan_jobs(work)
        self.log.info("%s: %d jobs: %s", work.run.subject, len(jobs), ", ".join(job.name for job in jobs) or "none")
        stages = {str(job.stage) for job in jobs}
        return [name for name in MAKERS if name in stages]


class UnitOperator(DumpOperator):
    """A mapped step.

    :param unit: what it works on: a number or a name. (templated)
    """

    template_fields = ("unit",)
    make: ClassVar[Callable[[Work, Any], Any]]

    def __init__(self, *, unit: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def step(self, work: Work, context: Context) -> Any:
        """Work on the unit, under its name in the grid."""
        context["unit"] = self.title(work)  # type: ignore[typeddict-unknown-key] # for map_index_template
        return type(self).make(work, self.unit)

    def title(self, work: Work) -> str:
        """What the grid calls it."""
        return str(self.unit)


def _make(work: Work, name: str) -> int:
    return MAKERS[name](work)


class MakeTablesOperator(UnitOperator):
    """Tables, titles, siteinfo or logs: each kind in one snapshot of its own."""

    make = staticmethod(_make)


class MakeStubsOperator(DumpOperator):
    """All stubs, in one pass and one snapshot."""

    def step(self, work: Work, context: Context) -> dict[str, int]:
        """Make them."""
        return {"pages": stubs.make_stubs(work)}


class PlanUnitsOperator(DumpOperator):
    """List the units of the next mapped step. :param plan: asks the domain for them."""

    def __init__(self, *, plan: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def step(self, work: Work, context: Context) -> list[Any]:
        """Plan."""
        found = _PLANS[self.plan](work)
        self.log.info("%s: %d units", work.run.subject, len(found))
        return found[:MAX_UNITS_A_RUN]


_PLANS: dict[str, Callable[[Work], list[Any]]] = {
    "parts": texts.plan_parts,
    "recombine": recompress.plan_recombine,
    "recompress": recompress.plan_recompress,
    "verify": proving.jobs_to_prove,
}


class _FileOperator(UnitOperator):
    """A step that makes one file."""

    def title(self, work: Work) -> str:
        """The name of the file without that of the wiki."""
        name = runs.load_file(work.ledger, int(self.unit)).name
        return name.removeprefix(f"{work.run.wiki.name}-{work.run.date}-")

    def step(self, work: Work, context: Context) -> dict[str, Any]:
        """Make it."""
        made = super().step(work, context)
        counts = ", ".join(f"{number} {name}" for name, number in made.counts.items())
        self.log.info("%s: %s, %s bytes, %s", made.name, made.state, made.size_bytes, counts)
        return {"file": made.id, "size_bytes": made.size_bytes, **made.counts}


def _make_text(work: Work, unit: Any) -> Any:
    return texts.make_text(work, int(unit))


def _make_recompressed(work: Work, unit: Any) -> Any:
    return recompress.make_recompressed(work, int(unit))


class DumpPartOperator(_FileOperator):
    """Text of one range of pages of one job."""

    make = staticmethod(_make_text)


class RecompressOperator(_FileOperator):
    """7z, multistream or abstracts, of files that are there."""

    make = staticmethod(_make_recompressed)


class RecombineOperator(UnitOperator):
    """Join the parts of a job."""

    make = staticmethod(recompress.make_recombined)


class VerifyDumpOperator(UnitOperator):
    """Read every file of a job back, and publish them when all are whole."""

    make = staticmethod(proving.prove_job)
