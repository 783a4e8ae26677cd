"""Any optimizer class of an installed package as a submission: its keywords are hyperparameters.

    python -m harness submission=optimizer class=pytorch_optimizer.SOAP submission.lr=3e-3

The submission's name is the class's dotted path, its form is (a): the harness makes the step and
scales the learning rate by a warm-up and a cosine. `lr` must be given; every other keyword has the
class's default. Name and version of the package are part of a run's identity.
"""

import importlib
import inspect
from importlib.metadata import packages_distributions, version
from types import ModuleType

from harness.errors import UserError, nearest

OPTIMIZER = "optimizer"  # the submission that class= makes one of
LR = [1e-6, 10.0]  # bounds of what is taken, and of what trial=N draws
WARMUP = 0.05
WRITE = "write it as a submission: harness new submission NAME"


def expanded(arguments: list[str]) -> list[str]:
    """The command line with submission=optimizer class=A,B as submission=A,B.

    Raises:
        UserError: one without the other, or a class that is no dotted path.
    """
    values = [a.removeprefix("class=") for a in arguments if a.startswith("class=")]
    chosen = [a for a in arguments if a.startswith("submission=")]
    asked = any(OPTIMIZER in a.removeprefix("submission=").split(",") for a in chosen)
    example = f"submission={OPTIMIZER} class=torch.optim.AdamW submission.lr=1e-3"
    if not asked and not values:
        return arguments
    if not asked or len(values) != 1 or any("." not in v for v in values[0].split(",")):
        raise UserError(
            f"class={values[0]}" if values else f"submission={OPTIMIZER}: of which class?",
            "the dotted path of a torch.optim.Optimizer",
            example,
        )
    rest = [a for a in arguments if not a.startswith("class=") and a not in chosen]
    names = ",".join(chosen).replace("submission=", "").split(",")
    return [*rest, "submission=" + ",".join(values[0] if n == OPTIMIZER else n for n in names)]


def resolve(target: str) -> type:
    """The class at a dotted path; UserError for anything but a torch.optim.Optimizer.

    Raises:
        UserError: no such package or class, no optimizer, or one whose step needs a closure.
    """
    import torch

    home, _, name = target.rpartition(".")
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
        said = f"class={target} is no torch.optim.Optimizer" if found else f"no class {target}"
        raise UserError(said, nearest(name, optimizers))
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(f"class={target}: its step needs a closure", do=WRITE)
    return found


def space(target: str) -> dict:
    """SPACE of a class: `lr` as a range, each other keyword of its constructor at its default.

    Keywords whose default is no number, word, truth value, None or list of numbers are left to the
    class. Without a keyword `warmup` of the class's own, there is the harness's.
    """
    found: dict = {}
    parameters = list(inspect.signature(resolve(target)).parameters.values())[1:]
    for each in parameters:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            continue
        if each.name == "lr":
            own = each.default
            fits = isinstance(own, float) and LR[0] <= own <= LR[1]
            found["lr"] = {"log": LR} | ({"default": own} if fits else {})
        elif each.default is each.empty:
            raise UserError(f"class={target}: it needs {each.name!r}, no plain value", do=WRITE)
        elif (value := _plain(each)) is not each.empty:
            found[each.name] = value
    return found if "warmup" in found else found | {"warmup": WARMUP}


def _plain(each: inspect.Parameter):
    """A keyword's default as SPACE may hold it; `each.empty` where it cannot."""
    value = each.default
    if isinstance(value, tuple | list):
        numbers = all(type(v) in (int, float) for v in value)
        return [float(v) for v in value] if value and numbers else each.empty
    if type(value) is int and "float" in str(each.annotation):
        return float(value)
    return value if value is None or type(value) in (bool, int, float, str) else each.empty


def summary(target: str) -> str:
    """What `harness show` says of a class."""
    told = (inspect.getdoc(resolve(target)) or "").split("\n")[0].rstrip(".")
    return f"{told or target}.\n\nThe class {target} of {release(target)}, with its own defaults."


def release(target: str) -> str:
    """The class's package and version, "pytorch_optimizer 3.5.0"; UserError for no package."""
    top = target.partition(".")[0]
    distributions = packages_distributions().get(top)
    if not distributions:
        raise UserError(
            f"class={target}: {top} is no installed package, so that nobody could run it again",
            do=WRITE,
        )
    return f"{distributions[0]} {version(distributions[0])}"


def module(target: str) -> ModuleType:
    """A class as a form (a) module: `optimizer`, and where it has modes, `evaluate_view`."""
    made, cls = ModuleType(target), resolve(target)
    own = "warmup" in inspect.signature(cls).parameters

    def optimizer(params, hp):
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(hp).items()}
        if not own:
            values.pop("warmup")
        built = cls(params, **values)
        if modes:
            built.train()
        return built

    def evaluate_view(params, built):
        """The values of evaluation mode; training goes on from the bits it had."""
        from harness import ops

        kept = ops.copies(params)
        built.eval()
        seen = ops.copies(params)
        built.train()
        for p, old in zip(params, kept, strict=True):
            p.data.copy_(old)
        return seen

    modes = hasattr(cls, "train") and hasattr(cls, "eval")
    made.optimizer = optimizer  # type: ignore[attr-defined]
    if modes:
        made.evaluate_view = evaluate_view  # type: ignore[attr-defined]
    if own:
        made.schedule = lambda progress, hp: 1.0  # type: ignore[attr-defined]
    return made
