"""Setting one workload's target: what is raced for it, what follows, and what is written.

Each candidate races points of its own search space. The best is raced again over two groups of new
seeds; harness/campaign/target.py makes the goal of them. Under the new goal the reference is then
raced as every submission is, by the ruleset `answer`: its time is measured like everybody's.
"""

from dataclasses import dataclass
from pathlib import Path

from harness.campaign import plan, target, target_files
from harness.campaign.board import commit
from harness.campaign.pairs import Pair
from harness.campaign.target import Procedure, Reached
from harness.catalog.definition import Definition, define, numbers_path, split_variant, tree_of
from harness.errors import UserError
from harness.records.rejudge import rejudge
from harness.records.run import RecordedRun
from harness.system.files import atomic_json, atomic_write

# how the reference's own time is measured
RULESET = "answer"


@dataclass(frozen=True)
class Decision:
    """A workload's goal as its procedure sets it, and the runs that it rests on.

    Attributes:
        first: the runs of the seeds that set the bounds.
        second: the runs of the seeds that must reach them; `reached` says where they do.
        signal: what the last fifth of the budget is worth, over the scatter of the second group.
        text: the workload's YAML with the goal in it.
    """

    definition: Definition
    changed: bool
    best: RecordedRun
    trials: list[RecordedRun]
    first: list[RecordedRun]
    second: list[RecordedRun]
    reached: Reached
    signal: float
    text: str


@dataclass(frozen=True)
class Racing:
    """Where and how a workload's pairs race; `name` is NAME or NAME.VARIANT."""

    name: str
    procedure: Procedure
    scale: str
    isolation: str

    def pair(self, submission: str, until: str = "budget", hp=None, after=0, **rules) -> Pair:
        """Return a pair of this workload; `rules` replace those of a pair without any."""
        workload, variant = split_variant(self.name)
        rules = {"studies": 1, "trials": 0, "seeds": 0, "budget": 1} | rules
        where = (self.scale, variant, until)
        made = Pair(workload, submission, rules, *where, isolation=self.isolation, hp=hp)
        made.after = after
        return made

    def tuning(self) -> list[Pair]:
        """Return the pairs that tune each candidate."""
        return [self.pair(each, trials=self.procedure.trials) for each in self.procedure.candidates]

    def seeding(self, tuning: list[Pair]) -> list[Pair]:
        """Return the pairs that race the best candidate over the two groups of new seeds.

        There are none where no trial counts.
        """
        best = _best(tuning)
        if best is None:
            return []
        name, hp, seeds = best.record["submission"], best.record["hp"], self.procedure.seeds
        streaming = "stream" in tuning[0].definition.block
        share = 1 if streaming else self.procedure.share
        return [
            self.pair(name, hp=hp, seeds=seeds, budget=share),
            self.pair(name, hp=hp, seeds=seeds, after=seeds),
        ]

    def answer(self, submission: str) -> Pair:
        """Return the pair that measures the reference's time, as everybody's is measured."""
        rules = plan.ruleset(RULESET, trials=self.procedure.trials)
        return self.pair(submission, **rules)


def _best(tuning: list[Pair]) -> RecordedRun | None:
    """Return the run with the best last metric; among equals the first."""
    goal = tuning[0].definition.block["goal"]
    runs = [run for pair in tuning for _, run in sorted(pair.found.items())]
    counted = [run for run in runs if target.last(run, goal) < float("inf")]
    return min(counted, key=lambda run: target.last(run, goal), default=None)


def _complete(pairs: list[Pair]) -> None:
    """Raise UserError if runs of a pair are missing."""
    for pair in pairs:
        missing = pair.total - len(pair.found)
        if missing:
            reason = pair.failed or f"{missing} of {pair.total} runs are missing"
            raise UserError(f"{pair.submission}: {reason}")


def decide(tuning: list[Pair], seeding: list[Pair], procedure: Procedure) -> Decision:
    """Return the goal that follows from the runs of a workload's pairs.

    Raises:
        UserError: runs are missing, or none meets the goal's other conditions.
    """
    before = tuning[0].definition
    _complete([*tuning, *seeding])
    best = _best(tuning)
    if best is None or not seeding:
        raise UserError("no candidate's trial meets the goal's other conditions at its end")
    first, second = ([run for _, run in sorted(pair.found.items())] for pair in seeding)
    goal = target.propose(first, before.block["goal"], procedure)
    path = numbers_path(before.plugin)
    text, changed = path.read_text(), goal != before.block["goal"]
    if changed:
        text = target_files.with_goal(text, before.scale, before.variant, goal)
    name = before.place or before.name
    tree = tree_of(name)
    block = tree[before.scale]
    (block["variants"][before.variant] if before.variant else block)["goal"] = goal
    definition = define(name, tree, before.scale, before.variant)
    trials = [run for pair in tuning for _, run in sorted(pair.found.items())]
    reached = target.reached(second, definition)
    signal = target.signal(second, goal)
    return Decision(definition, changed, best, trials, first, second, reached, signal, text)


def write(
    decision: Decision, procedure: Procedure, pairs: list[Pair], results: Path, command: str
) -> list[str]:
    """Write the goal, a frozen reference and the evidence; judge board and points by the goal.

    The reference's time is that of the second group of seeds, until `measure` has a better one.

    Returns:
        A line for each board that was written.
    """
    definition = decision.definition
    atomic_write(numbers_path(definition.plugin), decision.text)
    definition.frozen.mkdir(parents=True, exist_ok=True)
    evidence = target_files.evidence(
        definition,
        procedure,
        decision.trials,
        decision.first,
        decision.second,
        decision.signal,
        command,
    )
    atomic_json(definition.frozen / f"{definition.key}.target.json", evidence)
    _freeze(definition, decision.best, decision.second)
    for pair in pairs:
        pair.renew()
        pair.found = {job: rejudge(run, definition) for job, run in pair.found.items()}
    return commit(pairs, results)


def measure(pair: Pair) -> RecordedRun:
    """Freeze the reference's time as everybody's is measured; return the run of its best point.

    Args:
        pair: of the reference by the ruleset `answer`, raced.

    Raises:
        UserError: runs are missing, or a seed of the best point misses.
    """
    _complete([pair])
    best = pair.best()
    assert best is not None
    seeds = [run for job, run in sorted(pair.found.items(), key=str) if job.trial is None]
    missed = sum(run.record["outcome"] != "reached" for run in seeds)
    if missed:
        raise UserError(
            f"at {best.share:g} of the budget {missed} of {len(seeds)} seeds of the reference "
            "miss: its time stays that of the whole budget"
        )
    _freeze(pair.definition, best, seeds)
    return best


def _freeze(definition: Definition, best: RecordedRun, seeds: list[RecordedRun]) -> None:
    """Write the frozen reference: this point over these seeds."""
    made = target_files.reference(definition, best, seeds)
    atomic_json(definition.frozen / f"{definition.key}.json", made)
