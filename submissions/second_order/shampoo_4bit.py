"""4-bit Shampoo: statistics of each side as eigenvalues and eigenvectors of four bits an entry.

Wang, Zhou, Li and Huang, "4-bit Shampoo for Memory-Efficient Network Training", arXiv 2405.18144.

    every `every` steps: V from 4 bits, V ← 1.5V − 0.5VVᵀV;  L = 0.95·VΛVᵀ + 0.05·ggᵀ (right: gᵀg)
        V ← orthonormal part of L·V (one QR), Λ ← diag(VᵀLV), to 4 bits
    every fifth of these: V mended four times;  A = V(Λ + 1e-6·max Λ)^(−1/4)Vᵀ: its diagonal, and
        the rest in 4 bits
    u = A_L·g·A_R·‖g‖/‖A_L·g·A_R‖;  AdamW's step on u

4 bits: columns in blocks of 64 over their largest magnitude, nearest of ±t², t = 1/15, 3/15 ... 1,
with 0 in place of −1/225. It updates the hidden matrices. AdamW updates the rest.

State: AdamW's m and v; for each side n x n one byte per entry and a scale for 64; n numbers twice.
Departures from the paper: statistics are renewed more often than every 100 steps, as short runs ask
for; sides of fewer than `above` entries keep 32 bits, as in the authors' code.
"""

import torch

from submissions.first_order import adamw
from submissions.low_rank.adam_4bit import decode, encode

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    **adamw.SPACE,
    "bits": {"choice": [4, 32]},
    "every": {"choice": [10, 20, 100]},
    "above": 4096,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}
BLOCK, DECAY, ROOTS = 64, 0.95, 5
LINE = torch.linspace(-1, 1, 16, dtype=torch.float64)
LEVELS = torch.where(torch.arange(16) == 7, 0.0, LINE.sign() * LINE**2)
SIDES = ("left", "right")


def init(params, hp):
    state = adamw.init(params, hp)
    for axis, side in enumerate(SIDES):
        eyes = [torch.eye(p.shape[axis]).to(p) for p in params]
        small = [hp.bits == 32 or e.numel() < hp.above for e in eyes]
        for name, starts in (("vectors", eyes), ("root", [torch.zeros_like(e) for e in eyes])):
            pairs = [(e, e[:0, 0]) if s else pack(e) for e, s in zip(starts, small, strict=True)]
            state[f"{side}_{name}"] = [codes for codes, _ in pairs]
            state[f"{side}_{name}_scales"] = [scales for _, scales in pairs]
        state[f"{side}_values"] = [torch.full_like(e[0], 1e-6) for e in eyes]
        state[f"{side}_diagonal"] = [torch.ones_like(e[0]) for e in eyes]
    return state


def pack(x):
    """Return the codes, two to a byte, of a square matrix by columns, and the blocks' scales."""
    flat = x.mT.flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1)
    return encode(blocks / scales.clamp(min=1e-30)[:, None], LEVELS), scales


def unpack(codes, scales, size):
    """Return the matrix [size, size] of `pack`; a matrix that was never packed as it is."""
    if codes.ndim == 2:
        return codes
    values = decode(codes, LEVELS.to(scales), len(scales) * BLOCK).view(-1, BLOCK)
    return (values * scales[:, None]).flatten()[: size * size].view(size, size).mT


def mended(vectors, times):
    """Return vectors nearer to orthonormal, by Björck's iteration."""
    for _ in range(times):
        vectors = 1.5 * vectors - 0.5 * vectors @ (vectors.mT @ vectors)
    return vectors


def put(state, name, i, x):
    """Store a square matrix as it was stored before: in four bits or whole."""
    if state[name][i].ndim == 2:
        state[name][i].copy_(x)
        return
    codes, scales = pack(x)
    state[name][i].copy_(codes)
    state[f"{name}_scales"][i].copy_(scales)


def renew(state, side, i, statistic, root):
    """Take in ggᵀ, and with `root` also compute the inverse fourth root."""
    name, values = f"{side}_vectors", state[f"{side}_values"][i]
    packed = state[name][i].ndim == 1
    old = unpack(state[name][i], state[f"{name}_scales"][i], len(values))
    old = mended(old, 1 if packed else 0)
    whole = DECAY * (old * values) @ old.mT + (1 - DECAY) * statistic
    vectors = torch.linalg.qr(whole @ old).Q
    values.copy_((vectors * (whole @ vectors)).sum(0).clamp(min=0.0))
    put(state, name, i, vectors)
    if root:
        stored = unpack(state[name][i], state[f"{name}_scales"][i], len(values))
        turned = mended(stored, 4 if packed else 0)
        inverse = (turned * (values + 1e-6 * values.max() + 1e-30) ** -0.25) @ turned.mT
        state[f"{side}_diagonal"][i].copy_(inverse.diagonal())
        put(state, f"{side}_root", i, inverse - torch.diag(inverse.diagonal()))


def update(params, grads, state, hp, progress):
    t, conditioned = state["step"] + 1, []
    for i, g in enumerate(grads):
        if t % hp.every == 0:
            for side, statistic in zip(SIDES, (g @ g.mT, g.mT @ g), strict=True):
                renew(state, side, i, statistic, t % (ROOTS * hp.every) == 0)
        left, right = (
            torch.diag(d)
            + unpack(state[f"{side}_root"][i], state[f"{side}_root_scales"][i], len(d))
            for side in SIDES
            for d in [state[f"{side}_diagonal"][i]]
        )
        u = left @ g @ right
        conditioned.append(u * (g.norm() / (u.norm() + 1e-12)))
    moments = {key: state[key] for key in ("m", "v", "step")}
    adamw.update(params, conditioned, moments, hp, progress)
    state["step"] = moments["step"]
