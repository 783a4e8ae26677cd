"""Functions run by several forked processes that are one group, as the ranks of a trial are."""

import os
import traceback
from pathlib import Path
from unittest.mock import patch

import torch
import torch.multiprocessing as mp

from harness.catalog import discover, kinds
from harness.laws import small_workloads
from harness.laws.small_run import SmallRun, handed_over
from harness.train.group import Group
from harness.train.rank_task import RankTask


def run(function, ranks, folder, *arguments):
    """Call function(group, *arguments) on every rank; return the results, by rank."""
    folder = Path(folder) / f"group-{len(list(Path(folder).iterdir()))}"
    folder.mkdir()
    mp.start_processes(_rank, (function, ranks, folder, arguments), ranks, start_method="fork")
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
    errors = [result for result in results if isinstance(result, str)]
    assert not errors, errors[0]
    return results


def _rank(rank, function, ranks, folder, arguments):
    torch.set_num_threads(1)
    group = Group(rank, ranks)
    try:
        group.join(folder / "ranks", "cpu")
        result = function(group, *arguments)
    except Exception:
        result = traceback.format_exc()
    torch.save(result, folder / f"{rank}.pt")
    os._exit(0)


def joined(group, module, config, data, model, seed, horizon, allowed=None, part=None):
    """Return the task of a rank."""
    task = RankTask(module, config, data, model, seed, horizon, None, part)
    names = None if allowed is None else [kinds.among(kind, group.size) for kind in allowed]
    task.join(group, names)
    return task


def small_task(group, name):
    """Return the task of a workload's small form: of a rank, or of one process without a group."""
    if group is None:
        return small_workloads.read(name).task()
    with patch.object(small_workloads, "Task", lambda *values: joined(group, *values)):
        return small_workloads.read(name).task()


def trained(group, names):
    """Return the weights that each method hands over at the end, on its small workload."""
    if group is not None:
        with patch.object(small_workloads, "Task", lambda *values: joined(group, *values)):
            return trained(None, names)
    result = {}
    for name in names:
        made = SmallRun(discover.read(discover.find(name)))
        run = made.begin()
        made.advance(run, made.workload.horizon)
        result[name] = handed_over(run) | {"loss": torch.tensor(made.judged(run))}
    return result
