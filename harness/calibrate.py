"""Prices of kinds: measured in fresh processes, kept in a frozen table, checked for sense.

`harness calibrate` measures a workload's table on the reference machine. What a table lacks is
measured where it is needed, as a ratio to the workload's own step, and kept in the cache folder.
"""

import argparse
import ast
import statistics
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from harness import clock, discover, machine, process, workload
from harness.errors import UserError, nearest
from harness.files import atomic_json, read_json
from harness.lint import lint
from harness.measure import Yardstick, busy, level, measure, summary
from harness.meter import OPERATIONS

GRID = ("forward_backward@batch=1/2", "forward_backward@batch=2", "forward@batch=2") + tuple(
    f"forward_backward@depth={depth}" for depth in ("1/4", "1/2", "3/4")
)
STANDARD = "gpt2"  # its step at scale mini, as its frozen table has it, is every table's unit
RACE_ONLY = ("goal", "horizon", "evaluate", "deadlines", "data")
OFF_STEP = ("data", "size", "tokens", "batch", "metric", "score")


def prices_path(definition: workload.Definition, engine: dict) -> Path:
    device = engine["device"].split(":")[0]
    return discover.ROOT / "results" / "reference" / "prices" / f"{definition.key}.{device}.json"


def table_of(definition: workload.Definition, engine: dict) -> clock.Table | None:
    """The workload's frozen table; of a variant without one, its base's, where steps are the same.

    Raises:
        UserError: it is damaged.
    """
    own = clock.load_table(prices_path(definition, engine))
    if own or not definition.variant:
        return own
    base = clock.load_table(prices_path(replace(definition, variant=None), engine))
    return base if base and base.step == step_hash(definition) else None


def step_hash(definition: workload.Definition) -> str:
    """Version of what a step computes: the workload's passes, model and shapes; no comments."""
    parts = []
    for path in discover.sources(discover.find_workload(definition.name)):
        if "data" not in path.parts:
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list):
                    body[:] = [n for n in body if not _off_step(n)]
            parts.append(ast.dump(tree))
    shapes = {k: v for k, v in definition.block.items() if k not in RACE_ONLY}
    return workload.digest(definition.name, workload.canonical(shapes), *parts)[:16]


def _off_step(node: ast.stmt) -> bool:
    """A docstring, or a function of the workload that no pass calls."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.FunctionDef) and node.name in OFF_STEP


def prices(definition: workload.Definition, engine: dict, kinds) -> clock.Table:
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
        one = clock.Price(1.0, 1.0, 1.0)
        table = clock.Table({clock.REFERENCE_STEP: one}, "this machine", why, relative=True)
    elif table.torch != here and not table.why:
        table = replace(
            table, why=f"{table.name} was measured with torch {table.torch}, here is {here}"
        )
    lacking = sorted(set(kinds) - set(table.prices))
    if not lacking:
        return table
    unit = table.of(clock.REFERENCE_STEP).seconds
    local = {
        kind: clock.Price(*found).times(unit)
        for kind, found in ratios(definition, engine, lacking).items()
    }
    why = table.why or f"the price of {', '.join(lacking)} was measured on this machine"
    return replace(table, prices=table.prices | local, why=why)


def ratios(
    definition: workload.Definition, engine: dict, kinds: list[str]
) -> dict[str, list[float]]:
    """Price of each kind over that of a reference step on this machine, with its interval; cached.

    The ratio is rounded to two digits: noise then moves no horizon.
    """
    machine = workload.canonical(fingerprint(engine))
    name = f"{definition.key}-{workload.digest(step_hash(definition), machine)[:16]}.json"
    path = workload.cache_folder() / "prices" / name
    known = read_json(path) if path.exists() else {}
    if lacking := [kind for kind in kinds if kind not in known]:
        print(
            f"harness: measuring {', '.join(lacking)} against {clock.REFERENCE_STEP}, once",
            file=sys.stderr,
        )
        found = measure(definition, engine, [clock.REFERENCE_STEP, *lacking], processes=3, rounds=4)
        for kind in lacking:
            if not all(kind in one["samples"] for one in found):
                raise UserError(
                    f"kind {kind!r} does not fit {definition.key}",
                    do="correct the submission's PASSES",
                )
            value, low, high = summary(
                [level(one, kind) / level(one, clock.REFERENCE_STEP) for one in found]
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


def kinds_of(definition: workload.Definition) -> list[str]:
    """Kinds of a table: every operation, the lint's grid, what shipped submissions declare."""
    kinds = set(OPERATIONS) | set(GRID)
    for plugin in discover.submissions().values():
        try:
            card = discover.read(plugin)
        except UserError:
            continue
        if definition.track in discover.tracks(card):
            kinds |= clock.canonical_passes(card.literals.get("PASSES", {})).keys()
    return sorted(kinds)


def yardstick(definition: workload.Definition, engine: dict) -> Yardstick | None:
    """The standard workload at its frozen price; None for itself, or where it has no table."""
    standard = workload.define(STANDARD, workload.tree_of(STANDARD), "mini", None)
    table = table_of(standard, engine)
    if standard.key == definition.key or table is None or table.step != step_hash(standard):
        return None
    return Yardstick(standard, table.of(clock.REFERENCE_STEP).seconds, table.origin)


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
        "schema": clock.SCHEMA,
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
    return table | {"hash": clock.table_hash(table)}


def _split(found: dict) -> float:
    """A step of two accumulated halves over two steps of half a batch."""
    return level(found, "split") / (2 * level(found, "forward_backward@batch=1/2"))


def chosen(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[workload.Definition, dict, list[str], argparse.Namespace]:
    """Workload, engine, further kinds and options of a command line: `workload=gpt2 scale=mini`."""
    import yaml

    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="workload= scale= variant= engine=, and further kinds",
    )
    asked = parser.parse_args(arguments)
    values = {"workload": None, "scale": "mini", "variant": None, "engine": "cpu"}
    kinds = []
    for setting in asked.settings:
        key, _, value = setting.partition("=")
        if key.split("@")[0] in OPERATIONS:
            kinds.append(next(iter(clock.canonical_passes({setting: 1}))))
        elif key in values:
            values[key] = value
        else:
            raise UserError(
                f"{setting!r} is no setting", nearest(key, values), f"{parser.prog} workload=gpt2"
            )
    name = values["workload"] or ""
    tree = workload.tree_of(name)
    engine = discover.ROOT / "conf" / "engine" / f"{values['engine']}.yaml"
    if not engine.exists():
        raise UserError(f"there is no engine {values['engine']!r}", "cpu or gpu")
    definition = workload.define(name, tree, values["scale"], values["variant"])
    return definition, yaml.safe_load(engine.read_text()), kinds, asked


def calibrate(arguments: list[str]) -> int:
    """harness calibrate: measure a workload's price table on this machine."""
    parser = argparse.ArgumentParser(
        "harness calibrate",
        description="Measure the price of every kind of pass, in fresh processes.",
    )
    parser.add_argument(
        "--processes", type=int, default=5, help="fresh processes, one after the other"
    )
    parser.add_argument("--rounds", type=int, default=5, help="blocks of every kind in each")
    parser.add_argument(
        "--anyway", action="store_true", help="on a busy machine too; the table says so"
    )
    parser.add_argument("--out", type=Path, help="file of the table (results/reference/prices/...)")
    definition, engine, more, asked = chosen(parser, arguments)
    load, unit = process.load_average(), yardstick(definition, engine)

    def tell(i: int, found: list[dict]) -> None:
        step = 1e3 * level(found[-1], clock.REFERENCE_STEP)
        told = f"process {i + 1} of {asked.processes}: {clock.REFERENCE_STEP} {step:.2f} ms"
        if unit:
            told += f" (now and here {step * found[-1]['yardstick'] / unit.seconds:.2f})"
        print(told, file=sys.stderr)
        if not asked.anyway and (trouble := busy(found, load)):
            raise UserError(
                f"this machine is busy: {trouble}",
                "prices are measured on a quiet one",
                "--anyway measures all the same, and the table says so",
            )

    kinds = sorted({*kinds_of(definition), *more}) + ["split"]
    found = measure(definition, engine, kinds, asked.processes, asked.rounds, tell, unit)
    table = make_table(definition, engine, found, busy(found, load), unit)
    for kind, row in table["prices"].items():
        print(
            f"{kind:36}{1e3 * row['seconds']:10.2f} ms  "
            f"{1e3 * row['low']:9.2f} to {1e3 * row['high']:.2f}"
        )
    if problems := lint(table):
        raise UserError(
            "the table makes no sense and was not written: " + "; ".join(problems),
            do="measure again on a quiet machine",
        )
    path = asked.out or prices_path(definition, engine)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_json(path, table)
    print(f"wrote {path}" + (f"; busy machine: {table['busy']}" if table["busy"] else ""))
    return 0
