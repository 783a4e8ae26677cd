"""Small workloads, on which the laws try a submission: milliseconds a step.

A workload becomes one by a block `tiny` in its YAML: changes to the numbers of its first scale and,
where preparing data would take long, a description of examples to make instead. The task and the
submission around it are those of a race. No hash covers the block; it is not a scale to race at.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from harness.catalog import discover
from harness.catalog.data import PRETRAINED
from harness.catalog.definition import (
    Definition,
    define,
    load_workload,
    merge,
    namespace,
    scales_of,
    tiny_of,
    tree_of,
)
from harness.errors import UserError
from harness.laws import examples
from harness.seeds import seed_cpu
from harness.train import depth
from harness.train.task import Task

OWN = ("title", "order", "examples")  # keys of a tiny block that change no number of the workload


@dataclass(frozen=True)
class SmallWorkload:
    """A workload with small numbers.

    Attributes:
        name: the workload's name, or the path of its file.
        title: what it is, in words.
        order: its place among the small workloads of its track.
        changes: to the numbers of the workload's first scale.
        examples: a description of training data to make, or None to take the workload's own.
    """

    name: str
    title: str
    order: int
    changes: dict
    examples: dict | None

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def track(self) -> str:
        return _definition(self.name).track

    @property
    def horizon(self) -> int:
        return _loaded(self)[1].horizon

    @property
    def budget(self) -> int:
        """Steps that a trial of the workload itself buys at its first scale."""
        return _definition(self.name).block["horizon"]

    def task(self, kinds: Collection[str] | None = None, seed: int = 0) -> Task:
        """Return the task as a runner makes it, on its own copy of the data."""
        module, config, data = _loaded(self)
        seed_cpu(seed, "init")
        model, own = module.model(config), dict(data)
        task = Task(module, config, own, model, seed, self.horizon, kinds)
        if hasattr(module, PRETRAINED):
            task.start = {name: t.clone() for name, t in model.state_dict().items()}
        return task

    def judge(self, tensors: dict[str, Tensor], active: list[bool] | None) -> float:
        """Return the loss of the workload's own model with these weights, as a referee takes it.

        On a fixed batch of training examples; of a stream, on what is learnt last.
        """
        task = self.task()
        task.model.load_state_dict(tensors)
        depth.set_depth(task.model, active)
        return self._judged(task)

    def loss(self, model: nn.Module) -> float:
        """Return the loss of any model of the workload on that batch; no pass is counted."""
        task = self.task()
        task.model = model
        return self._judged(task)

    def _judged(self, task: Task) -> float:
        """Return the loss of a task's model on that batch."""
        index = torch.arange(task.examples)
        if task.labels is not None:
            index = task.labelled
        index = index[-40:] if self.track == "continual" else index[:64]
        return float(task.forward(task._gather(index)))


def read(name: str) -> SmallWorkload | None:
    """Return a workload made small, or None if its YAML has no `tiny` block.

    Raises:
        UserError: the block has no title or no order.
    """
    tiny = tiny_of(name)
    if tiny is None:
        return None
    missing = [key for key in ("title", "order") if key not in tiny]
    if missing:
        raise UserError(f"workload {name}: tiny has no {missing[0]}", "title, order and numbers")
    changes = {key: value for key, value in tiny.items() if key not in OWN}
    return SmallWorkload(name, tiny["title"], tiny["order"], changes, tiny.get("examples"))


@cache
def small_workloads() -> tuple[SmallWorkload, ...]:
    """Return every discovered workload that has a `tiny` block, in their order."""
    small = [workload for name in discover.workloads() if (workload := read(name))]
    return tuple(sorted(small, key=lambda workload: (workload.order, workload.name)))


@cache
def _definition(name: str) -> Definition:
    tree = tree_of(name)
    return define(name, tree, scales_of(tree)[0], None)


@cache
def _loaded(workload: SmallWorkload) -> tuple[ModuleType, SimpleNamespace, dict]:
    """Return a small workload's module, its numbers as the runner gets them, and its data."""
    definition = _definition(workload.name)
    block = {key: value for key, value in definition.block.items() if key != "goal"}
    block = merge(block, workload.changes, f"{workload.name}.tiny")
    module, config = load_workload(definition), namespace(block)
    if workload.examples:
        return module, config, examples.make(workload.examples, f"{workload.name}.tiny")
    seeded = "seed" in discover.functions(definition.plugin)["data"]
    return module, config, module.data(config, "train", *((0,) if seeded else ()))
