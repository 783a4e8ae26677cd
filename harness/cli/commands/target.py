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
from harness.catalog import discover
from harness.catalog.definition import split_variant
from harness.cli.arguments import parser
from harness.errors import EXIT_FAILED, EXIT_OK, UserError, nearest
from harness.race import configuration
from harness.report.run.text import duration
from harness.system.command_line import harness

PROCEDURES = configuration.CONF / "targets.yaml"
TEXT = """\
Set workloads' targets by procedure: tune the references, re-run the best, take the median.

  harness target vit pinn_burgers                 race what is missing, and say
  harness target vit ft_gpt2.trainable_1 --write
  harness target all --recorded --write           from what a campaign has raced
"""
MORE = """\
conf/targets.yaml says for each workload who the reference is chosen from and by which rule the
target is set; --rule and --candidates do for a workload that is not in it. In short:

1. Each candidate races some points of its own search space (Sobol, study 0) to the end of the
   budget; the candidate and point with the best last metric is the reference.
2. The reference races new seeds (1, 2, ...), which chose nothing.
3. The target is the median over those seeds at a share of the budget; a stream's the median at its
   end less a margin; goals that the literature states stay.
4. The reference must meet it between half and nine tenths of the budget at the median (a stream's
   in most seeds), else the command says what to change and writes nothing for that workload.

The runs are those of a campaign with `until: budget`: what results/board/ has of the same workload
version is not run again, whatever goal it was raced under, and what is run here joins it.

With --write: the goal in conf/workload/NAME.yaml, results/reference/KEY.json (the frozen
reference), results/reference/KEY.target.json (the evidence), and board and tuned points judged by
the new goal.
"""


def run(arguments: list[str]) -> int:
    """Race what is missing, print each workload's goal, and write it if asked to."""
    asked = _asked(arguments)
    procedures = _procedures(asked)
    results, known = Path(asked.results), Known(Path(asked.results))
    tuning = {
        name: targeting.tuning_pairs(name, procedure, asked.scale)
        for name, procedure in procedures.items()
    }
    _race([pair for pairs in tuning.values() for pair in pairs], asked, known)
    seeding = {
        name: targeting.seeding_pair(name, procedure, asked.scale, tuning[name])
        for name, procedure in procedures.items()
    }
    _race([pair for pair in seeding.values() if pair], asked, known)
    failed = 0
    for name, procedure in procedures.items():
        print(f"{name}:", flush=True)
        try:
            decision = targeting.decide(tuning[name], seeding[name], procedure)
            _print(decision)
            horizon = decision.definition.block["horizon"]
            if reason := target.complaint(decision.reached, procedure, horizon):
                raise UserError(reason)
        except UserError as error:
            failed += 1
            print(f"  {error}; nothing was written")
            continue
        if asked.write:
            pairs = [pair for pair in (*tuning[name], seeding[name]) if pair]
            command = harness("target", *arguments)
            for line in targeting.write(decision, procedure, pairs, results, command):
                print(f"  {line}")
    return EXIT_FAILED if failed else EXIT_OK


def _asked(arguments: list[str]) -> argparse.Namespace:
    """Return the arguments, parsed."""
    usual = configuration.defaults()
    reader = parser("target", TEXT, MORE)
    reader.add_argument(
        "workloads", nargs="+", help="NAME, NAME.VARIANT, a workload's FILE.py, or all"
    )
    reader.add_argument("--scale", default=usual["scale"])
    reader.add_argument("--rule", choices=target.RULES, help="instead of what targets.yaml says")
    reader.add_argument("--candidates", nargs="+", default=[], help="submissions")
    reader.add_argument("--trials", type=int, help="points that each candidate races")
    reader.add_argument("--seeds", type=int, help="seeds that the best races")
    reader.add_argument("--share", type=float, help="of the budget, where the target is read")
    reader.add_argument("--margin", type=float, help="of a stream's end that its target leaves")
    reader.add_argument("--digits", type=int, help="significant digits of the target")
    reader.add_argument("--recorded", action="store_true", help="race nothing")
    reader.add_argument(
        "--jobs", type=int, default=usual["jobs"], help=f"trials at a time ({usual['jobs']})"
    )
    reader.add_argument("--results", default=usual["results"])
    reader.add_argument("--write", action="store_true", help="write the goal and its evidence")
    asked = reader.parse_args(arguments)
    asked.candidates = tuple(asked.candidates)
    if asked.jobs < 1:
        raise UserError(f"--jobs {asked.jobs}", "a whole number from 1 up")
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
        discover.find_workload(split_variant(name)[0])
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
    """Print the reference and the goal, and where the reference's seeds meet it."""
    goal, record = decision.definition.block["goal"], decision.best.record
    value = abs(target.last(decision.best, goal))
    point = f"{record['submission']} trial {record['trial']}, {json.dumps(record['hp'])}"
    print(f"  reference: {point}, last {record['metric']} {value:.4g}")
    as_before = "" if decision.changed else " (as before)"
    shares = [f"{share:.0%}" if share < 9 else "never" for share in decision.reached.shares]
    print(
        f"  goal: {json.dumps(goal)}{as_before}; met by seed at {', '.join(shares)} of the budget"
    )
