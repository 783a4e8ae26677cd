"""Race the same trial under five conditions: reference seconds stay, wall time changes.

    python benches/clock.py             # the whole trial, five times
    python benches/clock.py --short     # a trial of 60 steps

The conditions are (a) one core, (b) all cores, (c) all cores with a busy loop on each, (d) ten
times as many evaluations, (e) W&B offline instead of no tracker. All are read with the prices of
(a). The exit status is 1 if counts or trajectories differ, if reference seconds differ by more than
5 %, or if wall time varies too little for the comparison.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.catalog.definition import tree_of
from harness.catalog.discover import ROOT
from harness.clock import prices
from harness.clock.reading import Reading, read
from harness.records import run_folder
from harness.records.log import rows as read_rows
from harness.system.files import read_json

CLOSE, APART = 0.05, 1.5


def hogs(cores: set[int]) -> list[subprocess.Popen]:
    """Start one busy loop on every core."""
    loop = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    return [subprocess.Popen([sys.executable, "-c", loop, str(core)]) for core in cores]


def run(
    place: Path, cores: set[int], settings: list[str], busy_cores: set[int] = frozenset()
) -> dict:
    """Race one trial in a process on these cores. Return its record, evaluations, wall seconds."""
    command = [sys.executable, "-m", "harness", *settings, f"results={place}"]
    helpers, start = hogs(busy_cores), time.monotonic()
    try:
        subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"WANDB_MODE": "offline"},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()
    wall = time.monotonic() - start
    folder = next(run_folder.runs(place))
    result = read_json(folder / "run.json")
    return {
        "result": result,
        "rows": run_folder.evaluations(list(read_rows(folder / "log.jsonl"))),
        "wall": wall,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workload", default="gpt2")
    parser.add_argument("--submission", default="adamw")
    parser.add_argument("--short", action="store_true", help="60 steps")
    parser.add_argument("--only", default="abcde", help="letters of the conditions, (a) always")
    arguments = parser.parse_args()
    block = tree_of(arguments.workload)["mini"]
    steps, points = (60, 6) if arguments.short else (block["horizon"], block["evaluate"]["points"])
    cores = os.sched_getaffinity(0)
    single_core, key = {min(cores)}, "workload.mini"
    common = [
        f"workload={arguments.workload}",
        f"submission={arguments.submission}",
        "until=budget",
        f"{key}.horizon={steps}",
    ]
    usual, often, quiet = (
        f"{key}.evaluate.points={points}",
        f"{key}.evaluate.points={10 * points}",
        "tracker=none",
    )
    conditions = {
        "a  one core": (single_core, [*common, usual, quiet], set()),
        "b  all cores": (cores, [*common, usual, quiet], set()),
        "c  busy loops": (cores, [*common, usual, quiet], cores),
        "d  10x evaluations": (cores, [*common, often, quiet], set()),
        "e  W&B offline": (cores, [*common, usual, "tracker=wandb"], set()),
    }
    results = {}
    print(f"{'':20}{'counted s':>10}{'whole s':>9}{'/ (a)':>7}{'wall s':>8}  counts, trajectory")
    with tempfile.TemporaryDirectory() as place:
        for i, (name, (cores_of_trial, settings, busy_cores)) in enumerate(conditions.items()):
            if i and name[0] not in arguments.only:
                continue
            results[name] = run(Path(place) / name[0], cores_of_trial, settings, busy_cores)
            report(name, results)
    return verdict(results)


def reading(results: dict, condition: dict) -> Reading:
    """Return a condition's clock, by the prices of the first condition."""
    first = next(iter(results.values()))["result"]
    table = prices.Table(
        {kind: prices.Price(**price) for kind, price in first["priced"].items()}, "(a)"
    )
    return read(condition["rows"], table)


def same(results: dict, condition: dict) -> tuple[bool, bool]:
    """Return whether counts, and whether weights and metrics at common steps, are the first's."""
    first = next(iter(results.values()))
    rows_by_step = {row["step"]: row for row in condition["rows"]}
    counts = condition["result"]["counts"] == first["result"]["counts"]
    return counts, all(
        rows_by_step[row["step"]][key] == row[key]
        for row in first["rows"]
        for key in ("weights", "metrics")
    )


def report(name: str, results: dict) -> None:
    first, condition = reading(results, next(iter(results.values()))), results[name]
    now, (counts, trajectory) = reading(results, condition), same(results, condition)
    comparison = ("same" if counts else "OTHER") + ", " + ("same" if trajectory else "OTHER")
    print(
        f"{name:20}{now.counted:10.3f}{now.total:9.3f}"
        f"{now.total / first.total:7.3f}{condition['wall']:8.1f}  {comparison}",
        flush=True,
    )


def verdict(results: dict) -> int:
    first = reading(results, next(iter(results.values())))
    largest = max(
        abs(reading(results, condition).total / first.total - 1) for condition in results.values()
    )
    walls = [condition["wall"] for condition in results.values()]
    checks = {
        "counts identical": all(same(results, condition)[0] for condition in results.values()),
        "trajectories bit-identical": all(
            same(results, condition)[1] for condition in results.values()
        ),
        f"reference seconds within {CLOSE:.0%} (largest difference {largest:.1%})": largest
        <= CLOSE,
        f"wall time varies {APART} times or more ({max(walls) / min(walls):.2f})": max(walls)
        >= APART * min(walls),
    }
    for text, holds in checks.items():
        print(("ok    " if holds else "NOT   ") + text)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
