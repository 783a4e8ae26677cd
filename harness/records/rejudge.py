"""Judge records again when their workload's goal or prices have changed.

The bounds of a goal do not change what a trial does. So a record of the same training
(`training_hash`) can be judged by new bounds, if it trained long enough. A trial that stopped at an
easier goal, or was ended early, cannot be judged by a harder one; it stays a record of its version.
Prices do not change a trial either. A record that made reference steps alone gets those of the
frozen table.
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
from harness.records.judging import best, crossing, rows_of_columns
from harness.records.run import RecordedRun
from harness.records.schema import DAMAGED

# Significant digits of a number in the table: more than a float32 has.
DIGITS = 9
# The goal decides these outcomes and no others.
JUDGED = ("reached", "out_of_budget", "hopeless")


def table(record: dict, rows: list[dict]) -> dict:
    """Return a trial's evaluations by column: step, seconds with interval, the goal's metrics.

    The goal of a stream must hold at its last evaluation and the one before it. The latter has no
    row of its own, so its metrics are in `before`.
    """
    evaluations, names = [dict(row) for row in run_folder.evaluations(rows)], list(record["goal"])
    if sum(row["event"] == "ended" for row in rows) > 1 and "priced" in record:
        # The trial was judged again, perhaps by other prices.
        reading.reprice(evaluations, prices.recorded_table(record))
    columns = {
        "step": [row["step"] for row in evaluations],
        "seconds": [_short(row["reference_seconds"]) for row in evaluations],
        "low": [_short(row.get("interval", [None])[0]) for row in evaluations],
        "high": [_short(row.get("interval", [None])[-1]) for row in evaluations],
        "metrics": {
            name: [_short(row["metrics"].get(name)) for row in evaluations] for name in names
        },
    }
    if evaluations and "stream" in (record.get("config") or {}):
        metrics = stream_metrics.goal_metrics(
            record["config"], rows, evaluations[-1]["state_bytes"]
        )[1]
        columns["before"] = {name: _short(metrics.get(name)) for name in names}
    return columns


def curve(columns: dict, metric: str) -> list[list]:
    """Return (step, reference seconds, metric) of each evaluation."""
    every = zip(columns["step"], columns["seconds"], columns["metrics"][metric], strict=True)
    return [list(point) for point in every]


def _short(value: float | None) -> float | None:
    """Round a number to DIGITS significant digits."""
    return value if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def rejudge(run: RecordedRun, definition: Definition | None) -> RecordedRun:
    """Return the run as a record of `definition`, in its present prices.

    Return the run unchanged if its training is not that of the definition, or if it is damaged.
    """
    try:
        return _rejudged(run, definition)
    except DAMAGED:
        return run


def _rejudged(run: RecordedRun, definition: Definition | None) -> RecordedRun:
    record = run.record
    if definition is None or "evaluations" not in record:
        return run
    same = record["workload_hash"] == definition.hash
    if not same and record.get("training_hash") != definition.training_hash:
        return run
    run = _repriced(run, definition)
    return _with_best(run if same else _judged(run, definition))


def _judged(run: RecordedRun, definition: Definition) -> RecordedRun:
    """Return the run judged by the goal of `definition`, if it trained long enough for that."""
    record = run.record
    if record["outcome"] == "hopeless":
        return run
    goal, columns = definition.block["goal"], record["evaluations"]
    metric, _, bound = primary(goal)
    changes = {"workload_hash": definition.hash, "goal": goal, "metric": metric, "target": bound}
    streaming = "stream" in definition.block
    crossed = crossing(rows_of_columns(columns, goal, streaming), streaming)
    if record["outcome"] in JUDGED:
        if crossed is None and record["step"] < record["horizon"]:
            return run
        changes |= {"outcome": "out_of_budget", "reason": None, "time": None, "crossing": None}
        if crossed is not None:
            changes |= {"outcome": "reached", "time": columns["seconds"][crossed]}
            changes["crossing"] = {
                "step": columns["step"][crossed],
                "total": columns["seconds"][crossed],
                "after": columns["seconds"][crossed - 1],
                "low": columns["low"][crossed],
                "high": columns["high"][crossed],
            }
    return replace(run, record={k: v for k, v in (record | changes).items() if k != "chain"})


def _with_best(run: RecordedRun) -> RecordedRun:
    """Return the run with its best value by a goal of several conditions; a stream's is at its end.

    The columns are rounded: a value that they agree with stays as it is.
    """
    record = run.record
    if len(record["goal"]) == 1 or "before" in record["evaluations"]:
        return run
    rows = rows_of_columns(record["evaluations"], record["goal"], streaming=False)
    value, metric = best(rows, record["goal"]), primary(record["goal"])[0]
    known = (record.get("best") or {}).get(metric)
    if value is None or known is None or math.isclose(value, known, rel_tol=1e-8):
        return run
    changed = {k: v for k, v in record.items() if k != "chain"} | {"best": {metric: value}}
    return replace(run, record=changed)


def _repriced(run: RecordedRun, definition: Definition) -> RecordedRun:
    """Return the run in seconds of the frozen table; unchanged if that needs its log.

    If a trial made reference steps alone, every part of its time is proportional to their price, so
    one factor converts all its seconds. The ends of intervals are multiplied by the ratio of the
    prices' ends. That is exact except for set-up and lost steps, whose interval becomes too wide.
    """
    record = run.record
    if (record.get("counts") or {}).keys() != {kinds.REFERENCE_STEP} or not _on_cpu(run):
        return run
    name = definition.place or definition.name
    table = frozen(name, definition.scale, definition.variant)
    if table.provisional or record["prices"] == table.origin or table.torch != _torch(run):
        return run
    recorded = prices.recorded_table(record).of(kinds.REFERENCE_STEP)
    price, factors = table.of(kinds.REFERENCE_STEP), {}
    for name in ("seconds", "low", "high"):
        factors[name] = getattr(price, name) / getattr(recorded, name)
    ends = {"low": factors["low"], "high": factors["high"]}
    columns = record["evaluations"] | {
        name: [_short(_scaled(value, factor)) for value in record["evaluations"][name]]
        for name, factor in factors.items()
    }
    changes = {
        "evaluations": columns,
        "time": _scaled(record["time"], factors["seconds"]),
        "prices": table.origin,
        "priced": {kinds.REFERENCE_STEP: asdict(price)},
        "provisional": False,
        "provisional_why": None,
    }
    for part in ("crossing", "end"):
        changes[part] = record.get(part) and {
            name: value if name == "step" else _scaled(value, ends.get(name, factors["seconds"]))
            for name, value in record[part].items()
        }
    points = curve(columns, primary(record["goal"])[0])
    return replace(
        run, record={k: v for k, v in (record | changes).items() if k != "chain"}, curve=points
    )


def _scaled(value: float | None, factor: float) -> float | None:
    """Multiply a value, if there is one."""
    return None if value is None else value * factor


def _on_cpu(run: RecordedRun) -> bool:
    """Return True if the run's machine had no GPU."""
    torch = run.environment.get("torch") or {}
    return "gpus" in torch and not torch["gpus"]


def _torch(run: RecordedRun) -> str:
    """Return the version of torch that the run used."""
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
    """Return the workload of a record as it is defined now, or None if it no longer exists."""
    definition = present(rec.get("workload_file") or rec["workload"], rec["scale"], rec["variant"])
    return definition if definition and definition.name == rec["workload"] else None


@cache
def frozen(name: str, scale: str, variant: str | None) -> prices.Table:
    """Return the frozen CPU price of a reference step of the workload as it is defined now."""
    definition = present(name, scale, variant)
    assert definition is not None
    return tables.prices(definition, {"device": "cpu"}, [kinds.REFERENCE_STEP])


def by_present_rules(run: RecordedRun) -> RecordedRun:
    """Return the run judged by the present goal and in the present prices of its workload.

    Raises one of DAMAGED if the record cannot be judged.
    """
    return _rejudged(run, present_of(run.record))
