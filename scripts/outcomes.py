"""Write what every shipped submission achieved, from recorded runs, failures included.

    python scripts/outcomes.py [RESULTS ...] [--write]

The table has a line for each submission and workload with records: the best run, its outcome, the
goal's first metric at the start and at its best, the target, and whether the goal's other
conditions held at the end (goals of finetune, compress and continual have some). --write puts the
table into docs/outcomes.md. The exit status is 1 if a submission has no run, or no run that
improved on its start. A run with a compress goal may hold its conditions instead: a one-shot method
starts where it ends.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from harness.catalog import discover
from harness.catalog.discover import ROOT
from harness.catalog.goal import primary
from harness.errors import UserError
from harness.records.collect import collect
from harness.records.judging import conditions_hold
from harness.records.run import RecordedRun, tuning_order
from harness.system.files import atomic_write

HEAD = """# Outcomes

The table has the best recorded run of each shipped submission on each workload that it was raced
on. Most runs have untuned defaults. It shows that a method runs and learns; it is not a ranking.
`python scripts/outcomes.py --write` makes this page from `results/board/`.

"""
COLUMNS = ("submission", "family", "workload", "outcome", "metric", "start", "best", "target",
           "constraints", "reference s")  # fmt: skip


def row(run: RecordedRun) -> dict:
    """Return one run as cells of the table."""
    record = run.record
    metric, direction, bound = primary(record["goal"])
    others = {name: bounds for name, bounds in record["goal"].items() if name != metric}
    final = record.get("final") or {}
    start = run.curve[0][2] if run.curve else None
    best = (record.get("best") or {}).get(metric)
    known = start is not None and best is not None
    improved = known and (best < start if direction == "at_most" else best > start)
    held = {True: "held", False: "missed"}[conditions_hold(others, final)] if others else ""
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
        # A method that compresses in set-up and does not train is judged by the goal's conditions.
        "improved": improved or (record["track"] == "compress" and held == "held"),
    }


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def table(rows: list[dict]) -> str:
    """Return the rows as a Markdown table."""
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
    message = f"{len(raced)} of {len(discover.submissions())} submissions were raced"
    message += f"; not raced: {', '.join(missing)}" if missing else ""
    message += f"; no better than their start: {', '.join(still)}" if still else ""
    text = f"{table(rows)}\n{message}.\n"
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
