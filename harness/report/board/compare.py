"""Two submissions compared by their records: `harness compare lion adamw workload=gpt2`."""

import math

from harness.errors import UserError, nearest
from harness.records.collect import collect
from harness.records.references import references
from harness.report.board import stats
from harness.report.board.board import boards
from harness.report.board.rows import Board, Row, direction_of
from harness.report.board.stats import Cell, Comparison
from harness.system.command_line import race


def versus(first: str, second: str, workload: str, scale: str, results: str) -> str:
    """The comparison of two submissions on one workload, or on all that both were raced on.

    Without a frozen reference a miss counts as four times the faster's median on the workload.
    """
    found = collect([results])
    lines: list[str] = []
    for board in boards(found, references([results])):
        rows = {row.name: row for row in board.rows}
        if board.scale != scale or not {first, second} <= rows.keys():
            continue
        a, b = rows[first], rows[second]
        keys = [
            w.key
            for w in board.workloads
            if w.key in a.choices
            and w.key in b.choices
            and workload in ("", w.key.split(".")[0], w.key)
        ]
        if keys:
            lines += _board(board, a, b, keys)
    if not lines:
        names = sorted(
            {run.record["submission"] for run in found.runs if run.record["scale"] == scale}
        )
        missing = next((name for name in (first, second) if name not in names), None)
        if missing:
            raise UserError(
                f"there is no record of {missing} at scale {scale} in {results}",
                nearest(missing, names),
                race(["workload=gpt2", f"submission={missing}"]),
            )
        raise UserError(
            f"{first} and {second} have no workload in common"
            + (f" called {workload}" if workload else "")
            + f" at scale {scale}",
            do="leave workload= out to see all",
        )
    return "\n".join(lines)


def _board(board: Board, a: Row, b: Row, keys: list[str]) -> list[str]:
    width = max(map(len, keys))
    scale = {
        w.key: w.time or _fallback(a.cells[w.key], b.cells[w.key])
        for w in board.workloads
        if w.key in keys
    }
    lines = [f"{'':{width}}  {a.name:>14}  {b.name:>14}  seeds  {a.name} is"]
    for key in keys:
        cells = a.cells[key], b.cells[key]
        told = stats.compare({key: cells[0]}, {key: cells[1]}, scale)
        lines.append(
            f"{key:{width}}  {_time(cells[0]):>14}  {_time(cells[1]):>14}  "
            f"{cells[0].n:>2}/{cells[1].n:<2}  {_words(told)}"
        )
    if len(keys) > 1:
        told = stats.compare({k: a.cells[k] for k in keys}, {k: b.cells[k] for k in keys}, scale)
        lines.append(
            f"{'all ' + str(len(keys)):{width}}  {'':>14}  {'':>14}  {'':5}  {_words(told)}"
        )
    for workload in (w for w in board.workloads if w.key in keys):
        lines += [text for row in (a, b) if (text := _claim(workload, row))]
    for row in (a, b):
        if row.marks:
            lines.append(f"{row.name}: {', '.join(row.marks)}")
    return lines


def _fallback(a: Cell, b: Cell) -> float:
    """A scale for misses where there is no reference: the faster median."""
    time = min(a.time, b.time)
    return time if math.isfinite(time) else 1.0


def _time(cell: Cell) -> str:
    return f"{cell.time:.1f} s" if math.isfinite(cell.time) else "miss"


def _words(c: Comparison) -> str:
    factor, word = (c.ratio, "faster") if c.ratio >= 1 else (1 / c.ratio, "slower")
    if c.low is None or c.high is None:
        return (
            f"{factor:.2f}x {word} by one run: no interval, not separable; "
            "race more seeds: -m 'seed=range(0,3)'"
        )
    low, high = (c.low, c.high) if c.ratio >= 1 else (1 / c.high, 1 / c.low)
    paired = ", paired seeds" if c.paired else ""
    text = f"{factor:.2f}x {word} (95 % interval {low:.2f} to {high:.2f}{paired})"
    if c.verdict != "not separable":
        return text
    more = f"about {c.more} more seeds each" if c.more else "no reasonable number of seeds"
    return f"{text}: not separable; {more} would tell"


def _claim(workload, row: Row) -> str:
    """The speedruns' one-sided test at the last step that all seeds were evaluated at."""
    metric, direction, target = direction_of(workload)
    runs = row.choices[workload.key].runs
    curves = [{step: value for step, _, value in run.curve if value is not None} for run in runs]
    common = set.intersection(*(set(c) for c in curves)) if curves else set()
    if len(runs) < 2 or not common:
        return ""
    step = max(common)
    p = stats.claim([c[step] for c in curves], target, direction)
    sign = "<=" if direction == "at_most" else ">="
    return (
        f"{row.name} on {workload.key}: mean {metric} {sign} {target:g} by step {step}: "
        f"p = {p:.2g} (one-sided t-test, {len(runs)} seeds)"
    )
