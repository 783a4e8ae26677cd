"""Compute a trial's result from its log rows and its price table alone."""

from harness.catalog import goal, kinds
from harness.catalog.definition import Definition, load_workload
from harness.clock import prices, tables
from harness.clock.reading import read
from harness.records import run_folder, stream_metrics
from harness.records.judging import best, crossing
from harness.system import machine
from harness.train import predictor

# Fields of the last evaluation that the result repeats.
COPIED = ("samples", "counts", "state_bytes", "lost_steps", "cpu_seconds", "wall_seconds")


def summarise(
    trial, rows: list[dict], table: prices.Table | None, outcome: str, error: str | None
) -> dict:
    """Return the content of run.json.

    Args:
        rows: all rows of the trial's log.
        table: the prices, or None if the trial ended before they were known.
        error: the reason of the outcome, if it has one.
    """
    evaluations = run_folder.evaluations(rows)
    goal_of_trial = trial.definition.block["goal"]
    metric, _, bound = goal.primary(goal_of_trial)
    result = trial.describe() | {
        "outcome": outcome,
        "reason": error,
        "verified": trial.isolation != "inline",
        "own_predictor": predictor.NAME in trial.card.functions,
        "metric": metric,
        "target": bound,
        "time": None,
        "best": None,
        "step": evaluations[-1]["step"] if evaluations else 0,
        "resumed": sum(row["event"] == "resumed" for row in run_folder.valid_rows(rows)),
        "environment": rows[0].get("environment") if rows else None,
        "isolation_layers": rows[0].get("isolation_layers") if rows else None,
        "config_hash": run_folder.config_hash(trial.describe()),
    }
    if result["environment"]:
        result["environment_hash"] = machine.hash_of(result["environment"])
    if not evaluations or table is None:
        return result
    last, streaming = evaluations[-1], "stream" in trial.definition.block
    crossed = crossing(evaluations, streaming)
    result |= {
        "best": {
            metric: last["metrics"][metric] if streaming else best(evaluations, goal_of_trial)
        },
        "final": last["metrics"],
        "weights": last["weights"],
        "provisional": table.provisional,
        "provisional_why": table.why,
        "prices": table.origin,
        "priced": {
            name: vars(table.of(name))
            for kind in last["counts"] | {kinds.REFERENCE_STEP: 1}
            for name in (kind, kinds.alone(kind))
        },
        "flops": prices.flops(last["counts"], table),
        "tokens": _tokens(trial.definition, last["samples"]),
        "hooked": last["hooked"],
        "end": _reading(evaluations, table),
        **_of_engine(trial.engine, evaluations, table),
        **{name: last[name] for name in COPIED},
    }
    if streaming:
        result["continual"] = stream_metrics.report(trial.definition.block, rows)
    if crossed is not None:
        result |= _crossing(evaluations, crossed, table)
    return result


def _crossing(evaluations: list[dict], crossed: int, table: prices.Table) -> dict:
    """Return the time and the crossing of a trial that met its goal at evaluation `crossed`."""
    reading = _reading(evaluations[: crossed + 1], table)
    # The goal was met in the interval (after, time].
    after = _reading(evaluations[:crossed], table)["total"]
    crossing = reading | {"step": evaluations[crossed]["step"], "after": after}
    return {"time": reading["total"], "crossing": crossing}


def _of_engine(engine: dict, evaluations: list[dict], table: prices.Table) -> dict:
    """Return what a trial records of an engine that makes its seconds others than usual.

    The reference seconds of several processes are those that pass while all of them work.
    """
    result: dict = {}
    if (ranks := engine.get("processes", 1)) > 1:
        elapsed = _reading(evaluations, table)["total"]
        result = {"processes": ranks, "device_seconds": ranks * elapsed}
    if options := tables.passes_options(engine):
        result["options"] = options
    if "skipped" in evaluations[-1]:
        result["skipped_steps"] = evaluations[-1]["skipped"]
    return result


def _tokens(definition: Definition, samples: int) -> int | None:
    """Return the tokens in these training examples, or None if the workload does not count them."""
    tokens = getattr(load_workload(definition), "tokens", None)
    return samples * tokens(definition.config) if tokens else None


def _reading(rows: list[dict], table: prices.Table) -> dict:
    """Return the clock at the last of the rows, with its total."""
    reading = read(rows, table)
    return vars(reading) | {"total": reading.total}
