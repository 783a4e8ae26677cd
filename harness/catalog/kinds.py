"""Names of kinds: an operation with its shape relative to the workload's own step.

A trial on several processes adds their number, because a pass costs otherwise there:
"forward_backward@ranks=4" is one pass of the workload's batch that four processes share.
"""

import re
from fractions import Fraction

RANKS = "@ranks="
# A ratio. No exponent: a number of a billion digits would take hours to write out.
RATIO = re.compile(r"\d{1,99}([./]\d{1,99})?", re.ASCII)
# Operations that compute, and have a measured price.
OPERATIONS = (
    "forward_backward",
    "forward",
    "hvp",
    "per_example_gradients",
    "vjp",
    "jvp",
    "jacobian",
)
# One all-reduce of all parameters among a workload's clients; the workload states its price.
EXCHANGE = "exchange"
# One label that was bought (harness/catalog/labels.py); the workload states its price.
LABEL = "label"
STATED = (EXCHANGE, LABEL)
NAMED = (*OPERATIONS, *STATED)
# Operations whose passes tell nothing of a gradient, so clients need not talk for them.
SILENT = ("forward", *STATED)


def computes(kind: str) -> bool:
    """Return True if a kind is a computation, not a message or a label."""
    return not kind.startswith(STATED)


def kind_of(operation: str, batch: Fraction, depth: Fraction) -> str:
    """Return the canonical name of a kind; ratios of 1 are left out."""
    assert operation in NAMED, operation
    return operation + f"@batch={batch}" * (batch != 1) + f"@depth={depth}" * (depth != 1)


def parse_kind(kind: str) -> tuple[str, Fraction, Fraction]:
    """Operation, batch ratio and depth ratio of a kind's name; ValueError if it is none.

    Ratios are above 0: a kind of a negative share would have a negative price.
    The number of processes, if the name has one, is left out: see `ranks_of`.
    """
    operation, *shape = alone(kind).split("@")
    ratios = {"batch": Fraction(1), "depth": Fraction(1)}
    for part in shape:
        name, _, value = part.partition("=")
        if name not in ratios:
            raise ValueError(f"{kind!r} is not a kind: {name!r} is neither batch nor depth")
        ratios[name] = _ratio(kind, name, value)
    if operation not in NAMED:
        raise ValueError(f"{kind!r} is not a kind: operations are {', '.join(NAMED)}")
    return operation, ratios["batch"], ratios["depth"]


def _ratio(kind: str, name: str, text: str) -> Fraction:
    """Return the ratio that a kind's name has; ValueError if it is not a positive one."""
    try:
        ratio = Fraction(text if RATIO.fullmatch(text) else 0)
    except ZeroDivisionError:
        ratio = Fraction(0)
    if ratio <= 0:
        raise ValueError(f"{kind!r} is not a kind: {name} must be above 0, such as 1/4")
    return ratio


def among(kind: str, ranks: int) -> str:
    """Return the name of a kind whose passes are shared by so many processes."""
    return kind + f"{RANKS}{ranks}" * (ranks != 1)


def ranks_of(kind: str) -> int:
    """Return the number of processes that share a pass of this kind; ValueError if none can."""
    ranks = int(kind.partition(RANKS)[2] or 1)
    if ranks < 1:
        raise ValueError(f"{kind!r} is not a kind: {ranks} processes cannot share a pass")
    return ranks


def alone(kind: str) -> str:
    """Return the name of the same kind in one process."""
    return kind.partition(RANKS)[0]


def canonical_kind(kind: str) -> str:
    """Return the one name of a kind, with ratios in lowest terms; ValueError if it is none."""
    return among(kind_of(*parse_kind(kind)), ranks_of(kind))


REFERENCE_STEP, FORWARD = "forward_backward", "forward"
