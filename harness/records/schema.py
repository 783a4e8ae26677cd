"""The schema of a record: which fields it has, of which type, size and depth.

A record comes from anywhere: a run folder or a compact line of another person. Every module that
reads records asks here first, so nothing after it meets a name that is a path, or a number that
overflows.
"""

import re
from collections.abc import Callable
from types import NoneType
from typing import TypeGuard

from harness.catalog.reading import NAME
from harness.records import run_folder

LARGEST = 1e18  # of a number that is computed with: seconds, steps, bounds of a goal
TASKS = 5_000  # of a stream; some metrics compare every two
DEPTH, TEXT = 24, 20_000  # of nested values; characters of a text
# What reading a record that was made up or damaged can raise.
DAMAGED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, StopIteration,
    ArithmeticError, RecursionError, AssertionError,
)  # fmt: skip
# Types whose values are never out of bounds.
HARMLESS = {float, bool, NoneType}
OUTPUT_COLUMNS = ("step", "seconds", "low", "high")  # of a record's table of evaluations


def _is_name(value) -> bool:
    return isinstance(value, str) and bool(NAME.fullmatch(value))


def _is_text(value) -> bool:
    return isinstance(value, str)


def _is_whole(value) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value) -> bool:
    """Return True for a number that a float can hold; nan and inf are numbers here."""
    return isinstance(value, float) or _is_whole(value)


def _is_finite(value) -> bool:
    return _is_number(value) and abs(value) <= LARGEST


def _is_positive(value) -> bool:
    return _is_finite(value) and value > 0


def _is_processes(value) -> bool:
    return _is_whole(value) and value > 0


def _is_names(value) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _is_goal(value) -> bool:
    """Return True for {metric: {"at_most" | "at_least": bound}, ...} with at least one metric."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(
            _is_name(metric)
            and isinstance(rule, dict)
            and len(rule) == 1
            and next(iter(rule)) in ("at_most", "at_least")
            and _is_finite(next(iter(rule.values())))
            for metric, rule in value.items()
        )
    )


def _is_values(value) -> bool:
    """Return True for {name: number or None}."""
    return isinstance(value, dict) and all(
        _is_name(k) and (v is None or _is_number(v)) for k, v in value.items()
    )


def _is_numbers(column: list) -> bool:
    """Return True for a list of numbers and None."""
    kinds = set(map(type, column))
    if kinds <= {float, NoneType}:
        return True
    if kinds == {int}:
        return _is_whole(min(column)) and _is_whole(max(column))
    return all(v is None or _is_number(v) for v in column)


def _is_columns(value) -> bool:
    """Return True for a table of evaluations: columns of one length, of numbers or None."""
    if not isinstance(value, dict) or not isinstance(value.get("metrics"), dict):
        return False
    every = [value.get(name) for name in OUTPUT_COLUMNS] + list(value["metrics"].values())
    columns = [column for column in every if isinstance(column, list)]
    if len(columns) < len(every):
        return False
    same = len({len(column) for column in columns}) == 1
    numbers = all(map(_is_numbers, columns))
    timed = all(_is_finite(v) for name in ("step", "seconds") for v in value[name])
    return same and numbers and timed and _is_values(value.get("before", {}))


def _is_stream(value) -> bool:
    """Return True for the ends of a stream's tasks and each task's list of [step, value]."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("ends"), list)
        and all(_is_whole(end) for end in value["ends"])
        and isinstance(value.get("groups"), list)
        and all(
            isinstance(group, list)
            and all(
                isinstance(point, list)
                and len(point) == 2
                and _is_whole(point[0])
                and (point[1] is None or _is_number(point[1]))
                for point in group
            )
            for group in value["groups"]
        )
    )


def _is_config(value) -> bool:
    """Return True for a workload's numbers; those of a stream have a list of so many tasks."""
    if not isinstance(value, dict) or "stream" not in value:
        return isinstance(value, dict)
    tasks = value["stream"].get("tasks") if isinstance(value["stream"], dict) else None
    return _is_whole(tasks) and 0 < tasks <= TASKS


def _is_prices(value) -> bool:
    """Return True for the prices of kinds: {kind: {"seconds", "low", "high": number, ...}}."""
    needed = ("seconds", "low", "high")
    return isinstance(value, dict) and all(
        isinstance(price, dict)
        and all(_is_finite(price.get(name)) for name in needed)
        and all(v is None or _is_number(v) for v in price.values())
        for price in value.values()
    )


def _is_counts(value) -> bool:
    """Return True for passes by kind, such as {"forward_backward@batch=1/8": 3}."""
    return isinstance(value, dict) and all(_is_finite(n) and n >= 0 for n in value.values())


def _is_continual(value) -> bool:
    """Return True for the metrics of a stream: {convention: {metric: {"value": number}}}."""
    if not isinstance(value, dict):
        return False
    return all(
        isinstance(entry, dict) and ("value" not in entry or _is_number(entry["value"]))
        for convention in value.values()
        if isinstance(convention, dict)
        for entry in convention.values()
    )


def _has(**fields: Callable[[object], bool]) -> Callable[[object], bool]:
    """Return a check that a value is a dict with these fields."""
    return lambda value: (
        isinstance(value, dict) and all(check(value.get(k)) for k, check in fields.items())
    )


def _or_none(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


NEEDED: dict[str, Callable[[object], bool]] = {
    "run_id": _is_name, "workload": _is_name, "scale": _is_name, "variant": _or_none(_is_name),
    "track": _is_name, "workload_hash": _is_text, "submission": _is_name,
    "submission_hash": _is_text, "hp": lambda value: isinstance(value, dict),
    "seed": _is_whole, "trial": _or_none(_is_whole), "study": _is_whole,
    "horizon": _is_positive, "goal": _is_goal, "outcome": _is_text,
    "verified": lambda value: isinstance(value, bool), "time": _or_none(_is_number),
}  # fmt: skip
OPTIONAL: dict[str, Callable[[object], bool]] = {
    "training_hash": _is_text, "reason": _is_text, "best": _is_values, "final": _is_values,
    "step": _is_whole, "samples": _is_number, "state_bytes": _is_number, "flops": _is_number,
    "cpu_seconds": _is_number, "provisional": lambda value: isinstance(value, bool),
    "prices": _is_text, "end": _has(total=_is_finite), "counts": _is_counts,
    "passes": _is_counts, "priced": _is_prices, "config": _is_config,
    "budget": _has(
        steps=_is_positive, factor=_or_none(_is_positive), whole=_or_none(_is_positive)
    ),
    "crossing": _has(step=_is_positive, total=_is_finite, after=_is_finite),
    "evaluations": _is_columns, "stream": _is_stream, "continual": _is_continual,
    "about": _has(
        summary=_or_none(_is_text),
        arxiv=_or_none(lambda v: _is_text(v) and bool(re.fullmatch(r"\d{4}\.\d{4,5}", v))),  # type: ignore
    ),
    "engine": lambda value: isinstance(value, dict),
    "processes": _is_processes, "options": _is_names, "device_seconds": _is_finite,
    "skipped_steps": _is_whole,
}  # fmt: skip


def check_bounds(value: object) -> None:
    """Raise ValueError if a JSON value is nested too deep, or has a text or number out of bounds.

    A text must be one that can be written as UTF-8.
    """
    depth, level = 0, [value]
    while level:
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                if len(item) > TEXT or (not item.isascii() and _is_broken(item)):
                    raise ValueError("damaged: a text is too long, or is not valid Unicode")
            elif isinstance(item, dict | list):
                if depth >= DEPTH:
                    raise ValueError(f"damaged: nested more than {DEPTH} deep")
                below += _to_check([*item, *item.values()] if isinstance(item, dict) else item)
            elif isinstance(item, int) and not isinstance(item, bool) and not _is_whole(item):
                raise ValueError(f"damaged: a whole number has {item.bit_length()} bits")
        depth, level = depth + 1, below


def _to_check(items: list) -> list:
    """Return the items that can be out of bounds: of a column of whole numbers only the ends."""
    kinds = set(map(type, items))
    if kinds <= HARMLESS:
        return []
    if kinds == {int}:
        return [min(items), max(items)]
    return [item for item in items if type(item) not in HARMLESS]


def _is_broken(text: str) -> bool:
    """Return True if a text has half of a surrogate pair."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def check_environment(value: object) -> dict:
    """Return a run's environment; raise ValueError if it is not one."""
    check_bounds(value)
    parts = _has(
        torch=_or_none(lambda v: isinstance(v, dict)), git=_or_none(_has(commit=_is_text)),
        packages=_or_none(lambda v: isinstance(v, dict)), cores=_or_none(_is_positive),
        load_average=_or_none(_is_finite), machine=_or_none(_is_text), python=_or_none(_is_text),
    )  # fmt: skip
    if not isinstance(value, dict) or not parts(value):
        raise ValueError("damaged: not a valid environment")
    return value


def check(rec: object) -> None:
    """Raise ValueError, with the reason, unless the record is one that can count."""
    check_bounds(rec)
    check_fields(rec)


def check_fields(rec: object) -> None:
    """Raise ValueError unless a value within bounds has the fields of a record that can count."""
    if not isinstance(rec, dict) or rec.get("schema") != run_folder.SCHEMA:
        schema = rec.get("schema") if isinstance(rec, dict) else None
        raise ValueError(f"schema {schema}; this harness reads schema {run_folder.SCHEMA}")
    missing = [name for name in NEEDED if name not in rec]
    if missing:
        raise ValueError(f"damaged: it lacks {', '.join(missing)}")
    wrong = [name for name, valid in NEEDED.items() if not valid(rec[name])]
    given = {name: rec[name] for name in OPTIONAL if rec.get(name) is not None}
    wrong += [name for name, value in given.items() if not OPTIONAL[name](value)]
    if wrong:
        raise ValueError(f"damaged: not a valid {', '.join(wrong)}")
    if rec["outcome"] not in run_folder.FINAL:
        why = f" ({rec['reason']})" if rec.get("reason") else ""
        raise ValueError(f"not a result: {rec['outcome']}{why}")
    if rec["outcome"] == "reached" and not _is_positive(rec["time"]):
        raise ValueError(f"damaged: outcome reached with time {rec['time']}")
