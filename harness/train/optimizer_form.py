"""Form (a) at work: an optimizer of torch's interface, stepped and scheduled by the harness.

An installed class (`class=`) may ask for more than a gradient: see `harness.catalog.class_needs`.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import ops
from harness.catalog import class_builder
from harness.catalog.class_builder import Built, Offer
from harness.catalog.class_needs import Needs
from harness.derivatives import Batch
from harness.errors import UserError
from harness.optim import as_optimizer
from harness.schedules import warmup_cosine
from harness.train import loss_scale
from harness.train.task import Task


class OptimizerForm:
    """The optimizer of a form (a) submission, and where it takes some roles only, its fallback.

    Args:
        name: the submission's name; the dotted path of a class.
        module: its functions: `optimizer`, and `schedule` and `evaluate_view` where it has them.
        is_class: the submission is a class of an installed package.
    """

    def __init__(
        self, name: str, module: ModuleType, hp: SimpleNamespace, task: Task, is_class: bool
    ):
        self.name, self.module, self.hp, self.task = name, module, hp, task
        self.is_class, self.needs = is_class, Needs("params", True)
        rest: list = []
        if is_class:
            # Compilation takes a minute and writes files, both of which a race has no place for.
            torch.compiler.set_stance("force_eager")
            built: Built = module.optimizer(task.params, hp, self._offer())
            self.optimizer, self.needs, rest = built.optimizer, built.needs, built.rest
        else:
            self.optimizer = module.optimizer(task.params, hp)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise UserError(
                f"optimizer() of {name} returned {type(self.optimizer).__name__}",
                "a torch.optim.Optimizer",
            )
        if task.loss_scale:
            loss_scale.check_class(name, self.needs.closure, self.needs.graph)
        self.others = self._fallback(rest)
        # A group without a learning rate is left to its optimizer.
        self._base = [group.get("lr") for group in self.optimizer.param_groups]

    def step(self) -> Tensor:
        """Make one step; return the loss."""
        batch = self.task.next_batch()
        if schedule := self._schedule():
            factor = schedule(self.task.progress, self.hp)
            for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
                if base is not None:
                    group["lr"] = base * factor
        try:
            loss = self._stepped(batch)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            if not self.is_class:
                raise
            raise class_builder.refusal(self.name, "its step fails", error, self.needs) from error
        if not self.task.overflowed:
            for optimizer in self.others:
                optimizer.step()
        return loss

    def _stepped(self, batch: Batch) -> Tensor:
        """Call the optimizer's step as it wants to be called; return the first loss."""
        losses: list[Tensor] = []

        def closure() -> Tensor:
            with torch.enable_grad():
                losses.append(self.task.forward_backward(batch))
            return losses[-1]

        if self.needs.graph:
            losses.append(self._graph_backward(batch))
            self.optimizer.step()
            self.task.model.zero_grad(set_to_none=True)
        elif self.needs.closure:
            if self.needs.closure == "gradient":
                closure()
            self.optimizer.step(closure)
            if not losses:
                raise UserError(f"{self.name} did not call the closure of its step")
        else:
            closure()
            if not self.task.overflowed:
                self.optimizer.step()
        return losses[0]

    def _graph_backward(self, batch: Batch) -> Tensor:
        """Leave gradients that can be differentiated; attention by its plain kernel."""
        params = self.task.params

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            value = self.task._workload.loss(model, batch)
            for p, g in zip(params, torch.autograd.grad(value, params, create_graph=True)):
                p.grad = g
            # The pass calls backward on what it gets: this has nothing behind it.
            return value.detach().requires_grad_()

        with sdpa_kernel(SDPBackend.MATH):
            return self.task.backward(batch, loss)

    def view(self) -> list[Tensor] | None:
        """Return the values to evaluate, one for each parameter; None for those that train."""
        if hasattr(self.module, "evaluate_view"):
            return list(self.module.evaluate_view(self.task.params, self.optimizer))
        modes = all(callable(getattr(self.optimizer, mode, None)) for mode in ("train", "eval"))
        # Before the first step there is no average yet, and some classes cannot be asked for one.
        if not self.is_class or not modes or not self.optimizer.state:
            return None
        params = self.task.params
        kept = ops.copies(params)
        self.optimizer.eval()  # type: ignore[attr-defined]
        view = ops.copies(params)
        self.optimizer.train()  # type: ignore[attr-defined]
        for p, value in zip(params, kept, strict=True):
            p.data.copy_(value)
        return view

    def lists(self) -> list[list[Tensor]]:
        """Return state of the parameters' shapes, each as one tensor for each parameter."""
        states = [self.optimizer.state.get(p, {}) for p in self.task.params]
        shared = [key for key in states[0] if all(isinstance(s.get(key), Tensor) for s in states)]
        return [[state[key] for state in states] for key in shared]

    def state_dict(self) -> dict:
        """Return the state of the optimizer, and of the fallback where there is one."""
        state = self.optimizer.state_dict()
        if not self.others:
            return state
        return {"optimizer": state, "fallback": [o.state_dict() for o in self.others]}

    def load_state_dict(self, state: dict) -> None:
        """Load what `state_dict` returned; tensors keep the dtype that they were saved with."""
        own = state["optimizer"] if self.others else state
        self.optimizer.load_state_dict(own)
        _restore_exactly(self.optimizer, own)
        for optimizer, saved in zip(self.others, state.get("fallback", ()), strict=True):
            optimizer.load_state_dict(saved)

    def _schedule(self):
        """Return the factor of the learning rate as a function; None if it stays."""
        own = getattr(self.module, "schedule", None)
        if own or not hasattr(self.hp, "warmup"):
            return own
        return lambda progress, hp: warmup_cosine(progress, hp.warmup)

    def _offer(self) -> Offer:
        """Return what a class may ask for."""
        task = self.task

        def split(kinds: list[str]) -> tuple[list, list]:
            handled = [role.kind in kinds for role in task.roles]
            pairs = list(zip(task.params, handled, strict=True))
            return [p for p, mine in pairs if mine], [p for p, mine in pairs if not mine]

        named = [(n, p) for n, p in task.model.named_parameters() if p.requires_grad]
        return Offer(task.model, named, split)

    def _fallback(self, rest: list) -> list[Any]:
        """Return the optimizer of the parameters that the class leaves, if there are any."""
        if not rest:
            return []
        lr = self.hp.fallback_lr
        values = {} if lr is None else {"lr": lr}
        return [as_optimizer(self.hp.fallback, rest, horizon=self.task.horizon, **values)]


def _restore_exactly(optimizer: torch.optim.Optimizer, saved: dict) -> None:
    """Undo the change of dtype that torch makes when state is loaded."""
    entries, groups = saved.get("state"), saved.get("param_groups")
    if not isinstance(entries, dict) or not isinstance(groups, list):
        return
    for group, other in zip(optimizer.param_groups, groups, strict=False):
        for p, key in zip(group["params"], other.get("params", ()), strict=False):
            state = optimizer.state.get(p, {})
            for name, value in entries.get(key, {}).items():
                live = state.get(name)
                both = isinstance(value, Tensor) and isinstance(live, Tensor)
                if both and live.dtype != value.dtype:
                    state[name] = value.to(live.device)
