"""AWQ: scale up the inputs that matter before rounding, and down again in the norm before them.

Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
arXiv 2306.00978.

    s = mean|X_j|^a of each input, over √(max s·min s);  of a = 0, 0.05, ..., 0.95 the one of the
    least ‖XWᵀ - (X/s)·Q(W·s)ᵀ‖²;  1/s goes into the norm, or into the rows of the values
    then each group's range is cut to the part 1 - k/20, k < 10, of the least output error;
    not for queries and keys
    Q: round to nearest, 64 inputs of a row to a uniform grid

State: none; nothing is trained.
Departures from the paper: the error is that of the map itself, not of its block's output. The last
map of the perceptron is not scaled: the activation before it does not commute with a scale.
"""

import torch

from harness import structure, surgery
from submissions.quantized import nf4, rtn

TRACKS = ["compress"]
SPACE = {
    "stored": {"linear": [2.5, 9.0], "default": 4.6, "goal": "stored_bits"},
    "examples": 32,
    "tokens": 512,
}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}


def rounded(weight, bits, share=1.0):
    """Return the matrix on its groups' grids, of a share [groups, 1] of their ranges."""
    groups = nf4.grouped(weight)
    reach = share * groups.abs().amax(1, keepdim=True)
    groups = groups.clamp(-reach, reach)
    return rtn.rounded(groups, *rtn.grid(groups, bits), bits).view_as(weight)


def best_scale(weight, x, bits):
    """Return the scale of each input, [in], of the least error in the map's outputs."""
    found, least, y = torch.ones_like(x[0]), torch.inf, x @ weight.T
    for k in range(20):
        s = x.abs().mean(0).pow(k / 20).clamp(min=1e-4)
        s = s / (s.max() * s.min()).sqrt()
        error = float((y - (x / s) @ rounded(weight * s, bits).T).square().mean())
        if error < least:
            found, least = s, error
    return found


def best_shares(weight, x, bits):
    """Return the part of each group's range that gives its outputs the least error, [groups, 1]."""
    size = nf4.grouped(weight).shape[1]
    inputs = x.view(len(x), -1, size)  # [tokens, groups of a row, inputs of a group]

    def errors(share):
        gap = (weight - rounded(weight, bits, share)).view(len(weight), -1, size)
        return torch.einsum("tgi,ogi->tog", inputs, gap).square().mean(0).view(-1, 1)

    found, least = torch.ones_like(errors(1.0)), errors(1.0)
    for k in range(1, 10):
        error = errors(1 - k / 20)
        found, least = torch.where(error < least, 1 - k / 20, found), torch.minimum(error, least)
    return found


def fold_values(block, s):
    """Divide the values by s [width] and multiply the columns of project: the same function."""
    rows = slice(2 * len(s), None)
    block.qkv.weight[rows] /= s[:, None]
    block.qkv.bias[rows] /= s
    block.project.weight.mul_(s)


@torch.no_grad()
def adapt(model, task, hp):
    bits = nf4.bits_of(hp.stored)
    norms = {reader: norm for norm, reader in structure.readers(model)}
    inputs = {}
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        inputs[module] = x[torch.linspace(0, len(x) - 1, min(len(x), hp.tokens)).long()]
        block = next((b for b in structure.blocks(model) if b.down is module), None)
        if block is not None:
            round_block(block, norms, inputs, bits)


def round_block(block, norms, inputs, bits):
    """Scale and round the maps of a block, whose inputs are all known."""
    s = best_scale(block.project.weight, inputs[block.project], bits)
    fold_values(block, s)
    inputs[block.project] = inputs[block.project] / s
    for module in (block.qkv, block.up):
        s = best_scale(module.weight, inputs[module], bits)
        structure.scale_inputs(norms[module], module, s)
        inputs[module] = inputs[module] / s
    for module in (block.qkv, block.project, block.up, block.down):
        share = best_shares(module.weight, inputs[module], bits)
        if module is block.qkv:
            share.view(len(module.weight), -1)[: 2 * module.weight.shape[1]] = 1.0
        module.weight.copy_(rounded(module.weight, bits, share))


class Algorithm(rtn.Algorithm):
    pass
