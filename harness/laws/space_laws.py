"""Laws about SPACE: its points are valid, and its values run."""

import math
from collections.abc import Iterator

from harness.catalog import space
from harness.errors import UserError
from harness.laws.small_run import SmallRun
from harness.laws.verdicts import NotApplicable, Violation
from harness.train.failure import in_one_line

# Points of SPACE that `points` checks.
SAMPLED = 16
# Steps that `values` makes at each point: the first, and one with the state of a first.
STEPS = 2


def points(small: SmallRun) -> str:
    """SPACE is valid; its default and sampled points are finite and inside it."""
    sampled = [space.default(small.space)]
    sampled += [space.point(small.space, 0, index) for index in range(SAMPLED)]
    for point in sampled:
        for name, value in point.items():
            space.check(small.space, name, value, small.card.plugin.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise Violation(f"SPACE[{name!r}] gives {value}")
    return f"{len(small.space)} hyperparameters, {len(sampled)} points finite"


def extremes(declared: dict) -> Iterator[tuple[str, dict]]:
    """Yield the points at the ends of SPACE, each with its name.

    Each bound of a range and each choice, with defaults for the rest; then all lower and all upper
    bounds together.
    """
    default = space.default(declared)
    ends = {
        name: spec["choice"]
        if "choice" in spec
        else next(spec[k] for k in space.RANGES if k in spec)
        for name, spec in declared.items()
        if isinstance(spec, dict)
    }
    for name, values in ends.items():
        for value in values:
            if value != default[name]:
                yield f"{name}={value}", default | {name: value}
    for title, index in (("all lower bounds", 0), ("all upper bounds", -1)):
        if len(ends) > 1:
            yield title, default | {name: values[index] for name, values in ends.items()}


def values(small: SmallRun) -> str:
    """Every bound and every choice in SPACE trains without an error, and so do its corners.

    A value that the small workload is too small for may be refused by a UserError.
    """
    run = refused = 0
    for title, point in extremes(small.space):
        try:
            small.advance(small.begin(point=point), STEPS)
        except UserError:
            refused += 1
        except Exception as error:
            raise Violation(f"{title}: {in_one_line(error)}", "update") from error
        run += 1
    if not run:
        raise NotApplicable("SPACE has no ranges")
    return f"{run} points" + f", {refused} of them refused in words" * bool(refused)
