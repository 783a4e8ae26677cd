"""harness calibrate: measure a workload's price table on this machine."""

import argparse
import sys
from pathlib import Path

from harness.catalog import discover
from harness.catalog.definition import Definition, define, tree_of
from harness.catalog.kinds import OPERATIONS, REFERENCE_STEP
from harness.clock.calibrate import kinds_of, make_table, yardstick
from harness.clock.measure import busy, level, measure
from harness.clock.prices import canonical_passes
from harness.clock.table_checks import lint
from harness.clock.tables import prices_path
from harness.errors import UserError, nearest
from harness.system import processes
from harness.system.files import atomic_json


def chosen(
    parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[Definition, dict, list[str], argparse.Namespace]:
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
            kinds.append(next(iter(canonical_passes({setting: 1}))))
        elif key in values:
            values[key] = value
        else:
            raise UserError(
                f"{setting!r} is no setting", nearest(key, values), f"{parser.prog} workload=gpt2"
            )
    name = values["workload"] or ""
    tree = tree_of(name)
    engine = discover.ROOT / "conf" / "engine" / f"{values['engine']}.yaml"
    if not engine.exists():
        raise UserError(f"there is no engine {values['engine']!r}", "cpu or gpu")
    definition = define(name, tree, values["scale"], values["variant"])
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
    load, unit = processes.load_average(), yardstick(definition, engine)

    def tell(i: int, found: list[dict]) -> None:
        step = 1e3 * level(found[-1], REFERENCE_STEP)
        told = f"process {i + 1} of {asked.processes}: {REFERENCE_STEP} {step:.2f} ms"
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
