"""Few-shot stream: six classes of images with many examples, then four with five each, one by one.

    mini    an MLP on MNIST digits, 600 steps for the six classes, 20 for each of the four

Few-shot class-incremental learning, as in Tao et al., "Few-Shot Class-Incremental Learning", arXiv
2004.10956: the answer is one of all classes so far, and each new class comes with `data.shots`
images alone. Group 0 of the evaluation has the first six classes, each later group one class.

Metric: harmonic, 2bn/(b + n) of the accuracy b on the first classes and the mean n over the later
ones, at the end of the stream. Who changes nothing forgets nothing and learns nothing. The rest is
as in stream_split, also data and licences.

Measured at mini with three seeds, the best of three points each: icarl 0.68 to 0.74, etf_rotations
0.60 to 0.69, slca 0.52 to 0.64, frozen_means 0.54 to 0.57, finetune 0.50 to 0.58, er 0.35 to 0.56,
derpp 0.37 to 0.51, etf 0.17 to 0.51, simplex 0.36 to 0.52, joint 0.21 to 0.33; er_balanced, with
ten seeds and the best of five points, 0.55 to 0.76. A small learning rate is most of it: at
larger ones finetune forgets the first classes.

Goal at mini: what the tuned reference, er_balanced, ends at, rule `stream` of conf/targets.yaml.
Budget: the whole stream, `horizon` steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor

from harness.stream import visits
from workloads import stream_split as base

features = base.features
logits = base.logits
loss = base.loss
losses = base.losses
metric = base.metric
model = base.model
nats = base.nats
quality = base.quality
sample = base.sample
score = base.score
size = base.size


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [N, 784], labels and group int64 [N], sorted by group."""
    found, labels = base.pixels(config, split)
    group = (labels - config.data.first + 1).clamp(min=0)
    if split != "val":
        count = torch.cat([torch.arange(int(n)) for n in labels.bincount()])
        kept = (group == 0) | (count < config.data.shots)
        found, labels, group = found[kept], labels[kept], group[kept]
    return {"images": found, "labels": labels, "group": group}


def stream(data: dict[str, Tensor], config: SimpleNamespace, seed: int) -> Tensor:
    """Return example numbers in the order of training, int64 [horizon * batch]."""
    tasks = range(config.stream.tasks)
    return visits([(data["group"] == i).nonzero()[:, 0] for i in tasks], config, seed)


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs uint8 [B, 784] and targets int64 [B]."""
    return {"inputs": data["images"][index], "targets": data["labels"][index]}
