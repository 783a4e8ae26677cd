"""A trial's result: a pure function of its log rows and its price table."""

import math

from harness import clock, continual, machine, predictor, record, workload
from harness.discover import ROOT
from harness.files import read_json


def reference(definition: workload.Definition) -> dict | None:
    """The frozen reference run of this very workload version (time, curve), or None."""
    path = ROOT / "results" / "reference" / f"{definition.key}.json"
    try:
        frozen = read_json(path)
    except FileNotFoundError:
        return None
    return frozen if frozen["workload_hash"] == definition.hash else None


def best(rows: list[dict], metric: str, direction: str) -> float | None:
    """The best finite value of a metric over evaluation rows."""
    values = [
        row["metrics"][metric]
        for row in rows
        if math.isfinite(row["metrics"].get(metric, math.nan))
    ]
    return (min if direction == "at_most" else max)(values) if values else None


def crossing(rows: list[dict], stream: bool = False) -> int | None:
    """Index of the first of two evaluations in a row that meet the goal (the start does not count).

    A stream's goal is about the whole of it: only its last row can meet it, and that row's `goal`
    says that the last two of its evaluations do.
    """
    if stream:
        return len(rows) - 1 if rows[-1]["goal"] else None
    for i in range(1, len(rows) - 1):
        if rows[i]["goal"] and rows[i + 1]["goal"]:
            return i
    return None


def summarise(
    trial, rows: list[dict], table: clock.Table | None, outcome: str, error: str | None
) -> dict:
    """The content of run.json."""
    seen = record.evaluations(rows)
    metric, direction, bound = workload.primary(trial.definition.block["goal"])
    result = trial.describe() | {
        "outcome": outcome,
        "reason": error,
        "verified": trial.isolation != "inline",
        "own_predictor": predictor.NAME in trial.card.functions,
        "metric": metric,
        "target": bound,
        "time": None,
        "best": None,
        "step": seen[-1]["step"] if seen else 0,
        "resumed": sum(row["event"] == "resumed" for row in record.valid_rows(rows)),
        "environment": rows[0].get("environment") if rows else None,
        "isolation_layers": rows[0].get("isolation_layers") if rows else None,
        "config_hash": record.config_hash(trial.describe()),
    }
    if result["environment"]:
        result["environment_hash"] = machine.hash_of(result["environment"])
    if not seen or table is None:
        return result
    last, streaming = seen[-1], "stream" in trial.definition.block
    at = crossing(seen, streaming)
    result |= {
        "best": {metric: last["metrics"][metric] if streaming else best(seen, metric, direction)},
        "final": last["metrics"],
        "weights": last["weights"],
        "provisional": table.provisional,
        "provisional_why": table.why,
        "prices": table.origin,
        "priced": {
            kind: vars(table.of(kind)) for kind in last["counts"] | {clock.REFERENCE_STEP: 1}
        },
        "flops": clock.flops(last["counts"], table),
        "tokens": _tokens(trial.definition, last["samples"]),
        "hooked": last["hooked"],
        "end": _reading(seen, table),
        "samples": last["samples"],
        "counts": last["counts"],
        "state_bytes": last["state_bytes"],
        "lost_steps": last["lost_steps"],
        "cpu_seconds": last["cpu_seconds"],
        "wall_seconds": last["wall_seconds"],
    }
    if streaming:
        result["continual"] = continual.report(trial.definition.block, rows)
    if at is not None:
        reading = _reading(seen[: at + 1], table)
        after = _reading(seen[:at], table)["total"]  # the goal was met in (after, time]
        result |= {
            "time": reading["total"],
            "crossing": reading | {"step": seen[at]["step"], "after": after},
        }
    return result


def _tokens(definition: workload.Definition, samples: int) -> int | None:
    """Tokens in these training examples, where the workload says how many one has."""
    tokens = getattr(workload.load(definition), "tokens", None)
    return samples * tokens(definition.config) if tokens else None


def _reading(rows: list[dict], table: clock.Table) -> dict:
    reading = clock.read(rows, table)
    return vars(reading) | {"total": reading.total}
