"""The scale of a loss whose gradients pass through float16: torch's GradScaler, at every pass.

Gradients below 6e-8 are zero in float16, and those above 65504 are infinite. So the loss is
multiplied by a scale before the backward pass, and the gradients are divided by it before the
submission sees them. A step whose gradients are not finite is skipped, and the scale is halved; it
is doubled after 2000 passes in a row with finite gradients. All of this is `torch.amp.GradScaler`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.catalog.card import Card
from harness.errors import UserError

REMEDY = "engine.precision=bf16"
# Passes that need no scale, and those that have one.
PASSES = ("forward", "forward_backward")


class LossScale:
    """The scale of one trial's losses.

    It stands in for an optimizer at torch's scaler, which calls `step` if all gradients are finite.

    Args:
        device: "cpu" or "cuda".

    Attributes:
        param_groups: what torch's scaler reads of an optimizer: the parameters of the last pass.
        overflowed: whether the gradients of the last pass were not finite.
        skipped: the number of passes with such gradients.
    """

    def __init__(self, device: str):
        self._scaler = torch.amp.GradScaler(device)
        self.param_groups: list[dict] = []
        self.overflowed, self.skipped = False, 0

    def backward(self, loss: Tensor, params: Sequence[nn.Parameter]) -> None:
        """Add the gradients of a loss to `p.grad`, unscaled, and note whether they are finite."""
        before = [p.grad for p in params]
        for p in params:
            p.grad = None
        self.param_groups = [{"params": params}]
        self.overflowed = True
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self)  # type: ignore[arg-type]
        self._scaler.step(self)  # type: ignore[arg-type]
        self._scaler.update()
        self.skipped += self.overflowed
        for p, old in zip(params, before, strict=True):
            if old is not None:
                p.grad = old if p.grad is None else p.grad.add_(old)

    def step(self) -> None:
        """Note that all gradients are finite; only torch's scaler calls this."""
        self.overflowed = False

    def state_dict(self) -> dict:
        """Return everything that a checkpoint keeps."""
        return {"scaler": self._scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of a checkpoint."""
        self._scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]


def check_card(card: Card) -> None:
    """Raise UserError if the harness does not own the submission's step, so cannot skip it."""
    if card.form == "c" and not card.literals.get("BASE"):
        raise _refusal(f"{card.plugin.name} owns its step, which the harness cannot skip")


def check_class(name: str, closure: object, graph: bool) -> None:
    """Raise UserError if an optimizer class makes its own passes or gradients."""
    if closure or graph:
        what = "calls a closure" if closure else "makes its own graph of gradients"
        raise _refusal(f"{name} {what}, which torch's GradScaler does not support")


def check_set_up(scale: LossScale) -> None:
    """Raise UserError if a pass before training had gradients that are not finite."""
    if scale.skipped:
        raise _refusal("gradients of a pass before training are not finite in float16")


def check_pass(operation: str) -> None:
    """Raise UserError for a pass whose derivatives would not be scaled."""
    if operation not in PASSES:
        raise _refusal(f"the derivatives of {operation!r} are not scaled")


def check_numbers(config: object) -> None:
    """Raise UserError for a workload that imposes an arithmetic of its own."""
    if hasattr(config, "arithmetic"):
        raise _refusal("the workload imposes its own arithmetic")


def _refusal(why: str) -> UserError:
    return UserError(
        f"engine.precision=fp16 scales the loss and skips steps that overflow: {why}",
        "optimizers, and submissions with `init` and `update`",
        REMEDY,
    )
