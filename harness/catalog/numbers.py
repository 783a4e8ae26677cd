"""Checks of a workload's YAML: the keys beside its scales, and the numbers of a block."""

import math
from pathlib import Path

from harness.catalog import discover, labels, streams
from harness.errors import UserError, nearest

# A key of the YAML beside the scales: a submission may answer with its own predictor.
PREDICT = "predict"
# Another: its steps are forward passes alone.
FORWARD_ONLY = "forward_only"
# Another: folders and installed packages that may hold validation data.
HIDES = "hides"
# Another: code draws what the training data must not tell, such as which labels are wrong. True, or
# a list of the variants of which this holds.
GENERATED = "generated"
# A key of a block: low precision that training is held to (harness/train/arithmetic.py).
ARITHMETIC = ("fp8", "fp8_static", "int8", "jetfire", "integer", "int4")
# The keys of a workload's YAML beside its scales, with their types in Python and in words.
FLAG = bool, "true or false"
TOP = {
    "track": (str, "a track"),
    "core": FLAG,
    PREDICT: FLAG,
    FORWARD_ONLY: FLAG,
    HIDES: (list, "a list of names"),
    GENERATED: (bool | list, "true, false or a list of variants"),
}
# Parts of a block that have keys of their own.
PARTS = ("evaluate", "goal", "deadlines", "stream", "fed", "retain", labels.BLOCK)


def check_tree(tree: dict, path: Path) -> None:
    """Raise UserError for a key beside the scales that is not known, or a value of a wrong type."""
    for key, value in tree.items():
        if isinstance(value, dict):
            variants = value.get("variants") or {}
            if not isinstance(variants, dict) or not all(
                isinstance(changes, dict) for changes in variants.values()
            ):
                raise UserError(
                    f"{path}: {key}.variants is {variants!r}",
                    "names with changes: {wide: {model: {width: 128}}}",
                )
            for name, changes in variants.items():
                _check_track(changes.get("track", discover.TRACKS[0]), f"{path}: variant {name}")
            if not isinstance(key, str):
                raise UserError(f"{path}: {key!r} is not the name of a scale", "text such as mini")
        elif key not in TOP:
            raise UserError(f"{path}: {key!r} is neither a scale nor a setting", nearest(key, TOP))
        elif key == "track":
            _check_track(value, str(path))
        elif not isinstance(value, TOP[key][0]):
            raise UserError(f"{path}: {key} is {value!r}", TOP[key][1])


def _check_track(track: object, where: str) -> None:
    if track not in discover.TRACKS:
        raise UserError(f"{where}: track is {track!r}", nearest(str(track), discover.TRACKS))


def check_block(block: dict, where: str) -> None:
    """Raise UserError for numbers that no race can be run with."""
    for key in ("batch", "horizon", "evaluate", "goal"):
        if key not in block:
            raise UserError(f"{where} has no {key}", "batch, horizon, evaluate and goal")
    for key in PARTS:
        if not isinstance(block.get(key, {}), dict):
            raise UserError(f"{where}.{key} is {block[key]!r}", "keys with values")
    evaluate = block["evaluate"]
    counts = {"batch": block["batch"], "horizon": block["horizon"]}
    counts |= {f"evaluate.{key}": evaluate.get(key) for key in ("points", "batch")}
    for key, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{where}.{key}={value!r}", "a whole number from 1 up")
    if "stream" in block:
        streams.check(block, where)
    if labels.BLOCK in block:
        labels.check(block, where)
    _check_goal(block["goal"], where)
    if block.get("arithmetic", ARITHMETIC[0]) not in ARITHMETIC:
        raise UserError(f"{where}.arithmetic={block['arithmetic']!r}", " or ".join(ARITHMETIC))
    for key, value in block.get("deadlines", {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"{where}.deadlines.{key}={value!r}", "seconds above 0")


def _check_goal(goal: dict, where: str) -> None:
    """Raise UserError unless every metric of the goal has one bound, a finite number."""
    for metric, condition in goal.items() or [("", None)]:
        if (
            not isinstance(condition, dict)
            or len(condition) != 1
            or set(condition) - {"at_most", "at_least"}
        ):
            raise UserError(
                f"{where}.goal: {metric!r} is {condition!r}",
                "metrics, each with {at_most: X} or {at_least: X}",
            )
        (bound,) = condition.values()
        number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if not number or not math.isfinite(bound):
            raise UserError(f"{where}.goal.{metric}: {condition} is not a bound", "a number")
