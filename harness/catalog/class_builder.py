"""Build an optimizer of an installed class from hyperparameters and what a trial can offer it."""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from harness.catalog.class_needs import FLAG, NAMED, Needs, needs_of
from harness.catalog.optimizer_classes import FALLBACK, OFFERED, WRITE, resolve
from harness.errors import UserError

MATRICES = "handles=hidden fallback=adamw"


@dataclass
class Offer:
    """What a trial offers to a class.

    Attributes:
        model: the model; named: its trainable parameters with their names.
        split: takes roles, and returns the parameters with one of them and the others.
    """

    model: Any
    named: list[tuple[str, Any]]
    split: Callable[[list[str]], tuple[list, list]]


@dataclass
class Built:
    """An optimizer, the parameters that it does not take, and what its step needs."""

    optimizer: Any
    needs: Needs
    rest: list = field(default_factory=list)


def build(target: str, cls: type, params: list, hp: SimpleNamespace, offer: Offer) -> Built:
    """Return an optimizer of the class.

    Raises:
        UserError: the class asks for what is not given, does not use what is, or refuses it.
    """
    needs, values = needs_of(cls), dict(vars(hp))
    words = {key: values.pop(key, None) for key in (*OFFERED, FALLBACK)}
    if "warmup" not in _keywords(cls):
        values.pop("warmup", None)
    _check_words(target, needs, words, values)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    groups, rest = _groups(target, needs, params, words, values, offer)
    if not needs.takes_lr:
        lr = values.pop("lr", None)
    else:
        lr = values["lr"]
    try:
        arguments = _arguments(needs, groups, words, lr, offer)
        optimizer = cls(**arguments, **values)
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()
        present = {key for group in optimizer.param_groups for key in group}
    except UserError:
        raise
    except Exception as error:
        raise refusal(target, "its constructor fails", error, needs) from error
    _check_keys(target, needs, words, present)
    return Built(optimizer, needs, rest)


def refusal(target: str, where: str, error: Exception, needs: Needs) -> UserError:
    """Return a UserError for what a class raised: its words, and what to type next."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    lower = str(error).lower()
    dimensions = any(word in lower for word in ("2d", "2-d", "dimension", "matri", "ndim", "shape"))
    do = MATRICES if dimensions and not needs.flag else WRITE
    return UserError(f"class={target}: {where}: {type(error).__name__}: {first}", do=do)


def _keywords(cls: type) -> set[str]:
    import inspect

    return set(inspect.signature(cls).parameters)


def _check_words(target: str, needs: Needs, words: dict, values: dict) -> None:
    """Refuse words that the class cannot use, and name those that it needs."""
    for name in needs.required:
        if values.get(name) is None:
            raise UserError(
                f"class={target} needs {name!r}",
                "a number, a word or a truth value; anything else needs a file of your own",
                f"submission.{name}=VALUE",
            )
    if needs.wrapped and not words["inner"]:
        raise UserError(f"class={target} wraps another optimizer", do="inner=torch.optim.SGD")
    if words["inner"] and not needs.wrapped:
        raise UserError(f"class={target} wraps no optimizer: inner={words['inner']} has no use")
    if (words["fallback"] or words["handles"]) and needs.first != "params" and not needs.flag:
        raise UserError(f"class={target} takes the whole model: it has no handles and fallback")
    if words["fallback"] and needs.flag:
        raise UserError(
            f"class={target} updates the other parameters itself", "leave fallback= out"
        )
    if words["fallback_lr"] is not None and not (words["fallback"] or needs.flag):
        raise UserError("fallback_lr= has no use without a fallback", do=MATRICES)


def _groups(target, needs: Needs, params: list, words: dict, values: dict, offer: Offer):
    """Return the parameters or groups for the class, and the parameters that are left."""
    keys = _keys(words["keys"])
    if not (needs.flag and not needs.wrapped) and not words["handles"] and not keys:
        return params, []
    roles: list[str] = str(words["handles"] or "hidden").split("+")
    mine, rest = offer.split(roles)
    if not mine:
        raise UserError(f"class={target} found nothing to act on", f"no {' or '.join(roles)} here")
    if needs.flag and not needs.wrapped:
        groups = [{"params": mine, FLAG: True, **keys}]
        groups += [{"params": rest, FLAG: False}] if rest else []
        if not needs.takes_lr:
            groups[0]["lr"] = values["lr"]
        if rest and (words["fallback_lr"] is not None or not needs.takes_lr):
            groups[-1]["lr"] = words["fallback_lr"] or values["lr"]
        return groups, []
    if words["fallback"]:
        return ([{"params": mine, **keys}] if keys else mine), rest
    if rest and not keys:
        raise UserError(
            f"handles={words['handles']} leaves {len(rest)} parameters untrained",
            do=f"handles={words['handles']} fallback=adamw",
        )
    return [{"params": mine, **keys}, *([{"params": rest}] if rest else [])], []


def _keys(text: str | None) -> dict:
    """Return rank:16+scale:0.25 as a dictionary; UserError where it is not of this form."""
    if text in (None, "none"):
        return {}
    pairs = [part.partition(":") for part in str(text).split("+")]
    if not all(key.isidentifier() and value for key, _, value in pairs):
        raise UserError(f"keys={text}", "name:value pairs joined by +, or none", "keys=rank:16")
    return {key: _literal(value) for key, _, value in pairs}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text


def _arguments(needs: Needs, groups: list, words: dict, lr, offer: Offer) -> dict:
    """Return the arguments of a constructor that are not hyperparameters, by name."""
    arguments: dict[str, Any] = {}
    if needs.model:
        arguments[needs.model] = offer.model
    if needs.named:
        arguments[needs.named] = offer.named
    if needs.wrapped:
        inner = resolve(words["inner"])
        if needs.by_class:
            arguments |= {needs.wrapped: inner, "lr": lr}
        else:
            arguments[needs.wrapped] = inner(groups, lr=lr)  # type: ignore[call-arg]
    takes_params = needs.first not in (needs.model, *NAMED) and needs.first != needs.wrapped
    if takes_params:
        arguments[needs.first] = groups
    elif needs.by_class:
        arguments["params"] = groups
    return arguments


def _check_keys(target: str, needs: Needs, words: dict, present: set[str]) -> None:
    """Refuse a class that would silently leave out what it is named for."""
    missing = sorted(needs.keys - present)
    if missing and words["keys"] is None:
        raise UserError(
            f"class={target} looks for {', '.join(missing)} in its parameter groups, and leaves "
            "out a part of its method where they are missing",
            "give the keys of its matrices, or keys=none to race it without them",
            f"keys={missing[0]}:VALUE",
        )
