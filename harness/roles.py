"""What each parameter is for, decided by the module that holds it and never by its name."""

import math
from dataclasses import dataclass

from torch import nn

KINDS = (
    "hidden", "embedding", "readout", "norm", "bias", "convolution", "factor", "router", "other",
)  # fmt: skip
_NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
# Queries, keys and values of nn.MultiheadAttention, stacked or apart.
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Role:
    """A parameter's kind, and the number of inputs and outputs of the map it is part of.

    `transposed`: the matrix is stored as [inputs, outputs], not as [outputs, inputs].
    """

    kind: str
    fan_in: int
    fan_out: int
    transposed: bool = False


def is_transposed(module: nn.Module) -> bool:
    """Return True for transformers' Conv1D: a linear map whose weight is [inputs, outputs]."""
    return type(module).__name__ == "Conv1D" and not isinstance(module, nn.modules.conv._ConvNd)


def _kind(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    """Return the kind of a parameter that lies directly in `module`."""
    if name == "bias" or name.endswith("_bias"):
        return "bias"
    if isinstance(module, _NORMS):
        return "norm"
    if hasattr(module, "role"):
        return str(module.role)
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    if isinstance(module, nn.Linear) or (is_transposed(module) and parameter.ndim == 2):
        return "hidden"
    if isinstance(module, nn.MultiheadAttention) and name in _ATTENTION:
        return "hidden"
    if parameter.ndim == 1 and "norm" in type(module).__name__.lower():
        return "norm"
    return "other"


def of(model: nn.Module, find_head: bool = False) -> dict[str, Role]:
    """Return the role of every parameter, by its name.

    A shared parameter has the role of its first module.

    Args:
        find_head: also look for the output head of a model that declares none; see `output_head`.

    Raises:
        ValueError: a module declares a role that does not exist.
    """
    roles = {}
    known = {id(p): n for n, p in model.named_parameters()}
    heads = output_head(model) if find_head else []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = known[id(parameter)]
            if full in roles:
                continue
            kind = _kind(module, name, parameter)
            if kind == "hidden" and any(module is head for head in heads):
                kind = "readout"
            rows = parameter.shape[0] if parameter.ndim else 1
            columns = math.prod(parameter.shape[1:])
            if is_transposed(module) and parameter.ndim == 2:
                roles[full] = Role(kind, rows, columns, transposed=True)
            else:
                roles[full] = Role(kind, columns, rows)
    unknown = {r.kind for r in roles.values()} - set(KINDS)
    if unknown:
        raise ValueError(f"unknown roles {sorted(unknown)}; known: {', '.join(KINDS)}")
    return roles


def output_head(model: nn.Module) -> list[nn.Module]:
    """Return the linear maps that make the output of a model whose modules declare no readout.

    These are what the model itself names (`get_output_embeddings` of transformers,
    `get_classifier` of timm) and the last linear map in order of definition, unless that one
    belongs to a stack of equal blocks.
    """
    if any(getattr(m, "role", None) == "readout" for m in model.modules()):
        return []
    heads = []
    for inner in model.modules():
        for getter in ("get_output_embeddings", "get_classifier"):
            method = getattr(inner, getter, None)
            head = method() if callable(method) else None
            if isinstance(head, nn.Module):
                heads += [m for m in head.modules() if isinstance(m, nn.Linear)]
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    if linear and not _in_stack(model, linear[-1][0]):
        heads.append(linear[-1][1])
    return heads


def _in_stack(model: nn.Module, name: str) -> bool:
    """Return True if the module lies in a list of blocks of one class that hold modules."""
    parts = name.split(".")
    for depth in range(len(parts)):
        outer = model.get_submodule(".".join(parts[:depth]))
        if isinstance(outer, nn.ModuleList | nn.Sequential):
            own = outer.get_submodule(parts[depth])
            alike = [m for m in outer.children() if type(m) is type(own)]
            if len(alike) > 1 and list(own.children()):
                return True
    return False
