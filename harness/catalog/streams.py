"""A stream: training examples in the order of their tasks, each given once a pass, and no way back.

A workload whose block has `stream` is one. Its tasks are of equal length, or have the numbers of
steps in `stream.lengths`. Everything here is a function of the block's numbers.
"""

from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from types import SimpleNamespace

from harness.errors import UserError, nearest

KEYS = ("tasks", "boundaries", "passes", "memory", "recurring")
SHOWN = ("shown", "hidden")


def check(block: dict, where: str) -> None:
    """Refuse a stream that cannot be raced."""
    stream, horizon = block["stream"], block["horizon"]
    check_keys(stream.keys() - {"lengths"}, KEYS, f"{where}.stream")
    for key, least in (("tasks", 1), ("passes", 1), ("memory", 0)):
        if type(stream[key]) is not int or stream[key] < least:
            raise UserError(f"{where}.stream.{key}={stream[key]!r}", f"a whole number from {least}")
    if stream["boundaries"] not in SHOWN:
        name = stream["boundaries"]
        raise UserError(f"{where}.stream.boundaries={name!r}", nearest(str(name), SHOWN))
    if "lengths" in stream:
        _check_lengths(stream, horizon, where)
    elif horizon % stream["tasks"]:
        raise UserError(
            f"{where}.horizon={horizon} steps do not make {stream['tasks']} tasks of equal length",
            f"a multiple of {stream['tasks']}",
        )
    every = block["evaluate"].get("every", 0)
    if type(every) is not int or every < 0:
        raise UserError(
            f"{where}.evaluate.every={every!r}", "steps between evaluations; 0 for none"
        )


def check_keys(given: Iterable[str], needed: Sequence[str], where: str) -> None:
    """Raise UserError unless the keys that are given are those that are needed."""
    for key in sorted(set(map(str, given)) - set(needed)):
        raise UserError(f"{where} has a key {key!r}", nearest(key, needed))
    for key in needed:
        if key not in given:
            raise UserError(f"{where} has no {key}", f"{', '.join(needed)} are needed")


def _check_lengths(stream: dict, horizon: int, where: str) -> None:
    """Refuse lengths of tasks that are not those of a stream."""
    lengths = stream["lengths"]
    whole = isinstance(lengths, list) and all(type(n) is int and n > 0 for n in lengths)
    if not whole or len(lengths) != stream["tasks"] or sum(lengths) != horizon:
        raise UserError(
            f"{where}.stream.lengths={lengths!r}",
            f"{stream['tasks']} numbers of steps that add up to the horizon, {horizon}",
        )


def starts(block: dict) -> list[int]:
    """Return the first step of each task."""
    stream = block["stream"]
    lengths = stream.get("lengths") or [block["horizon"] // stream["tasks"]] * stream["tasks"]
    return [0, *accumulate(lengths[:-1])]


def begins(config: SimpleNamespace) -> list[int]:
    """Return the first step of each task, and the horizon."""
    return [*starts({"stream": vars(config.stream), "horizon": config.horizon}), config.horizon]


def grid(block: dict, steps: list[int]) -> list[int]:
    """Return the steps at which the runner stops: `steps` and the ends of tasks."""
    return sorted({*steps, *(starts(block) if "stream" in block else [])})


def slots(block: dict, steps: list[int]) -> int:
    """Return the most sets of weights in a hand-over: the last, and those of steps before it."""
    every = block["evaluate"].get("every", 0) if "stream" in block else 0
    if not every:
        return 1
    stops = grid(block, steps)
    return 1 + max(len(range(a + 1, b)) for a, b in pairwise(stops)) // every + 1


def watched(block: dict, step: int) -> int:
    """Return how many of the evaluated groups are looked at after `step` steps.

    Those of the tasks seen so far and, at the end of a task, of the next one: what a model knows of
    a task before it is trained on. All of them where tasks recur.
    """
    if block["stream"]["recurring"]:
        return 1 << 30
    return sum(start <= step for start in starts(block))


def segment(config: SimpleNamespace, step: int) -> tuple[int, int]:
    """First step and number of steps of the task that step number `step` belongs to.

    Raises:
        UserError: the workload is not a stream, or hides its boundaries.
    """
    if not hasattr(config, "stream"):
        raise UserError("this workload is not a stream: it has no task boundaries")
    if config.stream.boundaries == "hidden":
        raise UserError(
            "this stream hides its task boundaries", do="workload.mini.stream.boundaries=shown"
        )
    *first, end = begins(config)
    task = bisect(first, step) - 1
    return first[task], [*first[1:], end][task] - first[task]
