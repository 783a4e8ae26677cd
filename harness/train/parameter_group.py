"""Parameters under one form (b) rule, one by one or as a single long tensor."""

import math
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError

ALIGN = 16  # floats: each tensor starts on a 64-byte boundary of its flat buffer


class Flat:
    """Storage for several tensors in one: `whole`, and `views` of the tensors' shapes.

    Elementwise rules then run once over one long tensor; on a CPU that saves most of their cost,
    which is the dispatch of many small operations.
    """

    def __init__(self, like: Sequence[Tensor]):
        spans = [-(-t.numel() // ALIGN) * ALIGN for t in like]
        self.shapes, self.starts = (
            [t.shape for t in like],
            [sum(spans[:i]) for i in range(len(spans))],
        )
        self.whole = torch.zeros(sum(spans), dtype=like[0].dtype, device=like[0].device)
        self.views = self.split(self.whole)

    def split(self, whole: Tensor) -> list[Tensor]:
        """Views of `whole` in the shapes of the tensors."""
        return [
            whole[s : s + math.prod(n)].view(n)
            for s, n in zip(self.starts, self.shapes, strict=True)
        ]


class Group:
    """Parameters that one form (b) module updates, with its state."""

    def __init__(self, module: ModuleType, hp: SimpleNamespace, params: list[nn.Parameter]):
        self.module, self.hp, self.params = module, hp, params
        same = len({(p.dtype, p.device) for p in params}) == 1
        self.flat = Flat(params) if getattr(module, "ELEMENTWISE", False) and same else None
        if self.flat:
            self.grads = Flat(params)
            for p, view in zip(params, self.flat.views, strict=True):
                view.copy_(p.data)
                p.data = view
        state = module.init(self._whole(), hp)
        if not isinstance(state, dict):
            raise UserError(
                f"init of {module.__file__} returned {state!r:.60}",
                "a dictionary of lists of tensors, tensors and numbers",
                "return {} if the method keeps no state",
            )
        self.state: dict[str, Any] = state

    def _whole(self) -> list[Tensor]:
        return [self.flat.whole] if self.flat else [p.data for p in self.params]

    def update(self, progress: float) -> None:
        grads = [p.grad for p in self.params]
        present = [g is not None for g in grads]
        if all(present):
            if self.flat:
                torch._foreach_copy_(self.grads.views, grads)  # type: ignore[arg-type]
                grads = [self.grads.whole]
            self.module.update(self._whole(), grads, self.state, self.hp, progress)
        elif any(present):
            self._update_some(grads, present, progress)

    def _update_some(self, grads: list, present: list[bool], progress: float) -> None:
        """Update only the parameters that have a gradient: the others keep value and state."""

        def some(values: list) -> list:
            return [v for v, here in zip(values, present, strict=True) if here]

        def part(value):
            if not isinstance(value, list):
                return value
            return some(self.flat.split(value[0]) if self.flat else value)

        state = {name: part(value) for name, value in self.state.items()}
        self.module.update(
            [p.data for p in some(self.params)], some(grads), state, self.hp, progress
        )
        for name, value in state.items():
            if not isinstance(value, list):
                self.state[name] = value

    def lists(self) -> list[list[Tensor]]:
        """Return the state's lists, each as one tensor for each parameter."""
        lists = [
            v for v in self.state.values() if isinstance(v, list) and v and isinstance(v[0], Tensor)
        ]
        return [self.flat.split(v[0]) if self.flat else v for v in lists]

    def view(self) -> list[Tensor]:
        """Return the values to evaluate, one per parameter."""
        if not hasattr(self.module, "evaluate_view"):
            return [p.data for p in self.params]
        seen = self.module.evaluate_view(self._whole(), self.state)
        return self.flat.split(seen[0]) if self.flat else list(seen)
