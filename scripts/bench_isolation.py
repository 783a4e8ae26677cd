"""What isolation costs: CPU seconds of a trial at each level against the same trial inline.

    python scripts/bench_isolation.py [gpt2 | stream_split] [--rounds 3] [--seconds 1200]

Trials of AdamW on gpt2 mini (about a minute each) and on stream_split mini (the whole stream,
judged after every step), one thread. In each round a trial
runs inline, in `process` and in `strict`, in rotating order; quoted are medians over the rounds of
  trial    CPU seconds of referee and runner together from the first evaluation to the last, over
           inline's: hand-overs, freezing, the watch over the process tree, checkpoints
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

from harness.discover import ROOT

LEVELS = ("inline", "process", "strict")
WORKLOADS = ("gpt2", "stream_split")
TRIAL, SETUP = 1.03, 2.0  # bounds


def race(workload: str, level: str, results: Path, seed: int) -> tuple[float, float]:
    """CPU seconds between the first and the last evaluation, and wall seconds of set-up."""
    command = [
        sys.executable, "-m", "harness", f"workload={workload}", "submission=adamw", "tracker=none",
        f"results={results}", f"seed={seed}", f"isolation={level}",
    ]  # fmt: skip
    launched = time.time()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    log = next((results / "runs").glob("*/*/*/log.jsonl"), None)
    if done.returncode not in (0, 1) or log is None:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in rows if row["event"] == "evaluation"]
    first, last = rows[0], rows[-1]
    keys = ["referee_cpu_seconds"] + ["cpu_seconds"] * (level != "inline")  # inline is one process
    return sum(last[key] - first[key] for key in keys), first["at"] - launched


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)} (all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1200.0)
    asked = parser.parse_args()
    if unknown := set(asked.workloads) - {*WORKLOADS}:
        sys.exit(f"bench_isolation: {sorted(unknown)[0]!r} is none of {', '.join(WORKLOADS)}")
    begun, took, good = time.monotonic(), 0.0, True
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(asked.rounds):
        start = time.monotonic()
        if start - begun + took > asked.seconds:
            print(f"no time for round {number + 1}")
            break
        turn = number % len(LEVELS)
        for workload in asked.workloads or WORKLOADS:
            seen = {}
            for level in LEVELS[turn:] + LEVELS[:turn]:
                with tempfile.TemporaryDirectory() as folder:
                    seen[level] = race(workload, level, Path(folder), number)
            cpu, setup = seen["inline"]
            for level in LEVELS[1:]:
                found.setdefault((workload, level), []).append(
                    (seen[level][0] / cpu, seen[level][1] - setup)
                )
            told = ", ".join(f"{level} {seen[level][0]:.2f} s" for level in LEVELS)
            waits = ", ".join(f"{seen[level][1]:.1f} s" for level in LEVELS)
            print(f"{workload}: {told}; set-up {waits}", flush=True)
        took = time.monotonic() - start
    for (workload, level), pairs in found.items():
        ratio, more = (statistics.median(column) for column in zip(*pairs, strict=True))
        good = good and ratio <= TRIAL and more <= SETUP
        print(
            f"{workload}, {level}: trial x{ratio:.3f} (at most {TRIAL}), "
            f"set-up {more:+.2f} s (at most {SETUP:.0f}), {len(pairs)} pairs"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
