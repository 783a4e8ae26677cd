"""Print what trials cost: reference and CPU seconds, steps, CPU milliseconds an evaluation.

    python -m harness -m "workload=glob(*)" submission=adamw results=/tmp/all
    python benches/costs.py /tmp/all

The table has one line for each finished run in the results folder, as Markdown. CPU seconds are
those of the runner: training, hand-overs, checkpoints. Those of an evaluation are the referee's:
loading the weights, the quality of all validation examples, the decision, the log.
"""

import argparse
import sys
from pathlib import Path

from harness.records import run_folder
from harness.records.log import rows

COLUMNS = ("workload", "submission", "outcome", "reference s", "CPU s", "steps", "evaluations",
           "ms each")  # fmt: skip


def line(folder: Path) -> dict | None:
    """Return a run as cells of the table; None if it has no result."""
    result = run_folder.finished(folder)
    if result is None:
        return None
    evaluations = run_folder.evaluations(list(rows(folder / "log.jsonl")))
    evaluated = sum(1 + len(row.get("trace", ())) for row in evaluations[1:])
    referee = evaluations[-1]["referee_cpu_seconds"] - evaluations[0]["referee_cpu_seconds"]
    return {
        "workload": result["workload"] + (f".{result['variant']}" if result["variant"] else ""),
        "submission": result["submission"],
        "outcome": result["outcome"].replace("_", " "),
        "reference s": f"{result['end']['total']:.1f}",
        "CPU s": f"{result['cpu_seconds']:.1f}",
        "steps": f"{result['step']:,}",
        "evaluations": f"{evaluated:,}",
        "ms each": f"{1000 * referee / evaluated:.1f}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    folders = sorted((parser.parse_args().results / "runs").glob("*/*/*"))
    lines = [cells for folder in folders if (cells := line(folder))]
    if not lines:
        print("costs: there is no finished run in that folder", file=sys.stderr)
        return 2
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    for cells in lines:
        print("| " + " | ".join(cells[name] for name in COLUMNS) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
