"""LoRC: rounded matrices, each with a correction of low rank that is stored beside it.

Yao et al., "ZeroQuant-V2", arXiv 2303.08302; with FP4 weights: Wu et al., "ZeroQuant-FP: A Leap
Forward in LLMs Post-Training W4A8 Quantization Using Floating-Point Formats", arXiv 2307.09782.

    Ŵ = W rounded by GPTQ's sweep, 64 inputs of a row to one grid, or to one scale of E2M1
    W − Ŵ = U·Σ·Vᵀ;  left = U_r·√Σ_r,  right = √Σ_r·V_rᵀ, in 16 bits;  W ≈ Ŵ + left·right
    E2M1: scale s = max|w|/6 of a group, and 2^⌈log2 s⌉ where `powers`

State: none; nothing is trained.
Departures from the paper: factors have 16 bits, not 8; the bits of Ŵ are what the goal leaves
beside factors and scales, and the rank falls where they would have less than 2 (E2M1: 4); inputs
are not rounded. 16 bits are float16. Not compared with the papers' text.
"""

import torch

from harness import surgery
from harness.errors import UserError
from submissions.quantized import mx, nf4, rtn
from submissions.sparse import sparsegpt

TRACKS = ["compress"]
SPACE = {
    "stored": {"linear": [2.5, 9.0], "default": 4.6, "goal": "stored_bits"},
    "element": {"choice": ["grid", "e2m1"], "tuned": False},
    "rank": {"choice": [1, 2, 4, 8]},
    "powers": {"choice": [False, True], "tuned": False},
    "examples": 32,
    "damp": 0.01,
}
VARIANTS = {"zeroquant_fp": {"element": "e2m1", "powers": True}}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}
HALF, SCALE, POWER, FLOAT = 16, 16, 8, 4  # bits of a factor's entry, a scale, a power of two, E2M1


def rounding(group, element, bits, powers):
    """Return a function that rounds columns [out] to the grid of a group [out, inputs]."""
    if element == "grid":
        step, low = rtn.grid(group, bits)
        return lambda column: rtn.rounded(column[:, None], step, low, bits)[:, 0]
    tiny = torch.finfo(group.dtype).tiny
    scale = (group.abs().amax(1) / 6).clamp(min=tiny)
    if powers:
        scale = torch.exp2(torch.log2(scale).ceil())
    # A scale that is stored in 16 bits, so that products with it are exact in float32.
    scale = scale.to(torch.float32 if powers else torch.float16).to(group).clamp(min=tiny)
    return lambda column: scale * mx.e2m1(column / scale)


def rounded(weight, x, hp, bits):
    """Return Ŵ [out, in], given the map's inputs x [tokens, in]."""
    size = nf4.grouped(weight).shape[1]

    def plan(group, c):
        near = rounding(group, hp.element, bits, hp.powers)
        return lambda j, column: near(column)

    return sparsegpt.sweep(weight, x, hp.damp, size, plan)


def left_for_codes(weight, hp, rank):
    """Return the bits of a weight's code that the goal leaves beside factors and scales."""
    out, inputs = weight.shape
    described = {"grid": 2 * SCALE, "e2m1": POWER if hp.powers else SCALE}[hp.element]
    size = nf4.grouped(weight).shape[1]
    return hp.stored - described / size - rank * HALF * (out + inputs) / (out * inputs)


def fitting(weight, hp, rank):
    """Return the rank and the bits of a code that the goal allows; at least a bare code."""
    least = FLOAT if hp.element == "e2m1" else 2
    for r in range(rank, 0, -1):
        bits = int(round(left_for_codes(weight, hp, r), 6))
        if bits >= least:
            return r, min(bits, 8)
    return 0, max(least, min(8, int(round(left_for_codes(weight, hp, 0), 6))))


@torch.no_grad()
def adapt(model, task, hp):
    maps = surgery.matrices(model).values()
    if not all(hasattr(m, surgery.PARTS) for m in maps):
        raise UserError(
            "this workload stores a matrix as one part, and lorc needs two",
            "a model with parts",
            "workload=compress_parts",
        )
    for module, x in surgery.calibrated(model, task.calibration(hp.examples)):
        rank, bits = fitting(module.weight, hp, min(hp.rank, module.parts.left.shape[1]))
        new = rounded(module.weight, x, hp, bits)
        u, s, v = torch.linalg.svd((module.weight - new).double(), full_matrices=False)
        root = s[:rank].sqrt()
        for place, part in ((module.parts.left, u[:, :rank] * root),
                            (module.parts.right.T, v[:rank].T * root)):  # fmt: skip
            place[:, :rank] = part.to(torch.float16).to(place)
        module.weight.copy_(new)


class Algorithm(rtn.Algorithm):
    pass
