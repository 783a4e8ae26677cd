"""What an optimizer class asks of its caller, read off its constructor and its source."""

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass, field
from functools import cache

WRAPPED = ("optimizer", "base_optimizer", "inner_optimizer")  # arguments that are an optimizer
MODEL = ("model", "module", "net")
NAMED = ("named_parameters", "named_params", "model_named_parameters")
FLAG = "use_muon"  # the key by which a class tells matrices from other parameters
# Keys of groups that change nothing of what a class is named for.
COMMON = {
    "params", "lr", "betas", "weight_decay", "step", "foreach", "fused", "maximize", "capturable",
    "differentiable", "initial_lr", "max_lr", "min_lr", "param_names", "train_mode", FLAG,
    # switches that pytorch_optimizer's classes share
    "adam_debias", "adanorm", "adanorm_r", "cautious", "rectify", "stable_adamw", "use_gc",
    # numbers that a step keeps in its group
    "d", "prev_param_norm",
}  # fmt: skip


@dataclass(frozen=True)
class Needs:
    """What a class asks for.

    Attributes:
        first: name of the constructor's first argument.
        takes_lr: it has an argument `lr`.
        wrapped: the argument that is another optimizer, if any; by_class: it is one's class.
        model: the argument that is the model, named: the one for named parameters, if any.
        flag: it reads FLAG from its groups.
        closure: "" or "closure": step needs a function that evaluates the loss; or "gradient":
            the gradient must be there before step is called with such a function.
        passes: the largest number of evaluations of the loss in a step, with default arguments.
        graph: it differentiates the gradient, which must keep its graph.
        required: other arguments without default.
        keys: keys of groups that it looks for and never sets.
    """

    first: str
    takes_lr: bool
    wrapped: str = ""
    by_class: bool = False
    model: str = ""
    named: str = ""
    flag: bool = False
    closure: str = ""
    passes: int = 1
    graph: bool = False
    required: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


@cache
def needs_of(cls: type) -> Needs:
    """Return what a class asks for."""
    parameters = list(inspect.signature(cls).parameters.values())
    plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names = [p.name for p in plain]
    first = names[0] if names else ""
    wrapped = next((n for n in names if n in WRAPPED), "")
    model = next((p.name for p in plain if p.name in MODEL), "")
    named = next((n for n in names if n in NAMED), "")
    special = {first, wrapped, model, named, "params", "lr"}
    required = [p.name for p in plain if p.default is p.empty and p.name not in special]
    own, inherited = _source(cls), _source_with_bases(cls)
    return Needs(
        first=first,
        takes_lr="lr" in names,
        wrapped=wrapped,
        by_class=wrapped.startswith("base"),
        model=model,
        named=named,
        flag=FLAG in own,
        closure=_closure(cls, own),
        passes=_passes(cls, _closure(cls, own)),
        graph="hutchinson" in own or "create_graph" in own,
        required=required,
        keys=_keys(own, inherited),
    )


def _source(cls: type) -> str:
    """Return the source of a class; "" where there is none to read."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return ""


def _source_with_bases(cls: type) -> str:
    return "\n".join(
        _source(base) for base in cls.__mro__ if not base.__module__.startswith("torch")
    )


def _closure(cls: type, source: str) -> str:
    """Return whether and how step needs a closure: see `Needs`."""
    closure = inspect.signature(cls.step).parameters.get("closure")  # type: ignore[attr-defined]
    asked = closure is not None and closure.default is inspect.Parameter.empty
    if not asked and "NoClosureError" not in source and "closure is None, " not in source:
        return ""
    return "gradient" if hasattr(cls, "first_step") else "closure"


def _passes(cls: type, closure: str) -> int:
    """Return the largest number of passes that a step with a closure makes."""
    if not closure:
        return 1
    parameters = inspect.signature(cls).parameters
    if "max_iter" in parameters:
        # As LBFGS has it: max_eval, or a quarter more than its iterations.
        most = parameters["max_eval"].default if "max_eval" in parameters else None
        return most or parameters["max_iter"].default * 5 // 4
    calls = _source(cls.step).count("closure()")  # type: ignore[attr-defined]
    return max(1, calls + (closure == "gradient"))


def _keys(source: str, inherited: str) -> set[str]:
    """Return keys that the class tests for in a group, and that neither it nor a base sets."""
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:
        return set()
    tested = {key for node in ast.walk(tree) if (key := _tested(node))}
    set_here = set(re.findall(r"""\[['"](\w+)['"]\]\s*[-+*]?=[^=]""", inherited))
    return tested - set_here - COMMON


def _tested(node: ast.AST) -> str:
    """Return the key of `"key" in group` or `group.get("key")`; "" for anything else."""
    key = None
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        key = node.left if _is_group(node.comparators[0]) else None
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        is_get = node.func.attr == "get" and _is_group(node.func.value)
        key = node.args[0] if is_get else None
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""


def _is_group(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("group", "param_group", "g")
