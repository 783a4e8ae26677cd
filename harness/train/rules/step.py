"""One step, and one evaluation view, of a parameter group of `harness.optim`."""

from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError
from harness.train.rules.rule import Rule
from harness.train.rules.tensors import is_sharded, put_back_, shown, stored, unstored

SHARED = "shared"  # key of a group's numbers and tensors that belong to no single parameter
TRAINED = "trained"  # key of the values that training goes on from, kept while evaluating
# Key of an empty entry: distributed checkpoints refuse a trained parameter without any state.
STATELESS = "stateless"


def steps_of(group: dict) -> int:
    """Return the number of steps that a group has made."""
    return group[SHARED]["steps"] if SHARED in group else 0


def update_group(rule: Rule, group: dict, state: dict[Tensor, Any]) -> None:
    """Make one step of the group's parameters that have a gradient.

    Args:
        state: of the optimizer: for each parameter a dictionary.

    Raises:
        UserError: a gradient is sparse.
    """
    hp = rule.point(group)
    how = _how(rule, group, hp)
    if SHARED not in group:
        _begin(rule, group, hp, how, state)
    steps, shared = steps_of(group), dict(group[SHARED])
    # Progress 0 without warm-up is where every schedule is 1.
    progress = min((steps + 0.5) / rule.horizon, 1.0) if rule.horizon else 0.0
    live = [p for p in group["params"] if p.grad is not None and p.numel()]
    if live:
        gradients = [p.grad for p in live]
        if any(g.layout != torch.strided for g in gradients):
            raise UserError(f"{rule.name} takes dense gradients", "sparse=False in embeddings")
        values = [shown(p, *how) for p in live]
        gradients = [shown(g, *how) for g in gradients]
        if group["maximize"]:
            gradients = [-g for g in gradients]
        lists = _lists(live, how, state)
        part = shared | lists
        rule.module.update(values, gradients, part, hp, progress)
        shared = {key: part[key] for key in shared}
        _keep(live, values, {key: part[key] for key in lists}, how, state)
    group[SHARED] = shared | {"steps": steps + 1}


def show_view(rule: Rule, group: dict, state: dict[Tensor, Any]) -> None:
    """Put the values to evaluate into the parameters, and keep those that are trained in state."""
    params = [p for p in group["params"] if p.numel()]
    if SHARED not in group or not params:
        return
    how = _how(rule, group, rule.point(group))
    values = [shown(p, *how) for p in params]
    views = rule.module.evaluate_view(values, group[SHARED] | _lists(params, how, state))
    # A view may be the parameter itself, so it is computed in full before anything is written.
    views = [view.clone() for view in views]
    for p, view in zip(params, views, strict=True):
        state[p][TRAINED] = p.detach().clone()
        put_back_(p, view, *how)


def hide_view(group: dict, state: dict[Tensor, Any]) -> None:
    """Put back the values that training goes on from, where `show_view` has kept them."""
    for p in group["params"]:
        if TRAINED in state.get(p, {}):
            p.copy_(state[p].pop(TRAINED))


def _how(rule: Rule, group: dict, hp) -> tuple[bool, bool]:
    """Return how the group's tensors are shown: gathered from shards or not, transposed or not."""
    sharded = any(is_sharded(p) for p in group["params"])
    return sharded and not rule.is_local(hp), group["transposed"]


def _begin(rule: Rule, group: dict, hp, how: tuple[bool, bool], state: dict) -> None:
    """Make the group's state: lists, which run parallel to the parameters, go into `state`."""
    params = [p for p in group["params"] if p.numel()]
    values = [shown(p, *how) for p in params]
    made = rule.module.init(values, hp)
    lists = {key: value for key, value in made.items() if isinstance(value, list)}
    _keep(params, values, lists, how, state)
    for p in params if not lists else ():
        state[p][STATELESS] = torch.zeros((), device=p.device)
    group[SHARED] = {key: made[key] for key in made.keys() - lists.keys()} | {"steps": 0}


def _lists(params: list[Tensor], how: tuple[bool, bool], state: dict) -> dict[str, list]:
    """Return the lists of a rule's state for some parameters, as the rule made them."""
    keys = [key for key in state[params[0]] if key not in (TRAINED, STATELESS)]
    return {key: [unstored(state[p][key], *how) for p in params] for key in keys}


def _keep(params: list[Tensor], values: list[Tensor], lists: dict, how, state: dict) -> None:
    """Write values into the parameters, and lists into their state."""
    for i, (p, value) in enumerate(zip(params, values, strict=True)):
        put_back_(p, value, *how)
        for key, entries in lists.items():
            state[p][key] = stored(entries[i], p, *how)
