"""WTA-CRS: weight gradients from a few tokens, the heaviest for certain and the rest by lot.

Liu et al., "Winner-Take-All Column Row Sampling for Memory Efficient Adaptation of Language Model",
arXiv 2305.15265.

    ∇W = Σ_t g_t·x_tᵀ over tokens;  p_t ∝ ‖x_t‖, k tokens are kept for the backward pass
    C: the |C| most likely tokens, |C| < k so that (1 - Σ_C p)/(k - |C|) is smallest
    k - |C| tokens t are drawn from the others ∝ p_t and weigh (1 - Σ_C p)/((k - |C|)·p_t)

The estimate has no bias. Inputs of the other tokens are not stored; everything trains.
State: AdamW's, two words per parameter.
Departures from the paper: p_t leaves out ‖g_t‖, as the paper does until a gradient of the same
example is known; here an example's number is not known inside the model. All hidden matrices, not
queries, keys and values alone.
"""

import torch
import torch.nn.functional as F

from harness import surgery
from submissions.peft import head_only

BASE = "adamw"
TRACKS = ["finetune"]
# Share of the tokens whose inputs are kept.
SPACE = {
    **head_only.SPACE,
    "base_lr": {"log": [3e-4, 1e-2]},
    "kept": {"linear": [0.05, 1.0], "default": 0.3},
}
# Fewer tokens than this are never kept.
LEAST = 10


def sample(p, k):
    """Return k tokens' numbers and weights, given all tokens' probabilities p [tokens]."""
    order = p.argsort(descending=True, stable=True)
    heavy = torch.cat([p.new_zeros(1), p[order].cumsum(0)])[:k]  # Σ_C p for |C| = 0, ..., k - 1
    rest = (1 - heavy).clamp(min=0) / torch.arange(k, 0, -1).to(p)
    count = int(rest.argmin())
    certain, others = order[:count], order[count:]
    if not p[others].any():
        return certain, torch.ones_like(p[certain])
    drawn = others[torch.multinomial(p[others], k - count, replacement=True)]
    weights = rest[count] / p[drawn]
    return torch.cat([certain, drawn]), torch.cat([torch.ones_like(p[certain]), weights])


class Linear(torch.autograd.Function):
    """A linear map that keeps some of its inputs."""

    @staticmethod
    def forward(ctx, x, weight, bias, kept):
        flat = x.flatten(0, -2)
        k = min(len(flat), max(LEAST, int(kept * len(flat))))
        norms = flat.norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
        index, weights = sample(norms / norms.sum(), k)
        ctx.save_for_backward(flat[index] * weights[:, None], index, weight)
        ctx.biased = bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        rows, index, weight = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        return grad @ weight, flat[index].T @ rows, flat.sum(0) if ctx.biased else None, None


class Sampled(surgery.Adapted):
    def __init__(self, linear, kept):
        super().__init__(linear)
        self.weight.requires_grad_(True)
        self.kept = kept

    def dense(self):
        return self.weight

    def forward(self, x):
        return Linear.apply(x, self.weight, self.bias, self.kept)


def adapt(model, task, hp):
    surgery.replace(model, lambda linear: Sampled(linear, hp.kept))
