"""Measure what isolation costs: a trial at each level against the same trial inline.

    python benches/isolation.py [gpt2 | stream_split] [--rounds 3] [--seconds 1200]

The trials are AdamW on gpt2 mini (about a minute each) and on stream_split mini (the whole stream,
evaluated after every step), with one thread. In each round a trial runs inline, in `process` and in
`strict`, in rotating order. The bench prints medians over the rounds of
  trial    CPU seconds of referee and runner together, from the first evaluation to the last, over
           the seconds inside the passes, which all levels make; this over inline's. The cost is
           hand-overs, freezing, monitoring the process tree, and checkpoints
  raw      the same CPU seconds without that division. They have the drift of the machine's speed
           between trials, which is larger than the cost
  set-up   wall seconds from the command to the first evaluation, beyond inline's
Bounds: a trial's time grows by 3 % at most, set-up by 2 s. No round begins after --seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.catalog.discover import ROOT

LEVELS = ("inline", "process", "strict")
WORKLOADS = ("gpt2", "stream_split")
TRIAL, SETUP = 1.03, 2.0  # bounds


def race(workload: str, level: str, results: Path, seed: int) -> tuple[float, float, float]:
    """Race one trial. Return its CPU seconds, those of them in passes, and its set-up's seconds.

    CPU seconds are counted from the first to the last evaluation. Those of set-up are wall seconds.
    """
    command = [
        sys.executable, "-m", "harness", f"workload={workload}", "submission=adamw", "tracker=none",
        f"results={results}", f"seed={seed}", f"isolation={level}",
    ]  # fmt: skip
    start = time.time()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    log = next((results / "runs").glob("*/*/*/log.jsonl"), None)
    if completed.returncode not in (0, 1) or log is None:
        sys.exit(f"{' '.join(command)} failed:\n{completed.stderr}")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in rows if row["event"] == "evaluation"]
    first, last = rows[0], rows[-1]
    # Inline, referee and runner are one process.
    keys = ["referee_cpu_seconds"] + ["cpu_seconds"] * (level != "inline")
    cpu = sum(last[key] - first[key] for key in keys)
    inside = sum(sum(row["inside"].values()) for row in rows)
    return cpu, inside, first["at"] - start


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)} (all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1200.0)
    arguments = parser.parse_args()
    if unknown := set(arguments.workloads) - {*WORKLOADS}:
        sys.exit(f"bench_isolation: {sorted(unknown)[0]!r} is none of {', '.join(WORKLOADS)}")
    start_of_bench, seconds_of_round, within_bounds = time.monotonic(), 0.0, True
    ratios: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for number in range(arguments.rounds):
        start = time.monotonic()
        if start - start_of_bench + seconds_of_round > arguments.seconds:
            print(f"no time for round {number + 1}")
            break
        turn = number % len(LEVELS)
        for workload in arguments.workloads or WORKLOADS:
            results = {}
            for level in LEVELS[turn:] + LEVELS[:turn]:
                with tempfile.TemporaryDirectory() as folder:
                    results[level] = race(workload, level, Path(folder), number)
            cpu, passes, setup = results["inline"]
            for level in LEVELS[1:]:
                cpu_of_level, inside, begin = results[level]
                compared = (
                    (cpu_of_level / inside) / (cpu / passes),
                    cpu_of_level / cpu,
                    begin - setup,
                )
                ratios.setdefault((workload, level), []).append(compared)
            levels_text = ", ".join(
                f"{level} {results[level][0]:.2f} s ({results[level][1]:.2f} s in passes)"
                for level in LEVELS
            )
            waits = ", ".join(f"{results[level][2]:.1f} s" for level in LEVELS)
            print(f"{workload}: {levels_text}; set-up {waits}", flush=True)
        seconds_of_round = time.monotonic() - start
    for (workload, level), rounds in ratios.items():
        ratio, raw, more = (statistics.median(column) for column in zip(*rounds, strict=True))
        within_bounds = within_bounds and ratio <= TRIAL and more <= SETUP
        print(
            f"{workload}, {level}: trial x{ratio:.3f} (at most {TRIAL}; raw x{raw:.3f}), "
            f"set-up {more:+.2f} s (at most {SETUP:.0f}), {len(rounds)} rounds"
        )
    return 0 if within_bounds else 1


if __name__ == "__main__":
    sys.exit(main())
