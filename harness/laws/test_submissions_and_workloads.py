"""Tests that `pytest --pyargs harness.laws` collects: one for each law and file (plugin.py)."""

from functools import lru_cache

import pytest
import torch

from harness.catalog import discover
from harness.catalog.definition import define, scales_of, tree_of
from harness.laws import laws, workload_laws
from harness.laws.small_run import SmallRun
from harness.laws.verdicts import BROKEN, KEPT, Verdict, sentence, try_law
from harness.laws.workload_run import WorkloadRun


@lru_cache(maxsize=1)
def _small_run(name: str) -> SmallRun:
    """Return a submission's training; its tests come one after the other."""
    torch.set_num_threads(1)
    return SmallRun(discover.read(discover.find(name)))


@lru_cache(maxsize=1)
def _workload_run(name: str) -> WorkloadRun:
    """Return a workload at its first scale."""
    torch.set_num_threads(1)
    tree = tree_of(name)
    definition = define(name, tree, scales_of(tree)[0], None)
    return WorkloadRun(definition)


def _report(verdict: Verdict, law) -> None:
    """Fail or skip the test as the verdict says."""
    if verdict.outcome == BROKEN:
        pytest.fail(f"{verdict.text}\nlaw: {sentence(law)}", pytrace=False)
    if verdict.outcome != KEPT:
        pytest.skip(f"{verdict.outcome}: {verdict.text}")


def test_submission(submission: str, law: str, exemption: str | None) -> None:
    """The submission keeps the law."""
    function = laws.LAWS[law]
    _report(try_law(function, _small_run(submission), exemption), function)


def test_workload(workload: str, law: str, exemption: str | None) -> None:
    """The workload keeps the law."""
    function = workload_laws.LAWS[law]
    _report(try_law(function, _workload_run(workload), exemption), function)
