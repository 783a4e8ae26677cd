"""Compares this machine with a workload's price table, kind by kind."""

import sys

from harness.catalog.kinds import REFERENCE_STEP
from harness.cli.arguments import parser, whole
from harness.cli.commands import calibrate
from harness.clock import measure, prices, tables
from harness.clock.measure import busy
from harness.errors import UserError
from harness.system import processes
from harness.system.command_line import harness
from harness.system.files import read_json

FAR = 1.10  # a kind this many times dearer or cheaper here than in the table may change a ranking


def run(arguments: list[str]) -> int:
    """Print whether rankings by the table would hold on this machine.

    Prices are compared as multiples of the reference step, so a machine that is faster at
    everything agrees with the table.
    """
    reader = parser("audit", "Compare this machine with a workload's price table.")
    reader.add_argument(
        "--processes", type=whole(), default=3, help="fresh processes, one after the other (3)"
    )
    definition, engine, kinds, asked = calibrate.chosen(reader, arguments)
    path = tables.prices_path(definition, engine)
    table = tables.table_of(definition, engine)
    if table is None:
        raise UserError(
            f"{definition.key} has no price table for {engine['device']}",
            do=harness("calibrate", *asked.settings),
        )
    load = processes.load_average()
    wanted = [
        REFERENCE_STEP,
        *sorted((set(kinds) or set(table.prices)) - {REFERENCE_STEP}),
    ]
    found = measure.measure(definition, engine, wanted, asked.processes, 3)
    lines = compare(table, found)
    machine = read_json(path.with_name(table.name))["machine"]
    print(f"table: {machine['cpu']}, torch {machine['torch']}; prices in reference steps")
    print(f"{'kind':36}{'table':>9}{'here':>9}{'here/table':>12}")
    for kind, there, here, low, high in lines:
        far = "  differs" if low / there > FAR or high / there < 1 / FAR else ""
        print(f"{kind:36}{there:9.3f}{here:9.3f}{here / there:12.3f}{far}")
    if table.step != tables.step_of(definition):
        print("the step's code or shapes are not those of the table")
    if trouble := busy(found, load):
        print(f"this machine was busy: {trouble}", file=sys.stderr)
    differing = [
        kind for kind, there, _, low, high in lines if low / there > FAR or high / there < 1 / FAR
    ]
    if differing:
        print(
            f"rankings that hang on {', '.join(differing)} may be specific to the reference machine"
        )
    else:
        print(
            "this machine agrees with the table: nothing here makes rankings specific to hardware"
        )
    return 0


def compare(table: prices.Table, found: list[dict]) -> list[tuple[str, float, float, float, float]]:
    """Of every kind: its price in reference steps by the table, here, and the interval here."""
    unit, lines = table.of(REFERENCE_STEP).seconds, []
    for kind in found[0]["samples"]:
        if kind in table.prices:
            levels = [measure.level(one, kind) / tables.level(one, REFERENCE_STEP) for one in found]
            lines.append((kind, table.of(kind).seconds / unit, *measure.summary(levels)))
    return lines
