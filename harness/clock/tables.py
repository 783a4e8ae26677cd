"""Find the price table of a trial, and measure the kinds that the table does not have.

`harness calibrate` measures a workload's table on the reference machine. A kind that a table does
not have is measured on the machine that needs it, as a ratio to the workload's own step. The ratio
is kept in the cache folder.
"""

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from harness.catalog import labels
from harness.catalog.definition import Definition, tree_of
from harness.catalog.identity import step_hash
from harness.catalog.kinds import EXCHANGE, LABEL, REFERENCE_STEP, computes, parse_kind
from harness.clock.measure import level, measure, summary
from harness.clock.prices import Price, Table, load_table
from harness.errors import UserError
from harness.system import hashing, machine, paths
from harness.system.files import atomic_json, read_json


def prices_path(definition: Definition, engine: dict) -> Path:
    """Return the path of the workload's frozen table for a device."""
    device = "-".join([engine["device"].split(":")[0], *passes_options(engine)])
    return definition.frozen / "prices" / f"{definition.key}.{device}.json"


def passes_options(engine: dict) -> list[str]:
    """Return what an engine does to the passes, in words: their prices are others."""
    return [
        name if value is True else str(value)
        for name, value in sorted(engine.items())
        if name in ("shard", "precision", "compile", "checkpointing") and value is not False
    ]


def table_of(definition: Definition, engine: dict) -> Table | None:
    """Return the workload's frozen table, or None.

    A variant without a table has that of its base, if their steps are the same.

    Raises:
        UserError: the table is damaged.
    """
    own = load_table(prices_path(definition, engine))
    if own or not definition.variant:
        return own
    base = load_table(prices_path(replace(definition, variant=None), engine))
    return base if base and base.step == step_of(definition) else None


def step_of(definition: Definition) -> str:
    """Return the hash of a step, whatever an exchange or a label costs.

    A stated price is no part of what a step computes, so the hash is that with the scale's own
    price. A variant that changes the price has the table of its base.
    """
    block = definition.block
    stated = [(name, key) for name, key, *_ in STATES.values() if name in block]
    if not stated:
        return step_hash(definition)
    scale = tree_of(definition.place or definition.name)[definition.scale]
    own = {name: block[name] | {key: scale.get(name, block[name])[key]} for name, key in stated}
    return step_hash(replace(definition, block=block | own))


def prices(definition: Definition, engine: dict, kinds) -> Table:
    """Return the price table for a trial: the frozen table, plus local measurements.

    Kinds that the frozen table does not have are measured on this machine, and the table then says
    why its results are provisional.

    Raises:
        UserError: the frozen table is damaged, or a kind does not fit the workload.
    """
    step, installed = step_of(definition), version("torch").split("+")[0]
    table = table_of(definition, engine)
    if table is None or table.step != step:
        why = f"{definition.key} has no price table for this device"
        if table:
            why = f"the step's code or shapes are not those that {table.name} was measured with"
        price = Price(1.0, 1.0, 1.0)
        table = Table({REFERENCE_STEP: price}, "this machine", why, relative=True)
    elif table.torch != installed and not table.why:
        table = replace(
            table, why=f"{table.name} was measured with torch {table.torch}, here is {installed}"
        )
    fixed = stated(definition, kinds, table.of(REFERENCE_STEP))
    table = replace(table, prices=table.prices | fixed) if fixed else table
    missing = sorted(set(kinds) - set(table.prices))
    if not missing:
        return table
    step_seconds = table.of(REFERENCE_STEP).seconds
    local = {
        kind: Price(*interval).times(step_seconds)
        for kind, interval in ratios(definition, engine, missing).items()
    }
    why = table.why or f"the price of {', '.join(missing)} was measured on this machine"
    return replace(table, prices=table.prices | local, why=why)


# For each kind whose price a workload states: the block with the price, its key, what a workload
# without the block is, and one that has it.
STATES = {
    EXCHANGE: ("fed", "exchange", "has no clients", "fed"),
    LABEL: (labels.BLOCK, "price", "sells no labels", "active"),
}


def stated(definition: Definition, kinds, step: Price) -> dict[str, Price]:
    """Return the prices of exchanges and labels, which the workload states in reference steps.

    Raises:
        UserError: the workload has no clients, or sells no labels.
    """
    found, block = {}, definition.block
    for kind in (kind for kind in kinds if not computes(kind)):
        operation, share, _ = parse_kind(kind)
        name, key, lacks, example = STATES[operation]
        if name not in block:
            raise UserError(
                f"{definition.key} {lacks}, so {kind!r} has no price there",
                f"workloads whose YAML has `{name}`",
                f"workload={example}",
            )
        found[kind] = replace(step.times(float(share * block[name][key])), flops=0)
    return found


def ratios(definition: Definition, engine: dict, kinds: list[str]) -> dict[str, list[float]]:
    """Return each kind's price over that of a reference step on this machine, with its interval.

    The result is cached. The ratio is rounded to two digits, so that noise does not change a
    horizon.
    """
    machine = hashing.canonical(fingerprint(engine))
    name = f"{definition.key}-{hashing.digest(step_of(definition), machine)[:16]}.json"
    path = paths.cache_folder() / "prices" / name
    stored = read_json(path) if path.exists() else {}
    if missing := [kind for kind in kinds if kind not in stored]:
        print(
            f"harness: measuring {', '.join(missing)} against {REFERENCE_STEP}, once",
            file=sys.stderr,
        )
        timings = measure(definition, engine, [REFERENCE_STEP, *missing], processes=3, rounds=4)
        for kind in missing:
            if not all(kind in timing["samples"] for timing in timings):
                raise UserError(
                    f"kind {kind!r} does not fit {definition.key}",
                    do="correct the submission's PASSES",
                )
            value, low, high = summary(
                [level(timing, kind) / level(timing, REFERENCE_STEP) for timing in timings]
            )
            rounded = float(f"{value:.2g}")
            stored[kind] = [rounded, min(low, rounded), max(high, rounded)]
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_json(path, stored)
    return {kind: stored[kind] for kind in kinds}


def fingerprint(engine: dict) -> dict:
    """Return what a price depends on besides the step: processor, torch, threads."""
    torch = version("torch").split("+")[0]
    return {
        "cpu": machine.cpu_model(),
        "torch": torch,
        "threads": engine["threads"],
        "device": engine["device"],
        **({"options": options} if (options := passes_options(engine)) else {}),
    }
