"""Any optimizer class of an installed package as a submission: its keywords are hyperparameters.

    python -m harness submission=optimizer class=pytorch_optimizer.SOAP submission.lr=3e-3
    python -m harness submission=optimizer class=torch.optim.Muon handles=hidden fallback=adamw ...

The submission's name is the class's dotted path, its form is (a): the harness makes the step and
scales the learning rate by a warm-up and a cosine. `lr` must be given; every other keyword has the
class's default. What else a class may ask of its caller are hyperparameters too (OFFERED), which
the command line takes without "submission." Name and version of the package are part of a run's
identity. docs/optimizers.md lists which classes race.
"""

import importlib
import inspect
from importlib.metadata import packages_distributions, version
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

from harness.catalog.class_needs import needs_of
from harness.errors import UserError, nearest

if TYPE_CHECKING:
    from harness.catalog.class_builder import Offer

OPTIMIZER = "optimizer"  # the submission that class= makes one of
LR = [1e-6, 10.0]  # bounds of what is taken, and of what trial=N draws
WARMUP = 0.05
WRITE = "write it as a submission: harness new submission my_idea"
FALLBACK = "fallback"  # the form (b) submission that takes the other parameters: Class+NAME
# What a caller can offer a class besides its own keywords, unset where it is not wanted.
OFFERED = {
    "handles": None,  # roles of the parameters it takes: hidden, or hidden+embedding
    "fallback_lr": None,  # the learning rate of the others
    "inner": None,  # the optimizer class that a wrapper wraps
    "keys": None,  # of its parameter group: rank:16+scale:0.25, or none
}


def expanded(arguments: list[str]) -> list[str]:
    """Return the command line with submission=optimizer class=A,B as submission=A,B.

    Raises:
        UserError: one without the other, or a class that is not a dotted path.
    """
    values = [a.removeprefix("class=") for a in arguments if a.startswith("class=")]
    chosen = [a for a in arguments if a.startswith("submission=")]
    asked = any(OPTIMIZER in a.removeprefix("submission=").split(",") for a in chosen)
    example = f"submission={OPTIMIZER} class=torch.optim.AdamW submission.lr=1e-3"
    offered = [a for a in arguments if a.partition("=")[0] in (*OFFERED, FALLBACK)]
    if not values and (asked or offered):
        what = f"submission={OPTIMIZER}: of which class?" if asked else f"{offered[0]}: no class="
        raise UserError(what, "the dotted path of a torch.optim.Optimizer", example)
    if not asked and not values:
        return arguments
    classes = values[0].split(",")
    if not asked or len(values) != 1 or any("." not in c for c in classes):
        raise UserError(f"class={values[0]}", "the dotted path of a torch.optim.Optimizer", example)
    rest = [a for a in arguments if not a.startswith("class=") and a not in (*chosen, *offered)]
    words = dict(a.split("=", 1) for a in offered)
    ending = f"+{words.pop(FALLBACK)}" if FALLBACK in words else ""
    rest += [f"submission.{name}={_quoted(value)}" for name, value in words.items()]
    names = ",".join(chosen).replace("submission=", "").split(",")
    targets = ",".join(f"{c}{ending}" for c in classes)
    return [*rest, "submission=" + ",".join(targets if n == OPTIMIZER else n for n in names)]


def _quoted(value: str) -> str:
    """Return a value as Hydra reads it: words with a colon or a plus sign need quotes."""
    plain = value.replace(".", "").replace("_", "").replace(",", "").replace("-", "").isalnum()
    return value if plain else '"' + value.strip("'\"") + '"'


def resolve(target: str) -> type:
    """Return the class at a dotted path, which must be a torch.optim.Optimizer.

    Raises:
        UserError: there is no such package or class, or it is not an optimizer.
    """
    import torch

    home, _, name = target.rpartition(".")
    if not all(part.isidentifier() for part in target.split(".")):
        raise UserError(f"class={target} is not a dotted path", "package.Class, torch.optim.AdamW")
    try:
        module = importlib.import_module(home)
    except ImportError as error:
        raise UserError(
            f"class={target}: {error}", "package.Class of an installed package", "pip install it"
        ) from None
    optimizers = [
        key
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    ]
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, torch.optim.Optimizer):
        not_one = f"class={target} is not a torch.optim.Optimizer"
        raise UserError(not_one if found else f"no class {target}", nearest(name, optimizers))
    return found


def space(target: str, fallback: str = "") -> dict:
    """Return SPACE of a class: `lr` as a range, each other keyword at its default, and OFFERED.

    Keywords whose default is not a number, word, truth value, None or list of numbers are left to
    the class. Arguments without default are None until they are set. Without a keyword `warmup` of
    the class's own, there is the harness's.
    """
    cls = resolve(target)
    needs = needs_of(cls)
    values: dict = dict.fromkeys(needs.required)
    parameters = inspect.signature(cls).parameters
    for each in parameters.values():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) or each.default is each.empty:
            continue
        if each.name != "lr" and (value := _plain(each)) is not each.empty:
            values[each.name] = value
    own = parameters["lr"].default if needs.takes_lr else None
    fits = isinstance(own, float) and LR[0] <= own <= LR[1]
    if needs.takes_lr or needs.wrapped or needs.flag:
        values["lr"] = {"log": LR} | ({"default": own} if fits else {})
    offered = {key: value for key, value in OFFERED.items() if key not in parameters}
    if fallback:
        offered |= {FALLBACK: fallback, "handles": "hidden"}
    return {"warmup": WARMUP} | values | offered


def passes(target: str) -> dict:
    """Return PASSES of a class as a literal of its card; nothing for one pass a step."""
    most = needs_of(resolve(target)).passes
    return {"PASSES": {"forward_backward": most}} if most > 1 else {}


def _plain(each: inspect.Parameter):
    """Return a keyword's default as SPACE may hold it; `each.empty` where it cannot."""
    value = each.default
    if isinstance(value, tuple | list):
        numbers = all(type(v) in (int, float) for v in value)
        return [float(v) for v in value] if value and numbers else each.empty
    if type(value) is int and "float" in str(each.annotation):
        return float(value)
    return value if value is None or type(value) in (bool, int, float, str) else each.empty


def summary(target: str) -> str:
    """Return what `harness show` says of a class."""
    first = (inspect.getdoc(resolve(target)) or "").split("\n")[0].rstrip(".")
    return f"{first or target}.\n\nThe class {target} of {release(target)}, with its own defaults."


def release(target: str) -> str:
    """Return the class's package and version: "pytorch_optimizer 3.5.0"; UserError if none."""
    top = target.partition(".")[0]
    distributions = packages_distributions().get(top)
    if not distributions:
        raise UserError(
            f"class={target}: {top} is not an installed package, so nobody could run it again",
            do=WRITE,
        )
    return f"{distributions[0]} {version(distributions[0])}"


def module(target: str) -> ModuleType:
    """Return a class as a form (a) module, whose `optimizer` also takes what a trial can offer."""
    result, cls = ModuleType(target), resolve(target)

    def optimizer(params: list, hp: SimpleNamespace, offer: "Offer"):
        from harness.catalog import class_builder

        return class_builder.build(target, cls, params, hp, offer)

    result.optimizer = optimizer  # type: ignore[attr-defined]
    if "warmup" in inspect.signature(cls).parameters:
        result.schedule = lambda progress, hp: 1.0  # type: ignore[attr-defined]
    return result
