"""What the lint of price tables misses, tried on the committed tables: docs/clock.md names it."""

import itertools
import json
import re

from harness.catalog.discover import ROOT
from harness.catalog.kinds import parse_kind
from harness.clock.prices import table_hash
from harness.clock.table_checks import lint

TABLES = [
    json.loads(path.read_text())
    for path in sorted((ROOT / "results" / "reference" / "prices").glob("*.json"))
]
PAGE = (ROOT / "docs" / "clock.md").read_text()
NUMBERS = ("seconds", "low", "high")
APART = 1.35  # ratio of two prices that are clearly different


def changed(table: dict, rows: dict) -> dict:
    """Return the table with these entries in place of its own."""
    return table | {"prices": table["prices"] | rows}


def swaps(table: dict):
    """Yield the table with each pair of clearly different prices swapped."""
    for (first, a), (second, b) in itertools.combinations(table["prices"].items(), 2):
        low, high = sorted((a["seconds"], b["seconds"]))
        if high > APART * low:
            swapped = {
                first: a | {n: b[n] for n in NUMBERS},
                second: b | {n: a[n] for n in NUMBERS},
            }
            yield changed(table, swapped)


def test_the_page_names_the_operations_whose_tenfold_errors_pass():
    passed = {
        parse_kind(kind)[0]
        for table in TABLES
        for kind, row in table["prices"].items()
        for factor in (0.1, 10.0)
        if not lint(changed(table, {kind: row | {n: row[n] * factor for n in NUMBERS}}))
    }
    sentence = re.search(r"tenfold error in the price of (.+?) passes", PAGE.replace("\n", " "))
    assert sentence
    assert passed == set(re.findall(r"`(\w+)`", sentence[1]))


def test_the_page_counts_the_swapped_prices_that_pass():
    problems = [lint(table) for original in TABLES for table in swaps(original)]
    missed = sum(not problem for problem in problems)
    assert f"{missed} of {len(problems)} swaps" in PAGE.replace("\n", " ")


def test_the_hash_of_a_table_shows_every_swap():
    for original in TABLES:
        assert table_hash(original) == original["hash"]
        assert all(table_hash(table) != original["hash"] for table in swaps(original))


def test_where_a_backward_pass_has_no_arithmetic_a_forward_pass_may_cost_as_much():
    row = {"seconds": 1e-3, "low": 0.9e-3, "high": 1.1e-3, "flops": 1000}
    cheaper = {n: 0.8 * row[n] for n in NUMBERS}
    table = {"prices": {"forward_backward": row, "forward": row | cheaper}, "checks": {}}
    assert lint(table) == []
    halved = changed(table, {"forward": row | cheaper | {"flops": 300}})
    assert lint(halved) != []
