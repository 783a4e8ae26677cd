"""SpinQuant: learn how to turn the residual stream and the values before weights are rounded.

Liu et al., "SpinQuant: LLM Quantization with Learned Rotations", arXiv 2405.16406.

    quarot's rotations Q and R_h, from random ones, `turns` times for each step of the budget:
    G = the gradient by Q of the loss of the turned and rounded model
    A = G·Qᵀ − Q·Gᵀ;  Q ← (1 + η/2·A)⁻¹(1 − η/2·A)·Q, η on a cosine to zero (Cayley)

State: AdamW's two words per parameter, of the unrounded weights.
Departures from the paper: quarot's; fewer turns than 100; rotations are learned with rounded
weights and exact inputs; gradients pass straight through the rounding, whose grids follow Q.
"""

import math

import torch

from harness import ops, structure, surgery
from submissions.quantized import quarot

BASE = "adamw"
TRACKS = ["compress"]
PASSES = {"forward_backward": 1.12}  # the most turns included
SPACE = {
    **quarot.SPACE,
    "turns": {"choice": [0.03, 0.12]},  # of the number of steps
    "turn_lr": {"log": [0.03, 3.0], "default": 1.5},  # η
}


class Turned(surgery.Adapted):
    """The matrix that a turned and rounded one is in the stream that was not turned."""

    def __init__(self, linear, bits, left, right):
        super().__init__(linear)
        self.levels, self.left, self.right = 2 ** (bits - 1) - 1, left, right

    def dense(self):
        left, right = self.left(), self.right()
        w = left.T @ self.weight.double() @ right
        scale = (w.detach().abs().amax(1, keepdim=True) / self.levels).clamp(min=1e-30)
        w = ops.straight_through(w, scale * (w.detach() / scale).round())
        return (left @ w @ right.T).to(self.weight)


def wrap(model, rotations, bits):
    """Let every map of the blocks read and write through the rotations, rounded in between."""
    for i, block in enumerate(structure.blocks(model)):
        width, inner = block.qkv.weight.shape[1], structure.neurons(block)
        eye = {n: torch.eye(n, dtype=torch.float64) for n in (2 * width, inner)}

        def values(i=i):
            return rotations.values(i)

        def below(i=i, eye=eye, width=width):
            return torch.block_diag(eye[2 * width], rotations.values(i))

        def neurons(eye=eye, inner=inner):
            return eye[inner]

        block.qkv = Turned(block.qkv, bits, below, rotations.stream)
        block.project = Turned(block.project, bits, rotations.stream, values)
        block.up = Turned(block.up, bits, neurons, rotations.stream)
        block.down = Turned(block.down, bits, rotations.stream, neurons)


def cayley(matrix, slope, rate):
    """Return orthogonal matrices [..., n, n] moved against a gradient, and still orthogonal."""
    skew = slope @ matrix.mT - matrix @ slope.mT
    eye = torch.eye(matrix.shape[-1]).to(matrix)
    return torch.linalg.solve(eye + rate / 2 * skew, (eye - rate / 2 * skew) @ matrix)


def learn(model, task, hp, rotations):
    """Move the rotations down the loss of the rounded model; the weights stay."""
    known = [{n: getattr(b, n) for n in structure.MAPS} for b in structure.blocks(model)]
    wrap(model, rotations, hp.bits)
    own = [rotations.inner, *rotations.heads]
    turns = round(hp.turns * task.horizon)
    for k in range(turns):
        rate = hp.turn_lr * (0.5 + 0.5 * math.cos(math.pi * k / turns))
        for matrix in own:
            matrix.requires_grad_(True).grad = None
        task.forward_backward(task.next_batch())
        for matrix in own:
            matrix.data.copy_(cayley(matrix.detach(), matrix.grad, rate))
    for matrix in own:
        matrix.requires_grad_(False)
    for block, maps in zip(structure.blocks(model), known, strict=True):
        for name, module in maps.items():
            setattr(block, name, module)
            module.weight.requires_grad_(True)


def adapt(model, task, hp):
    last, head = quarot.fold(model)
    rotations = quarot.Rotations(structure.blocks(model), task.rng)
    learn(model, task, hp, rotations)
    quarot.finish(model, task, hp, last, head, rotations)
