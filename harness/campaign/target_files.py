"""Writing a target down: the goal in a workload's YAML, the frozen reference, the evidence."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness.campaign.target import Procedure, last, reached
from harness.catalog.definition import Definition
from harness.errors import UserError
from harness.records.run import RecordedRun

NUMBER = r"[-+]?[0-9.]+(?:e[-+]?[0-9]+)?"


def with_goal(text: str, scale: str, variant: str | None, goal: dict) -> str:
    """Return a workload's YAML text with the bounds of a scale's (or variant's) goal replaced.

    Comments stay, but for the word "provisional" on the lines of the changed bounds.

    Raises:
        UserError: the variant has no goal of its own, or the text is laid out in another way.
    """
    start, end = _span(text, rf"^{scale}:.*\n", r"^\S")
    if variant is not None:
        start, end = _span(text, r"^  variants:.*\n", r"^ {2}\S|^\S", start, end)
        start, end = _span(text, rf"^ +{variant}:", r"^ {4}\S|^\S", start, end)
    else:
        inner = re.compile(r"^  variants:", re.M).search(text, start, end)
        end = inner.start() if inner else end
    at = re.compile(r"\bgoal:").search(text, start, end)
    where = f"{scale}.{variant}" if variant else scale
    if not at:
        raise UserError(f"{where} has no goal of its own: it is its base's")
    head, block, tail = text[: at.start()], text[at.start() : end], text[end:]
    for metric, condition in goal.items():
        direction, bound = next(iter(condition.items()))
        pattern = rf"(\b{metric}: *\{{ *{direction}: *){NUMBER}"
        found = re.search(pattern, block)
        if not found:
            raise UserError(f"found no bound of {metric} to replace in the goal of {where}")
        if float(found[0][len(found[1]) :]) != bound:
            block = f"{block[: found.end(1)]}{_number(bound)}{block[found.end() :]}"
            line = block.rindex("\n", 0, found.start()) + 1 if "\n" in block[: found.start()] else 0
            stop = block.find("\n", found.end(1))
            stop = len(block) if stop < 0 else stop
            said = re.sub(r" *# *provisional *$|[;,]? *\bprovisional\b", "", block[line:stop])
            block = block[:line] + said + block[stop:]
    made = head + block + tail
    tree = yaml.safe_load(made)[scale]
    stated = (tree["variants"][variant] if variant else tree)["goal"]
    assert stated == goal, f"the goal of {where} was to be {goal} and is {stated}"
    return made


def _number(value: float) -> str:
    """Return a number as YAML 1.1 reads it: 1e-05 would be a word, 1.0e-05 is not."""
    text = repr(value)
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def _span(text: str, opening: str, closing: str, start=0, end=None) -> tuple[int, int]:
    """Where a block begins and the next of its level does."""
    end = len(text) if end is None else end
    first = re.compile(opening, re.M).search(text, start, end)
    if not first:
        raise UserError(f"found no block {opening!r}")
    following = re.compile(closing, re.M).search(text, first.end(), end)
    return first.start(), following.start() if following else end


def reference(definition: Definition, winner: RecordedRun, seeds: Sequence[RecordedRun]) -> dict:
    """Return the frozen reference: its point, time, and the curve of the seed of median time."""
    found = reached(seeds, definition)
    shown = seeds[found.middle]
    columns = shown.record["evaluations"]
    names = columns["metrics"]
    curve = [
        {"step": step, "reference_seconds": seconds, "metrics": dict(zip(names, values))}
        for step, seconds, values in zip(
            columns["step"], columns["seconds"], zip(*names.values(), strict=True), strict=True
        )
    ]
    goal = definition.block["goal"]
    finals = sorted(abs(last(run, goal)) for run in seeds if math.isfinite(last(run, goal)))
    return {
        "workload": definition.key,
        "workload_hash": definition.hash,
        "submission": winner.record["submission"],
        "submission_hash": winner.record["submission_hash"],
        "hp": winner.record["hp"],
        **({} if shown.share == 1 else {"budget": shown.share}),
        "time": found.times[found.middle],
        "prices": shown.record.get("prices"),
        "provisional": any(run.record.get("provisional", True) for run in seeds),
        "times": [or_none(time) for time in found.times],
        "seeds": [run.record["seed"] for run in seeds],
        "final": finals[len(finals) // 2],
        "curve": curve,
    }


def evidence(
    definition: Definition,
    procedure: Procedure,
    trials: Sequence[RecordedRun],
    first: Sequence[RecordedRun],
    second: Sequence[RecordedRun],
    signal: float,
    command: str,
) -> dict:
    """Return what the target rests on: every trial of every candidate, and the seeds' curves."""
    goal = definition.block["goal"]

    def ending(run: RecordedRun) -> float | None:
        return or_none(abs(last(run, goal)))

    def seeds(runs: Sequence[RecordedRun]) -> list[dict]:
        found = reached(runs, definition)
        return [
            {
                "run_id": run.record["run_id"],
                "seed": run.record["seed"],
                "budget": run.share,
                "last": ending(run),
                "reached_at": or_none(share),
                "time": or_none(time),
                "curve": [[step, value] for step, _, value in run.curve],
            }
            for run, share, time in zip(runs, found.shares, found.times, strict=True)
        ]

    return {
        "command": command,
        "procedure": vars(procedure) | {"candidates": list(procedure.candidates)},
        "goal": goal,
        "workload_hash": definition.hash,
        "trials": [
            {
                "run_id": run.record["run_id"],
                "submission": run.record["submission"],
                "trial": run.record["trial"],
                "hp": run.record["hp"],
                "last": ending(run),
            }
            for run in trials
        ],
        "first": seeds(first),
        "seeds": seeds(second),
        "signal": or_none(signal),
        "share": reached(second, definition).share,
    }


def or_none(value: float) -> float | None:
    """Return a finite value, or None."""
    return value if math.isfinite(value) else None


def yaml_of(name: str, root: Path) -> Path:
    return root / "conf" / "workload" / f"{name}.yaml"
