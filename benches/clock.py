"""The same trial under five conditions: reference seconds stay, wall time does not.

    python benches/clock.py             # the whole trial, five times
    python benches/clock.py --short     # a trial of 60 steps

(a) one core, (b) all cores, (c) beside a busy loop on every core, (d) ten times as many
evaluations, (e) W&B offline instead of no tracker. All are read with the prices of (a). Exit
status 1 where counts or trajectories differ, reference seconds differ by more than 5 %, or wall
time varies too little for the comparison to mean anything.
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
    """One busy loop on every core."""
    loop = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    return [subprocess.Popen([sys.executable, "-c", loop, str(core)]) for core in cores]


def run(place: Path, cores: set[int], settings: list[str], busy: set[int] = frozenset()) -> dict:
    """One trial in a process of its own on these cores: record, evaluations, wall seconds."""
    command = [sys.executable, "-m", "harness", *settings, f"results={place}"]
    helpers, begun = hogs(busy), time.monotonic()
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
    wall = time.monotonic() - begun
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
    asked = parser.parse_args()
    block = tree_of(asked.workload)["mini"]
    steps, points = (60, 6) if asked.short else (block["horizon"], block["evaluate"]["points"])
    cores = os.sched_getaffinity(0)
    one, key = {min(cores)}, "workload.mini"
    common = [
        f"workload={asked.workload}",
        f"submission={asked.submission}",
        "until=budget",
        f"{key}.horizon={steps}",
    ]
    usual, often, quiet = (
        f"{key}.evaluate.points={points}",
        f"{key}.evaluate.points={10 * points}",
        "tracker=none",
    )
    cases = {
        "a  one core": (one, [*common, usual, quiet], set()),
        "b  all cores": (cores, [*common, usual, quiet], set()),
        "c  busy loops": (cores, [*common, usual, quiet], cores),
        "d  10x evaluations": (cores, [*common, often, quiet], set()),
        "e  W&B offline": (cores, [*common, usual, "tracker=wandb"], set()),
    }
    found = {}
    print(f"{'':20}{'counted s':>10}{'whole s':>9}{'/ (a)':>7}{'wall s':>8}  counts, trajectory")
    with tempfile.TemporaryDirectory() as place:
        for i, (name, (where, settings, busy)) in enumerate(cases.items()):
            if i and name[0] not in asked.only:
                continue
            found[name] = run(Path(place) / name[0], where, settings, busy)
            report(name, found)
    return verdict(found)


def reading(found: dict, case: dict) -> Reading:
    """A case's clock, by the prices of the first."""
    first = next(iter(found.values()))["result"]
    table = prices.Table(
        {kind: prices.Price(**price) for kind, price in first["priced"].items()}, "(a)"
    )
    return read(case["rows"], table)


def same(found: dict, case: dict) -> tuple[bool, bool]:
    """Whether counts, and weights and metrics at common steps, are those of the first case."""
    first = next(iter(found.values()))
    theirs = {row["step"]: row for row in case["rows"]}
    counts = case["result"]["counts"] == first["result"]["counts"]
    return counts, all(
        theirs[row["step"]][key] == row[key]
        for row in first["rows"]
        for key in ("weights", "metrics")
    )


def report(name: str, found: dict) -> None:
    first, case = reading(found, next(iter(found.values()))), found[name]
    now, (counts, bits) = reading(found, case), same(found, case)
    words = ("same" if counts else "OTHER") + ", " + ("same" if bits else "OTHER")
    print(
        f"{name:20}{now.counted:10.3f}{now.total:9.3f}"
        f"{now.total / first.total:7.3f}{case['wall']:8.1f}  {words}",
        flush=True,
    )


def verdict(found: dict) -> int:
    first = reading(found, next(iter(found.values())))
    off = max(abs(reading(found, case).total / first.total - 1) for case in found.values())
    walls = [case["wall"] for case in found.values()]
    checks = {
        "counts identical": all(same(found, case)[0] for case in found.values()),
        "trajectories bit-identical": all(same(found, case)[1] for case in found.values()),
        f"reference seconds within {CLOSE:.0%} (largest difference {off:.1%})": off <= CLOSE,
        f"wall time varies {APART} times or more ({max(walls) / min(walls):.2f})": max(walls)
        >= APART * min(walls),
    }
    for text, holds in checks.items():
        print(("ok    " if holds else "NOT   ") + text)
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
