"""QuaRot: turn the residual stream and the values at random, so that few weights stand out.

Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", arXiv 2404.00456.

    gains and shifts of norms go into the maps behind them;  Q·1 = 1, as a norm subtracts the mean
    x ← Qᵀx for the residual stream: embeddings' rows times Q, readers W·Q, writers Qᵀ·W
    in each head values ← R_hᵀ·values, columns of project ← columns·R_h: the same function
    then rows of W on symmetric grids

State: AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: random orthogonal matrices in place of Hadamard's, which do not keep the
ones vector; no turn before the last map, whose activation stands in the way; the weights then train
through their rounding (int8_ste), where the paper rounds once. Inputs are rounded in training where
the goal rounds them.
"""

import torch
from torch import nn

from harness import activations, structure
from harness.errors import UserError
from submissions.quantized import int8_ste

BASE = "adamw"
TRACKS = ["compress"]
SPACE = {
    **int8_ste.SPACE,
    "bits": {"int": [2, 8], "default": 4, "goal": "bits"},
    "activation_bits": {"int": [2, 16], "default": 16, "goal": "activation_bits"},
}


def orthogonal(size, rng):
    """Return a random orthogonal matrix, float64 [size, size]."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64))
    return q * r.diagonal().sign()


class Rotations:
    """Q for the residual stream, by an orthogonal matrix of one dimension less, and each R_h.

    Attributes:
        inner: [width - 1, width - 1].
        heads: for each block, its R_h [heads, width of a head, width of a head].
    """

    def __init__(self, blocks, rng):
        width, each = blocks[0].qkv.weight.shape[1], structure.width_of_head(blocks[0])
        spanned = torch.eye(width, dtype=torch.float64)
        spanned[:, 0] = 1.0
        self.basis = torch.linalg.qr(spanned).Q  # its first column is along the ones vector
        self.inner = orthogonal(width - 1, rng)
        self.heads = [torch.stack([orthogonal(each, rng) for _ in range(b.heads)]) for b in blocks]

    def stream(self):
        """Return Q [width, width]."""
        first, others = self.basis[:, :1], self.basis[:, 1:]
        return first @ first.T + others @ self.inner @ others.T

    def values(self, block):
        """Return the R_h of a block along the diagonal, [width, width]."""
        return torch.block_diag(*self.heads[block])


@torch.no_grad()
def fold(model):
    """Move gains and shifts of norms into what reads them; return the last norm and the readout.

    The readout may have no bias: the last norm keeps its shift, divided by its gain.

    Raises:
        UserError: the model has no layer norm at its end, or its readout is its embedding too.
    """
    readers = structure.readers(model)
    heads = [m for m in model.modules() if getattr(m, "role", None) == "readout"]
    last = getattr(model, "norm", None)
    if not isinstance(last, nn.LayerNorm) or len(heads) != 1:
        raise UserError(
            "this model cannot be turned: it needs a layer norm before a readout of its own",
            "untied models with norms before the maps, as in compress_gpt2",
        )
    for norm, reader in readers:
        reader.bias.add_(reader.weight @ norm.bias)
        reader.weight.mul_(norm.weight)
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    heads[0].weight.mul_(last.weight)
    last.bias.div_(last.weight)
    last.weight.fill_(1.0)
    return last, heads[0]


@torch.no_grad()
def turn(model, last, head, rotations):
    """Turn a folded model's weights: its outputs stay the same."""
    q = rotations.stream().to(head.weight)
    head.weight.copy_(head.weight @ q)
    last.bias.copy_(last.bias @ q)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(module.weight @ q)
        elif isinstance(module, nn.Linear) and getattr(module, "role", None) == "embedding":
            module.weight.copy_(q.T @ module.weight)
            module.bias.copy_(module.bias @ q)
    for i, block in enumerate(structure.blocks(model)):
        r, values = rotations.values(i).to(q), slice(2 * len(q), None)
        for reader in (block.qkv, block.up):
            reader.weight.copy_(reader.weight @ q)
        for part in block.qkv.parameters(recurse=False):
            part[values] = r.T @ part[values]
        block.project.weight.copy_(block.project.weight @ r)
        for writer in (block.project, block.down):
            for part in writer.parameters(recurse=False):
                part.copy_(q.T @ part)


def finish(model, task, hp, last, head, rotations):
    """Turn the model, and let it train through the rounding of its weights."""
    turn(model, last, head, rotations)
    int8_ste.adapt(model, task, hp)
    if hp.activation_bits < 16:
        activations.round_inputs(model, hp.activation_bits)


def adapt(model, task, hp):
    last, head = fold(model)
    finish(model, task, hp, last, head, Rotations(structure.blocks(model), task.rng))
