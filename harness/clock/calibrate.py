"""Measure a workload's price table: which kinds, and the table as it is stored."""

import statistics

from harness.catalog import discover
from harness.catalog.definition import Definition, define, tree_of
from harness.catalog.identity import step_hash
from harness.catalog.kinds import OPERATIONS, REFERENCE_STEP
from harness.clock.measure import Yardstick, level, summary
from harness.clock.prices import SCHEMA, canonical_passes, table_hash
from harness.clock.tables import fingerprint, table_of
from harness.errors import UserError

GRID = ("forward_backward@batch=1/2", "forward_backward@batch=2", "forward@batch=2") + tuple(
    f"forward_backward@depth={depth}" for depth in ("1/4", "1/2", "3/4")
)
STANDARD = "gpt2"  # its step at scale mini, as its frozen table has it, is every table's unit


def kinds_of(definition: Definition) -> list[str]:
    """Kinds of a table: every operation, the lint's grid, what shipped submissions declare."""
    kinds = set(OPERATIONS) | set(GRID)
    for plugin in discover.submissions().values():
        try:
            card = discover.read(plugin)
        except UserError:
            continue
        if definition.track in discover.tracks(card):
            kinds |= canonical_passes(card.literals.get("PASSES", {})).keys()
    return sorted(kinds)


def yardstick(definition: Definition, engine: dict) -> Yardstick | None:
    """The standard workload at its frozen price; None for itself, or where it has no table."""
    standard = define(STANDARD, tree_of(STANDARD), "mini", None)
    table = table_of(standard, engine)
    if standard.key == definition.key or table is None or table.step != step_hash(standard):
        return None
    return Yardstick(standard, table.of(REFERENCE_STEP).seconds, table.origin)


def make_table(
    definition,
    engine: dict,
    found: list[dict],
    trouble: str | None,
    unit: Yardstick | None = None,
) -> dict:
    """The table as it is stored; it carries its own hash."""
    kinds = [kind for kind in found[0]["samples"] if kind != "split"]
    rows = {}
    for kind in kinds:
        seconds, low, high = summary([level(one, kind) for one in found])
        n = sum(len(one["samples"][kind]) for one in found)
        rows[kind] = {
            "seconds": seconds,
            "low": low,
            "high": high,
            "n": n,
            "flops": found[0]["flops"][kind],
        }
    table = {
        "schema": SCHEMA,
        "workload": definition.key,
        "step": step_hash(definition),
        "machine": fingerprint(engine) | {"device": found[0]["device"]},
        "processes": len(found),
        "busy": trouble,
        "prices": rows,
        "checks": {"split": summary([_split(one) for one in found])[0]}
        if "split" in found[0]["samples"]
        else {},
    }
    if unit:
        here = statistics.median(one["yardstick"] for one in found)
        table["yardstick"] = {"table": unit.origin, "seconds": here}
    return table | {"hash": table_hash(table)}


def _split(found: dict) -> float:
    """A step of two accumulated halves over two steps of half a batch."""
    return level(found, "split") / (2 * level(found, "forward_backward@batch=1/2"))
