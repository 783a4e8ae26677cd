"""One byte: four workers that share a seed send a loss slope as a sign and seven bits.

Zelikman, Huang, Liang, Haber and Goodman, "Just One Byte (per gradient): A Note on Low-Bandwidth
Decentralized Language Model Finetuning Using Shared Randomness", arXiv 2306.10015.

    worker k: c = (f(p + eps·z) − f(p − eps·z))/(2·eps) on its quarter of the batch, z ~ N(0, I)
    sends the sign of c and b = round(16·ln|c|), clamped to ±127;  ĉ = ±exp(b/16)
    all workers: p ← p − lr·Σ ĉ_k·z_k/√4, in the order of the workers

Every replica makes the same steps, so that one is kept. z is drawn again from the shared seed.
State: none.
Departures from the paper: the decoded ĉ is used, where the authors' code goes on with c itself;
eps does not change during a run, where their code can vary it; lr is scheduled.
"""

import math

import torch

from harness.schedules import warmup_cosine
from submissions.zeroth_order import mezo

WORKERS = 4
PASSES = {"forward@batch=1/4": 8}
SPACE = {
    # The authors' 0.1 is for 30 samples of each machine.
    "lr": {"log": [1e-5, 1.0], "default": 1e-3},
    "eps": {"log": [1e-3, 0.3], "default": 1e-3},
    "bits": {"choice": [8, 32], "tuned": False},
}


def byte(slope):
    """Return what a slope is once it was sent as a sign and a byte."""
    if slope == 0 or not math.isfinite(slope):
        return slope
    code = max(-127, min(127, round(16 * math.log(abs(slope)))))
    return math.copysign(math.exp(code / 16), slope)


class Algorithm(mezo.Algorithm):
    def step(self):
        task, hp, losses, sent = self.task, self.hp, [], []
        seeds = torch.randint(2**62, (WORKERS,), generator=task.rng).tolist()
        for seed in seeds:
            batch = task.next_batch(task.batch_size // WORKERS)
            self.move(seed, hp.eps)
            above = task.forward(batch)
            self.move(seed, -2 * hp.eps)
            below = task.forward(batch)
            self.move(seed, hp.eps)
            slope = float(above - below) / (2 * hp.eps)
            sent.append(byte(slope) if hp.bits == 8 else slope)
            losses += [above, below]
        lr = hp.lr * warmup_cosine(task.progress, 0.0) / WORKERS**0.5
        for seed, slope in zip(seeds, sent, strict=True):
            self.move(seed, -lr * slope)
        return torch.stack(losses).mean()
