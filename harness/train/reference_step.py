"""A step of the workload on an untouched copy of its model: the measure of a submission's times."""

import copy
import statistics
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from harness.train.loss_scale import LossScale
from harness.train.meter import Meter, changed
from harness.train.order import Ordered
from harness.train.task import Task
from harness.train.training_memory import training_memory


class ReferenceStep:
    """One forward and backward pass of the first batch, on a copy that no submission changes.

    Args:
        task: the trial's task, before its submission is loaded.
        module, config, data: the workload, its numbers and its training data.
    """

    def __init__(self, task: Task, module: ModuleType, config: SimpleNamespace, data: dict):
        self._task, self._loss = task, module.loss
        self._model = copy.deepcopy(task.model)
        # One of its own: what overflows here must not change the scale of the training.
        self._scale = LossScale(task.meter.device.type) if task.loss_scale else None
        first = torch.arange(config.batch) % module.size(data, config)
        if isinstance(task._stream, Ordered):
            # Of a stream, only the examples of the first task have arrived.
            first = task._stream.numbers[: config.batch]
        if task.labels is not None:
            first = task.labelled[first % len(task.labelled)]
        # Not by `gather`: it would expose the examples of a private workload.
        self._batch = task._raw(first)

    def seconds(self, times: int) -> float:
        """Return the seconds of a step on this machine: the median of the last half of `times`."""
        meter, taken = Meter(self._task.meter.device), []
        for _ in range(times):
            before = meter.inside().get("forward_backward", 0.0)
            with meter.kind("forward_backward"):
                value = self._loss(self._model, self._batch)
                if self._scale:
                    self._scale.backward(value, list(self._model.parameters()))
                else:
                    value.backward()
            taken.append(meter.inside()["forward_backward"] - before)
            self._model.zero_grad(set_to_none=True)
        return statistics.median(taken[times // 2 :])

    def changed(self, model: nn.Module) -> str | None:
        """Return the first module that differs from the untouched model, or None."""
        return changed(self._model, model)

    def training_memory(self, state_bytes: int) -> int:
        """Return the bytes that a step of the trained model takes, with the method's state."""
        return training_memory(self._task.model, self._loss, self._batch, state_bytes)
