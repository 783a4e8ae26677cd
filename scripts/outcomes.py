"""What became of every shipped submission: one line each, from recorded runs, failures included.

    python scripts/outcomes.py [RESULTS ...] [--write]

For each submission and workload that has records: the run that did best, its outcome, the goal's
first metric at the start and at its best, the target, and whether the goal's other conditions held
at the end (a finetune, compress or continual goal has some). --write puts the table into
docs/outcomes.md. Exit status 1 while a submission has no run, or none that improved on its start
(of a compress goal: or held its conditions, for a one-shot method starts where it ends).
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from harness.catalog import discover
from harness.catalog.discover import ROOT
from harness.catalog.goal import meets, primary
from harness.errors import UserError
from harness.records.collect import collect
from harness.records.run import RecordedRun, tuning_order
from harness.system.files import atomic_write

HEAD = """# Outcomes

What each shipped submission did in its best recorded run on each workload it was raced on, most of
them with untuned defaults: a check that a method runs and learns, not a ranking. Made by
`python scripts/outcomes.py --write` from `results/board/`.

"""
COLUMNS = ("submission", "family", "workload", "outcome", "metric", "start", "best", "target",
           "constraints", "reference s")  # fmt: skip


def row(run: RecordedRun) -> dict:
    """One run as cells of the table."""
    record = run.record
    metric, direction, bound = primary(record["goal"])
    others = {name: bounds for name, bounds in record["goal"].items() if name != metric}
    final = record.get("final") or {}
    start = run.curve[0][2] if run.curve else None
    best = (record.get("best") or {}).get(metric)
    known = start is not None and best is not None
    improved = known and (best < start if direction == "at_most" else best > start)
    held = {True: "held", False: "missed"}[meets(others, final)] if others else ""
    return {
        "submission": record["submission"],
        "family": discover.submissions()[record["submission"]].family,
        "workload": run.key.replace(".mini", ""),
        "outcome": record["outcome"].replace("_", " "),
        "metric": metric,
        "start": _short(start),
        "best": _short(best) + ("" if improved else " (no better)"),
        "target": _short(bound),
        "constraints": held,
        "reference s": f"{record['time']:.1f}" if record["time"] else "",
        # what compresses in set-up and trains no more is judged by the goal's conditions
        "improved": improved or (record["track"] == "compress" and held == "held"),
    }


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def table(rows: list[dict]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    lines += ["| " + " | ".join(r[c] for c in COLUMNS) + " |" for r in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", default=["results"])
    parser.add_argument("--write", action="store_true", help="docs/outcomes.md")
    asked = parser.parse_args()
    groups: dict[tuple, list[RecordedRun]] = defaultdict(list)
    for run in collect([Path(path) for path in asked.results]).runs:
        if run.record["submission"] in discover.submissions():
            groups[run.record["submission"], run.key].append(run)
    rows = [row(min(runs, key=lambda r: tuning_order(r)[:2])) for _, runs in sorted(groups.items())]
    rows.sort(key=lambda r: (r["family"], r["submission"], r["workload"]))
    learned = {r["submission"] for r in rows if r["improved"]}
    raced = {r["submission"] for r in rows}
    missing = sorted(set(discover.submissions()) - raced)
    still = sorted(raced - learned)
    told = f"{len(raced)} of {len(discover.submissions())} submissions were raced"
    told += f"; not raced: {', '.join(missing)}" if missing else ""
    told += f"; no better than their start: {', '.join(still)}" if still else ""
    text = f"{table(rows)}\n{told}.\n"
    print(text, end="")
    if asked.write:
        atomic_write(ROOT / "docs" / "outcomes.md", HEAD + text)
    return 1 if missing or still else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"outcomes: {error}", file=sys.stderr)
        sys.exit(2)
