"""The forms of a submission behind one face: step, evaluation view, state.

(a) optimizer(params, hp): the harness takes the step and scales the learning rate by a schedule.
(b) init and update: state is data; the harness owns the step and may hand over one flat tensor.
(c) class Algorithm: the submission owns the step.

Any of them may define adapt(model, task, hp), surgery on the model before training; one that does
nothing else names a form (b) submission as BASE, which then trains what adapt leaves trainable:
`base_lr` in SPACE is the base's lr, `head_lr` that of the readout (base_lr without one); what SPACE
leaves out has the base's default.
"""

from collections import deque
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from harness import roles, surgery
from harness.catalog import discover, space
from harness.catalog.discover import Card
from harness.errors import UserError, nearest
from harness.train import loss_scale
from harness.train.optimizer_form import OptimizerForm
from harness.train.parameter_group import Group
from harness.train.task import Task

# So many numbers of a list, or letters, do not count as state: they are step counts and the like.
FEW, NUMBER_BYTES = 1024, 8
# what a trial calls of a class Algorithm
METHODS = ("step", "state_dict", "load_state_dict")


class Submission:
    """A loaded submission at work on a task."""

    def __init__(self, card: Card, hp: dict, task: Task):
        self.card, self.task = card, task
        if task.loss_scale:
            loss_scale.check_card(card)
        self.module = discover.load(card.plugin)
        own, fallback = space.split_fallback(hp) if card.literals.get("FALLBACK") else (hp, {})
        own, base = space.split_fallback(own, "base_") if card.literals.get("BASE") else (own, {})
        own, head = space.split_fallback(own, "head_") if card.literals.get("BASE") else (own, {})
        self.hp = space.namespace(own)
        if hasattr(self.module, "adapt"):
            task.model = self.module.adapt(task.model, task, self.hp) or task.model
        self._step: Callable[[], Tensor | None]
        if card.literals.get("BASE"):
            self._take_base(base, head)
        elif card.form == "a":
            form = OptimizerForm(
                card.plugin.name, self.module, self.hp, task, bool(card.plugin.target)
            )
            self.optimizer_form, self._step = form, form.step
        elif card.form == "b":
            self._take_update(fallback)
        else:
            self.algorithm = self.module.Algorithm(task, self.hp)
            self._check_methods()
            self._step = self.algorithm.step
        if task.loss_scale:
            loss_scale.check_set_up(task.loss_scale)

    def _check_methods(self) -> None:
        """Raise UserError where the class Algorithm lacks a method that every trial calls."""
        missing = [name for name in METHODS if not hasattr(self.algorithm, name)]
        if missing:
            raise UserError(
                f"class Algorithm of {self.card.plugin.path} has no {' and no '.join(missing)}",
                f"its methods are {', '.join(METHODS)}",
                "without state, state_dict returns {} and load_state_dict does nothing",
            )

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of form (a)."""
        return self.optimizer_form.optimizer

    def step(self) -> Tensor | None:
        """Make one step; return the training loss where the submission or the harness has it."""
        loss = self._step()
        if self.task.masks:
            self._enforce_masks()
        return None if loss is None else _checked(loss, self.card.plugin.name)

    def _enforce_masks(self) -> None:
        """Keep what is masked at zero, in the parameters and in the state parallel to them."""
        params = self.task.params
        if self.card.form == "b":
            for group in self.groups:
                self.task.masks.enforce(group.params, group.lists())
        elif self.card.form == "a":
            self.task.masks.enforce(params, self.optimizer_form.lists())
        else:
            self.task.masks.enforce(params, surgery.parallel(self.algorithm.state_dict(), params))

    def _take_update(self, fallback: dict) -> None:
        handled, rest = self._split_by_role()
        self.groups = [Group(self.module, self.hp, handled)]
        if rest:
            self.groups.append(self._other("FALLBACK", fallback, rest))
        self._step = self._groups_step

    def _take_base(self, base: dict, head: dict) -> None:
        own = {id(p) for p in surgery.head(self.task.model)} if head else set()
        parts = [(base, [p for p in self.task.params if id(p) not in own])]
        parts += [(base | head, [p for p in self.task.params if id(p) in own])]
        self.groups = [self._other("BASE", values, params) for values, params in parts if params]
        if not self.groups:
            raise UserError(f"{self.card.plugin.name} left no parameter to train")
        self._step = self._groups_step

    def _other(self, literal: str, values: dict, params: list[nn.Parameter]) -> Group:
        """Parameters under the form (b) submission a literal names, its defaults and `values`."""
        other = discover.read(discover.find(self.card.literals[literal]))
        unknown = sorted(set(values) - set(other.literals["SPACE"]))
        if unknown:
            told = f"{self.card.plugin.name}: {literal.lower()} {other.plugin.name}"
            raise UserError(
                f"{told} has no hyperparameter {unknown[0]!r}",
                nearest(unknown[0], other.literals["SPACE"]),
            )
        hp = space.namespace(space.default(other.literals["SPACE"]) | values)
        return Group(discover.load(other.plugin), hp, params)

    def _groups_step(self) -> Tensor:
        loss = self.task.forward_backward(self.task.next_batch())
        if self.task.overflowed:
            return loss
        with torch.no_grad():
            for group in self.groups:
                group.update(self.task.progress)
        return loss

    def _split_by_role(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        params, handles = self.task.params, self.card.literals.get("HANDLES")
        if not handles:
            return params, []
        unknown = set(handles) - set(roles.KINDS)
        if unknown:
            raise UserError(
                f"{self.card.plugin.name} HANDLES {sorted(unknown)[0]!r}",
                nearest(sorted(unknown)[0], roles.KINDS),
            )
        mine = [role.kind in handles for role in self.task.roles]
        if not any(mine):
            told = f"this model has no {' or '.join(handles)} parameter"
            raise UserError(f"{self.card.plugin.name} found nothing to act on: {told}")
        rest = [p for p, m in zip(params, mine, strict=True) if not m]
        if rest and not self.card.literals.get("FALLBACK"):
            told = f"{self.card.plugin.name} handles only {', '.join(handles)}"
            raise UserError(f"{told} and names no FALLBACK for the rest")
        return [p for p, m in zip(params, mine, strict=True) if m], rest

    @contextmanager
    def evaluated(self):
        """Within the block, the model's parameters are what the submission wants evaluated."""
        views = self._views()
        if views is None:
            yield
            return
        params = self.task.params
        kept = [p.data for p in params]
        try:
            for p, value in zip(params, views, strict=True):
                p.data = value
            yield
        finally:
            for p, value in zip(params, kept, strict=True):
                p.data = value

    def _views(self) -> list[Tensor] | None:
        with torch.no_grad():
            if self.card.form == "b" and any(
                hasattr(g.module, "evaluate_view") for g in self.groups
            ):
                seen = {
                    id(p): v for g in self.groups for p, v in zip(g.params, g.view(), strict=True)
                }
                return [seen[id(p)] for p in self.task.params]
            if self.card.form == "c" and hasattr(self.algorithm, "evaluate_view"):
                return list(self.algorithm.evaluate_view())
            if self.card.form == "a":
                return self.optimizer_form.view()
        return None

    def state_dict(self) -> dict:
        if self.card.form == "a":
            return self.optimizer_form.state_dict()
        if self.card.form == "b":
            return {"groups": [group.state for group in self.groups]}
        return self.algorithm.state_dict()

    def load_state_dict(self, state: dict) -> None:
        if self.card.form == "a":
            self.optimizer_form.load_state_dict(state)
        elif self.card.form == "b":
            for group, saved in zip(self.groups, state["groups"], strict=True):
                _restore(group.state, saved)
        else:
            self.algorithm.load_state_dict(state)

    def state_bytes(self) -> int:
        """Return the bytes that the method keeps besides parameters and gradients."""
        return kept_bytes(self.state_dict())


def _restore(state: dict, saved: dict) -> None:
    """Copy saved values into the live state, keeping the live tensors (a view stays a view)."""
    for name, value in saved.items():
        live = state.get(name)
        if isinstance(live, Tensor):
            live.copy_(value)
        elif isinstance(live, list) and live and isinstance(live[0], Tensor):
            for old, new in zip(live, value, strict=True):
                old.copy_(new)
        else:
            state[name] = value


def _checked(loss, name: str):
    """Return a training loss without its graph; raise UserError if it is not one real number."""
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex():
        return loss.detach() if loss.requires_grad else loss
    if isinstance(loss, int | float | np.integer | np.floating):
        return loss
    kind = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise UserError(f"step of {name} returned {kind}", "the training loss, one number, or None")


def kept_bytes(value: object, around: tuple[int, ...] = ()) -> int:
    """Return the bytes of the tensors and arrays in a state, of long texts and lists of numbers.

    A few numbers beside them, such as a step count, are not counted.

    Args:
        around: the containers that it lies in, by id: a state may contain itself.
    """
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, bytes | str):
        return len(value) * (len(value) > FEW)
    if hasattr(value, "__dict__"):
        value = vars(value)
    if not isinstance(value, dict | list | tuple | set | frozenset | deque) or id(value) in around:
        return 0
    inner = list(value.values()) if isinstance(value, dict) else value
    numbers = sum(isinstance(each, bool | int | float | complex) for each in inner)
    few = NUMBER_BYTES * numbers * (numbers > FEW)
    return few + sum(kept_bytes(each, (*around, id(value))) for each in inner)
