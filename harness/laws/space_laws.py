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


Point = tuple[str, dict]  # its title and its values


def choices(declared: dict) -> Iterator[Point]:
    """Yield each choice in SPACE that is not the default, with defaults for the rest."""
    default = space.default(declared)
    for name, spec in declared.items():
        for value in spec.get("choice", ()) if isinstance(spec, dict) else ():
            if value != default[name]:
                yield f"{name}={value}", default | {name: value}


def corners(declared: dict) -> Iterator[tuple[Point, list[Point]]]:
    """Yield all lower and all upper bounds together; each with its bounds alone."""
    default = space.default(declared)
    for title, index in (("all lower bounds", 0), ("all upper bounds", -1)):
        ends = bounds(declared, index)
        alone = [(f"{name}={value}", default | {name: value}) for name, value in ends.items()]
        if ends:
            yield (title, default | ends), alone


def bounds(declared: dict, index: int) -> dict:
    """Return the lower (0) or the upper (-1) bound of each range in SPACE, by name."""
    return {
        name: next(spec[kind] for kind in space.RANGES if kind in spec)[index]
        for name, spec in declared.items()
        if isinstance(spec, dict) and "choice" not in spec
    }


def values(small: SmallRun) -> str:
    """Every choice in SPACE trains without an error, and so do all bounds, together or alone.

    A value that the small workload is too small for may be refused by a UserError. Where a corner
    is refused or fails, each of its bounds is tried alone.
    """
    run, refused = 0, 0
    for title, point in choices(small.space):
        refused += not _trains(small, title, point)
        run += 1
    for (title, point), alone in corners(small.space):
        run += 1
        try:
            whole = _trains(small, title, point)
        except Violation:
            for each in alone:
                _trains(small, *each)
            raise
        if not whole:
            run += len(alone) - 1
            refused += sum(not _trains(small, *each) for each in alone)
    if not run:
        raise NotApplicable("SPACE has no ranges")
    return f"{run} points" + f", {refused} of them refused in words" * bool(refused)


def _trains(small: SmallRun, title: str, point: dict) -> bool:
    """Make a few steps at a point; return whether it was not refused in words.

    Raises:
        Violation: anything else went wrong.
    """
    try:
        small.advance(small.begin(point=point), STEPS)
    except UserError:
        return False
    except Exception as error:
        raise Violation(f"{title}: {in_one_line(error)}", "update") from error
    return True
