"""Labels that cost: the numbers of a workload's block `labels`.

    tensor    the training data's labels, one row an example
    start     random examples whose labels are there from the start
    price     of a label, in reference steps; it is charged to the time
    rounds    how often random labels are bought for a submission that buys none itself
    size      labels of such a round

A goal may bound `labels`, the number of examples whose labels were given.
"""

from harness.catalog import streams
from harness.catalog.kinds import LABEL
from harness.errors import UserError

BLOCK = "labels"
LEAST = {"start": 1, "price": 0, "rounds": 0, "size": 0}


def check(block: dict, where: str) -> None:
    """Raise UserError for numbers that labels cannot be sold by."""
    labels, known = block[BLOCK], ("tensor", *LEAST)
    streams.check_keys(labels, known, f"{where}.{BLOCK}")
    if not isinstance(labels["tensor"], str):
        raise UserError(f"{where}.{BLOCK}.tensor={labels['tensor']!r}", "the name of a tensor")
    for key, least in LEAST.items():
        value, kinds = labels[key], (int, float) if key == "price" else int
        if isinstance(value, bool) or not isinstance(value, kinds) or value < least:
            number = "a number" if key == "price" else "a whole number"
            raise UserError(f"{where}.{BLOCK}.{key}={value!r}", f"{number} from {least} up")
    if "stream" in block or "private" in block:
        raise UserError(f"{where} has {BLOCK} and is a stream or private", "one of them")


def given(block: dict, counts: dict[str, int]) -> int:
    """Return how many examples have a label: those of the start, and those bought."""
    return block[BLOCK]["start"] + counts.get(LABEL, 0)
