"""4-bit AdamW: AdamW whose two moments take half a byte per element each.

Li, Chen, Zhu, "Memory Efficient Optimizers with 4-bit States", arXiv 2309.01507, "4-bit AdamW".

    m: in blocks of 128 divided by their largest magnitude, nearest of 16 dynamic-exponent levels
    v: divided by min(largest of its row, largest of its column), nearest of 1/16, 2/16, ..., 1
    each step: decode, AdamW's step, encode

It updates the hidden matrices; those of at most `above` elements keep 32 bits. AdamW updates the
rest.
State: one byte per parameter; a scale for each block of m; a row and a column of scales for v.
Departures from the paper: none known; embeddings keep 32 bits, as the paper advises.
"""

import torch

from harness import ops
from submissions.first_order import adamw

HANDLES = ["hidden"]
FALLBACK = "adamw"
SPACE = {
    **adamw.SPACE,
    "above": 4096,
    "fallback_lr": {"log": [1e-3, 2e-2]},
    "fallback_wd": 0.1,
}
BLOCK = 128
LEVELS = [0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875]
SIGNED = torch.tensor([*(-x for x in reversed(LEVELS)), 0.0, *LEVELS, 1.0], dtype=torch.float64)
UNSIGNED = torch.arange(1, 17, dtype=torch.float64) / 16


def init(params, hp):
    big = [p.numel() > hp.above for p in params]
    kept = [p.new_zeros(0) if b else torch.zeros_like(p) for p, b in zip(params, big)]
    state = {"m": kept, "v": ops.zeros(kept), "step": 0}
    sizes = [p.numel() if b else 0 for p, b in zip(params, big)]
    for name in ("m_codes", "v_codes"):
        state[name] = [p.new_zeros((n + 1) // 2).byte() for p, n in zip(params, sizes)]
    state["block"] = [p.new_zeros(-(-n // BLOCK)) for p, n in zip(params, sizes)]
    for axis, name in enumerate(("row", "column")):
        state[name] = [p.new_zeros(p.shape[axis] if b else 0) for p, b in zip(params, big)]
    return state


def encode(x, levels):
    """Return the index of the nearest of 16 levels for each element, two to a byte."""
    levels = levels.to(x)
    codes = torch.bucketize(x.flatten(), (levels[1:] + levels[:-1]) / 2).byte()
    codes = torch.nn.functional.pad(codes, (0, len(codes) % 2))
    return codes[::2] | codes[1::2] << 4


def decode(codes, levels, count):
    both = torch.stack([codes & 15, codes >> 4], dim=1).flatten()[:count]
    return levels[both.long()]


def blocks(x, scales):
    """Return the scale of every element of x, by blocks of its flat order."""
    return scales.repeat_interleave(BLOCK)[: x.numel()].view_as(x)


def update(params, grads, state, hp, progress):
    packed = []
    for i, p in enumerate(params):
        if codes := len(state["m_codes"][i]):
            assert codes == (p.numel() + 1) // 2
            m = decode(state["m_codes"][i], SIGNED.to(p), p.numel()).view_as(p)
            v = decode(state["v_codes"][i], UNSIGNED.to(p), p.numel()).view_as(p)
            v = v * torch.minimum(state["row"][i][:, None], state["column"][i])
            packed.append((i, m * blocks(m, state["block"][i]), v))
    moments = {"m": list(state["m"]), "v": list(state["v"]), "step": state["step"]}
    for i, m, v in packed:
        moments["m"][i], moments["v"][i] = m, v
    adamw.update(params, grads, moments, hp, progress)
    state["step"] = moments["step"]
    for i, m, v in packed:
        padded = torch.nn.functional.pad(m.flatten(), (0, -m.numel() % BLOCK)).view(-1, BLOCK)
        state["block"][i].copy_(padded.abs().amax(dim=1))
        state["row"][i].copy_(v.amax(dim=1))
        state["column"][i].copy_(v.amax(dim=0))
        scale = torch.minimum(state["row"][i][:, None], state["column"][i])
        state["v_codes"][i].copy_(encode(v / scale.clamp(min=1e-38), UNSIGNED))
        state["m_codes"][i].copy_(encode(m / blocks(m, state["block"][i]).clamp(min=1e-38), SIGNED))
