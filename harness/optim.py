"""Use a submission outside the race: any form (b) method as a `torch.optim.Optimizer`.

    optimizer = as_optimizer("lion", model.parameters(), lr=1e-3, wd=0.3)

The learning rate is what the caller makes it: a torch scheduler works on `group["lr"]` as usual.
With `horizon=N` the method's own warm-up and decay run over N steps instead, as they do in a race.
"""

from collections.abc import Iterable
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from harness import ops, roles
from harness.catalog import discover, space
from harness.errors import UserError, nearest

SHARED = "shared"  # key of a group's numbers and tensors that belong to no single parameter


class SubmissionOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose rules are the `init` and `update` of submissions.

    Each parameter group keeps its own state: a method with global quantities (norms, step sizes)
    has one of them per group. State is made at a group's first step, from its parameters then.

    Args:
        rules: (module, hyperparameters); a group's key "rule" is its index, 0 if there is none.
        groups: parameters or parameter groups.
        horizon: steps of the method's own schedule, or None.
    """

    def __init__(self, rules: list[tuple[ModuleType, dict]], groups, horizon: int | None):
        self.rules, self.horizon = rules, horizon
        super().__init__(groups, rules[0][1] | {"rule": 0})

    def add_param_group(self, param_group: dict) -> None:
        """Add a group of parameters; UserError when it names no hyperparameter of its method."""
        known = self.rules[param_group.get("rule", 0)][1]
        for key in param_group.keys() - known.keys() - {"params", "rule", "initial_lr"}:
            raise UserError(f"a group sets {key!r}, no hyperparameter", nearest(key, known))
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient; return the closure's loss, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            module, known = self.rules[group["rule"]]
            params, hp = group["params"], SimpleNamespace(**{key: group[key] for key in known})
            if SHARED not in group:
                self._begin(group, module.init([p.detach() for p in params], hp))
            state, steps = self._state(group), group[SHARED]["steps"]
            # Progress 0 without warm-up is where every schedule is 1.
            progress = min((steps + 0.5) / self.horizon, 1.0) if self.horizon else 0.0
            ops.apply(module.update, params, state, hp, progress)
            group[SHARED] = {key: state[key] for key in group[SHARED]} | {"steps": steps + 1}
        return loss

    @contextmanager
    def evaluation(self):
        """Within the block the parameters are what the method wants evaluated (an average)."""
        kept = []
        with torch.no_grad():
            for group in self.param_groups:
                view = getattr(self.rules[group["rule"]][0], "evaluate_view", None)
                if view and SHARED in group:
                    params = group["params"]
                    kept.append((params, ops.copies(params)))
                    values = view([p.detach() for p in params], self._state(group))
                    torch._foreach_copy_(params, list(values))
        try:
            yield
        finally:
            with torch.no_grad():
                for params, values in kept:
                    torch._foreach_copy_(params, values)

    def _begin(self, group: dict, state: dict) -> None:
        """Keep lists, which run parallel to the parameters, in `self.state`, the rest in group."""
        lists = {key: value for key, value in state.items() if isinstance(value, list)}
        for i, p in enumerate(group["params"]):
            self.state[p] = {key: value[i] for key, value in lists.items()}
        group[SHARED] = {key: state[key] for key in state.keys() - lists.keys()} | {"steps": 0}

    def _state(self, group: dict) -> dict:
        """The group's state as the submission knows it."""
        params = group["params"]
        keys = self.state[params[0]] if params else ()
        return {key: [self.state[p][key] for p in params] for key in keys} | group[SHARED]


def as_optimizer(
    name: str | ModuleType,
    params: nn.Module | Iterable,
    *,
    horizon: int | None = None,
    **hp,
) -> SubmissionOptimizer:
    """Make a torch optimizer of a submission.

    Args:
        name: a submission's name, the path of its file, or its module.
        params: parameters, groups (which may set hyperparameters), or a model. A method for some
            roles only, such as Muon, needs the model: its fallback takes the other parameters.
        horizon: number of steps of the method's own schedule; None leaves lr to the caller.
        **hp: hyperparameters; the others have the defaults of the submission's SPACE.

    Raises:
        UserError: the submission is not of form (b), needs a model, or has no such hyperparameter.
    """
    module = discover.load(discover.find(name)) if isinstance(name, str) else name
    title = module.__name__.rpartition(".")[2]
    if not (hasattr(module, "init") and hasattr(module, "update")):
        raise UserError(
            f"{title} owns its step and cannot be a torch optimizer", "form (b) methods can"
        )
    known = space.default(module.SPACE)
    for key in hp:
        if key not in known:
            raise UserError(f"{title} has no hyperparameter {key!r}", nearest(key, known))
    if "warmup" in hp and horizon is None:
        raise UserError(
            "warmup is a share of the horizon, which is not known", do="add horizon=STEPS"
        )
    own, other = (
        space.split_fallback(known | hp) if hasattr(module, "FALLBACK") else (known | hp, {})
    )
    off = {"warmup": 0.0} if horizon is None else {}
    rules, groups = [(module, own | off)], params
    if hasattr(module, "HANDLES"):
        if not isinstance(params, nn.Module):
            handled = " and ".join(module.HANDLES)
            raise UserError(
                f"{title} handles {handled} parameters only", do="pass the model itself"
            )
        split = _by_role(params, module.HANDLES)
        fallback = discover.load(discover.find(module.FALLBACK))
        rules.append((fallback, space.default(fallback.SPACE) | other | off))
        groups = [
            {"params": part, "rule": i, **rules[i][1]} for i, part in enumerate(split) if part
        ]
    elif isinstance(params, nn.Module):
        groups = params.parameters()
    return SubmissionOptimizer(rules, groups, horizon)


def _by_role(model: nn.Module, kinds: list[str]) -> tuple[list, list]:
    """The model's trainable parameters whose role is among `kinds`, and the others."""
    known = roles.of(model)
    named = [(known[n].kind in kinds, p) for n, p in model.named_parameters() if p.requires_grad]
    return [p for mine, p in named if mine], [p for mine, p in named if not mine]
