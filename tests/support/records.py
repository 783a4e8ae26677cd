"""Synthetic run records: folders with a chained log, as a race leaves them, and compact files."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

from harness.records.collect import read_folder
from harness.records.compact import signed, write_compact
from harness.records.log import Log
from harness.records.rejudge import curve, table
from harness.records.run import RecordedRun
from harness.system.files import atomic_json

GOAL = {"loss": {"at_most": 3.0}}
REFERENCE = 40.0
POINTS = 20


def losses(crossing: int | None, points: int = POINTS) -> list[float]:
    """Return the losses at the evaluations; they meet the goal from `crossing` on, or never."""
    level = 3.2 if crossing is None else 2.99
    span = points if crossing is None else crossing
    count = crossing + 2 if crossing else points + 1
    return [round(level + 2.8 * max(0.0, 1 - i / span) ** 2, 6) for i in range(count)]


def interpolated(crossing: int, price=2.5) -> float:
    """Return the seconds at which the losses meet the goal, in the logarithm of the loss."""
    above, below = (math.log(losses(crossing)[i] / 3.0) for i in (crossing - 1, crossing))
    return price * (crossing - 1 + above / (above - below))


def record(
    submission="adamw",
    workload="alpha",
    seed=1,
    trial=None,
    crossing: int | None = 12,
    price=2.5,
    **changes,
) -> tuple[dict, list]:
    """Return a run's record without its chain, and its evaluation rows, `price` seconds each."""
    values = losses(crossing)
    rows = [
        {
            "event": "evaluation",
            "step": 50 * i,
            "reference_seconds": price * i,
            "metrics": {"loss": v},
            "goal": v <= 3.0,
        }
        for i, v in enumerate(values)
    ]
    made = {
        "run_id": f"{workload}-{submission}-{seed}-{trial}",
        "workload": workload, "scale": "mini", "variant": None, "track": "train",
        "workload_hash": f"hash of {workload}", "submission": submission,
        "submission_hash": f"source of {submission}", "hp": {"lr": 0.01}, "seed": seed,
        "trial": trial, "study": 0, "horizon": 50 * POINTS, "passes": {"forward_backward": 1},
        "goal": GOAL, "budget": {"steps": 50 * POINTS}, "isolation": "process",
        "harness": "0.1.0", "config": {}, "reason": None, "verified": True,
        "outcome": "reached" if crossing else "out_of_budget", "metric": "loss", "target": 3.0,
        "best": {"loss": min(values)}, "final": {"loss": values[-1]},
        "time": price * crossing if crossing else None, "provisional": False,
        "prices": "alpha.cpu.json", "end": {"total": price * (len(values) - 1)},
        "state_bytes": 1_000_000, "step": rows[-1]["step"], "samples": 1, "counts": {},
        "environment": {
            "python": "3.11.0", "cpu": "a processor", "cores": 2, "packages": {"torch": "2.13.0"},
        },
    }  # fmt: skip
    if crossing:
        made["crossing"] = {
            "total": price * crossing,
            "after": price * (crossing - 1),
            "step": 50 * crossing,
        }
    return made | changes, rows


def folder(results: Path, made: dict, rows: list, schema=1) -> Path:
    """Write a run folder: log.jsonl with its chain, then run.json."""
    path = results / "runs" / made["workload"] / made["submission"] / made["run_id"]
    path.mkdir(parents=True)
    log = Log(path / "log.jsonl")
    for row in [{"event": "started"}, *rows]:
        log.append(row)
    chain = log.append({"event": "ended", "result": made})["chain"]
    (path / "run.json").write_text(json.dumps({"schema": schema} | made | {"chain": chain}))
    return path


def line(*arguments, **changes) -> str:
    """Return a record as a compact line; the arguments are those of `record`."""
    made, rows = record(*arguments, **changes)
    made.pop("environment")
    return signed(made | {"schema": 1, "evaluations": table(made, rows)})


def believe(monkeypatch, verified="own") -> None:
    """Count made-up records as if they kept every rule, verified in this way.

    The rules would refuse them: a made-up folder has no source, no manifest and no passes.
    """
    monkeypatch.setattr("harness.records.collect.broken_rule", lambda *_: None)
    monkeypatch.setattr("harness.records.collect.verified_by", lambda record: verified)


def changed(run: RecordedRun, changes: dict) -> RecordedRun:
    """Return a run with other values in its record."""
    return replace(run, record=run.record | changes)


def shifted(run: RecordedRun, factor: float) -> RecordedRun:
    """Return a run all of whose values of the goal's metric are `factor` times as large."""
    metric = next(iter(run.record["goal"]))
    columns = run.record["evaluations"]
    values = [value * factor for value in columns["metrics"][metric]]
    metrics = columns["metrics"] | {metric: values}
    points = [[step, seconds, value * factor] for step, seconds, value in run.curve]
    record = run.record | {"evaluations": columns | {"metrics": metrics}}
    return replace(run, record=record, curve=points)


def reference(results: Path, workload="alpha", time=REFERENCE) -> None:
    """Write a frozen reference of a workload."""
    (results / "reference").mkdir(parents=True, exist_ok=True)
    curve = [
        {"step": 50 * i, "reference_seconds": time / 12 * i, "metrics": {"loss": v}}
        for i, v in enumerate(losses(12))
    ]
    key = f"{workload}.mini"
    atomic_json(
        results / "reference" / f"{key}.json",
        {"workload": key, "workload_hash": f"hash of {workload}", "time": time, "curve": curve},
    )


def campaign(
    results: Path,
    submissions: dict[str, float],
    workloads=("alpha", "beta"),
    seeds=3,
    trials=4,
    scatter=0.04,
) -> None:
    """Write compact records of a whole campaign: submissions with their mean speed-up."""
    draw = random.Random(0)
    for workload in workloads:
        reference(results, workload)
        runs = []
        for name, speed in submissions.items():
            for i in range(trials + seeds):
                price = REFERENCE / 12 / speed * math.exp(scatter * draw.gauss(0, 1))
                crossing = None if speed < 0.5 or (i < trials and draw.random() < 0.4) else 12
                trial, seed = (i, 0) if i < trials else (None, i - trials + 1)
                made, rows = record(name, workload, seed, trial, crossing, price)
                made |= {"schema": 1, "evaluations": table(made, rows)}
                runs.append(
                    RecordedRun(
                        made,
                        curve(made["evaluations"], "loss"),
                        made.pop("environment"),
                        {"summary": f"About {name}", "arxiv": "2302.06675"},
                    )
                )
        write_compact(results / "board" / f"{workload}.mini.jsonl", runs)


__all__ = [
    "believe",
    "campaign",
    "changed",
    "folder",
    "line",
    "losses",
    "read_folder",
    "record",
    "reference",
    "shifted",
]
