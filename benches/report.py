"""Measure what a report costs: CPU seconds, wall seconds and peak memory of `harness report`.

    python benches/report.py                 # 10,000 synthetic records; at most 60 s and 2 GiB
    python benches/report.py --records 1000
    python benches/report.py results         # the records of a results folder; at most 10 s

The records of a folder are read two times: the second report draws no figure anew, and the limit
is for this one.

Synthetic records are of 100 submissions, each with 7 tuning trials and 3 seeds, on as many
workloads as the number needs. The exit status is 1 if a limit is exceeded.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.support import records  # noqa: E402

SUBMISSIONS, TRIALS, SEEDS = 100, 7, 3
SECONDS = {"synthetic": 60.0, "given": 10.0}
MEMORY = 2.0  # GiB


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="?", help="a results folder; without, synthetic records")
    parser.add_argument("--records", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(arguments.results or Path(folder) / "results")
        if not arguments.results:
            names = {f"method_{i:03}": 0.4 + 0.015 * i for i in range(SUBMISSIONS)}
            count = max(1, arguments.records // (SUBMISSIONS * (TRIALS + SEEDS)))
            workloads = [f"workload_{i}" for i in range(count)]
            records.campaign(source, names, workloads, SEEDS, TRIALS)
        command = [sys.executable, "-m", "harness", "report", str(source), "--out", folder]
        if arguments.results:
            subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        first = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        wall = time.monotonic() - start
        bytes_written = sum(path.stat().st_size for path in Path(folder).glob("*.*"))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    drawn = first.ru_utime + first.ru_stime
    cpu, memory = usage.ru_utime + usage.ru_stime - drawn, usage.ru_maxrss / 2**20
    limit = SECONDS["given" if arguments.results else "synthetic"]
    print(completed.stdout.strip().splitlines()[-1])
    if arguments.results:
        print(f"{drawn:.1f} CPU s with all figures drawn")
    print(
        f"{cpu:.1f} CPU s, {wall:.1f} s (at most {limit:.0f}); {memory:.2f} GiB "
        f"(at most {MEMORY:.0f}); {bytes_written / 1e6:.1f} MB written beside the figures"
    )
    return 0 if min(cpu, wall) <= limit and memory <= MEMORY else 1


if __name__ == "__main__":
    sys.exit(main())
