"""The schema of every message that a runner may send: fields, types, ranges, sizes.

A runner shares its process with the submission, so a message may hold anything. Each one is checked
here before a field of it is read.
"""

import math
from collections.abc import Callable

from harness.system.terminal import printable
from harness.train.shared_weights import DTYPES

MOST = 1 << 53  # of a whole number; JSON keeps it exactly
LONGEST = 1e9  # seconds
TEXT = 4000  # letters of a text; its sender cuts a longer one
NAMES = 10_000  # entries of a list of names
# outcomes that a runner may report
FAILURES = ("failed", "refused", "oom", "disk_full", "killed")
Check = Callable[[object], bool]


class FalseClaim(ValueError):
    """A runner's message cannot be true."""


def whole(value) -> bool:
    """Return True for a whole number from 0 up."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def seconds(value) -> bool:
    """Return True for a finite number of seconds from 0 up."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= LONGEST


def _positive(value) -> bool:
    return seconds(value) and value > 0


def text(most: int) -> Check:
    """Return a check for text of at most so many letters."""
    return lambda value: isinstance(value, str) and len(value) <= most


def plain(most: int) -> Check:
    """Return a check for text without control characters, which a terminal can show."""
    return lambda value: isinstance(value, str) and len(value) <= most and printable(value) == value


def many(good: Check, most: int = NAMES) -> Check:
    """Return a check for a list of at most so many good entries."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(good, value))


def mapping(good: Check) -> Check:
    """Return a check for a dictionary of good values."""
    return lambda value: (
        isinstance(value, dict) and len(value) <= NAMES and all(map(good, value.values()))
    )


def optional(good: Check) -> Check:
    """Return a check that also accepts null."""
    return lambda value: value is None or good(value)


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def _loss(value) -> bool:
    """Return True for a mean training loss: any float, NaN included, for a loss may diverge."""
    return isinstance(value, float) or _number(value)


def _switched(value) -> bool:
    return value in (0, 1)


def _row(value) -> bool:
    """Return True for an entry of a layout: name, dtype, shape."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and value[1] in DTYPES
        and many(whole, 16)(value[2])
    )


def _truth(value) -> bool:
    return isinstance(value, bool)


def _privacy(value) -> bool:
    """Return True for a ledger: whether examples were exposed, and calls by noise multiplier."""
    required, known = {"exposed", "spent"}, {"exposed", "spent", "trees"}
    if not (isinstance(value, dict) and required <= value.keys() <= known):
        return False
    noises = [value[name] for name in ("spent", "trees") if name in value]
    return _truth(value["exposed"]) and all(
        mapping(whole)(counts) and all(map(_multiplier, counts)) for counts in noises
    )


def _multiplier(text) -> bool:
    try:
        return seconds(float(text))
    except (TypeError, ValueError):
        return False


HAND_OVER: dict[str, Check] = {
    "step": whole,
    "samples": whole,
    "state_bytes": whole,
    "trainable": whole,
    "training_memory": whole,
    "counts": mapping(whole),
    "passes": mapping(whole),
    "inside": mapping(seconds),
    "outside": seconds,
    "own": seconds,
    "anchor": _positive,
    "merged": _truth,
    "privacy": _privacy,
    "skipped": whole,
    "hooked": optional(plain(TEXT)),
    "active": optional(many(_switched)),
}
SCHEMA: dict[str, dict[str, Check]] = {
    "built": {
        "anchor": _positive,
        "cpu": seconds,
        "layers": many(plain(100), 100),
    },
    "ready": HAND_OVER
    | {"layout": many(_row, 1_000_000), "setup": seconds, "warnings": many(plain(TEXT), 100)},
    "handover": HAND_OVER
    | {"paused": _truth, "passed": many(whole, 1_000_000), "train_loss": optional(_loss)},
    "saved": {"own": seconds},
    "reveal": {"index": many(whole, 1_000_000)},
    "predicted": {
        "dtype": lambda value: value in DTYPES,
        "shape": many(whole, 16),
        "data": text(MOST),
    },
    "failed": {
        "outcome": lambda value: value in FAILURES,
        "error": text(1 << 20),
        "traceback": text(1 << 20),
    },
}
# A hand-over between two evaluations has no mean loss; only private workloads have a ledger, and
# only passes in float16 skip steps.
MAY_LACK = {"train_loss", "privacy", "skipped"}


def check(message: dict) -> None:
    """Check a message against the schema of its kind.

    Raises:
        FalseClaim: the kind is unknown, a field lacks, is not of its type, or is not known.
    """
    fields = SCHEMA.get(message["kind"])
    if fields is None:
        raise FalseClaim(
            f"the runner sent a message {message['kind'][:40]!r}, which does not exist"
        )
    for name, good in fields.items():
        if name not in message and name in MAY_LACK:
            continue
        if name not in message:
            raise FalseClaim(f"the runner's message {message['kind']!r} lacks {name!r}")
        try:
            fits = good(message[name])
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            value = repr(message[name])[:80]
            raise FalseClaim(f"what the runner says cannot be: {name} is {value}")
    if unknown := sorted(map(str, message.keys() - fields.keys() - {"kind"})):
        raise FalseClaim(f"the runner's message {message['kind']!r} has {unknown[0][:40]!r}")
