"""harness campaign: tune every submission on every workload, re-run the best over new seeds."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from harness.campaign import plan
from harness.campaign.board import Known, commit
from harness.campaign.pair_results import Job
from harness.campaign.pairs import Pair, pairs_of
from harness.campaign.running import run as run_pairs
from harness.campaign.running import run_in_rounds
from harness.campaign.spending import spend
from harness.cli import campaign_launch
from harness.cli.arguments import parser, positive, whole
from harness.cli.launchers import LAUNCHERS
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UserError
from harness.race import configuration
from harness.records.run_folder import FINAL
from harness.report.run.text import duration, seconds

TEXT = """\
Run a campaign: tune every submission on every workload, re-run the best points over new seeds.

  harness campaign plan.yaml                 go on until everything is done
  harness campaign plan.yaml --minutes 170   start nothing new after so long
  harness campaign plan.yaml --spend 2       then race further seeds where the board is undecided
  harness campaign plan.yaml --points        print every job with its point, race none
  harness campaign plan.yaml --jobs 40 --launcher submitit_slurm --set hydra.launcher.partition=cpu
"""
MORE = """\
The plan is a YAML file:

  scale: mini
  until: budget                # goal, or budget: trials go on after the goal is met
  isolation: strict            # process, strict or inline
  blocks:                      # done in order
    - {submissions: [adamw, nadamw], workloads: all, ruleset: external}
    - {submissions: all, workloads: all, ruleset: once}
    - {submissions: [lion, peft], workloads: [gpt2, ft_gpt2.trainable_1], trials: 8}
    - {submissions: [adamw], workloads: [gpt2.relu], ruleset: fixed, tuned: true}

Submissions are names, families (a folder of submissions/) or `all`; a pair that does not fit is
left out. A ruleset is a file of conf/ruleset/; a block may change its numbers. `tuned: true` races
the point that an earlier campaign tuned on the workload (of a variant, on its base).

Each trial runs in processes of its own, on one thread; the same command again continues. With
--launcher the trials start on a cluster (submitit_slurm, ray) or through joblib, a round at a time;
all machines must see the results folder. A job
whose run is in results/board/ already (same workload version, submission source, point and seed)
is done, so a fresh clone goes on as well. After each pair the results are written where they can
be committed: one line a run to results/board/KEY.jsonl, which `harness report` reads, and the
tuned points to results/tuned/KEY.json. A pair whose first trials fail (the method does not fit the
workload) is given up, with the reason, in results/board/KEY.failed.json, and not raced again until
its source or the workload changes, or with --retry.

exit status: 75 when jobs are left because of --minutes or an interrupt, 1 when a trial had no
result, else 0
"""


def run(arguments: list[str]) -> int:
    """Race every job of a plan that no record covers, and write what can be committed."""
    asked = _asked(arguments)
    results = Path(asked.results)
    start = _starter(asked, results)
    pairs = pairs_of(plan.load(asked.plan), results, lambda line: print(line, flush=True))
    known = Known(results)
    if asked.points:
        _print_points(pairs, known)
        return EXIT_OK
    total = sum(pair.total for pair in pairs)
    print(f"{len(pairs)} pairs of submission and workload, {total} trials at most", flush=True)
    if asked.retry:
        known.failed = lambda pair: None
    display, complete = Display(pairs, results), False

    def race(pairs: list[Pair], minutes: float | None) -> bool:
        where = (pairs, asked.results, asked.jobs, known, display)
        return run_in_rounds(*where, start, minutes) if start else run_pairs(*where, minutes)

    try:
        complete = race(pairs, asked.minutes)
        if complete and asked.spend:
            commit(pairs, results)
            spend(pairs, results, race, display.say, asked.spend)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        display.close()
        print("\n".join(commit(pairs, results)))
    return _summary(pairs, complete)


def _asked(arguments: list[str]) -> argparse.Namespace:
    """Return the arguments, parsed and checked."""
    usual = configuration.defaults()
    reader = parser("campaign", TEXT, MORE)
    reader.add_argument("plan", type=Path, help="the plan's YAML file")
    reader.add_argument(
        "--jobs", type=whole(), default=usual["jobs"], help=f"trials at a time ({usual['jobs']})"
    )
    reader.add_argument("--minutes", type=positive, help="start no trial after so many minutes")
    reader.add_argument(
        "--results",
        default=usual["results"],
        help=f"where runs are kept and records are written ({usual['results']})",
    )
    reader.add_argument(
        "--spend",
        type=positive,
        metavar="HOURS",
        help="then race further seeds of neighbours on the board that are not separable, for so "
        "many hours",
    )
    reader.add_argument(
        "--launcher",
        choices=[*LAUNCHERS],
        help="start trials through this launcher of Hydra's, in rounds, instead of from here",
    )
    reader.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the launcher"
    )
    reader.add_argument("--retry", action="store_true", help="also pairs that failed before")
    reader.add_argument("--points", action="store_true", help="print the jobs, run none")
    asked = reader.parse_args(arguments)
    if not asked.plan.is_file():
        raise UserError(f"there is no plan {asked.plan}", "a YAML file", "harness campaign --help")
    return asked


def _starter(asked: argparse.Namespace, results: Path) -> campaign_launch.Start | None:
    """Return what starts trials through the launcher asked for; None: they start from here."""
    if asked.launcher:
        return campaign_launch.starter(asked.launcher, asked.set, asked.jobs, results)
    if asked.set:
        raise UserError(f"--set {asked.set[0]} without a launcher", do="add --launcher NAME")
    return None


def _summary(pairs: list[Pair], complete: bool) -> int:
    """Print what was done and what is left; return the exit status."""
    outcomes = [each["outcome"] for pair in pairs if not pair.failed for each in pair.done.values()]
    bad = sum(outcome not in FINAL for outcome in outcomes)
    again = " (run again to retry)" if bad else ""
    print(f"{len(outcomes)} trials done, {bad} without a result{again}")
    for pair in pairs:
        if pair.failed:
            print(f"could not be raced: {pair.name}: {pair.failed}")
    if not complete:
        left = sum(pair.left for pair in pairs)
        print(f"{left} trials at most are left; the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_FAILED if bad else EXIT_OK


def _print_points(pairs: list[Pair], known: Known) -> None:
    """Print every job: done (by the board) or to run, its pair, study, trial, seed and point."""
    for pair in pairs:
        for job in pair.tuning:
            record = known(pair, job)
            if record:
                pair.take(job, {"outcome": record.record["outcome"]}, record)
            _print_point("done" if record else "to run", pair, job, json.dumps(pair.point(job)))
        for study in pair.studies:
            for job in (
                *_followed(pair.ladder, study, pair, known),
                *_confirmed(pair, study, known),
            ):
                state = "done" if job in pair.done else "to run"
                _print_point(state, pair, job, json.dumps(pair.point(job)))
            open_trials = any(job.study == study for job in pair.tuning if job not in pair.found)
            for seed in pair.seeds:
                job = Job(study, None, seed)
                waited = (*pair.ladder(study), *pair.confirming(study))
                if open_trials or not all(each in pair.done for each in waited):
                    _print_point("to run", pair, job, "the study's best point")
                else:
                    state = "done" if known(pair, job) else "to run"
                    _print_point(state, pair, job, json.dumps(pair.point(job)))


def _followed(
    jobs_of: Callable[[int], list[Job]], study: int, pair: Pair, known: Known
) -> list[Job]:
    """Return a study's jobs of one kind, up to the first that no record covers."""
    while jobs := [job for job in jobs_of(study) if job not in pair.done]:
        record = known(pair, jobs[0])
        if record is None:
            break
        pair.take(jobs[0], {"outcome": record.record["outcome"]}, record)
    return jobs_of(study)


def _confirmed(pair: Pair, study: int, known: Known) -> list[Job]:
    """Return the jobs that confirm a share of a study, those of shares that were given up too."""
    last = _followed(pair.confirming, study, pair, known)
    earlier = [j for j in pair.done if pair.is_confirming(j) and j.study == study and j not in last]
    return [*earlier, *last]


def _print_point(state: str, pair: Pair, job: Job, point: str) -> None:
    """Print one job: whether it is done, its pair, study, kind, seed and point."""
    kind = f"trial {job.trial}" if job.trial is not None else "again"
    budget = f" at {job.share:g} of the budget" if job.share else ""
    print(f"{state:7} {pair.name:40} study {job.study} {kind:8} seed {job.seed}  {point}{budget}")


def progress(result: dict, number: int, total: int, left: float | None) -> str:
    """Return one trial's end as a line."""
    if result.get("time"):
        value = f"{seconds(result['time'])} s"
    elif result.get("best"):
        value = json.dumps(result["best"])
    else:
        value = result.get("reason") or ""
    rest = f"  about {duration(left)} left" if left is not None else ""
    outcome = result["outcome"].replace("_", " ")
    return f"[{number}/{total}] {result['label']}: {outcome} {value}{rest}"


class Display:
    """A bar on a terminal, a line for each trial that ends; each pair that is over is committed."""

    def __init__(self, pairs: list[Pair], results: Path):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.pairs, self.results = pairs, results
        # pairs with trials that no record had covered
        self.raced: set[str] = set()
        self.console = Console(highlight=False)
        self.bar = Progress(
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
        )
        self.job = self.bar.add_task("", total=sum(pair.total for pair in pairs), left="")
        if self.console.is_terminal:
            self.bar.start()

    def __call__(self, pair: Pair, job: Job, result: dict, pace) -> None:
        """Show that a job has ended, and commit its pair if that was the last one."""
        number = sum(len(each.done) for each in self.pairs)
        left = pace.left(self.pairs)
        total = number + sum(each.left for each in self.pairs)
        text = f"about {duration(left)} left" if left else ""
        self.bar.update(self.job, completed=number, total=total, left=text)
        if not result["earlier"]:
            shown = None if self.console.is_terminal else left
            line = progress(result, number, total, shown)
            self.console.print(line, markup=False, soft_wrap=True)
            self.raced.add(pair.name)
        if not pair.left and pair.name in self.raced:
            commit([pair], self.results)

    def say(self, line: str) -> None:
        """Print a line of its own above the bar."""
        self.console.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Stop drawing the bar."""
        if self.console.is_terminal:
            self.bar.stop()
