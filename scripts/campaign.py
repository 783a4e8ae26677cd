"""Run a campaign: tune every submission on every workload, re-run the best points over new seeds.

    python scripts/campaign.py plan.yaml                 # go on until everything is done
    python scripts/campaign.py plan.yaml --minutes 170   # hand out nothing after so long
    python scripts/campaign.py plan.yaml --points        # print every job with its point, race none

The plan is a YAML file (harness/campaign/plan.py):

    scale: mini
    until: budget                # goal, or budget: trials go on after the goal is met
    isolation: strict            # process, strict or inline
    blocks:                      # done in order
      - {submissions: [adamw, nadamw], workloads: all, ruleset: external}
      - {submissions: all, workloads: all, ruleset: once}
      - {submissions: [lion, peft], workloads: [gpt2, ft_gpt2, ft_gpt2.trainable_1], trials: 8}

Submissions are names, families (a folder of submissions/) or `all`; a pair that does not fit is
left out. A ruleset is a file of conf/ruleset/; a block may change its numbers.

Trials are run `--jobs` at a time, each in processes of its own, on one thread; the same command
again continues. A job whose run is in results/board/ already (same workload version, submission
source, point and seed) is done, so a fresh clone goes on as well. After each pair the results are
written where they can be committed: one line a run to results/board/KEY.jsonl, which `harness
report` reads, and the tuned points to results/tuned/KEY.json. A pair whose first trials fail (the
method does not fit the workload) is given up, with the reason, in results/board/KEY.failed.json,
and not raced again until its source or the workload changes, or with --retry. The exit status is
75 when jobs are left because of --minutes or an interrupt, 1 when a trial had no result, else 0.

    python scripts/campaign.py --measure-hopeless results    # what early ending would cost and save
"""

import argparse
import json
import sys
from pathlib import Path

from benches.hopeless import Measured
from harness.campaign.board import Known, commit
from harness.campaign.pairs import Job, Pair, duration, pairs_of, plan
from harness.campaign.pairs import run as run_pairs
from harness.errors import UserError
from harness.records import hopeless
from harness.records.collect import collect
from harness.records.run_folder import FINAL
from harness.report.board.cells import by_workload


def measure(paths: list[str]) -> int:
    """Print, by workload version, how often the rule would be wrong, and what it would save.

    Workloads that it leaves alone, those whose goals have several conditions, are left out.
    """
    found = collect(paths or ["results"])
    rows, totals = [], [0, 0, 0, 0]
    for key, runs in by_workload(found.runs).items():
        for version in sorted({run.record["workload_hash"] for run in runs}):
            counted = [
                run
                for run in runs
                if run.record["workload_hash"] == version
                and run.record["outcome"] in hopeless.COUNTED
                and run.curve
            ]
            if not counted or len(counted[0].record["goal"]) > 1:
                continue
            trials = [
                (
                    r.record["submission"],
                    r.record["outcome"] == "reached",
                    hopeless.shares(r.curve, r.record["horizon"]),
                )
                for r in counted
            ]
            m = hopeless.measure(trials, counted[0].record["goal"])
            totals = [
                a + b for a, b in zip(totals, (m.reached, m.false, m.missed, m.ended), strict=True)
            ]
            rows.append((f"{key} ({version[:8]})", m))
    print(
        f"{'workload':36} {'reached':>8} {'ended wrongly':>14} {'missed':>7} "
        f"{'ended early':>12} {'steps saved':>12}"
    )
    for name, m in rows:
        print(f"{name:36} {m.reached:8} {m.false:14} {m.missed:7} {m.ended:12} {m.saved:12.0%}")
    every = Measured(*totals, saved=0.0)
    print(
        f"false endings: {every.false} of {every.reached} trials that reached their goal: "
        f"{every.rate:.2%} (at most {every.upper:.2%} with 95 % confidence)"
    )
    return 0 if every.rate <= 0.01 else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "plan", nargs="*", help="the plan's YAML file; with --measure-hopeless, results folders"
    )
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time (2)")
    parser.add_argument("--minutes", type=float, help="hand out no trial after so many minutes")
    parser.add_argument(
        "--results", default="results", help="where runs are kept and records are written (results)"
    )
    parser.add_argument("--retry", action="store_true", help="also pairs that failed before")
    parser.add_argument("--points", action="store_true", help="print the jobs, run none")
    parser.add_argument("--measure-hopeless", action="store_true")
    asked = parser.parse_args()
    if asked.measure_hopeless:
        return measure(asked.plan)
    if len(asked.plan) != 1 or not Path(asked.plan[0]).is_file():
        raise UserError(
            f"plan {' '.join(asked.plan)!r} is no file",
            "one YAML file",
            "python scripts/campaign.py --help",
        )
    if asked.jobs < 1:
        raise UserError(f"--jobs {asked.jobs}", "a whole number from 1 up")
    results = Path(asked.results)
    pairs = pairs_of(plan.load(Path(asked.plan[0])))
    known = Known(results)
    if asked.points:
        return points(pairs, known)
    total = sum(pair.total for pair in pairs)
    print(f"{len(pairs)} pairs of submission and workload, {total} trials at most", flush=True)
    if asked.retry:
        known.failed = lambda pair: None
    show, whole = Display(pairs, results), False
    try:
        whole = run_pairs(pairs, asked.results, asked.jobs, known, show, asked.minutes)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    finally:
        show.close()
        print("\n".join(commit(pairs, results)))
    told = [one for pair in pairs if not pair.failed for one in pair.done.values()]
    bad = sum(one["outcome"] not in FINAL for one in told)
    left = sum(pair.left for pair in pairs)
    print(f"{len(told)} trials done, {bad} without a result" + " (run again to retry)" * bool(bad))
    for pair in pairs:
        if pair.failed:
            print(f"could not be raced: {pair.name}: {pair.failed}")
    if not whole:
        print(f"{left} trials at most are left; the same command continues", file=sys.stderr)
        return 75
    return 1 if bad else 0


def points(pairs: list[Pair], known: Known) -> int:
    """Print every job: done (by the board) or to run, its pair, study, trial, seed and point."""
    for pair in pairs:
        for study, trial, seed in pair.tuning:
            job = study, trial, seed
            run = known(pair, job)
            if run:
                pair.take(job, {"outcome": run.record["outcome"]}, run)
            _print_point("done" if run else "to run", pair, job, json.dumps(pair.point(job)))
        for study in range(pair.ruleset["studies"]):
            trials = [job for job in pair.tuning if job[0] == study]
            for seed in range(1, pair.ruleset["seeds"] + 1):
                job = study, None, seed
                if trials and not all(t in pair.found for t in trials):
                    _print_point("to run", pair, job, "the study's best point")
                else:
                    state = "done" if known(pair, job) else "to run"
                    _print_point(state, pair, job, json.dumps(pair.point(job)))
    return 0


def _print_point(state: str, pair: Pair, job: Job, point: str) -> None:
    study, trial, seed = job
    kind = f"trial {trial}" if trial is not None else "again"
    print(f"{state:7} {pair.name:40} study {study} {kind:8} seed {seed}  {point}")


def line(told: dict, number: int, total: int, left: float | None) -> str:
    """One trial's end in one line of a campaign's progress."""
    result = (
        f"{told['time']:.1f} s"
        if told.get("time")
        else json.dumps(told.get("best"))
        if told.get("best")
        else told.get("reason") or ""
    )
    rest = f"  about {duration(left)} left" if left is not None else ""
    outcome = told["outcome"].replace("_", " ")
    return f"[{number}/{total}] {told['label']}: {outcome} {result}{rest}"


class Display:
    """A bar on a terminal, a line for each trial that ends; each pair that is over is committed."""

    def __init__(self, pairs: list[Pair], results: Path):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.pairs, self.results = pairs, results
        self.raced: set[str] = set()  # pairs with trials that no record had covered
        self.console = Console(highlight=False)
        self.bar = Progress(
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
        )
        self.job = self.bar.add_task("", total=sum(p.total for p in pairs), left="")
        if self.console.is_terminal:
            self.bar.start()

    def __call__(self, pair, job, told, pace) -> None:
        number = sum(len(p.done) for p in self.pairs)
        left = pace.left(self.pairs)
        total = number + sum(p.left for p in self.pairs)
        self.bar.update(
            self.job,
            completed=number,
            total=total,
            left=f"about {duration(left)} left" if left else "",
        )
        if not told["earlier"]:
            self.console.print(
                line(told, number, total, None if self.console.is_terminal else left),
                markup=False,
                soft_wrap=True,
            )
            self.raced.add(pair.name)
        if not pair.left and pair.name in self.raced:
            commit([pair], self.results)

    def close(self) -> None:
        if self.console.is_terminal:
            self.bar.stop()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"campaign: {error}", file=sys.stderr)
        sys.exit(2)
