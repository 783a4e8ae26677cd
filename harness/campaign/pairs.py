"""Pairs of submission and workload under a ruleset: their jobs in order, and their results.

A pair runs the tuning trials of its ruleset. Where the ruleset has a ladder, the best point of each
study is then raced at smaller shares of the budget until one misses (larger ones where it missed).
The share that was best is raced with further seeds of the tuning, where the ruleset has `confirm`:
if one misses, the next best takes its place. Last, the best point of each study is raced over new
seeds, at the share that was best.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from harness.campaign.pair_results import Job, PairResults, defined
from harness.campaign.plan import Plan
from harness.campaign.trial import settings
from harness.catalog import discover
from harness.race import point
from harness.records.run import LARGEST_SHARE
from harness.system.files import read_json

# the smallest share of the budget on a ladder
SMALLEST_SHARE = 0.05
# Seeds that confirm a share follow this one, times the study's number from 1; others are below it.
CONFIRMING = 1000


def shares(ratio: float, up: bool) -> list[float]:
    """Return a ladder's shares after 1: 0.8, 0.64, 0.51, ... or, upwards, 1.25, 1.56, 1.95."""
    result, i = [], 1
    while True:
        share = round(ratio ** (-i if up else i), 2)
        if not SMALLEST_SHARE <= share <= LARGEST_SHARE or share in result:
            return result
        result.append(share)
        i += 1


class Pair(PairResults):
    """The jobs of a submission on a workload: which may start now, and how each is raced."""

    @property
    def seeds(self) -> range:
        """The seeds of each study's best point: one where a ladder's tuning trials all missed."""
        count = self.ruleset["seeds"] + self.more if self.more_helps else 1
        return range(self.after + 1, self.after + count + 1)

    @property
    def more_helps(self) -> bool:
        """False where a ruleset with a ladder gives one seed: all tuning trials missed, and it."""
        if not self.ruleset.get("ladder") or not self.is_tuned() or self.any_reached():
            return True
        again = [run for job, run in self.found.items() if job.trial is None]
        return any(run.record["outcome"] == "reached" for run in again)

    @property
    def total(self) -> int:
        """The number of jobs, as far as it is known: a ladder ends where it misses."""
        rungs = sum(len(self.ladder(study)) for study in self.studies)
        confirming = {job for study in self.studies for job in self.confirming(study)}
        confirming |= {job for job in self.done if self.is_confirming(job)}
        seeds = len(self.studies) * len(self.seeds)
        return len(self.tuning) + rungs + len(confirming) + seeds

    @property
    def left(self) -> int:
        """How many jobs are neither done nor given up."""
        return 0 if self.failed else self.total - len(self.done)

    def ready(self) -> Iterator[Job]:
        """Yield the jobs that may start now: trials; of a study whose trials are over, the ladder's
        next; and once that is over, seeds.
        """
        if self.failed:
            return
        yield from (job for job in self.tuning if job not in self.asked)
        for study in self.studies:
            if not self.is_tuned(study) or (self.ruleset["trials"] and not self.best(study)):
                continue
            rungs = self.ladder(study)
            if rungs and rungs[-1] not in self.done:
                following = [rungs[-1]]
            elif self._waits(study):
                following = []
            elif open_jobs := [j for j in self.confirming(study) if j not in self.done]:
                following = open_jobs
            else:
                following = [Job(study, None, seed) for seed in self.seeds]
            yield from (job for job in following if job not in self.asked)

    def ladder(self, study: int) -> list[Job]:
        """Return the ladder's jobs of a study, up to the first that is not done.

        It goes down until a share misses. Where the best point missed at the whole budget though
        another study's did not, it goes up until a share reaches the goal.
        """
        first = self.first(study) if self.ratio and self.is_tuned(study) else None
        if first is None or self.ratio is None or self._waits(study) or not self.any_reached():
            return []
        up, jobs = first.record["outcome"] != "reached", []
        for share in shares(self.ratio, up):
            jobs.append(job := Job(study, first.record["trial"], study, share))
            run = self.found.get(job)
            reached = run is not None and run.record["outcome"] == "reached"
            if job not in self.done or reached == up:
                break
        return jobs

    def confirming(self, study: int) -> list[Job]:
        """Return the jobs that confirm the study's best share, if it is below the whole budget."""
        rungs, best = self.ladder(study), None
        if rungs and rungs[-1] in self.done:
            best = self.best(study)
        if best is None or best.share >= 1:
            return []
        first = CONFIRMING * (study + 1) + 1
        seeds = range(first, first + self.ruleset.get("confirm", 0))
        return [Job(study, best.record["trial"], seed, best.share) for seed in seeds]

    @staticmethod
    def is_confirming(job: Job) -> bool:
        """Return True if a job confirms, or has failed to confirm, a share of the budget."""
        return job.share is not None and job.seed > CONFIRMING

    def _waits(self, study: int) -> bool:
        """Return True if a study whose best point missed must wait for the trials of others."""
        first = self.first(study) if self.ratio else None
        missed = first is not None and first.record["outcome"] != "reached"
        return missed and not self.any_reached() and not self.is_tuned()

    def point(self, job: Job) -> dict:
        """Return the whole hyperparameter point of a job."""
        if job.trial is None and self.ruleset["trials"]:
            best = self.best(job.study)
            assert best, f"{job} is not ready"
            return best.record["hp"]
        if self.hp is not None:
            return self.hp
        card = discover.read(discover.find(self.submission))
        goal = self.definition.block["goal"]
        return point.hyperparameters(card, {}, job.trial, job.study, None, goal)

    def budget(self, job: Job) -> float:
        """Return the share of the workload's budget that a job is given."""
        if job.share is not None:
            return job.share
        if job.trial is None and self.ratio is not None:
            best = self.best(job.study)
            assert best, f"{job} is not ready"
            return best.share
        return self.ruleset.get("budget", 1)

    def config(self, job: Job, results: str) -> dict:
        """Return the configuration of a job's trial."""
        own = self.hp is not None or (job.trial is None and self.ruleset["trials"])
        return settings(
            self.workload,
            self.scale,
            self.submission,
            job.seed,
            results,
            self.point(job) if own else None,
            variant=self.variant,
            trial=job.trial,
            study=job.study,
            until=self.until,
            isolation=self.isolation,
            hopeless=self.hopeless and job.trial is not None and job.share is None,
            budget=self.budget(job),
        )


def pairs_of(made: Plan, results: Path, say: Callable[[str], None] = lambda _: None) -> list[Pair]:
    """Return the pairs of a plan, block by block, in each by submission, each pair once.

    Args:
        results: whose tuned points a block with `tuned: true` races.
        say: called with a line for each pair that is left out because no point is tuned.
    """
    defined.cache_clear()
    found: dict[str, Pair] = {}
    for block in made.blocks:
        for submission, name, variant in block.pairs():
            how = (block.until, block.hopeless, block.isolation)
            pair = Pair(name, submission, block.rules, block.scale, variant, *how)
            if block.tuned:
                key = f"{name}.{block.scale}"
                point = tuned_points(results, key).get(submission)
                if point is None:
                    say(f"left out: {pair.name}: no point of {submission} is tuned on {key}")
                    continue
                pair.hp = point["hp"]
                pair.ruleset = block.rules | {"budget": point.get("budget", 1)}
            found.setdefault(repr(pair), pair)
    return list(found.values())


def tuned_points(results: Path, key: str) -> dict:
    """Return the tuned points of a workload in a results folder, by submission."""
    path = results / "tuned" / f"{key}.json"
    return read_json(path) if path.exists() else {}
