"""Laws of the table that compares rankings between scales."""

import math

import pytest

from harness.records.run import RecordedRun
from scripts import transfer


def run(submission, scale, time, seed=0, lr=1.0, variant=None):
    record = {
        "workload": "gpt2", "scale": scale, "variant": variant, "submission": submission,
        "seed": seed, "hp": {"lr": lr}, "outcome": "reached" if time else "out_of_budget",
        "time": time,
    }  # fmt: skip
    return RecordedRun(record, [], {})


def field(scale, order, slow=1.0):
    return [run(f"m{i}", scale, slow * (1 + rank)) for i, rank in enumerate(order)]


def line_of(runs):
    (line,) = transfer.rows(transfer.times(runs))
    return line


def test_equal_and_opposite_rankings_have_correlations_of_one_and_minus_one():
    same = line_of(field("mini", range(6)) + field("small", range(6), slow=7))
    assert (same["Spearman"], same["Kendall"], same["same best"]) == ("1.00", "1.00", "yes")
    other = line_of(field("mini", range(6)) + field("small", [*reversed(range(6))]))
    assert (other["Spearman"], other["Kendall"], other["same best"]) == ("-1.00", "-1.00", "no")
    assert other["scales"] == "mini, small"


def test_a_known_ranking_has_the_correlation_of_its_definition():
    ours = line_of(field("mini", range(5)) + field("base", [1, 0, 2, 4, 3]))
    # 1 - 6·Σd²/(n(n² - 1)) with Σd² = 4, and (8 - 2)/10 of the pairs
    assert (ours["Spearman"], ours["Kendall"]) == ("0.80", "0.60")
    low, high = map(float, ours["95 %"].split(" to "))
    assert low <= 0.8 <= high


def test_too_few_submissions_have_no_correlation():
    line = line_of(field("mini", range(4)) + field("small", range(4)))
    assert line["submissions"] == "4"
    assert line["Spearman"].startswith("too few")


def test_misses_are_last_and_tied():
    runs = field("mini", range(6)) + [
        run(f"m{i}", "small", 1.0 + i if i < 4 else None) for i in range(6)
    ]
    found = transfer.times(runs)
    assert math.isinf(found["gpt2", "small"]["m5"])
    rho, _ = transfer.correlation([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, math.inf, math.inf])
    assert rho == pytest.approx(0.9856, abs=1e-4)
    assert line_of(runs)["Spearman"] == "0.99"


def test_a_time_is_the_median_over_seeds_of_the_best_point_that_has_them():
    seeds = [run("a", "mini", time, seed) for seed, time in enumerate((3.0, 5.0, 9.0))]
    lucky = [run("a", "mini", 1.0, seed=7, lr=2.0)]
    variants = [run("a", "mini", 0.1, variant="deep")]
    assert transfer.times(seeds + lucky + variants) == {("gpt2", "mini"): {"a": 5.0}}


def test_a_table_without_rows_says_so():
    assert "No workload" in transfer.table([])


def measured(small, *, least=True, rates=(0.1, 0.2)):
    """Return what benches/transfer.py writes of methods with the values 0, 1, ... at mini."""
    methods = {
        f"m{i}": {
            "mini": {"lr": rates[0], "seeds": [i - 0.1, i + 0.1]},
            "small": {"lr": rates[1], "seeds": [value, value]},
        }
        for i, value in enumerate(small)
    }
    return {
        "workload": "gpt2", "metric": "loss", "least": least, "budget": None,
        "rates": list(rates), "seeds": 2, "methods": methods,
    }  # fmt: skip


def test_last_values_are_ranked_by_the_metrics_own_direction():
    text = transfer.ends(measured([1.0, 0.0, 2.0, 4.0, 3.0]))
    assert "Spearman's rho 0.80" in text
    assert "Kendall's tau 0.60" in text
    assert "The best is m0 at mini and m1 at small." in text
    assert "2.00 times" in text
    assert "the same rate for 0 of 5 methods" in text
    assert text.index("| m0 |") < text.index("| m4 |")
    most = transfer.ends(measured([1.0, 0.0, 2.0, 4.0, 3.0], least=False))
    assert "The best is m4 at mini and m3 at small." in most
    assert most.index("| m4 |") < most.index("| m0 |")


def test_a_method_that_diverged_is_last_and_few_have_no_correlation():
    worst = measured([0.0, 1.0, 2.0, 3.0, None])
    assert "2 of 2 diverged" in transfer.ends(worst)
    assert "Spearman's rho 1.00" in transfer.ends(worst)
    assert "Too few methods" in transfer.ends(measured([0.0, 1.0]))
