"""Which parameters a rule of `harness.optim` takes: groups by role, and what a group may hold."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from harness import roles as module_roles
from harness.errors import UserError, nearest
from harness.train.rules.rule import Rule


def split_by_role(
    model: nn.Module, rules: list[Rule], chosen: Mapping[str, str], names: dict[str, list[str]]
) -> list[dict]:
    """Return parameter groups of a model: for each rule the parameters whose role it takes.

    Args:
        chosen: roles by the name of a parameter or of a module around it.
        names: the names that each method takes are added here.

    Raises:
        UserError: an unknown role or name, or no parameter that the method handles.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad or not rules[0].handles]
    named = [(n, p) for n, p in named if p.is_floating_point() or p.is_complex()]
    if rules[0].handles is None:
        names.setdefault(rules[0].name, []).extend(n for n, _ in named)
        return [{"params": [p for _, p in named], "rule": 0}]
    known = module_roles.of(model, find_head=True)
    kinds = {n: (known[n].kind, known[n].transposed) for n, _ in named}
    for key, kind in chosen.items():
        inside = [n for n in kinds if n == key or n.startswith(f"{key}.")]
        if not inside:
            raise UserError(f"roles: the model has no parameter {key!r}", nearest(key, kinds))
        if kind not in module_roles.KINDS:
            raise UserError(f"roles: {key} is {kind!r}", nearest(kind, module_roles.KINDS))
        kinds |= {n: (kind, kinds[n][1]) for n in inside}
    parts: dict[tuple[int, bool], list] = {}
    for n, p in named:
        kind, transposed = kinds[n]
        index = rule_of(rules, kind)
        parts.setdefault((index, transposed and index == 0), []).append(p)
        names.setdefault(rules[index].name, []).append(n)
    if not any(index == 0 for index, _ in parts):
        handled = " or ".join(rules[0].handles)
        raise UserError(
            f"{rules[0].name} found nothing to act on: this model has no {handled} parameter",
            do='say which they are: roles={"NAME": "hidden"}',
        )
    return [
        {"params": part, "rule": index, "transposed": transposed}
        for (index, transposed), part in sorted(parts.items(), key=lambda item: item[0])
    ]


def rule_of(rules: list[Rule], role: str | None) -> int:
    """Return the index of the rule that takes parameters of a role."""
    first = rules[0]
    if first.handles is None or (role is None and len(rules) == 1):
        return 0
    handled = " and ".join(first.handles)
    if role not in module_roles.KINDS:
        raise UserError(
            f"{first.name} handles {handled} parameters only, and a group says its role as {role}",
            f"one of {', '.join(module_roles.KINDS)}",
            'pass the model itself, or {"params": ..., "role": "hidden"}',
        )
    if role in first.handles:
        return 0
    if len(rules) == 1:
        raise UserError(
            f"{first.name} handles {handled} parameters only, and names no method for {role}",
            do='leave these parameters out, or add fallback="adamw"',
        )
    return 1


def checked(params: Any, rule: Rule) -> list:
    """Return a group's parameters as a list; UserError for those that the rule cannot take."""
    listed = [params] if isinstance(params, Tensor) else list(params)
    for number, entry in enumerate(listed):
        name, p = entry if isinstance(entry, tuple) else (f"parameter {number}", entry)
        if isinstance(p, Tensor) and p.is_complex():
            raise UserError(
                f"{rule.name}: {name} of a group is complex ({p.dtype})",
                "real parameters: torch.view_as_real gives a real view of a complex one",
            )
        if isinstance(p, Tensor) and rule.handles and p.ndim != 2:
            raise UserError(
                f"{rule.name} handles matrices, and {name} of a group has shape {list(p.shape)}",
                do="give it another role",
            )
    return listed


def check_saved(groups: list[dict], saved: list[dict]) -> None:
    """Refuse the state of another method before anything is changed."""
    for group, other in zip(groups, saved, strict=False):
        if group["method"] != other.get("method"):
            raise UserError(
                f"this state is of {other.get('method') or 'another kind of optimizer'}, "
                f"not of {group['method']}",
                "the state_dict() of an optimizer with the same methods and groups",
            )
