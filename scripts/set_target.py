"""Set workloads' targets by procedure: tune the references, re-run the best, take the median.

    python scripts/set_target.py vit pinn_burgers                # race what is missing, and say
    python scripts/set_target.py vit ft_gpt2.trainable_1 --write
    python scripts/set_target.py all --recorded --write          # from what a campaign has raced

scripts/targets.yaml says for each workload who the reference is chosen from and by which rule the
target is set; harness/campaign/target.py says what the rules are. In short:

1. Each candidate races some points of its own search space (Sobol, study 0) to the end of the
   budget; the candidate and point with the best last metric is the reference.
2. The reference races new seeds (1, 2, ...), which chose nothing.
3. The target is the median over those seeds at a share of the budget; a stream's the median at its
   end less a margin; goals that the literature states stay.
4. The reference must meet it between half and nine tenths of the budget at the median (a stream's
   in most seeds), else the script says what to change and writes nothing for that workload.

The runs are those of a campaign with `until: budget`: what results/board/ holds of the same
workload version is not run again, whatever goal it was raced under, and what is run here joins it.

With --write: the goal in conf/workload/NAME.yaml, results/reference/KEY.json (the frozen
reference), results/reference/KEY.target.json (the evidence), and board and tuned points judged by
the new goal.
"""

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path

from harness.campaign.board import Known, commit
from harness.campaign.pairs import Pair, duration, target, target_files
from harness.campaign.pairs import run as run_pairs
from harness.catalog.definition import define, tree_of
from harness.catalog.discover import ROOT
from harness.errors import UserError, nearest
from harness.records.rejudge import again
from harness.records.run import RecordedRun
from harness.system.files import atomic_json, atomic_write

PROCEDURES = Path(__file__).with_name("targets.yaml")


class Missing(Exception):
    """Runs are lacking."""


def main() -> int:
    asked = arguments()
    procedures = target.read_procedures(PROCEDURES)
    names = list(procedures) if asked.workloads == ["all"] else asked.workloads
    for name in names:
        if name not in procedures:
            raise UserError(f"{PROCEDURES.name} has no {name!r}", nearest(name, procedures))
    changes = {f.name: v for f in fields(target.Procedure) if (v := getattr(asked, f.name, None))}
    chosen = {name: replace(procedures[name], **changes) for name in names}
    results, known = Path(asked.results), Known(Path(asked.results))
    tuning = {name: _tuning(name, chosen[name], asked.scale) for name in names}
    _race([pair for pairs in tuning.values() for pair in pairs], asked, known)
    seeding = {}
    for name in names:
        goal = tuning[name][0].definition.block["goal"]
        if (best := _best(tuning[name], goal)) is not None:
            seeding[name] = _seeding(name, chosen[name], asked.scale, best)
    _race(list(seeding.values()), asked, known)
    failed = 0
    for name in names:
        try:
            print(f"{name}:", flush=True)
            pairs = [*tuning[name], *([seeding[name]] if name in seeding else [])]
            _set(name, chosen[name], pairs, asked.scale, results, asked.write)
        except (Missing, UserError) as why:
            failed += 1
            print(f"  {why}; nothing was written")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="+", help="NAME, NAME.VARIANT, or all")
    parser.add_argument("--scale", default="mini")
    parser.add_argument("--rule", choices=target.RULES, help="instead of what targets.yaml says")
    parser.add_argument("--candidates", nargs="+", type=str)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--share", type=float)
    parser.add_argument("--margin", type=float)
    parser.add_argument("--digits", type=int)
    parser.add_argument("--recorded", action="store_true", help="race nothing")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time (2)")
    parser.add_argument("--results", default="results")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    asked.candidates = tuple(asked.candidates or ())
    return asked


def _pair(name: str, submission: str, scale: str, trials: int, seeds: int, hp=None):
    bare, _, variant = name.partition(".")
    rules = {"studies": 1, "trials": trials, "seeds": seeds, "budget": 1}
    return Pair(bare, submission, rules, scale, variant or None, until="budget", hp=hp)


def _tuning(name: str, procedure: target.Procedure, scale: str) -> list[Pair]:
    return [_pair(name, c, scale, procedure.trials, 0) for c in procedure.candidates]


def _seeding(name: str, procedure: target.Procedure, scale: str, best: RecordedRun) -> Pair:
    record = best.record
    return _pair(name, record["submission"], scale, 0, procedure.seeds, record["hp"])


def _best(pairs: list[Pair], goal: dict) -> RecordedRun | None:
    """The run with the best last metric; among equals the first."""
    runs = [run for pair in pairs for _, run in sorted(pair.found.items())]
    counted = [run for run in runs if target.last(run, goal) < float("inf")]
    return min(counted, key=lambda run: target.last(run, goal), default=None)


def _race(pairs: list[Pair], asked: argparse.Namespace, known: Known) -> None:
    """Race what no record covers; with --recorded, only take what is there."""

    def tell(pair, job, told, pace) -> None:
        if told["earlier"]:
            return
        left = pace.left(pairs)
        rest = f"  about {duration(left)} left" if left else ""
        print(
            f"{told['label']}: {told['outcome']} {json.dumps(told.get('best'))}{rest}", flush=True
        )

    try:
        run_pairs(
            pairs, asked.results, asked.jobs, known, tell, minutes=0 if asked.recorded else None
        )
    finally:
        if not asked.recorded:
            commit(pairs, Path(asked.results))


def _set(
    name: str,
    procedure: target.Procedure,
    pairs: list[Pair],
    scale: str,
    results: Path,
    write: bool,
) -> None:
    before = pairs[0].definition
    for pair in pairs:
        if len(pair.found) < pair.total:
            lacking = pair.failed or f"{pair.total - len(pair.found)} of {pair.total} runs lack"
            raise Missing(f"{pair.submission}: {lacking}")
    trials = [run for pair in pairs[:-1] for _, run in sorted(pair.found.items())]
    seeds = [run for _, run in sorted(pairs[-1].found.items())]
    best = _best(pairs[:-1], before.block["goal"])
    if best is None or not seeds:
        raise Missing("no candidate's trial meets the goal's other conditions at its end")
    record = best.record
    value = abs(target.last(best, before.block["goal"]))
    point = f"{record['submission']} trial {record['trial']}, {json.dumps(record['hp'])}"
    print(f"  reference: {point}, last {record['metric']} {value:.4g}")
    goal = target.propose(seeds, before.block["goal"], procedure)
    bare, _, variant = name.partition(".")
    path = target_files.yaml_of(bare, ROOT)
    text = path.read_text()
    if goal != before.block["goal"]:
        text = target_files.with_goal(text, scale, variant or None, goal)
    tree = tree_of(bare)
    block = tree[scale]["variants"][variant] if variant else tree[scale]
    block["goal"] = goal
    definition = define(bare, tree, scale, variant or None)
    found = target.reached(seeds, definition)
    changed = "" if goal != before.block["goal"] else " (as before)"
    at = ", ".join(f"{share:.0%}" if share < 9 else "never" for share in found.shares)
    print(f"  goal: {json.dumps(goal)}{changed}; met by seed at {at} of the budget")
    if why := target.complaint(found, procedure, definition.block["horizon"]):
        raise Missing(why)
    if not write:
        return
    atomic_write(path, text)
    folder = ROOT / "results" / "reference"
    command = " ".join(["python scripts/set_target.py", *sys.argv[1:]])
    atomic_json(
        folder / f"{definition.key}.json",
        target_files.reference(definition, best, seeds, found),
    )
    atomic_json(
        folder / f"{definition.key}.target.json",
        target_files.evidence(definition, procedure, trials, seeds, found, command),
    )
    for pair in pairs:  # the board and the tuned points, by the new goal
        pair.found = {job: again(run, definition) for job, run in pair.found.items()}
    for line in commit(pairs, results):
        print(f"  {line}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"set_target: {error}", file=sys.stderr)
        sys.exit(2)
