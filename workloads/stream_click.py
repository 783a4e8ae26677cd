"""Click stream: what is clicked drifts and jumps, and each slice is judged before it is learnt.

    mini    50 slices of 100 batches, 20 fields of 100 categories, 26,369 parameters

y ~ Bernoulli(σ(Σ_f w_f[x_f] − 1)); the weights of the truth make a random step before each slice,
and at `data.jumps` moments a quarter of them is drawn anew. No task is announced. The form of
evaluation is that of online learning, test then train (Gama, Sebastião, Rodrigues, "On evaluating
stream learning algorithms", Machine Learning 90, 2013): group i of the evaluation has examples of
slice i, and what counts is its loss at the end of slice i − 1, when no example of it has been seen.

Metric: prequential, the mean of these losses over the last half of the slices, in nats. The data
are drawn from the trial's seed and need no licence.

Measured at mini with five seeds, the best of three points each: er 0.45 to 0.48, ema_er 0.50 to
0.53, joint 0.65 to 0.68; finetune, with ten seeds and the best of five points, 0.42 to 0.45.

Goal at mini: what the tuned reference, finetune, ends at, rule `stream` of conf/targets.yaml.
Budget: the whole stream, `horizon` steps.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.seeds import derive
from harness.stream import visits
from workloads.models.clicks import Clicks

SKIPS = {"disjoint": "examples of a slice are judged before the slice is learnt, and learnt after"}


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return fields int16 [N, fields], clicks float32 [N] and group (the slice) int64 [N].

    Validation has the first `data.subset` examples of each slice.
    """
    c, tasks = config.data, config.stream.tasks
    source = torch.Generator().manual_seed(derive(seed, "clicks"))
    shape = config.model.fields, config.model.categories
    truth = torch.randn(shape, generator=source) * c.size
    count = config.horizon // tasks * config.batch
    jumps = [(k + 1) * tasks // (c.jumps + 1) for k in range(c.jumps)]
    fields, clicks = [], []
    for task in range(tasks):
        truth = truth + c.drift * torch.randn(shape, generator=source)
        if task in jumps:
            struck = torch.rand(shape, generator=source) < 0.25
            truth = torch.where(struck, torch.randn(shape, generator=source) * c.size, truth)
        x = torch.randint(shape[1], (count, shape[0]), generator=source)
        chance = torch.sigmoid(truth[torch.arange(shape[0]), x].sum(dim=1) - 1)
        kept = c.subset if split == "val" else count
        clicks.append((torch.rand(count, generator=source) < chance).float()[:kept])
        fields.append(x.short()[:kept])
    group = torch.arange(tasks).repeat_interleave(len(clicks[0]))
    return {"fields": torch.cat(fields), "clicks": torch.cat(clicks), "group": group}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of examples."""
    return len(data["group"])


def stream(data: dict[str, Tensor], config: SimpleNamespace, seed: int) -> Tensor:
    """Return example numbers in the order of training, int64 [horizon * batch]."""
    tasks = range(config.stream.tasks)
    return visits([(data["group"] == i).nonzero()[:, 0] for i in tasks], config, seed)


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs int16 [B, fields] and targets float32 [B]."""
    return {"inputs": data["fields"][index], "targets": data["clicks"][index]}


def model(config: SimpleNamespace) -> nn.Module:
    return Clicks(config.model)


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every example, [B]."""
    scores = model(batch["inputs"])
    return F.binary_cross_entropy_with_logits(scores, batch["targets"], reduction="none")


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def quality(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every example, [B]; less is better."""
    return losses(model, batch).double()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the nats and the examples of the batch, over all slices."""
    each = losses(model, batch)
    return {"nats": each.double().sum(), "count": torch.tensor(len(each))}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return pooled_loss, nats over all examples."""
    return {"pooled_loss": sums["nats"] / sums["count"]}
