"""A trial whose weights and optimizer state are divided among its processes, by torch's FSDP2.

Each rank keeps its rows of every parameter, of its gradient and of the state. A pass gathers the
weights of one block after the other. The optimizer is torch's (form a), or the submission's `init`
and `update` through `harness.optim` (form b), which makes their arithmetic that of whole tensors.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed.checkpoint.state_dict as states
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from harness.catalog.card import Card
from harness.derivatives import Batch
from harness.errors import UserError
from harness.optim import SubmissionOptimizer, as_optimizer
from harness.train.averaging import Average, Run
from harness.train.engine import blocks_of
from harness.train.rank_task import RankTask
from harness.train.shareable import refused
from harness.train.submission import Submission

WHOLE = states.StateDictOptions(full_state_dict=True, cpu_offload=True)
REMEDY = "engine.shard=false"


class ShardedTask(RankTask):
    """A task whose model is divided among the ranks once `shard` was called."""

    def shard(self) -> None:
        """Divide the model's parameters among the ranks.

        Raises:
            UserError: the workload measures the memory of a whole model.
        """
        if self.start is not None:
            raise UserError(
                "fine-tuning and compression measure the training memory of a whole model",
                "workloads that start from random weights",
                REMEDY,
            )
        for block in blocks_of(self.model):
            fully_shard(block)
        self._root = Run(self.model)
        fully_shard(self._root)
        self.meter.hooked = "torch's fully_shard"

    def _average(self) -> Average:
        return self._root, None

    def _run(self, function: Callable, part: Batch) -> Any:
        return self._root(function, part)

    def _is_divided(self, name: str, batch: Batch) -> bool:
        raise refused("terms of a loss", "with engine.shard=true, terms")

    def logits_of(self, params, batch: Batch) -> Tensor:
        raise refused("logits_of", "with engine.shard=true, other values of the parameters")

    def features_of(self, params, batch: Batch) -> Tensor:
        raise refused("features_of", "with engine.shard=true, other values of the parameters")

    def vjp(self, batch: Batch, vector: Tensor) -> list[Tensor]:
        raise refused("vjp", "with engine.shard=true, derivatives beyond the gradient")

    def jvp(self, batch: Batch, vectors) -> Tensor:
        raise refused("jvp", "with engine.shard=true, derivatives beyond the gradient")

    def jacobian(self, batch: Batch) -> tuple[Tensor, Tensor]:
        raise refused("jacobian", "with engine.shard=true, derivatives beyond the gradient")

    def jvp_logits(self, batch: Batch, vectors) -> tuple[Tensor, Tensor]:
        raise refused("jvp_logits", "with engine.shard=true, derivatives beyond the gradient")

    def hvp(self, batch: Batch, vectors) -> list[Tensor]:
        raise refused("hvp", "with engine.shard=true, derivatives beyond the gradient")

    def per_example_grads(self, batch: Batch) -> list[Tensor]:
        raise refused("per_example_grads", "with engine.shard=true, gradients of examples")

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put whole tensors into the model, each rank its rows."""
        values: dict[str, Any] = dict(tensors)
        states.set_model_state_dict(self.model, values, options=WHOLE)


class ShardedSubmission(Submission):
    """A submission of form (a) or (b) on a divided model.

    Raises:
        UserError: it does what a divided model does not allow.
    """

    def __init__(self, card: Card, hp: dict, task: ShardedTask):
        what = None
        if card.form not in ("a", "b") or card.literals.get("BASE"):
            what = "owns its step" if card.form == "c" else "changes the model"
        elif {"adapt", "export", "predict"} & set(card.functions):
            what = "changes the model"
        elif card.plugin.target:
            what = "is a class of another package"
        if what:
            raise UserError(
                f"{card.plugin.name} {what}: it cannot train on divided weights",
                "submissions that are an optimizer, or `init` and `update`",
                REMEDY,
            )
        task.shard()
        super().__init__(card, hp, task)

    def _take_update(self, fallback: dict) -> None:
        plugin = self.card.plugin
        handed = vars(self.hp) | {f"fallback_{name}": value for name, value in fallback.items()}
        self.divided: SubmissionOptimizer = as_optimizer(
            plugin.place if plugin.package is None else plugin.name,
            self.task.model,
            horizon=self.task.horizon,
            **handed,
        )
        self._step = self._divided_step

    def _divided_step(self) -> Tensor:
        loss = self.task.forward_backward(self.task.next_batch())
        self.divided.step()  # type: ignore[attr-defined]
        return loss

    @property
    def _own(self) -> torch.optim.Optimizer:
        return self.divided if self.card.form == "b" else self.optimizer

    @contextmanager
    def evaluated(self):
        if self.card.form == "b":
            with self.divided.evaluation():
                yield
        else:
            with super().evaluated():
                yield

    def state_dict(self) -> dict:
        """Return the whole state on rank 0, for a checkpoint; the other ranks take part."""
        return states.get_optimizer_state_dict(self.task.model, self._own, options=WHOLE)

    def load_state_dict(self, state: dict) -> None:
        states.set_optimizer_state_dict(self.task.model, self._own, state, options=WHOLE)

    def state_bytes(self) -> int:
        """Return the bytes of state that this rank keeps."""
        local = [
            getattr(value, "_local_tensor", value)
            for entry in self._own.state.values()
            for value in entry.values()
            if isinstance(value, Tensor)
        ]
        return sum(t.numel() * t.element_size() for t in local)


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the model with the rows of all ranks."""
    return {
        name: t.full_tensor() if hasattr(t, "full_tensor") else t  # type: ignore[attr-defined]
        for name, t in tensors.items()
    }
