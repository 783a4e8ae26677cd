"""The best value of a run: among the evaluations that meet most of the goal's other conditions."""

import math

import pytest

from harness.catalog.definition import define, tree_of
from harness.records import rejudge
from harness.records.judging import best
from harness.records.run import RecordedRun

GOAL = {"loss": {"at_most": 3.97}, "sparsity": {"at_least": 0.8}, "bits": {"at_most": 4.0}}


def row(loss, sparsity, bits):
    return {"metrics": {"loss": loss, "sparsity": sparsity, "bits": bits}}


DENSE, PRUNED, BOTH = row(3.9, 0.0, 32.0), row(3.95, 0.8, 32.0), row(4.2, 0.8, 4.0)


@pytest.mark.parametrize(
    "rows, value",
    [
        ([DENSE], 3.9),  # nothing is met: the best of all
        ([DENSE, row(3.8, 0.1, 32.0)], 3.8),
        ([DENSE, PRUNED], 3.95),
        ([DENSE, PRUNED, BOTH], 4.2),
        ([DENSE, BOTH, row(4.1, 0.9, 3.0), PRUNED], 4.1),
        ([DENSE, row(math.nan, 0.8, 4.0)], 3.9),  # a loss that is no number is none
        ([row(3.9, None, math.nan), PRUNED], 3.95),
        ([row(None, 0.8, 4.0)], None),
        ([], None),
    ],
)
def test_a_model_before_it_is_compressed_is_not_the_best(rows, value):
    assert best(rows, GOAL) == value


def test_nothing_is_a_value_too():
    assert best([{"metrics": {"accuracy": 0.0}}], {"accuracy": {"at_least": 0.8}}) == 0.0


def test_a_record_has_its_best_value_by_its_goal_however_old_it_is():
    definition = define("compress_gpt2", tree_of("compress_gpt2"), "mini", None)
    goal = definition.block["goal"]
    columns = {"step": [0, 100, 200], "seconds": [0.0, 1.0, 2.0], "low": [0.0, 1.0, 2.0]}
    columns |= {"high": [0.0, 1.0, 2.0]}
    columns["metrics"] = {"loss": [3.9, 4.2, 4.1], "sparsity": [0.0, 0.8, 0.8]}
    record = {
        "workload": "compress_gpt2", "scale": "mini", "variant": None, "goal": goal,
        "workload_hash": definition.hash, "evaluations": columns, "best": {"loss": 3.9},
        "chain": "of the record that said otherwise",
    }  # fmt: skip
    told = rejudge.by_present_rules(RecordedRun(record, [], {})).record
    assert told == {k: v for k, v in record.items() if k != "chain"} | {"best": {"loss": 4.1}}
    exact = RecordedRun(record | {"best": {"loss": 4.1 + 1e-10}}, [], {})
    assert rejudge.by_present_rules(exact) is exact
