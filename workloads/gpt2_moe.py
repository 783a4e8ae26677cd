"""Language-model pretraining with experts: a router sends each token to one of eight perceptrons.

    mini    gpt2's text and shape; perceptrons a quarter as wide, eight in each of 3 blocks

The goal is on the loss and on the balance: max_violation is the mean over blocks of (tokens of the
busiest expert / mean tokens of an expert) − 1, on the validation text. Without a rule for balance a
few experts get most tokens, and the loss alone does not show it in a short run (Wang et al., arXiv
2408.15664). Data, tokens and licences as in gpt2.

Goal at mini: the loss of the tuned reference, loss_free_balance, at three quarters of the budget,
rule `share` of conf/targets.yaml, and a balance that no seed of AdamW comes near. Budget: `horizon`
reference steps.
"""

import math
from types import SimpleNamespace

import torch.nn.functional as F
from torch import Tensor, nn

from workloads import gpt2 as base
from workloads.gpt2 import batch, data, inputs, loss, losses, sample, size, tokens
from workloads.models.experts import ExpertGPT, Router

__all__ = ["batch", "data", "inputs", "loss", "losses", "sample", "size", "tokens"]


def model(config: SimpleNamespace) -> nn.Module:
    return ExpertGPT(config.model)


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores of all tokens, [B, context, vocabulary]."""
    return model(batch["inputs"])


def nats(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per token of every example, [B]."""
    each = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), reduction="none")
    return each.view(len(logits), -1).mean(dim=1)


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return gpt2's sums, and the tokens of each block's experts as load_BLOCK_EXPERT."""
    sums = base.metric(model, batch)
    routers = [m for m in model.modules() if isinstance(m, Router)]
    for i, router in enumerate(routers):
        sums |= {f"load_{i}_{e}": count for e, count in enumerate(router.load)}
    return sums


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return loss and bits_per_byte as gpt2, and max_violation."""
    blocks: dict[str, list[float]] = {}
    for name, value in sums.items():
        if name.startswith("load_"):
            blocks.setdefault(name.split("_")[1], []).append(float(value))
    over = [max(loads) * len(loads) / math.fsum(loads) - 1 for loads in blocks.values()]
    return base.score(sums) | {"max_violation": math.fsum(over) / len(over)}
