"""Decide which kinds a workload's price table has, and build the table as it is stored."""

import statistics

from harness.catalog import discover
from harness.catalog.definition import Definition, define, tree_of
from harness.catalog.kinds import OPERATIONS, REFERENCE_STEP, computes
from harness.clock.measure import Standard, level, summary
from harness.clock.prices import SCHEMA, canonical_passes, table_hash
from harness.clock.tables import fingerprint, step_of, table_of
from harness.errors import UserError

# Kinds that `table_checks.lint` compares with each other.
GRID = ("forward_backward@batch=1/2", "forward_backward@batch=2", "forward@batch=2") + tuple(
    f"forward_backward@depth={depth}" for depth in ("1/4", "1/2", "3/4")
)
# A reference step of this workload at scale mini, at its frozen price, is the unit of every table.
STANDARD = "gpt2"


def kinds_of(definition: Definition) -> list[str]:
    """Return the kinds of a table: all operations, the grid, and those that submissions declare."""
    kinds = set(OPERATIONS) | set(GRID)
    for plugin in discover.submissions().values():
        try:
            card = discover.read(plugin)
        except UserError:
            continue
        if definition.track in discover.tracks(card):
            kinds |= canonical_passes(card.literals.get("PASSES", {})).keys()
    return sorted(kind for kind in kinds if computes(kind))


def standard(definition: Definition, engine: dict) -> Standard | None:
    """Return the standard workload with its frozen price.

    Return None for the standard workload itself, or if it has no table for this engine.
    """
    reference = define(STANDARD, tree_of(STANDARD), "mini", None)
    table = table_of(reference, engine)
    if reference.key == definition.key or table is None or table.step != step_of(reference):
        return None
    return Standard(reference, table.of(REFERENCE_STEP).seconds, table.origin)


def make_table(
    definition,
    engine: dict,
    timings: list[dict],
    busy: str | None,
    standard: Standard | None = None,
) -> dict:
    """Return the table as it is stored, with its own hash.

    Args:
        timings: what `measure` returned, one for each process.
        busy: signs that the machine was busy, or None.
        standard: the workload that was timed with the kinds, if there was one.
    """
    kinds = [kind for kind in timings[0]["samples"] if kind != "split"]
    rows = {}
    for kind in kinds:
        seconds, low, high = summary([level(timing, kind) for timing in timings])
        n = sum(len(timing["samples"][kind]) for timing in timings)
        rows[kind] = {
            "seconds": seconds,
            "low": low,
            "high": high,
            "n": n,
            "flops": timings[0]["flops"][kind],
        }
    table = {
        "schema": SCHEMA,
        "workload": definition.key,
        "step": step_of(definition),
        "machine": fingerprint(engine) | {"device": timings[0]["device"]},
        "processes": len(timings),
        "busy": busy,
        "prices": rows,
        "checks": {"split": summary([_split(timing) for timing in timings])[0]}
        if "split" in timings[0]["samples"]
        else {},
    }
    if standard:
        seconds_here = statistics.median(timing["yardstick"] for timing in timings)
        table["yardstick"] = {"table": standard.origin, "seconds": seconds_here}
    return table | {"hash": table_hash(table)}


def _split(timing: dict) -> float:
    """Return the time of a step of two accumulated halves, over two steps of half a batch."""
    return level(timing, "split") / (2 * level(timing, "forward_backward@batch=1/2"))
