"""What the jobs of one submission on one workload have brought so far, and which point is best."""

from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from harness.catalog.definition import Definition, define, tree_of
from harness.race import configuration
from harness.records.collect import read_folder
from harness.records.run import RecordedRun, best_tuning, tuning_order
from harness.records.run_folder import FINAL

# failures of a pair, none of its trials having finished, after which it is left
TRIES = 2


class Job(NamedTuple):
    """One trial of a pair.

    Attributes:
        trial: the number of the point in the study; None for the best point again.
        share: the share of the budget of a ladder's trial; None for all other jobs.
    """

    study: int
    trial: int | None
    seed: int
    share: float | None = None


def _default(key: str) -> Any:
    """Return a dataclass field whose default is that of conf/config.yaml."""
    return field(default_factory=lambda: configuration.defaults()[key])


@cache
def defined(workload: str, scale: str, variant: str | None) -> Definition:
    """Return the numbers of a workload, which the pairs of a plan read once."""
    return define(workload, tree_of(workload), scale, variant)


@dataclass
class PairResults:
    """One submission on one workload under a ruleset, and how its jobs have ended so far.

    Attributes:
        hp: without tuning, the point that is raced instead of the defaults.
        more: seeds beyond the ruleset's.
        after: the seed before the first of the best point's seeds.
        asked: the jobs that were handed out.
        done: what `race` returned, by job.
        found: the finished run, read and checked, by job.
        failed: why the pair is given up: it never finished, and would fail again.
        source: the submission's source when the pair was first looked for among the records.
    """

    workload: str
    submission: str
    ruleset: dict
    scale: str = _default("scale")
    variant: str | None = _default("variant")
    until: str = _default("until")
    hopeless: bool = _default("hopeless")
    isolation: str = _default("isolation")
    hp: dict | None = None
    more: int = 0
    after: int = 0
    asked: set = field(default_factory=set)
    done: dict = field(default_factory=dict)
    found: dict = field(default_factory=dict)
    failed: str | None = None
    source: str | None = None

    @property
    def name(self) -> str:
        where = f"{self.workload}.{self.variant}" if self.variant else self.workload
        return f"{where}/{self.submission}"

    @cached_property
    def definition(self) -> Definition:
        """The workload's numbers as the pair first saw them; `renew` reads them again."""
        return defined(self.workload, self.scale, self.variant)

    def renew(self) -> None:
        """Read the workload's numbers again: its goal has changed."""
        defined.cache_clear()
        self.__dict__.pop("definition", None)

    @cached_property
    def ratio(self) -> float | None:
        """The ladder's ratio, or None. A stream has its own length, so it has no ladder."""
        ratio = self.ruleset.get("ladder")
        return ratio if ratio and "stream" not in self.definition.block else None

    @property
    def studies(self) -> range:
        return range(self.ruleset["studies"])

    @property
    def tuning(self) -> list[Job]:
        return [Job(s, t, s) for s in self.studies for t in range(self.ruleset["trials"])]

    def is_tuned(self, study: int | None = None) -> bool:
        """Return True if the trials of a study (of all) are over."""
        return all(job in self.done for job in self.tuning if study in (None, job.study))

    def any_reached(self) -> bool:
        """Return True if a tuning trial at the whole budget reached the goal."""
        return any(
            run.record["outcome"] == "reached"
            for job, run in self.found.items()
            if job.trial is not None and job.share is None
        )

    def first(self, study: int) -> RecordedRun | None:
        """Return the best tuning trial of a study at the whole budget."""
        runs = [run for job, run in self.found.items() if job in self.tuning and job.study == study]
        return min(runs, key=tuning_order, default=None)

    def take(self, job: Job, result: dict, run: RecordedRun | None = None) -> None:
        """Note how a job ended; its record is `run`, or in the folder that `result` names."""
        self.asked.add(job)
        self.done[job] = result
        if run is None and result["outcome"] in FINAL:
            run = read_folder(Path(result["folder"]))
        if run is not None:
            self.found[job] = run
        failed = [each for each in self.done.values() if each["outcome"] in ("failed", "refused")]
        planned = len(self.tuning) + len(self.studies) * self.ruleset["seeds"]
        if not self.found and len(failed) >= min(TRIES, planned):
            self.failed = failed[-1]["reason"]

    def best(self, study: int | None = None) -> RecordedRun | None:
        """Return the run whose point is the best of a study's (of all): a trial or a ladder's."""
        if study is not None:
            jobs = self.found.items()
            return best_tuning([r for j, r in jobs if j.trial is not None and j.study == study])
        bests = [run for study in self.studies if (run := self.best(study))]
        if self.ratio is None:
            return min(bests, key=tuning_order, default=None)
        return min(bests, key=lambda run: (run.interpolated, *tuning_order(run)), default=None)
