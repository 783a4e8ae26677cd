"""Prices of kinds: measured in fresh processes, kept in a frozen table, checked for sense.

`harness calibrate` measures a workload's table on the reference machine. What a table lacks is
measured where it is needed, as a ratio to the workload's own step, and kept in the cache folder.
"""

import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from harness.catalog.definition import Definition
from harness.catalog.identity import step_hash
from harness.catalog.kinds import REFERENCE_STEP
from harness.clock.measure import level, measure, summary
from harness.clock.prices import Price, Table, load_table
from harness.errors import UserError
from harness.system import hashing, machine, paths
from harness.system.files import atomic_json, read_json


def prices_path(definition: Definition, engine: dict) -> Path:
    """Return the path of the workload's frozen table for a device."""
    device = engine["device"].split(":")[0]
    return definition.frozen / "prices" / f"{definition.key}.{device}.json"


def table_of(definition: Definition, engine: dict) -> Table | None:
    """The workload's frozen table; of a variant without one, its base's, where steps are the same.

    Raises:
        UserError: it is damaged.
    """
    own = load_table(prices_path(definition, engine))
    if own or not definition.variant:
        return own
    base = load_table(prices_path(replace(definition, variant=None), engine))
    return base if base and base.step == step_hash(definition) else None


def prices(definition: Definition, engine: dict, kinds) -> Table:
    """The table for a trial of these kinds: the frozen one, with what it lacks measured here.

    Raises:
        UserError: the frozen table is damaged, or a kind does not fit the workload.
    """
    step, here = step_hash(definition), version("torch").split("+")[0]
    table = table_of(definition, engine)
    if table is None or table.step != step:
        why = f"{definition.key} has no price table for this device"
        if table:
            why = f"the step's code or shapes are not those that {table.name} was measured with"
        one = Price(1.0, 1.0, 1.0)
        table = Table({REFERENCE_STEP: one}, "this machine", why, relative=True)
    elif table.torch != here and not table.why:
        table = replace(
            table, why=f"{table.name} was measured with torch {table.torch}, here is {here}"
        )
    lacking = sorted(set(kinds) - set(table.prices))
    if not lacking:
        return table
    unit = table.of(REFERENCE_STEP).seconds
    local = {
        kind: Price(*found).times(unit)
        for kind, found in ratios(definition, engine, lacking).items()
    }
    why = table.why or f"the price of {', '.join(lacking)} was measured on this machine"
    return replace(table, prices=table.prices | local, why=why)


def ratios(definition: Definition, engine: dict, kinds: list[str]) -> dict[str, list[float]]:
    """Price of each kind over that of a reference step on this machine, with its interval; cached.

    The ratio is rounded to two digits: noise then moves no horizon.
    """
    machine = hashing.canonical(fingerprint(engine))
    name = f"{definition.key}-{hashing.digest(step_hash(definition), machine)[:16]}.json"
    path = paths.cache_folder() / "prices" / name
    known = read_json(path) if path.exists() else {}
    if lacking := [kind for kind in kinds if kind not in known]:
        print(
            f"harness: measuring {', '.join(lacking)} against {REFERENCE_STEP}, once",
            file=sys.stderr,
        )
        found = measure(definition, engine, [REFERENCE_STEP, *lacking], processes=3, rounds=4)
        for kind in lacking:
            if not all(kind in one["samples"] for one in found):
                raise UserError(
                    f"kind {kind!r} does not fit {definition.key}",
                    do="correct the submission's PASSES",
                )
            value, low, high = summary(
                [level(one, kind) / level(one, REFERENCE_STEP) for one in found]
            )
            near = float(f"{value:.2g}")
            known[kind] = [near, min(low, near), max(high, near)]
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_json(path, known)
    return {kind: known[kind] for kind in kinds}


def fingerprint(engine: dict) -> dict:
    """What a price depends on besides the step: processor, torch, threads."""
    torch = version("torch").split("+")[0]
    return {
        "cpu": machine.cpu_model(),
        "torch": torch,
        "threads": engine["threads"],
        "device": engine["device"],
    }
