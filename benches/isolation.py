"""What isolation costs: CPU seconds of a trial at each level against the same trial inline.

    python benches/isolation.py [gpt2 | stream_split] [--rounds 3] [--seconds 1200]

Trials of AdamW on gpt2 mini (about a minute each) and on stream_split mini (the whole stream,
judged after every step), one thread. In each round a trial
runs inline, in `process` and in `strict`, in rotating order; quoted are medians over the rounds of
  trial    CPU seconds of referee and runner together from the first evaluation to the last, for
           each second inside the passes that all levels make, over inline's: hand-overs, freezing,
           the watch over the process tree, checkpoints
  raw      the same CPU seconds without that division, so with the drift of the machine's speed
           between trials, which is larger than what is looked for
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
    """CPU seconds between first and last evaluation, of them in passes, wall seconds of set-up."""
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
    cpu = sum(last[key] - first[key] for key in keys)
    inside = sum(sum(row["inside"].values()) for row in rows)
    return cpu, inside, first["at"] - launched


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
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
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
            cpu, passes, setup = seen["inline"]
            for level in LEVELS[1:]:
                mine, inside, begin = seen[level]
                compared = (mine / inside) / (cpu / passes), mine / cpu, begin - setup
                found.setdefault((workload, level), []).append(compared)
            told = ", ".join(
                f"{level} {seen[level][0]:.2f} s ({seen[level][1]:.2f} s in passes)"
                for level in LEVELS
            )
            waits = ", ".join(f"{seen[level][2]:.1f} s" for level in LEVELS)
            print(f"{workload}: {told}; set-up {waits}", flush=True)
        took = time.monotonic() - start
    for (workload, level), rounds in found.items():
        ratio, raw, more = (statistics.median(column) for column in zip(*rounds, strict=True))
        good = good and ratio <= TRIAL and more <= SETUP
        print(
            f"{workload}, {level}: trial x{ratio:.3f} (at most {TRIAL}; raw x{raw:.3f}), "
            f"set-up {more:+.2f} s (at most {SETUP:.0f}), {len(rounds)} rounds"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
