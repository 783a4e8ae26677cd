"""A trial's result: a pure function of its log rows and its price table."""

import math

from harness.catalog import goal, kinds
from harness.catalog.definition import Definition, load_workload
from harness.clock import prices
from harness.clock.reading import read
from harness.records import run_folder, stream_metrics
from harness.records.judging import crossing
from harness.system import machine
from harness.train import predictor


def best(rows: list[dict], metric: str, direction: str) -> float | None:
    """The best finite value of a metric over evaluation rows."""
    values = [
        row["metrics"][metric]
        for row in rows
        if math.isfinite(row["metrics"].get(metric, math.nan))
    ]
    return (min if direction == "at_most" else max)(values) if values else None


def summarise(
    trial, rows: list[dict], table: prices.Table | None, outcome: str, error: str | None
) -> dict:
    """The content of run.json."""
    seen = run_folder.evaluations(rows)
    metric, direction, bound = goal.primary(trial.definition.block["goal"])
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
        "resumed": sum(row["event"] == "resumed" for row in run_folder.valid_rows(rows)),
        "environment": rows[0].get("environment") if rows else None,
        "isolation_layers": rows[0].get("isolation_layers") if rows else None,
        "config_hash": run_folder.config_hash(trial.describe()),
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
            kind: vars(table.of(kind)) for kind in last["counts"] | {kinds.REFERENCE_STEP: 1}
        },
        "flops": prices.flops(last["counts"], table),
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
        result["continual"] = stream_metrics.report(trial.definition.block, rows)
    if at is not None:
        reading = _reading(seen[: at + 1], table)
        after = _reading(seen[:at], table)["total"]  # the goal was met in (after, time]
        result |= {
            "time": reading["total"],
            "crossing": reading | {"step": seen[at]["step"], "after": after},
        }
    return result


def _tokens(definition: Definition, samples: int) -> int | None:
    """Tokens in these training examples, where the workload says how many one has."""
    tokens = getattr(load_workload(definition), "tokens", None)
    return samples * tokens(definition.config) if tokens else None


def _reading(rows: list[dict], table: prices.Table) -> dict:
    reading = read(rows, table)
    return vars(reading) | {"total": reading.total}
