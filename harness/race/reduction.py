"""Rebuild a handed-over model without its dead structure, and count what is left of it.

    size   parameters of the reduced model, over those of the dense one
    flops  multiply-adds of its forward pass, over the dense one's

What is dead cannot change the output. Zeros are exact; there is no tolerance on them.

    neuron        its column of down is zero, or its row of up and bias are (if act(0) = 0)
    value channel its column of project is zero, or its value row and bias are
    score channel its query row and bias are zero, or its key row and bias are: the product is zero
    head          no value channel is left
    half a block  nothing is left of the attention, or the perceptron, and its last bias is zero
    rank          a matrix of rank r is two factors where r(out + in) < out·in; r counts singular
                  values above RANK of the largest, in float64

Of a block that the submission switched off nothing is left. Embeddings, readout, and the norms and
biases of what is left count as they are. A neuron with a zero row and a bias is constant, not dead.
The reduced model must give the dense one's outputs. If it does not, nothing counts as removed; nor
does it where a weight is not finite.
What they may differ by follows from most of the outputs: a single large one, such as the score of a
token that never occurs, does not allow more.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness import structure
from harness.train import depth

# Of the largest singular value: the product of two float32 factors leaves a tail of 3e-8.
RANK = 1e-6
# Of the spread of the outputs: what the reduced model may differ by, in float64.
SAME = 1e-4


@dataclass
class Left:
    """What is left of a block.

    Attributes:
        values, scores: channels of the attention, bool [heads, channels of a head].
        neurons: bool [inner].
    """

    values: Tensor
    scores: Tensor
    neurons: Tensor

    @classmethod
    def all(cls, block: structure.Block) -> "Left":
        """Return everything of a block."""
        shape = block.heads, structure.width_of_head(block)
        true = torch.ones(shape, dtype=torch.bool)
        return cls(true, true, torch.ones(structure.neurons(block), dtype=torch.bool))


def shares(model: nn.Module, run: Callable[[nn.Module], Tensor]) -> dict[str, float]:
    """Return `size` and `flops` of a model with handed-over weights.

    Args:
        run: a function that calls a model with a few of the workload's inputs.

    Raises:
        UserError: the model's blocks are not of the form of harness/structure.py.
    """
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        return {"size": 1.0, "flops": 1.0}
    dense = copy.deepcopy(model).double().requires_grad_(False)
    everything = copy.deepcopy(dense)
    if (active := depth.depth(everything)) is not None:
        active[:] = [True] * len(active)
    whole = _rebuilt(everything, [Left.all(b) for b in structure.blocks(dense)], rank=False)
    small = _rebuilt(dense, [left(block) for block in structure.blocks(dense)], rank=True)
    dense_output, (_, dense_flops) = run(dense), _counted(whole, run)
    output, flops = _counted(small, run)
    if not bool((output - dense_output).abs().max() <= SAME * _spread(dense_output)):
        return {"size": 1.0, "flops": 1.0}
    return {"size": _parameters(small) / _parameters(model), "flops": flops / dense_flops}


def _spread(output: Tensor) -> Tensor:
    """Return the median distance of outputs [..., scores] from the median of their row."""
    return (output - output.median(-1, keepdim=True).values).abs().median()


def left(block: structure.Block) -> Left:
    """Return what of a block can change its output. One look suffices: nothing follows from it."""
    heads, each = block.heads, structure.width_of_head(block)
    query, key, value = _nonzero_rows(block.qkv).view(3, heads, each)
    used = (block.project.weight != 0).any(0).view(heads, each)
    values = value & used
    scores = query & key & values.any(1, keepdim=True)
    neurons = (block.down.weight != 0).any(0)
    silent = float(block.activation(torch.zeros(1)).abs()) == 0.0
    if silent:
        neurons &= _nonzero_rows(block.up)
    return Left(values, scores, neurons)


def _nonzero_rows(module: nn.Linear) -> Tensor:
    """Return which outputs of a linear map are not always zero, bool [out]."""
    rows = (module.weight != 0).any(1)
    return rows if module.bias is None else rows | (module.bias != 0)


class Factored(nn.Module):
    """A linear map, as one matrix or as two factors, whichever has fewer parameters."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rank: bool):
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.first, last = None, weight
        if rank and weight.numel():
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            count = int((s > RANK * s[0]).sum())
            if count * sum(weight.shape) < weight.numel():
                root = s[:count].sqrt()
                self.first = nn.Parameter(root[:, None] * v[:count], requires_grad=False)
                last = u[:, :count] * root
        self.last = nn.Parameter(last, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x if self.first is None else F.linear(x, self.first), self.last, self.bias)


class Attention(nn.Module):
    """Attention over the channels that are left; heads may differ in width."""

    def __init__(self, block: structure.Block, left: Left, rank: bool):
        super().__init__()
        qkv, project = block.qkv, block.project
        self.causal, self.scale = (
            bool(getattr(block, "causal", False)),
            left.values.shape[1] ** -0.5,
        )
        alive = left.values.any(1)
        self.scores = left.scores.sum(1)[alive].tolist()
        self.values = left.values.sum(1)[alive].tolist()
        rows = torch.cat([left.scores.flatten(), left.scores.flatten(), left.values.flatten()])
        bias = None if qkv.bias is None else qkv.bias[rows]
        self.qkv = Factored(qkv.weight[rows], bias, rank)
        self.project = Factored(project.weight[:, left.values.flatten()], project.bias, rank)

    def forward(self, x: Tensor) -> Tensor:
        width = sum(self.scores)
        q, k, v = self.qkv(x).split([width, width, sum(self.values)], dim=-1)
        outputs = []
        parts = (q.split(self.scores, -1), k.split(self.scores, -1), v.split(self.values, -1))
        for query, key, value in zip(*parts, strict=True):
            weights = query @ key.transpose(-1, -2) * self.scale
            if self.causal:
                later = torch.ones_like(weights[0], dtype=torch.bool).triu(1)
                weights = weights.masked_fill(later, -math.inf)
            outputs.append(weights.softmax(-1) @ value)
        return self.project(torch.cat(outputs, -1))


class Perceptron(nn.Module):
    """The perceptron of the neurons that are left."""

    def __init__(self, block: structure.Block, left: Left, rank: bool):
        super().__init__()
        up, down = block.up, block.down
        self.activation = block.activation
        bias = None if up.bias is None else up.bias[left.neurons]
        self.up = Factored(up.weight[left.neurons], bias, rank)
        self.down = Factored(down.weight[:, left.neurons], down.bias, rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class Constant(nn.Module):
    """What is left of attention or perceptron without channels: a bias, or nothing."""

    def __init__(self, bias: Tensor | None):
        super().__init__()
        known = bias is not None and bool((bias != 0).any())
        self.bias = nn.Parameter(bias, requires_grad=False) if known and bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) if self.bias is None else self.bias.expand_as(x)


def _rebuilt(model: nn.Module, left: list[Left], rank: bool) -> nn.Module:
    """Return a copy of the model whose blocks have what is left, as smaller matrices."""
    small = copy.deepcopy(model)
    active = depth.depth(small) or [True] * len(left)
    for block, rest, runs in zip(structure.blocks(small), left, active, strict=True):
        if not runs:
            _drop(block, *dict(block.named_children()))
            continue
        attend: nn.Module = Constant(block.project.bias)
        transform: nn.Module = Constant(block.down.bias)
        if rest.values.any():
            attend = Attention(block, rest, rank)
        if rest.neurons.any():
            transform = Perceptron(block, rest, rank)
        _drop(block, *structure.MAPS)
        _place(block, "attend", attend)
        _place(block, "transform", transform)
        for norm, half in (("norm1", attend), ("norm2", transform)):
            # The norm of what is gone has no reader; after the sum it has.
            if block.pre and isinstance(half, Constant):
                block.add_module(norm, nn.Identity())
    return small


def _place(block: structure.Block, name: str, module: nn.Module) -> None:
    """Let a block's method be a module's, whose parameters count as the block's."""
    block.add_module(f"reduced_{name}", module)
    # The class has a method of this name; the instance's own attribute comes first.
    block.__dict__[name] = module.forward


def _drop(block: structure.Block, *names: str) -> None:
    for name in names:
        delattr(block, name)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _counted(model: nn.Module, run: Callable[[nn.Module], Tensor]) -> tuple[Tensor, int]:
    """Return the model's output and the operations of the forward pass."""
    with FlopCounterMode(display=False) as counter:
        output = run(model)
    return output, counter.get_total_flops()
