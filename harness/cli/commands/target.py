"""harness target: set workloads' targets by procedure."""

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path

from harness.campaign import target, targeting
from harness.campaign.board import Known, commit
from harness.campaign.pairs import Pair
from harness.campaign.running import run as run_pairs
from harness.campaign.target import Procedure
from harness.campaign.targeting import Racing
from harness.catalog.definition import define, split_variant, tree_of
from harness.cli.arguments import parser, part, share, whole
from harness.errors import EXIT_FAILED, EXIT_OK, UserError, nearest
from harness.race import configuration
from harness.race.trial import ISOLATION
from harness.report.run.text import duration
from harness.system.command_line import harness

PROCEDURES = configuration.CONF / "targets.yaml"
TEXT = """\
Set workloads' targets by procedure: tune the references, re-run the best over ten seeds.

  harness target vit pinn_burgers                 race what is missing, and say
  harness target vit ft_gpt2.trainable_1 --write
  harness target all --recorded --write           from what a campaign has raced
"""
MORE = """\
conf/targets.yaml says for each workload who the reference is chosen from and by which rule the
target is set; --rule and --candidates do for a workload that is not in it. In short:

1. Each candidate races some points of its own search space (Sobol, study 0) to the end of the
   budget; the candidate and point with the best last metric is the reference.
2. The reference races five new seeds at three quarters of the budget. The target is the mean of
   their last values, one standard error to the easier side; a stream's is the worst of their ends
   less a margin; goals that the literature states stay.
3. It races five more seeds at the whole budget. All of them must reach the target, else the
   command says what to change and writes nothing for that workload.
4. The signal is printed: how far the metric moves over the last fifth of the budget in these runs,
   over the standard deviation of their last values.
5. With --write the reference is raced by the ruleset `answer` under the new goal, as every
   submission is: that is the reference's time.

The runs of 1 to 3 use up their budget: what results/board/ has of the same workload version is not
run again, whatever goal it was raced under, and what is run here joins it.

With --write: the goal in conf/workload/NAME.yaml, results/reference/KEY.json (the frozen
reference), results/reference/KEY.target.json (the evidence), and board and tuned points judged by
the new goal.
"""


def run(arguments: list[str]) -> int:
    """Race what is missing, print each workload's goal, and write it if asked to."""
    asked = _asked(arguments)
    known, command = Known(Path(asked.results)), harness("target", *arguments)
    races = [
        Racing(name, procedure, asked.scale, asked.isolation)
        for name, procedure in _procedures(asked).items()
    ]
    tuning = {race.name: race.tuning() for race in races}
    _race([pair for pairs in tuning.values() for pair in pairs], asked, known)
    seeding = {race.name: race.seeding(tuning[race.name]) for race in races}
    _race([pair for pairs in seeding.values() for pair in pairs], asked, known)
    failed = 0
    for race in races:
        print(f"{race.name}:", flush=True)
        try:
            _set(race, tuning[race.name], seeding[race.name], asked, command)
        except UserError as error:
            failed += 1
            print(f"  {error}")
    return EXIT_FAILED if failed else EXIT_OK


def _set(
    race: Racing, tuning: list[Pair], seeding: list[Pair], asked: argparse.Namespace, command: str
) -> None:
    """Print what the runs of one workload's pairs decide; write it and time the reference if asked.

    Raises:
        UserError: runs are missing, a seed misses, or no candidate will do.
    """
    try:
        decision = targeting.decide(tuning, seeding, race.procedure)
        _print(decision)
        horizon = decision.definition.block["horizon"]
        if reason := target.complaint(decision.reached, race.procedure, horizon):
            raise UserError(reason)
    except UserError as error:
        raise UserError(f"{error}; nothing was written") from None
    if not asked.write:
        return
    results = Path(asked.results)
    pairs = [*tuning, *seeding]
    for line in targeting.write(decision, race.procedure, pairs, results, command):
        print(f"  {line}")
    answer = race.answer(decision.best.record["submission"])
    _race([answer], asked, Known(results))
    best = targeting.measure(answer)
    print(f"  reference: {best.record['submission']} at {best.share:g} of the budget, frozen")


def _asked(arguments: list[str]) -> argparse.Namespace:
    """Return the arguments, parsed."""
    usual = configuration.defaults()
    reader = parser("target", TEXT, MORE)
    reader.add_argument(
        "workloads", nargs="+", help="NAME, NAME.VARIANT, a workload's FILE.py, or all"
    )
    reader.add_argument(
        "--scale", default=usual["scale"], help=f"the workloads' scale ({usual['scale']})"
    )
    reader.add_argument("--rule", choices=target.RULES, help="instead of what targets.yaml says")
    reader.add_argument(
        "--candidates", nargs="+", default=[], help="submissions that the reference is chosen from"
    )
    reader.add_argument("--trials", type=whole(), help="points that each candidate races")
    reader.add_argument("--seeds", type=whole(2), help="seeds of each of the two groups")
    reader.add_argument("--share", type=share, help="of the budget, that the first group races")
    reader.add_argument("--margin", type=part, help="of a stream's end that its target leaves")
    reader.add_argument("--digits", type=whole(), help="significant digits of the target")
    reader.add_argument(
        "--isolation",
        choices=ISOLATION,
        default=usual["isolation"],
        help=f"of the trials ({usual['isolation']})",
    )
    reader.add_argument(
        "--recorded", action="store_true", help="race nothing, use what is recorded"
    )
    reader.add_argument(
        "--jobs", type=whole(), default=usual["jobs"], help=f"trials at a time ({usual['jobs']})"
    )
    reader.add_argument(
        "--results",
        default=usual["results"],
        help=f"where runs are kept and records are written ({usual['results']})",
    )
    reader.add_argument("--write", action="store_true", help="write the goal and its evidence")
    asked = reader.parse_args(arguments)
    asked.candidates = tuple(asked.candidates)
    return asked


def _procedures(asked: argparse.Namespace) -> dict[str, Procedure]:
    """Return the procedure of each workload asked for, with the changes asked for."""
    known = target.read_procedures(PROCEDURES)
    names = list(known) if asked.workloads == ["all"] else asked.workloads
    given = {f.name: getattr(asked, f.name, None) for f in fields(Procedure)}
    changes = {key: value for key, value in given.items() if value not in (None, ())}
    chosen = {}
    for name in names:
        if name in known:
            chosen[name] = replace(known[name], **changes)
            continue
        bare, variant = split_variant(name)
        define(bare, tree_of(bare), asked.scale, variant)
        if not (asked.rule and asked.candidates):
            raise UserError(
                f"{PROCEDURES.name} has no procedure for {name!r}",
                nearest(name, known),
                f"harness target {name} --rule share --candidates adamw nadamw",
            )
        chosen[name] = Procedure(**changes)
    return chosen


def _race(pairs: list[Pair], asked: argparse.Namespace, known: Known) -> None:
    """Race what no record covers; with --recorded, only read what is there."""

    def show(pair, job, result, pace) -> None:
        if result["earlier"]:
            return
        left = pace.left(pairs)
        rest = f"  about {duration(left)} left" if left else ""
        best = json.dumps(result.get("best"))
        print(f"{result['label']}: {result['outcome']} {best}{rest}", flush=True)

    minutes = 0 if asked.recorded else None
    try:
        run_pairs(pairs, asked.results, asked.jobs, known, show, minutes=minutes)
    finally:
        if not asked.recorded:
            commit(pairs, Path(asked.results))


def _print(decision: targeting.Decision) -> None:
    """Print the reference, the goal, where the second group meets it, and the signal."""
    goal, record = decision.definition.block["goal"], decision.best.record
    value = abs(target.last(decision.best, goal))
    point = f"{record['submission']} trial {record['trial']}, {json.dumps(record['hp'])}"
    print(f"  reference: {point}, last {record['metric']} {value:.4g}")
    as_before = "" if decision.changed else " (as before)"
    shares = [f"{share:.0%}" if share < 9 else "never" for share in decision.reached.shares]
    print(
        f"  goal: {json.dumps(goal)}{as_before}; met by seed at {', '.join(shares)} of the budget"
    )
    print(f"  signal: {decision.signal:.2g}")
