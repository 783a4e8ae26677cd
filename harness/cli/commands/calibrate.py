"""harness calibrate: measure a workload's price table on this machine."""

import argparse
import sys
from pathlib import Path

from harness.catalog.definition import Definition, define, tree_of
from harness.catalog.kinds import OPERATIONS, REFERENCE_STEP
from harness.cli.arguments import key_values, parser, whole
from harness.clock.calibrate import kinds_of, make_table, standard
from harness.clock.measure import busy, level, measure
from harness.clock.prices import canonical_passes
from harness.clock.table_checks import lint
from harness.clock.tables import prices_path
from harness.errors import UserError
from harness.race import configuration
from harness.system import processes
from harness.system.files import atomic_json


def chosen(
    reader: argparse.ArgumentParser, arguments: list[str]
) -> tuple[Definition, dict, list[str], argparse.Namespace]:
    """Return workload, engine, further kinds and options of `workload=gpt2 scale=mini`."""
    reader.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="workload=NAME (needed), scale=NAME (mini), variant=NAME, engine=auto|cpu|gpu; "
        "further kinds of passes, such as forward@batch=1/4",
    )
    asked = reader.parse_args(arguments)
    kinds, words = [], []
    for word in asked.settings:
        if word.split("=")[0].split("@")[0] in OPERATIONS:
            kinds.append(next(iter(canonical_passes({word: 1}, ""))))
        else:
            words.append(word)
    choices, usual = configuration.default_choices(), configuration.defaults()
    values = key_values(
        words,
        {"workload": "", "scale": usual["scale"], "variant": "", "engine": choices["engine"]},
        f"{reader.prog} workload={choices['workload']}",
    )
    name = values["workload"]
    if not name:
        raise UserError(
            "no workload is named",
            "harness list workloads",
            f"{reader.prog} workload={choices['workload']}",
        )
    definition = define(name, tree_of(name), values["scale"], values["variant"] or None)
    engine = configuration.engine_for(
        configuration.engine_named(values["engine"]), definition.scale
    )
    return definition, engine, kinds, asked


def run(arguments: list[str]) -> int:
    """Measure a workload's price table, print it and write it."""
    reader = parser("calibrate", "Measure the price of every kind of pass, in fresh processes.")
    reader.add_argument(
        "--processes", type=whole(), default=5, help="fresh processes, one after the other (5)"
    )
    reader.add_argument(
        "--rounds", type=whole(), default=5, help="blocks of every kind in each process (5)"
    )
    reader.add_argument(
        "--anyway",
        action="store_true",
        help="on a busy machine too; with --out also a table that makes no sense, and it says so",
    )
    reader.add_argument("--out", type=Path, help="file of the table (results/reference/prices/...)")
    definition, engine, more, asked = chosen(reader, arguments)
    load, unit = processes.load_average(), standard(definition, engine)

    def report(i: int, found: list[dict]) -> None:
        step = 1e3 * level(found[-1], REFERENCE_STEP)
        line = f"process {i + 1} of {asked.processes}: {REFERENCE_STEP} {step:.2f} ms"
        if unit:
            line += f" (now and here {step * found[-1]['yardstick'] / unit.seconds:.2f})"
        print(line, file=sys.stderr)
        trouble = busy(found, load, complete=len(found) == asked.processes)
        if trouble and not asked.anyway:
            raise UserError(
                f"this machine is busy: {trouble}",
                "prices are measured on a quiet one",
                "--processes 9 narrows the interval of a median; --anyway measures all the same, "
                "and the table says so",
            )

    kinds = sorted({*kinds_of(definition), *more}) + ["split"]
    found = measure(definition, engine, kinds, asked.processes, asked.rounds, report, unit)
    table = make_table(definition, engine, found, busy(found, load), unit)
    for kind, row in table["prices"].items():
        print(
            f"{kind:36}{1e3 * row['seconds']:10.2f} ms  "
            f"{1e3 * row['low']:9.2f} to {1e3 * row['high']:.2f}"
        )
    if problems := lint(table):
        # Never in the place of the frozen tables.
        if not (asked.anyway and asked.out):
            raise UserError(
                "the table makes no sense and was not written: " + "; ".join(problems),
                do="measure again on a quiet machine, or add --anyway --out FILE to see it",
            )
        signs = "; ".join(filter(None, [table["busy"], *problems]))
        table = make_table(definition, engine, found, signs, unit)
    path = asked.out or prices_path(definition, engine)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_json(path, table)
    print(f"wrote {path}" + (f"; busy machine: {table['busy']}" if table["busy"] else ""))
    return 0
