"""State tracking: a recurrent network learns the running sum of tokens modulo m, and must go on.

    mini    parity (m = 2), lengths up to 40 in training, 256 at the test

Setting: Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues",
arXiv 2411.12537. A diagonal recurrence with transitions in (0, 1) cannot count modulo 2; in (−1, 1)
it can, and a delta rule whose rate reaches 2 as well. A network that answers within the training
length may fail beyond it: the goal is on the positions after 40. The loss is at every position of a
sequence up to its length.

Sequences are drawn from the trial's seed; no licence is needed. Metrics: short_accuracy on
positions 1 to 40, long_accuracy on 41 to 256, both scaled so that guessing is 0. A network that has
the sum beyond the training length can lose it again while it trains on.

Goal at mini: the long accuracy of the tuned reference, adamw, at three tenths of the budget, rule
`share` of conf/targets.yaml. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.seeds import derive
from workloads.models.recurrent import Tracker


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return tokens uint8 [N, T] and length int64 [N]: of training up to data.length, or all."""
    c, training = config.data, split == "train"
    source = torch.Generator().manual_seed(derive(seed, "sequences", int(training)))
    shape = (c.train, c.length) if training else (c.validation, c.test)
    tokens = torch.randint(config.model.classes, shape, generator=source).byte()
    longest = torch.full(shape[:1], shape[1])
    if training:
        longest = torch.randint(c.shortest, c.length + 1, shape[:1], generator=source)
    return {"tokens": tokens, "length": longest}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of sequences."""
    return len(data["tokens"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs and targets int64 [B, T], and length int64 [B]."""
    tokens = data["tokens"][index].long()
    targets = tokens.cumsum(dim=1) % config.model.classes
    limit = torch.full_like(data["length"][index], config.data.length)
    return {"inputs": tokens, "targets": targets, "length": data["length"][index], "limit": limit}


def model(config: SimpleNamespace) -> nn.Module:
    return Tracker(config.model)


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores at all positions, [B, T, classes]."""
    return model(batch["inputs"])


def nats(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats of every sequence over its positions, [B]."""
    each = F.cross_entropy(scores.flatten(0, 1), batch["targets"].flatten(), reduction="none")
    places = torch.arange(scores.shape[1], device=scores.device)
    inside = (places < batch["length"][:, None]).to(each)
    return (each.view_as(inside) * inside).sum(dim=1) / batch["length"]


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats of every sequence, [B]."""
    return nats(logits(model, batch), batch)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return right answers and positions, within the training length and beyond; and classes."""
    scores = logits(model, batch)
    right = (scores.argmax(dim=-1) == batch["targets"]).double()
    places = torch.arange(right.shape[1], device=right.device)
    short = (places < batch["limit"][:, None]).double()
    count = torch.tensor(len(right))
    return {
        "short": (right * short).sum(),
        "short_count": short.sum(),
        "long": (right * (1 - short)).sum(),
        "long_count": (1 - short).sum(),
        "classes": count * scores.shape[-1],
        "count": count,
    }


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return long_accuracy and short_accuracy, scaled so that guessing is 0 and 1 is perfect."""
    chance = sums["count"] / sums["classes"]
    return {
        f"{name}_accuracy": (sums[name] / max(sums[f"{name}_count"], 1) - chance) / (1 - chance)
        for name in ("long", "short")
    }
