"""Compare two submissions, or two points of one, by their records."""

import math
from dataclasses import dataclass, replace

from harness.catalog import discover, methods
from harness.catalog.definition import first_workload
from harness.errors import UserError, nearest
from harness.records.collect import Collection, collect
from harness.records.references import references
from harness.records.run import RecordedRun
from harness.report.board import stats
from harness.report.board.board import boards
from harness.report.board.cells import choose
from harness.report.board.panels import short
from harness.report.board.rows import Board, Row, direction_of
from harness.report.board.stats import Cell, Comparison
from harness.report.run.text import seconds
from harness.system.command_line import race


@dataclass(frozen=True)
class Request:
    """One side of a comparison: a submission, and perhaps the values that its point must have."""

    text: str
    name: str
    point: dict[str, str]

    def matches(self, run: RecordedRun) -> bool:
        """Return True if a run's hyperparameters have the values that are asked for."""
        hp = run.record["hp"]
        return all(key in hp and _same(hp[key], value) for key, value in self.point.items())


def request_of(text: str) -> Request:
    """Return what a word asks for: `adamw`, or `adamw:lr=2e-3,wd=0.1` for one of its points."""
    name, _, rest = text.partition(":")
    if "=" not in rest:
        return Request(text, text, {})
    pairs = [pair.partition("=") for pair in rest.split(",")]
    if not name or not all(key and value for key, _, value in pairs):
        raise UserError(
            f"{text!r} is not a submission with a point",
            "NAME or NAME:KEY=VALUE,KEY=VALUE",
            "harness compare adamw adamw:lr=2e-3",
        )
    return Request(text, name, {key: value for key, _, value in pairs})


def _same(value: object, text: str) -> bool:
    """Return True if a recorded value is what was typed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() == text.lower()
    try:
        return math.isclose(value, float(text), rel_tol=1e-4, abs_tol=1e-300)
    except ValueError:
        return False


def versus(first: str, second: str, workload: str, scale: str, results: str) -> str:
    """Return the comparison of two submissions on one workload, or on all that both were raced on.

    Without a frozen reference a miss counts as four times the faster's time on the workload.

    Args:
        first, second: as for `request_of`.
    """
    asked = request_of(first), request_of(second)
    if asked[0] == asked[1]:
        raise UserError(
            f"{first} is compared with itself",
            "two submissions, or two points of one",
            "harness compare adamw muon",
        )
    collection = collect([results], workload)
    lines: list[str] = []
    for board in boards(collection, references([results])):
        rows = [_row(board, request) for request in asked]
        if board.scale != scale or None in rows:
            continue
        a, b = (row for row in rows if row)
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
        raise _nothing(collect([results]), asked, workload, scale, results)
    return "\n".join(lines)


def _row(board: Board, request: Request) -> Row | None:
    """Return the row of a request: the submission's own, or one made of a point's runs."""
    row = next((row for row in board.rows if row.name == request.name), None)
    if row is None or not request.point:
        return row
    choices = {}
    for key, choice in row.choices.items():
        runs = [run for run, _ in choice.every if request.matches(run)]
        # Every run of the point is evidence for it, a tuning trial too.
        plain = [replace(r, record=r.record | {"trial": None, "study": 0}) for r in runs]
        if plain:
            choices[key] = choose(plain, choice.cell.reference)
    return replace(row, name=request.text, choices=choices, marks=[])


def _nothing(
    collection: Collection, asked: tuple[Request, Request], workload: str, scale: str, results: str
) -> UserError:
    """Return the reason why there is nothing to compare."""
    runs = [run for run in collection.runs if run.record["scale"] == scale]
    if not runs:
        known = {run.record["scale"] for run in collection.runs}
        raise UserError(f"there is no record at scale {scale} in {results}", nearest(scale, known))
    on = {name for run in runs for name in (run.record["workload"], run.key)}
    if workload and workload not in on:
        raise UserError(
            f"there is no record on {workload} at scale {scale} in {results}",
            nearest(workload, {run.record["workload"] for run in runs}),
        )
    names = sorted({run.record["submission"] for run in runs})
    for request in asked:
        own = [run for run in runs if run.record["submission"] == request.name]
        if not own:
            return UserError(
                f"there is no record of {request.name} at scale {scale} in {results}",
                nearest(request.name, names),
                _to_race(request.name, scale),
            )
        if not any(request.matches(run) for run in own):
            return _no_point(request, own, f"at scale {scale} in {results}")
    names_of = f"{asked[0].text} and {asked[1].text}"
    called = f" called {workload}" if workload else ""
    return UserError(
        f"{names_of} have no workload in common{called} at scale {scale}",
        do="leave workload= out to see all",
    )


def _to_race(name: str, scale: str) -> str:
    """Return the command that races a submission on a workload that it fits, if it is installed."""
    if name not in discover.submissions():
        return "harness list submissions"
    place = first_workload(discover.read(discover.find(name)), methods.home(name), scale)
    return race([f"workload={place}", f"submission={name}", f"scale={scale}"])


def _no_point(request: Request, own: list[RecordedRun], where: str) -> UserError:
    """Return the error for a point that no run of the submission has, with the recorded ones."""
    parts = []
    for key in request.point:
        values = sorted({short(r.record["hp"][key]) for r in own if key in r.record["hp"]})
        parts.append(f"{key}: {', '.join(values) or 'not a setting'}")
    changes = [f"submission.{key}={value}" for key, value in request.point.items()]
    return UserError(
        f"there is no record of {request.text} {where}",
        f"recorded {'; '.join(parts)}",
        race([f"workload={own[0].record['workload']}", f"submission={request.name}", *changes]),
    )


def _board(board: Board, a: Row, b: Row, keys: list[str]) -> list[str]:
    width = max(map(len, keys))
    wide = max(14, len(a.name), len(b.name))
    scale = {
        w.key: w.time or _fallback(a.cells[w.key], b.cells[w.key])
        for w in board.workloads
        if w.key in keys
    }
    lines = [f"{'':{width}}  {a.name:>{wide}}  {b.name:>{wide}}  seeds  {a.name} is"]
    for key in keys:
        cells = a.cells[key], b.cells[key]
        result = stats.compare({key: cells[0]}, {key: cells[1]}, scale)
        lines.append(
            f"{key:{width}}  {_time(cells[0]):>{wide}}  {_time(cells[1]):>{wide}}  "
            f"{cells[0].n:>2}/{cells[1].n:<2}  {_words(result)}"
        )
    if len(keys) > 1:
        result = stats.compare({k: a.cells[k] for k in keys}, {k: b.cells[k] for k in keys}, scale)
        name = f"all {len(keys)}"
        lines.append(f"{name:{width}}  {'':>{wide}}  {'':>{wide}}  {'':5}  {_words(result)}")
    for workload in (w for w in board.workloads if w.key in keys):
        lines += [text for row in (a, b) if (text := _claim(workload, row))]
    for row in (a, b):
        if row.marks:
            lines.append(f"{row.name}: {', '.join(row.marks)}")
    return lines


def _fallback(a: Cell, b: Cell) -> float:
    """Return a scale for misses where there is no reference: the faster time."""
    time = min(a.time, b.time)
    return time if math.isfinite(time) else 1.0


def _time(cell: Cell) -> str:
    return f"{seconds(cell.time)} s" if math.isfinite(cell.time) else "miss"


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
    return f"{text}: not separable; {more} would separate them"


def _claim(workload, row: Row) -> str:
    """Return the one-sided test of the speedruns at the last step that all seeds have evaluated."""
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
