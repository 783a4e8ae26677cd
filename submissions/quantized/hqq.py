"""HQQ: offsets of a uniform grid for a heavy-tailed error, without data or gradients.

Badri, Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", Mobius Labs, 2023.

    minimise Σ |w - r|^p over the offset z of r = (q - z)/s, q = clip(round(s·w + z), 0, 2^b - 1)
    repeat:  e = sign(w - r)·max(0, |w - r| - |w - r|^(p-1)/β);  z = mean(q - s·(w - e))
    s = (2^b - 1)/(max - min) of 64 inputs of a row, z = -s·min at the start;  p = 0.7, β = 10

State: none; nothing is trained.
Departures from the paper: of all rounds the one of the least mean |w - r| is kept for each group,
where the published loop stops all groups once their common mean does not fall. β is constant.
"""

import torch

from harness import surgery
from submissions.quantized import nf4, rtn

TRACKS = ["compress"]
SPACE = {
    "stored": {"linear": [2.5, 9.0], "default": 4.6, "goal": "stored_bits"},
    "power": 0.7,
    "beta": 10.0,
    "rounds": 20,
}
SKIPS = {
    "descends": "what adapt() rounds stays as it is: a step does nothing",
    "passes": "a step does nothing: it makes no pass",
}


def shrunk(x, power, beta):
    """Return the proximal step of |x|^power: large errors stay, small ones go."""
    size = x.abs()
    return x.sign() * (size - size.clamp(min=1e-12).pow(power - 1) / beta).clamp(min=0)


def rounded(groups, bits, power=0.7, beta=10.0, rounds=20):
    """Return rows of one group each on their grids, [groups, inputs of a group]."""
    w, most = groups.double(), 2**bits - 1
    low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    s = most / (high - low).clamp(min=torch.finfo(groups.dtype).tiny)
    z = -low * s
    best, least = w, torch.full_like(s, torch.inf)
    for _ in range(rounds + 1):
        q = (w * s + z).round().clamp(0, most)
        r = (q - z) / s
        error = (w - r).abs().mean(1, keepdim=True)
        # Rounds of equal errors differ in the last bits: the first of them counts.
        better = error < (1 - 1e-9) * least
        best, least = torch.where(better, r, best), torch.where(better, error, least)
        z = (q - s * (w - shrunk(w - r, power, beta))).mean(1, keepdim=True)
    return best.to(groups.dtype)


@torch.no_grad()
def adapt(model, task, hp):
    for module in surgery.matrices(model).values():
        groups = nf4.grouped(module.weight)
        found = rounded(groups, nf4.bits_of(hp.stored), hp.power, hp.beta, hp.rounds)
        module.weight.copy_(found.view_as(module.weight))


class Algorithm(rtn.Algorithm):
    pass
