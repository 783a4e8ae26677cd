"""The contract: every function that a submission or a workload may define, with its arguments.

A submission and a workload are files of plain functions. The classes below only group the
functions; nothing inherits from them. The harness reads names and parameters from here
(`parameters`), so this file and what the harness accepts cannot differ.

    Submission         one of `optimizer`, `init` with `update`, `Algorithm`; the rest is optional
    Algorithm          the methods of a submission's class of that name
    Workload           what every workload defines
    WorkloadOptions    what some submissions ask of a workload, through `task`

Shapes: B examples in a batch, N examples in a split. `hp` has the values of SPACE as attributes,
`config` the numbers of the workload's YAML block (`config.model.width`).
"""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.train.task import Task


class Submission:
    """Functions of a submission's file."""

    @staticmethod
    def optimizer(params: "list[nn.Parameter]", hp: SimpleNamespace) -> "torch.optim.Optimizer":
        """Form (a). Return an optimizer of the trainable parameters."""
        ...

    @staticmethod
    def schedule(progress: float, hp: SimpleNamespace) -> float:
        """Form (a), optional. Return the factor on the learning rate at `progress` in (0, 1)."""
        ...

    @staticmethod
    def init(params: "list[nn.Parameter]", hp: SimpleNamespace) -> dict:
        """Form (b). Return the state: tensors, lists of tensors parallel to `params`, numbers."""
        ...

    @staticmethod
    def update(
        params: "list[Tensor]",
        grads: "list[Tensor]",
        state: dict,
        hp: SimpleNamespace,
        progress: float,
    ) -> None:
        """Form (b). Change parameters and state in place; leave the gradients as they are."""
        ...

    @staticmethod
    def adapt(model: "nn.Module", task: "Task", hp: SimpleNamespace) -> "nn.Module | None":
        """Any form, optional. Change the model before training; return one to replace it."""
        ...

    @staticmethod
    def evaluate_view(params: "list[nn.Parameter]", state) -> "Iterable[Tensor]":
        """Forms (a) and (b), optional. Return the values to evaluate in place of `params`.

        `state` is what `init` returned; in form (a) it is the optimizer.
        """
        ...

    @staticmethod
    def export(model: "nn.Module") -> "dict[str, Tensor]":
        """Any form, optional. Return the weights of the workload's own model, by name."""
        ...

    @staticmethod
    def predict(algorithm: "Algorithm", inputs: "Tensor") -> "Tensor":
        """Form (c), optional. Return scores [N, ...] of inputs that come without labels."""
        ...


class Algorithm:
    """Form (c): the class of this name in a submission's file owns the step."""

    def __init__(self, task: "Task", hp: SimpleNamespace):
        """Keep what the step needs; passes made here are counted as well."""

    def step(self) -> "Tensor | None":
        """Make one training step; return its training loss where there is one."""
        ...

    def state_dict(self) -> dict:
        """Return all that training depends on: tensors, numbers, strings, lists, dictionaries."""
        ...

    def load_state_dict(self, state: dict) -> None:
        """Continue from a state that `state_dict` returned."""

    def evaluate_view(self) -> "Iterable[Tensor]":
        """Optional. Return the values to evaluate in place of `task.params`."""
        ...


class Workload:
    """Functions that every workload's file defines. A split is "train" or "val"."""

    @staticmethod
    def data(config: SimpleNamespace, split: str, seed: int) -> "dict[str, Tensor | Path]":
        """Return the split's tensors (and paths of large files) by name; called once, then cached.

        Leave out the parameter `seed` unless each trial's seed is to draw a problem of its own.
        """
        ...

    @staticmethod
    def size(data: "dict[str, Tensor | Path]", config: SimpleNamespace) -> int:
        """Return the number of examples."""
        ...

    @staticmethod
    def batch(
        data: "dict[str, Tensor | Path]", index: "Tensor", config: SimpleNamespace
    ) -> "dict[str, Tensor]":
        """Return the examples with these numbers, int64 [B]; tensors have B rows."""
        ...

    @staticmethod
    def model(config: SimpleNamespace) -> "nn.Module":
        """Return the model with its initial weights, drawn from torch's own generator.

        Where blocks can be switched off, the model has `active` (harness/train/depth.py).
        """
        ...

    @staticmethod
    def loss(model: "nn.Module", batch: "dict[str, Tensor]") -> "Tensor":
        """Return the training loss, 0-dim: the mean over the examples."""
        ...

    @staticmethod
    def metric(model: "nn.Module", batch: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Return sums over the batch, by name; the harness adds them up over the split."""
        ...

    @staticmethod
    def score(sums: dict[str, float]) -> dict[str, float]:
        """Return the metrics that a goal can name, from the sums over the split."""
        ...


class WorkloadOptions:
    """Functions that a workload may define; a submission that asks for a missing one is refused."""

    @staticmethod
    def pretrained(config: SimpleNamespace) -> "dict[str, Tensor]":
        """Return the weights that training starts from, by name."""
        ...

    @staticmethod
    def stream(data: "dict[str, Tensor]", config: SimpleNamespace, seed: int) -> "Tensor":
        """Return a stream's order of examples, int64 [horizon * batch] (`harness.stream.visits`).

        Required where the block has `stream`, as are `quality` and the tensor `group` of the data.
        """
        ...

    @staticmethod
    def quality(model: "nn.Module", batch: "dict[str, Tensor]") -> "Tensor":
        """Return the quality of each example, [B]: 1 or 0 for right or wrong, or a loss."""
        ...

    @staticmethod
    def inputs(batch: "dict[str, Tensor]") -> "Tensor":
        """Return what the model is called with, without labels."""
        ...

    @staticmethod
    def losses(model: "nn.Module", batch: "dict[str, Tensor]") -> "Tensor":
        """Return the loss of each example, [B]."""
        ...

    @staticmethod
    def sample(
        model: "nn.Module", batch: "dict[str, Tensor]", generator: "torch.Generator"
    ) -> "Tensor":
        """Return the loss against labels drawn from the model's own predictions, 0-dim."""
        ...

    @staticmethod
    def logits(model: "nn.Module", batch: "dict[str, Tensor]") -> "Tensor":
        """Return the model's scores, [B, ..., C]."""
        ...

    @staticmethod
    def nats(logits: "Tensor", batch: "dict[str, Tensor]") -> "Tensor":
        """Return the loss of each example given the model's scores, [B]."""
        ...

    @staticmethod
    def features(model: "nn.Module", batch: "dict[str, Tensor]") -> "Tensor":
        """Return what the model's last linear map reads, [B, width]."""
        ...

    @staticmethod
    def terms(model: "nn.Module", batch: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Return the loss's terms before squares and means, by name: [B] each."""
        ...

    @staticmethod
    def box(config: SimpleNamespace) -> "Tensor":
        """Return the corners of the region of points, [2, dimensions]."""
        ...

    @staticmethod
    def batch_of(
        data: "dict[str, Tensor]", points: "Tensor", config: SimpleNamespace
    ) -> "dict[str, Tensor]":
        """Return a batch at points [B, dimensions] inside the box."""
        ...

    @staticmethod
    def smooth(model: "nn.Module", batch: "dict[str, Tensor]") -> "Tensor":
        """Return the differentiable part of the loss, 0-dim; `prox` is of the rest."""
        ...

    @staticmethod
    def prox(
        data: "dict[str, Tensor]", values: "list[Tensor]", step: float, config: SimpleNamespace
    ) -> "list[Tensor]":
        """Return argmin over z of rest(z) + ‖z - values‖²/(2·step), a tensor a parameter.

        `data` is the training split. For a set that the weights must stay in: the projection.
        """
        ...

    @staticmethod
    def lmo(
        data: "dict[str, Tensor]", directions: "list[Tensor]", config: SimpleNamespace
    ) -> "list[Tensor]":
        """Return argmin of <directions, z> over the set that the weights must stay in."""
        ...

    @staticmethod
    def bounds(
        model: "nn.Module", batch: "dict[str, Tensor]", radius: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        """Return bounds of the model's scores over boxes around the inputs, [B, C] each.

        `radius` is half the side of a box, 0-dim or [B].
        """
        ...

    @staticmethod
    def trusted(data: "dict[str, Tensor]", config: SimpleNamespace) -> "Tensor":
        """Return the numbers of the training examples whose labels are known to be right, int64."""
        ...

    @staticmethod
    def groups(data: "dict[str, Tensor]", config: SimpleNamespace) -> "Tensor":
        """Return the group of each training example, int64 [N], from 0 up."""
        ...

    @staticmethod
    def clients(data: "dict[str, Tensor]", config: SimpleNamespace) -> "Tensor":
        """Return the client that has each training example, int64 [N], from 0 up.

        Required where the block has `fed`, as is the tensor `client` [B] of every batch.
        """
        ...

    @staticmethod
    def tokens(config: SimpleNamespace) -> int:
        """Return the number of tokens in an example, for tokens a second."""
        ...


def parameters(group: type) -> dict[str, tuple[str, ...]]:
    """Return the functions that a class above groups, each with the names of its parameters."""
    functions = {
        name: value.__func__
        for name, value in vars(group).items()
        if isinstance(value, staticmethod)
    }
    return {
        name: function.__code__.co_varnames[: function.__code__.co_argcount]
        for name, function in functions.items()
    }
