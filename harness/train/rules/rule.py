"""A form (b) submission as one rule of `harness.optim`: its functions, values and their names.

Parameter groups speak torch's language: `weight_decay` and `betas` stand for the `wd`, `beta1` and
`beta2` of submissions, so that schedulers and trainers of other libraries find what they look for.
"""

import importlib
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from harness.catalog import discover, space
from harness.errors import UserError, nearest
from harness.train.rules.tensors import ELEMENT_BY_ELEMENT, operations

SPEED = ("foreach", "fused")  # of torch: they choose an implementation and change no value
OFF = ("capturable", "differentiable", "amsgrad")  # of torch: only False can be had
# Methods divide by what a learning rate adds up to; the square of this is still above zero.
SMALLEST_LR = 1e-100


class Rule:
    """What updates the parameters of a group.

    Attributes:
        name: of the submission, or of its variant.
        space: its SPACE; values: a hyperparameter point under the submission's own names.
        handles: roles that it takes, or None for all; fallback: the submission for the others.
    """

    def __init__(self, name: str | ModuleType, horizon: int | None):
        self.horizon = horizon
        self.module: Any
        if isinstance(name, ModuleType):
            self.place = f"module {name.__name__}"
            self.name = name.__name__.rpartition(".")[2]
            self.module = name
            declared, self.fixed = name.SPACE, {}
        else:
            plugin = discover.find(name)
            self.name = plugin.name
            self.place = plugin.name if plugin.package else str(Path(name).expanduser().resolve())
            card = discover.read(plugin)
            if card.form != "b" or "adapt" in card.functions:
                raise UserError(
                    f"{self.name} owns its step or its model and cannot be a torch optimizer",
                    "form (b) methods can: those with init and update",
                )
            self.module = discover.load(plugin)
            declared = card.literals["SPACE"]
            variants = card.literals.get("VARIANTS", {})
            self.fixed = variants.get(plugin.name, {}) if plugin.variant else {}
        if not (hasattr(self.module, "init") and hasattr(self.module, "update")):
            raise UserError(
                f"{self.name} owns its step and cannot be a torch optimizer",
                "form (b) methods can: those with init and update",
            )
        self.handles: list[str] | None = getattr(self.module, "HANDLES", None)
        self.fallback: str | None = getattr(self.module, "FALLBACK", None)
        self.space, _ = space.split_fallback(declared) if self.handles else (declared, {})
        _, self.fallback_space = space.split_fallback(declared)
        self.values = space.default(self.space)
        if horizon is None and "warmup" in self.values:
            self.values["warmup"] = 0.0
        self._local: bool | None = None

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "module"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        name = self.place.removeprefix("module ")
        if name != self.place:
            self.module = importlib.import_module(name)
        else:
            self.module = discover.load(discover.find(self.place))

    def __deepcopy__(self, memo: dict) -> "Rule":
        return self

    @property
    def has_view(self) -> bool:
        """True if the method evaluates other values than those it trains."""
        return hasattr(self.module, "evaluate_view")

    def take(self, words: dict) -> None:
        """Take values for the rule's own hyperparameters, in torch's words or the submission's."""
        self.values |= self.own(words)

    def own(self, words: dict) -> dict:
        """Return values under the submission's own names, each of them checked.

        Raises:
            UserError: an unknown name, or a value that the method cannot take.
        """
        values = {}
        for key, value in words.items():
            for name, part in self._split(key, value):
                if name not in self.space:
                    known = {*self.words(self.values), *self.space}
                    raise UserError(
                        f"{self.name} has no hyperparameter {name!r}", nearest(name, known)
                    )
                self._check(name, part)
                values[name] = part
        return values

    def _split(self, key: str, value: Any) -> list[tuple[str, Any]]:
        """Return one of torch's words as pairs of a submission's name and its value."""
        if key in self.space:
            return [(key, value)]
        if key in SPEED and value in (None, True, False):
            return []
        if key in OFF and not value:
            return []
        if key in OFF:
            raise UserError(f"{self.name} cannot do {key}={value}", f"{key}=False")
        if key == "weight_decay" and "wd" in self.space:
            return [("wd", value)]
        if key == "weight_decay" and not value:
            return []
        if key == "betas" and {"beta1", "beta2"} <= self.space.keys():
            if not isinstance(value, tuple | list) or len(value) != 2:
                raise UserError(f"{self.name}: betas={value!r}", "two numbers from 0 up, below 1")
            return [("beta1", value[0]), ("beta2", value[1])]
        return [(key, value)]

    def _check(self, name: str, value: Any) -> None:
        """Refuse a value that is neither in SPACE nor of its kind and sign."""
        if name in self.fixed and value != self.fixed[name]:
            raise UserError(
                f"{self.name} is the variant with {name}={self.fixed[name]}, not {value!r}"
            )
        if name == "warmup" and self.horizon is None and value:
            raise UserError(
                "warmup is a share of the horizon, which is not known", do="add horizon=STEPS"
            )
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        spec, numbers = self.space[name], self._numbers(name)
        if not numbers or isinstance(spec, dict):
            try:
                space.check(self.space, name, value, self.name)
                return
            except UserError as error:
                if not numbers:
                    text = error.what.replace("submission.", "")
                    raise UserError(f"{self.name}: {text}", error.allowed) from None
        if value != spec and (allowed := self._beyond(name, value, numbers)):
            raise UserError(f"{self.name}: {name}={value!r}", allowed)

    def _beyond(self, name: str, value: Any, numbers: list) -> str:
        """Return what is allowed if a number outside SPACE makes no sense; "" if it does."""
        number = type(value) in (int, float) and math.isfinite(value)
        if all(type(n) is int for n in numbers):
            least = min(1, *numbers)
            fits = number and value == int(value) and value >= least
            return "" if fits else f"a whole number from {least} up"
        least = min(0.0, *numbers)
        if name.startswith("beta") or name == "momentum":
            return "" if number and least <= value < 1 else f"a number from {least:g} up, below 1"
        return "" if number and value >= least else f"a finite number from {least:g} up"

    def _numbers(self, name: str) -> list:
        """Return the numbers that SPACE names for a hyperparameter; none for other kinds."""
        spec = self.space[name]
        if isinstance(spec, dict):
            spec = next(spec[kind] for kind in space.RANGES if kind in spec)
        values = spec if isinstance(spec, list) else [spec]
        return values if all(type(v) in (int, float) for v in values) else []

    def words(self, values: dict) -> dict:
        """Return values under the names that a parameter group uses."""
        words = dict(values)
        if {"beta1", "beta2"} <= words.keys():
            words["betas"] = (words.pop("beta1"), words.pop("beta2"))
        if "wd" in words:
            words["weight_decay"] = words.pop("wd")
        return words

    def point(self, group: dict) -> SimpleNamespace:
        """Return the hyperparameters of a parameter group as the submission sees them."""
        values = {}
        for key in self.values:
            if key == "wd":
                value = group["weight_decay"]
            elif key in ("beta1", "beta2") and "betas" in group:
                value = group["betas"][key == "beta2"]
            else:
                value = group[key]
            values[key] = value.item() if isinstance(value, torch.Tensor) else value
        if values.get("lr") == 0.0:
            values["lr"] = SMALLEST_LR
        return SimpleNamespace(**values)

    def is_local(self, hp: SimpleNamespace) -> bool:
        """Return True if each element's update depends on that element alone.

        Such a rule may run on the shards of a tensor. ELEMENTWISE methods may still take norms of
        all elements, so some steps are made and their operations looked at.
        """
        if self._local is None:
            self._local = bool(getattr(self.module, "ELEMENTWISE", False)) and not any(
                operations(self.module, hp) - ELEMENT_BY_ELEMENT
            )
        return self._local
