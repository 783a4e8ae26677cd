"""Surgery on a workload's model: freezing, replacing its linear maps, masks; and merging it.

A fine-tuning or compression method changes the model in `adapt(model, task, hp)`. What it hands
over are always the workload's own tensors: `export` merges every replaced map into its matrix.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import roles
from harness.errors import UserError

PARTS = "parts"  # of a linear map: the module that holds what is added to its matrix


def matrices(model: nn.Module) -> dict[str, nn.Module]:
    """Return the hidden linear maps (not embedding, head or convolution), by name, in order."""
    maps = (nn.Linear, Adapted)
    return {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, maps) and getattr(m, "role", "hidden") == "hidden"
    }


def weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the hidden matrices [out, in] themselves, in order."""
    return [module.get_parameter("weight") for module in matrices(model).values()]


def head(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of the readout, which every fine-tuning method trains and no budget counts."""
    kinds = roles.of(model)
    known = {id(p): kinds[n].kind for n, p in model.named_parameters()}
    own = [p for m in _of_role(model, "readout") for p in m.parameters(recurse=False)]
    return [p for p in own if known[id(p)] in ("readout", "bias")]  # not a tied embedding


def readout(model: nn.Module) -> nn.Module:
    """Return the linear map into classes; raise UserError if the model has none of its own."""
    found = _of_role(model, "readout")
    if not found:
        raise UserError("this model has no readout of its own", "a model that ends in classes")
    return found[0]


def _of_role(model: nn.Module, role: str) -> list[nn.Module]:
    """Return the modules that say that they have this role, in order."""
    return [m for m in model.modules() if getattr(m, "role", None) == role]


def routers(model: nn.Module) -> list[nn.Module]:
    """Return the modules that choose experts, in order; raise UserError if there are none.

    A router has a buffer `bias` [experts] that is added to the scores where experts are chosen;
    `load` [experts], the tokens of the last pass by expert; and `share` [experts], the mean
    probability of each expert in that pass, with gradient.
    """
    found = _of_role(model, "router")
    if not found:
        raise UserError("this model has no experts to balance", "a mixture of experts: gpt2_moe")
    return found


def recurrences(model: nn.Module) -> list[nn.Module]:
    """Return the modules with a diagonal complex state; raise UserError if there are none.

    A recurrence has parameters `rate` and `frequency` [states], the real and imaginary parts of its
    exponents, and `gain` [2, states], the real and imaginary parts of how states enter the output.
    """
    found = [
        m for m in model.modules() if all(hasattr(m, n) for n in ("rate", "frequency", "gain"))
    ]
    if not found:
        raise UserError(
            "this model has no recurrence with a diagonal state",
            "a workload whose model has one, as state_memory's",
        )
    return found


def freeze(model: nn.Module) -> None:
    """Freeze every parameter but the head's."""
    model.requires_grad_(False)
    for p in head(model):
        p.requires_grad_(True)


def begin(model: nn.Module, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Load pretrained weights; returns all that training starts from, by name.

    A head that `start` lacks stays as it was drawn.
    """
    known = {id(p) for p in head(model)}
    drawn = {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if id(p) in known and name not in start
    }
    model.load_state_dict(drawn | start)
    return drawn | start


class Adapted(nn.Module):
    """A linear map that replaces another: frozen weight [out, in] and bias, and what is added.

    A subclass defines `dense()`, the matrix in effect; `dense_bias()` too where the bias changes.
    It may define a cheaper `forward`, which must be the same map.
    """

    role = "hidden"

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.weight.requires_grad_(False)
        # What a workload's own map adds to its matrix (workloads/models/parts.py) stays with it.
        if hasattr(linear, PARTS):
            self.parts = linear.parts

    def dense(self) -> Tensor:
        """Return the matrix in effect, [out, in]."""
        raise NotImplementedError

    def dense_bias(self) -> Tensor | None:
        """Return the bias in effect, [out], or None; by default the frozen one."""
        return self.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense(), self.dense_bias())


def replace(model: nn.Module, make: Callable[[nn.Module], nn.Module]) -> list[nn.Module]:
    """Replace every hidden linear map by `make(map)`; returns the new ones.

    Raises:
        UserError: the model has none.
    """
    found = matrices(model)
    if not found:
        raise UserError("this model has no hidden linear map to act on")
    for name, linear in found.items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, make(linear))
    return list(matrices(model).values())


def fitting(model: nn.Module, rank: int, share: float, size: Callable[[int, int, int], int]) -> int:
    """Return the largest rank from 1 to `rank` that trains at most a share of the model.

    Args:
        share: of all the model's parameters as it is now; a goal's bound on "trainable".
        size: what is trained for a matrix [out, in]: size(out, in, rank).
    """
    allowed = share * sum(p.numel() for p in model.parameters())
    shapes = [weight.shape for weight in weights(model)]
    while rank > 1 and sum(size(out, inputs, rank) for out, inputs in shapes) > allowed:
        rank -= 1
    return rank


def pattern(scores: Tensor, kept: int, of: int) -> Tensor:
    """Return the mask [out, in] of the `kept` largest scores of `of` consecutive inputs of a row.

    Groups do not straddle rows, and of equal scores the first stay. A rest of fewer than `of`
    inputs is kept whole, as the referee does not count it.
    """
    rows, inputs = scores.shape
    whole = inputs // of * of
    groups = scores[:, :whole].reshape(-1, of)
    order = groups.argsort(dim=1, descending=True, stable=True)[:, :kept]
    mask = torch.ones_like(scores, dtype=torch.bool)
    chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True)
    mask[:, :whole] = chosen.view(rows, whole)
    return mask


@torch.no_grad()
def calibrated(model: nn.Module, x: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
    """Return each hidden linear map, and what it is called with when the model is called with x.

    Inputs are [tokens, in]. They are taken block after block (`model.blocks`, then the rest), so
    what the caller does to a block's matrices shows in the inputs of the blocks behind it.
    """
    rest = list(matrices(model).values())
    for block in [*getattr(model, "blocks", []), model]:
        inside = set(block.modules())
        part, rest = [m for m in rest if m in inside], [m for m in rest if m not in inside]
        yield from zip(part, _inputs(model, part, x), strict=True)


def _inputs(model: nn.Module, modules: list[nn.Module], x: Tensor) -> list[Tensor]:
    seen: dict[nn.Module, Tensor] = {}
    hooks = [
        m.register_forward_pre_hook(lambda m, args: seen.update({m: args[0].flatten(0, -2)}))
        for m in modules
    ]
    if modules:
        model(x)
    for hook in hooks:
        hook.remove()
    return [seen[m] for m in modules]


@torch.no_grad()
def export(model: nn.Module) -> dict[str, Tensor]:
    """Return the workload's own tensors by name: what adapters add is merged into the matrices."""
    tensors, extra = dict(model.state_dict()), set()
    for prefix, module in model.named_modules():
        if isinstance(module, Adapted):
            inside = {f"{prefix}.{name}" for name in module.state_dict()}
            own = {name for name in inside if name.startswith(f"{prefix}.{PARTS}.")}
            extra |= inside - own - {f"{prefix}.weight", f"{prefix}.bias"}
            tensors[f"{prefix}.weight"] = module.dense().detach()
            bias = module.dense_bias()
            if bias is not None:
                tensors[f"{prefix}.bias"] = bias.detach()
    return {name: t for name, t in tensors.items() if name not in extra}


def trained(model: nn.Module) -> int:
    """Number of scalars that train now, the head's not counted."""
    own = {id(p) for p in head(model)}
    return sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in own)


class Masks:
    """Which elements of a parameter stay; the others, their gradient and state are zero.

    The harness enforces masks after every step and keeps them in checkpoints.
    """

    def __init__(self, model: Callable[[], nn.Module]):
        self._model, self._off, self._lifted = model, {}, False

    def __bool__(self) -> bool:
        return bool(self._off)

    def set(self, parameter: nn.Parameter, kept: Tensor) -> None:
        """Keep the elements where `kept` (of the parameter's shape) is true; zero the others."""
        assert kept.shape == parameter.shape
        name = next(n for n, p in self._model().named_parameters() if p is parameter)
        self._off[name] = kept.detach() == 0
        with torch.no_grad():
            parameter.masked_fill_(self._off[name], 0.0)

    def of(self, parameter: nn.Parameter) -> Tensor:
        """Return the mask of a parameter, bool of its shape; all true where none was set."""
        for name, p in self._model().named_parameters():
            if p is parameter and name in self._off:
                return ~self._off[name]
        return torch.ones_like(parameter, dtype=torch.bool)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Within the block, gradients are left dense."""
        self._lifted = True
        try:
            yield
        finally:
            self._lifted = False

    def hide_grads(self) -> None:
        """Zero the gradient of what is masked."""
        if not self._lifted:
            self._clear({p: p.grad for p in self._model().parameters() if p.grad is not None})

    @torch.no_grad()
    def enforce(self, params: list[nn.Parameter], lists: list[list[Tensor]]) -> None:
        """Zero what is masked in all parameters, and in lists parallel to `params`."""
        self._clear({p: p.data for p in self._model().parameters()})
        for values in lists:
            self._clear({p: v for p, v in zip(params, values, strict=True) if v.shape == p.shape})

    @torch.no_grad()
    def _clear(self, values: dict[nn.Parameter, Tensor]) -> None:
        for name, p in self._model().named_parameters():
            if name in self._off and p in values:
                values[p].masked_fill_(self._off[name], 0.0)

    def state_dict(self) -> dict:
        return {name: off.clone() for name, off in self._off.items()}

    def load_state_dict(self, state: dict) -> None:
        self._off = dict(state)


def parallel(value, params: list[nn.Parameter]) -> list[list[Tensor]]:
    """Lists within nested state that hold one tensor for each parameter."""
    if isinstance(value, dict):
        return [found for part in value.values() for found in parallel(part, params)]
    if isinstance(value, list | tuple):
        if len(value) == len(params) and all(isinstance(v, Tensor) for v in value):
            return [list(value)]
        return [found for part in value for found in parallel(part, params)]
    return []
