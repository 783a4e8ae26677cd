"""Search spaces: literals in, hyperparameter points out; no state, no import of the submission.

A space maps a name to a fixed value or to one range:
    {"log": [low, high]}, {"linear": [low, high]}, {"int": [low, high]}, {"choice": [...]},
each with an optional "default" beside it. Without one the default is the centre: geometric for log,
arithmetic for linear and int, the first for choice. "goal": METRIC beside a range says that the
workload's goal decides: no trial tunes it (`asked`).
"""

import hashlib
import math
from functools import lru_cache
from keyword import iskeyword
from types import SimpleNamespace

from harness.errors import UserError, nearest

POINTS = 2**20  # of a study, more than anyone races; the sequence itself has 2**30
LARGEST = 2**63  # of a number
RANGES = ("log", "linear", "int", "choice")


def _kind(spec: dict, where: str) -> str:
    kinds = [k for k in RANGES if k in spec]
    extra = set(spec) - set(RANGES) - {"default", "goal", "tuned"}
    stated = isinstance(spec.get("goal", ""), str) and isinstance(spec.get("tuned", True), bool)
    if len(kinds) != 1 or extra or not stated:
        raise UserError(
            f"{where}: {spec} is not a range",
            f"one of {', '.join(RANGES)}, with an optional default, a goal's metric, and tuned",
        )
    return kinds[0]


def validate(space: dict, where: str) -> None:
    """Raise UserError unless every entry of `space` is a fixed value or a well-formed range."""
    for name, spec in space.items():
        at = f"{where}: SPACE[{name!r}]"
        if (
            not (isinstance(name, str) and name.isidentifier())
            or iskeyword(name)
            or name in ("name", "path")
        ):
            raise UserError(
                f"{at}: a hyperparameter's name is a Python identifier other than name and path"
            )
        if not isinstance(spec, dict):
            numbers = isinstance(spec, list) and all(type(v) in (int, float) for v in spec)
            if not numbers and not isinstance(spec, int | float | str | bool | None):
                raise UserError(f"{at}: {spec!r} is not a number, string, truth value or range")
            _check_sizes(spec if isinstance(spec, list) else [spec], at)
            continue
        kind = _kind(spec, at)
        values = spec[kind]
        if not isinstance(values, list) or not values or (kind != "choice" and len(values) != 2):
            raise UserError(
                f"{at}: {kind} takes a list of {'values' if kind == 'choice' else 'two bounds'}"
            )
        _check_sizes(values, at)
        if kind == "choice":
            continue
        if not all(
            type(v) is int or (kind != "int" and type(v) is float and math.isfinite(v))
            for v in values
        ):
            raise UserError(
                f"{at}: bounds {values} are not {'integers' if kind == 'int' else 'finite numbers'}"
            )
        if not values[0] < values[1] or (kind == "log" and values[0] <= 0):
            raise UserError(
                f"{at}: bounds {values} are out of order{' or not positive' * (kind == 'log')}"
            )
    for name, value in default(space).items():
        try:
            check(space, name, value, where)
        except UserError as error:
            raise UserError(
                f"{where}: the default of SPACE[{name!r}]: {error.what}", error.allowed
            ) from None


def _check_sizes(values: list, at: str) -> None:
    """Raise UserError for a number that no record can hold."""
    for value in values:
        if isinstance(value, int | float) and not abs(value) < LARGEST:
            number = f"{value}" if isinstance(value, float) else "a number of many digits"
            raise UserError(f"{at}: {number}", f"finite numbers below {LARGEST:.3g}")


def default(space: dict) -> dict:
    """Return the point that is raced when nothing else is asked for."""
    return {name: _centre(spec) if isinstance(spec, dict) else spec for name, spec in space.items()}


def asked(space: dict, goal: dict, where: str) -> dict:
    """Return the space of a race for this goal: what a goal may ask for is fixed, at its bound.

    {"sparsity": {"linear": [0.0, 0.99], "default": 0.8, "goal": "sparsity"}} is 0.9 where the goal
    is {..., "sparsity": {"at_least": 0.9}}, and 0.8 where it says nothing of sparsity.

    Raises:
        UserError: the bound is outside the range.
    """
    fixed = {}
    for name, spec in space.items():
        if isinstance(spec, dict) and "goal" in spec:
            value = _centre(spec)
            for bound in goal.get(spec["goal"], {}).values():
                wanted = bool(bound) if isinstance(value, bool) else bound
                value = check(space, name, wanted, where)
            fixed[name] = value
    return space | fixed


def _centre(spec: dict):
    if "default" in spec:
        return spec["default"]
    return _at(spec, 0.5) if "choice" not in spec else spec["choice"][0]


def _at(spec: dict, u: float):
    """Return the value at quantile u in [0, 1) of a range, rounded to six digits within it."""
    kind = _kind(spec, "SPACE")
    if kind == "choice":
        return spec["choice"][int(u * len(spec["choice"]))]
    low, high = spec[kind]
    if kind == "log":
        value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        return _rounded(value, low, high)
    if kind == "int":
        return low + int(u * (high - low + 1))
    return _rounded(low + u * (high - low), low, high)


def _rounded(value: float, low: float, high: float) -> float:
    """Return the value with six digits; a bound where rounding would leave the range."""
    return float(min(max(float(f"{value:.6g}"), low), high))


def point(space: dict, study: int, index: int) -> dict:
    """Return point `index` of a study: a scrambled Sobol sequence, a function of its arguments.

    A range with `"tuned": False` keeps its default. The others take the dimensions of the sequence
    in the order of SPACE. Another order gives other
    points; it is another submission as well, since the order is part of the file's identity.
    """
    ranges = {
        name: spec
        for name, spec in space.items()
        if isinstance(spec, dict) and spec.get("tuned", True)
    }
    values = default(space)
    if not ranges:
        return values
    quantiles = _sobol(tuple(sorted(ranges)), study, index)
    return values | {
        name: _at(spec, u) for (name, spec), u in zip(ranges.items(), quantiles, strict=True)
    }


@lru_cache(maxsize=4096)
def _sobol(names: tuple[str, ...], study: int, index: int) -> tuple[float, ...]:
    """Return point `index` of the sequence in [0, 1) whose seed is a hash of names and study."""
    from scipy.stats import qmc

    text = f"{[*names]}/{study}".encode()
    seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
    sequence = qmc.Sobol(len(names), scramble=True, rng=seed)
    row = sequence.fast_forward(index).random(1)[0] if index else sequence.random(1)[0]
    return tuple(float(u) for u in row)


def check(space: dict, name: str, value, where: str):
    """Return `value` for hyperparameter `name` in its proper type, or raise UserError."""
    if name not in space:
        raise UserError(
            f"{where} has no hyperparameter {name!r}",
            nearest(name, space),
            f"SPACE of {where} lists them",
        )
    spec = space[name]
    if not isinstance(spec, dict):
        if isinstance(spec, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(spec, list) and isinstance(value, list | tuple):
            if len(value) != len(spec) or any(type(v) not in (int, float) for v in value):
                raise UserError(
                    f"submission.{name}={list(value)} is no list of {len(spec)} numbers",
                    f"such as {spec}",
                )
            return [float(v) for v in value] if type(spec[0]) is float else list(value)
        if type(value) is not type(spec) and spec is not None:
            raise UserError(
                f"submission.{name}={value!r} is not of the type of its default {spec!r}"
            )
        return value
    kind = _kind(spec, where)
    if kind == "choice":
        for choice in spec["choice"]:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        raise UserError(f"submission.{name}={value!r} is not allowed", f"one of {spec['choice']}")
    low, high = spec[kind]
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (kind == "int" and value % 1)
    ):
        raise UserError(
            f"submission.{name}={value!r} is not {'an integer' if kind == 'int' else 'a number'}"
        )
    if not low <= value <= high:
        raise UserError(
            f"submission.{name}={value!r} is outside its range",
            f"{low:g} to {high:g} ({kind})",
            f"widen SPACE in {where} to go further",
        )
    return int(value) if kind == "int" else float(value)


def split_fallback(hp: dict, prefix: str = "fallback_") -> tuple[dict, dict]:
    """Split a point into the submission's own values and the `fallback_*` ones, unprefixed."""
    fallback = {k.removeprefix(prefix): v for k, v in hp.items() if k.startswith(prefix)}
    return {k: v for k, v in hp.items() if not k.startswith(prefix)}, fallback


class Hyperparameters(SimpleNamespace):
    """A point as the submission sees it: hp.lr, hp.wd, ..."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        known = nearest(name, vars(self))
        raise AttributeError(f"hp has no {name!r}: SPACE does not declare it; {known}")


def namespace(hp: dict) -> Hyperparameters:
    """Return a point as the submission sees it."""
    return Hyperparameters(**hp)
