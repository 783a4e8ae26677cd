"""What a record keeps of its evaluations, so that it can be judged again when a goal has moved.

A goal's bounds are no part of what a trial does: a record of the same training (`training_hash`)
says under new bounds what it would have said, as far as it trained. A trial that stopped at an
easier goal, or was ended early, says nothing about a harder one: it stays a record of its version.
Nor are prices: a record of reference steps alone is told in those of the frozen table.
"""

import math
from dataclasses import asdict, replace
from functools import cache

from harness.catalog import kinds
from harness.catalog.definition import Definition, define, tree_of
from harness.catalog.goal import primary
from harness.clock import prices, reading, tables
from harness.errors import UserError
from harness.records import run_folder, stream_metrics
from harness.records.judging import crossing, rows_of_columns
from harness.records.run import RecordedRun

DIGITS = 9  # of a number in the table; more than a float32 has
JUDGED = ("reached", "out_of_budget", "hopeless")  # the goal decides no other outcome


def table(rec: dict, rows: list[dict]) -> dict:
    """A trial's evaluations by column: step, seconds with interval, the goal's metrics.

    A stream's goal holds at its last evaluation and the one `before`, which is no row of its own.
    """
    seen, names = [dict(row) for row in run_folder.evaluations(rows)], list(rec["goal"])
    if sum(row["event"] == "ended" for row in rows) > 1 and "priced" in rec:
        reading.reprice(seen, prices.recorded_table(rec))  # judged again, perhaps by other prices
    made = {
        "step": [row["step"] for row in seen],
        "seconds": [_short(row["reference_seconds"]) for row in seen],
        "low": [_short(row.get("interval", [None])[0]) for row in seen],
        "high": [_short(row.get("interval", [None])[-1]) for row in seen],
        "metrics": {name: [_short(row["metrics"].get(name)) for row in seen] for name in names},
    }
    if seen and "stream" in (rec.get("config") or {}):
        found = stream_metrics.goal_metrics(rec["config"], rows, seen[-1]["state_bytes"])[1]
        made["before"] = {name: _short(found.get(name)) for name in names}
    return made


def curve(columns: dict, metric: str) -> list[list]:
    """(step, reference seconds, metric) of each evaluation."""
    every = zip(columns["step"], columns["seconds"], columns["metrics"][metric], strict=True)
    return [list(point) for point in every]


def _short(value: float | None) -> float | None:
    return value if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def again(run: RecordedRun, definition: Definition | None) -> RecordedRun:
    """The run as a record of `definition`, in its present prices, if its training is the same."""
    rec = run.record
    if definition is None or "evaluations" not in rec:
        return run
    same = rec["workload_hash"] == definition.hash
    if not same and rec.get("training_hash") != definition.training_hash:
        return run
    run = _repriced(run, definition)
    return run if same else _judged(run, definition)


def _judged(run: RecordedRun, definition: Definition) -> RecordedRun:
    """The run by the goal of `definition`, where it trained far enough to tell."""
    rec = run.record
    if rec["outcome"] == "hopeless":
        return run
    goal, columns = definition.block["goal"], rec["evaluations"]
    metric, _, bound = primary(goal)
    judged = {"workload_hash": definition.hash, "goal": goal, "metric": metric, "target": bound}
    streaming = "stream" in definition.block
    at = crossing(rows_of_columns(columns, goal, streaming), streaming)
    if rec["outcome"] in JUDGED:
        if at is None and rec["step"] < rec["horizon"]:
            return run
        judged |= {"outcome": "out_of_budget", "reason": None, "time": None, "crossing": None}
        if at is not None:
            judged |= {"outcome": "reached", "time": columns["seconds"][at]}
            judged["crossing"] = {
                "step": columns["step"][at],
                "total": columns["seconds"][at],
                "after": columns["seconds"][at - 1],
                "low": columns["low"][at],
                "high": columns["high"][at],
            }
    return replace(run, record={k: v for k, v in (rec | judged).items() if k != "chain"})


def _repriced(run: RecordedRun, definition: Definition) -> RecordedRun:
    """The run in seconds of the frozen table; as it is where that cannot be told without its log.

    Every part of the time of a trial that made reference steps alone goes with their price, so all
    its seconds grow by one factor. The ends of intervals grow by the ratio of theirs, which is
    exact but for set-up and lost steps, whose part of the interval it widens as well.
    """
    rec = run.record
    if rec.get("counts", {}).keys() != {kinds.REFERENCE_STEP} or not _on_cpu(run):
        return run
    name = definition.place or definition.name
    table = frozen(name, definition.scale, definition.variant)
    if table.provisional or rec["prices"] == table.origin or table.torch != _torch(run):
        return run
    known = prices.recorded_table(rec).of(kinds.REFERENCE_STEP)
    price, factors = table.of(kinds.REFERENCE_STEP), {}
    for name in ("seconds", "low", "high"):
        factors[name] = getattr(price, name) / getattr(known, name)
    ends = {"low": factors["low"], "high": factors["high"]}
    columns = rec["evaluations"] | {
        name: [_short(_scaled(value, factor)) for value in rec["evaluations"][name]]
        for name, factor in factors.items()
    }
    told = {
        "evaluations": columns,
        "time": _scaled(rec["time"], factors["seconds"]),
        "prices": table.origin,
        "priced": {kinds.REFERENCE_STEP: asdict(price)},
        "provisional": False,
        "provisional_why": None,
    }
    for part in ("crossing", "end"):
        told[part] = rec.get(part) and {
            name: value if name == "step" else _scaled(value, ends.get(name, factors["seconds"]))
            for name, value in rec[part].items()
        }
    points = curve(columns, primary(rec["goal"])[0])
    return replace(
        run, record={k: v for k, v in (rec | told).items() if k != "chain"}, curve=points
    )


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _on_cpu(run: RecordedRun) -> bool:
    torch = run.environment.get("torch") or {}
    return "gpus" in torch and not torch["gpus"]


def _torch(run: RecordedRun) -> str:
    return str(run.environment["torch"]["build"]).split("+")[0]


@cache
def present(name: str, scale: str, variant: str | None) -> Definition | None:
    """Return the workload as it is defined now, or None if it does not exist.

    Args:
        name: of the workload, or the path of its file.
    """
    try:
        return define(name, tree_of(name), scale, variant)
    except UserError:
        return None


def present_of(rec: dict) -> Definition | None:
    """Return the workload of a record as it is defined now, or None if it is no longer."""
    definition = present(rec.get("workload_file") or rec["workload"], rec["scale"], rec["variant"])
    return definition if definition and definition.name == rec["workload"] else None


@cache
def frozen(name: str, scale: str, variant: str | None) -> prices.Table:
    """The frozen prices of a reference step of the workload as it is now, on a CPU."""
    definition = present(name, scale, variant)
    assert definition is not None
    return tables.prices(definition, {"device": "cpu"}, [kinds.REFERENCE_STEP])


def by_present_rules(run: RecordedRun) -> RecordedRun:
    """The run judged by the goal, and told in the prices, that its workload has now."""
    return again(run, present_of(run.record))
