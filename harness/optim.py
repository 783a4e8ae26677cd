"""Use a submission outside the race: any form (b) method as a `torch.optim.Optimizer`.

    optimizer = as_optimizer("lion", model, lr=1e-3, weight_decay=0.3)

The learning rate is what the caller makes it: a torch scheduler works on `group["lr"]` as usual.
With `horizon=N` the method's own warm-up and decay run over N steps instead, as they do in a race.
docs/optimizers.md says what works with which library.
"""

import copy
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from harness.catalog import space
from harness.errors import UserError
from harness.train.rules.by_role import check_saved, checked, rule_of, split_by_role
from harness.train.rules.rule import Rule
from harness.train.rules.step import SHARED, hide_view, show_view, steps_of, update_group
from harness.train.rules.tensors import same_draws

OWN = ("rule", "method", "transposed", "maximize", "training", SHARED)
# What torch's schedulers and weight averaging write into a group.
SCHEDULERS = (
    "initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr", "param_names",
)  # fmt: skip


class SubmissionOptimizer(torch.optim.Optimizer):
    """A torch optimizer whose rules are the `init` and `update` of submissions.

    Each parameter group keeps its own state: a method with global quantities (norms, step sizes)
    has one of them per group. State is made at a group's first step, from its parameters then.

    Args:
        rules: the method, and if it handles some roles only, the method for the other parameters.
        groups: parameters or parameter groups.
        maximize: go uphill.

    Attributes:
        names: for each method, the names of the parameters that it took from models.
    """

    def __init__(self, rules: list[Rule], groups, maximize: bool = False):
        self.rules = rules
        self.names: dict[str, list[str]] = {}
        super().__init__(groups, rules[0].words(rules[0].values) | {"maximize": maximize})

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"rules": self.rules, "names": self.names}

    def __repr__(self) -> str:
        lines = [f"as_optimizer({self.rules[0].name!r})"]
        for group in self.param_groups:
            kept = [k for k in group if k not in ("params", "param_names", *OWN)]
            count = f"{len(group['params'])} parameters"
            lines.append(
                f"  {group['method']}, {count}: {', '.join(f'{k}={group[k]}' for k in kept)}"
            )
        lines += [f"  {method} takes {', '.join(names)}" for method, names in self.names.items()]
        return "\n".join(lines)

    def add_param_group(self, param_group: dict) -> None:
        """Add a group of parameters; its values are in torch's words or the submission's.

        A method that handles some roles only needs the key "role", or a module as "params".

        Raises:
            UserError: an unknown key or value, a complex parameter, or a role that is missing.
        """
        group = dict(param_group)
        if isinstance(group["params"], nn.Module):
            for part in split_by_role(group.pop("params"), self.rules, {}, self.names):
                self.add_param_group(group | part)
            return
        role = group.pop("role", None)
        index = group["rule"] if "rule" in group else rule_of(self.rules, role)
        rule = self.rules[index]
        kept = {key: group.pop(key) for key in (*OWN, *SCHEDULERS, "params") if key in group}
        kept["params"] = checked(kept["params"], rule)
        words = rule.words(rule.values | rule.own(group))
        known = {"maximize": self.defaults["maximize"], "transposed": False, "training": True}
        super().add_param_group(known | words | kept | {"rule": index, "method": rule.name})
        for key in self.defaults.keys() - words.keys() - {"maximize"}:
            del self.param_groups[-1][key]

    # As torch's own optimizers: `torch.compiler.disable` would import the compiler here, and that
    # takes longer than all other imports of a runner.
    @torch._disable_dynamo
    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient; return the closure's loss, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            rule = self.rules[group["rule"]]
            if not group["training"]:
                raise UserError(
                    f"{rule.name} is in evaluation mode: its parameters are an average",
                    do="call optimizer.train() before the next step",
                )
            with same_draws(index + len(self.param_groups) * steps_of(group), group["params"]):
                update_group(rule, group, self.state)
        return loss

    @torch.no_grad()
    def eval(self) -> None:
        """Put the values that the method wants evaluated (an average) into the parameters."""
        for group in self.param_groups:
            rule = self.rules[group["rule"]]
            if rule.has_view and group["training"]:
                group["training"] = False
                show_view(rule, group, self.state)

    @torch.no_grad()
    def train(self, mode: bool = True) -> None:
        """Put back the values that training goes on from; with mode=False do as `eval`."""
        if not mode:
            self.eval()
            return
        for group in self.param_groups:
            group["training"] = True
            hide_view(group, self.state)

    @contextmanager
    def evaluation(self):
        """Within the block the parameters are what the method wants evaluated."""
        training = all(group["training"] for group in self.param_groups)
        self.eval()
        try:
            yield
        finally:
            if training:
                self.train()

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Load a copy of what `state_dict` returned; every tensor keeps the dtype it has there.

        Raises:
            UserError: the state is of another method, or of another kind of optimizer.
        """
        seen: list[Mapping] = []
        # The last hook sees what the hooks before it made.
        handle = self.register_load_state_dict_pre_hook(lambda _, state: seen.append(state))
        try:
            saved = copy.deepcopy(dict(state_dict))
            check_saved(self.param_groups, saved["param_groups"])
            super().load_state_dict(saved)
        finally:
            handle.remove()
        for group, saved_group in zip(self.param_groups, seen[0]["param_groups"], strict=True):
            for p, key in zip(group["params"], saved_group["params"], strict=True):
                for name, value in seen[0]["state"].get(key, {}).items():
                    if isinstance(value, Tensor):
                        self.state[p][name] = value.to(p.device)


def as_optimizer(
    name: str | ModuleType,
    params: nn.Module | Iterable,
    *,
    horizon: int | None = None,
    roles: Mapping[str, str] | None = None,
    fallback: str | None = None,
    **hp: Any,
) -> SubmissionOptimizer:
    """Make a torch optimizer of a submission.

    Args:
        name: a submission's or variant's name, the path of its file, or its module.
        params: parameters, groups (which may set hyperparameters), or a model. A method for some
            roles only, such as Muon, needs the model, or groups that say their "role": its
            fallback takes the other parameters.
        horizon: number of steps of the method's own schedule; None leaves lr to the caller.
        roles: of parameters or modules of the model, by name, where they are to differ from
            what `harness.roles` finds: {"score": "readout"}.
        fallback: the submission for the parameters that the method does not handle.
        **hp: hyperparameters, in torch's words or the submission's; `fallback_...` are those of
            the fallback. The others have the defaults of the submission's SPACE.

    Raises:
        UserError: the submission is not of form (b), needs roles, or cannot take a value.
    """
    rule = Rule(name, horizon)
    other = {k.removeprefix("fallback_"): v for k, v in hp.items() if k.startswith("fallback_")}
    hp = {k: v for k, v in hp.items() if not k.startswith("fallback_")}
    maximize = bool(hp.pop("maximize", False))
    rule.take(hp)
    rules = [rule]
    if (fallback or other or roles) and not rule.handles:
        raise UserError(f"{rule.name} handles all parameters: it takes no roles and no fallback")
    if rest := fallback or rule.fallback:
        rules.append(Rule(rest, horizon))
        declared = space.default(rule.fallback_space) if rest == rule.fallback else {}
        rules[1].take(declared | other)
    elif other:
        raise UserError(f"{rule.name} has no fallback", do='add fallback="adamw"')
    names: dict[str, list[str]] = {}
    groups: Any = params
    if isinstance(params, nn.Module):
        groups = split_by_role(params, rules, roles or {}, names)
    elif roles:
        raise UserError("roles are by the names of a model's parameters", do="pass the model")
    optimizer = SubmissionOptimizer(rules, groups, maximize)
    optimizer.names |= names
    return optimizer
