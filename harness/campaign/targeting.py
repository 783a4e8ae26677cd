"""Setting one workload's target: what is raced for it, what follows, and what is written.

Each candidate races points of its own search space; the best is raced again over new seeds; the
goal is what harness/campaign/target.py makes of these runs.
"""

from dataclasses import dataclass
from pathlib import Path

from harness.campaign import target, target_files
from harness.campaign.board import commit
from harness.campaign.pairs import Pair
from harness.campaign.target import Procedure, Reached
from harness.catalog.definition import Definition, define, numbers_path, split_variant, tree_of
from harness.errors import UserError
from harness.records.rejudge import rejudge
from harness.records.run import RecordedRun
from harness.system.files import atomic_json, atomic_write


@dataclass(frozen=True)
class Decision:
    """A workload's goal as its procedure sets it, and the runs that it rests on."""

    definition: Definition
    changed: bool
    best: RecordedRun
    trials: list[RecordedRun]
    seeds: list[RecordedRun]
    reached: Reached
    # the workload's YAML with the goal in it
    text: str


def tuning_pairs(name: str, procedure: Procedure, scale: str) -> list[Pair]:
    """Return the pairs that tune each candidate on a workload (NAME or NAME.VARIANT)."""
    return [_pair(name, each, scale, procedure.trials, 0) for each in procedure.candidates]


def seeding_pair(name: str, procedure: Procedure, scale: str, tuning: list[Pair]) -> Pair | None:
    """Return the pair that races the best candidate over new seeds, or None if none counts."""
    best = _best(tuning)
    if best is None:
        return None
    record = best.record
    return _pair(name, record["submission"], scale, 0, procedure.seeds, record["hp"])


def _pair(name: str, submission: str, scale: str, trials: int, seeds: int, hp=None) -> Pair:
    workload, variant = split_variant(name)
    rules = {"studies": 1, "trials": trials, "seeds": seeds, "budget": 1}
    return Pair(workload, submission, rules, scale, variant, until="budget", hp=hp)


def _best(tuning: list[Pair]) -> RecordedRun | None:
    """Return the run with the best last metric; among equals the first."""
    goal = tuning[0].definition.block["goal"]
    runs = [run for pair in tuning for _, run in sorted(pair.found.items())]
    counted = [run for run in runs if target.last(run, goal) < float("inf")]
    return min(counted, key=lambda run: target.last(run, goal), default=None)


def decide(tuning: list[Pair], seeding: Pair | None, procedure: Procedure) -> Decision:
    """Return the goal that follows from the runs of a workload's pairs.

    Raises:
        UserError: runs are missing, or none meets the goal's other conditions.
    """
    before = tuning[0].definition
    for pair in [*tuning, *([seeding] if seeding else [])]:
        missing = pair.total - len(pair.found)
        if missing:
            reason = pair.failed or f"{missing} of {pair.total} runs are missing"
            raise UserError(f"{pair.submission}: {reason}")
    best = _best(tuning)
    seeds = [run for _, run in sorted(seeding.found.items())] if seeding else []
    if best is None or not seeds:
        raise UserError("no candidate's trial meets the goal's other conditions at its end")
    goal = target.propose(seeds, before.block["goal"], procedure)
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
    reached = target.reached(seeds, definition)
    return Decision(definition, changed, best, trials, seeds, reached, text)


def write(
    decision: Decision, procedure: Procedure, pairs: list[Pair], results: Path, command: str
) -> list[str]:
    """Write the goal, the frozen reference and the evidence; judge board and points by the goal.

    Returns:
        A line for each board that was written.
    """
    definition = decision.definition
    atomic_write(numbers_path(definition.plugin), decision.text)
    definition.frozen.mkdir(parents=True, exist_ok=True)
    atomic_json(
        definition.frozen / f"{definition.key}.json",
        target_files.reference(definition, decision.best, decision.seeds, decision.reached),
    )
    atomic_json(
        definition.frozen / f"{definition.key}.target.json",
        target_files.evidence(
            definition, procedure, decision.trials, decision.seeds, decision.reached, command
        ),
    )
    for pair in pairs:
        pair.found = {job: rejudge(run, definition) for job, run in pair.found.items()}
    return commit(pairs, results)
