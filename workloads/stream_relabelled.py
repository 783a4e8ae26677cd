"""Relabelled stream: the same images in every task, each time with new random labels.

    mini    400 MNIST digits, 40 tasks of 40 passes, an MLP 784-100-100-10

Old labels say nothing of new ones, so that the only question is whether the network can still
learn: the loss of plasticity of Dohare et al., arXiv 2306.13812, in the form of Lyle et al.,
"Understanding plasticity in neural networks", arXiv 2303.01486. Boundaries are hidden: otherwise a
new network at each boundary wins. Learning rates are constant over the stream, because a schedule
over the horizon would look like lost plasticity.

Group i of the evaluation has the images with the labels of task i. It is looked at after the task,
on the examples that were trained on: what is measured is memorisation. Forgetting does not count,
and a memory of examples is of no use. Metric: last_learning, the mean over the last quarter of the
tasks of the accuracy at a task's end. Pixels and licences as in stream_split.

Measured at mini with five seeds, the best of three points each: continual_backprop 1.00, redo 0.89
to 0.91, shrink_perturb 0.74 to 0.88, finetune 0.22 to 0.25; l2_init, with ten seeds and the best of
five points, 0.95 to 0.98.

The goal is what the tuned reference, l2_init, ends at, rule `stream` of conf/targets.yaml. Budget:
the whole stream, `horizon` steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from harness.seeds import derive
from harness.stream import visits
from workloads import stream_split as base

features = base.features
logits = base.logits
loss = base.loss
losses = base.losses
metric = base.metric
nats = base.nats
quality = base.quality
sample = base.sample
score = base.score
size = base.size

SKIPS = {"disjoint": "what is measured is how well the training examples are memorised"}


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [tasks * N, 784], labels and group (the task) int64, for any split."""
    found, _ = base.pixels(config, "train")
    count, tasks = len(found), config.stream.tasks
    generator = torch.Generator().manual_seed(derive(base.SUBSET_SEED, "labels"))
    labels = torch.randint(config.model.classes, (tasks, count), generator=generator)
    return {
        "images": found.repeat(tasks, 1),
        "labels": labels.flatten(),
        "group": torch.arange(tasks).repeat_interleave(count),
    }


def stream(data: dict[str, Tensor], config: SimpleNamespace, seed: int) -> Tensor:
    """Return example numbers in the order of training, int64 [horizon * batch]."""
    tasks = range(config.stream.tasks)
    return visits([(data["group"] == i).nonzero()[:, 0] for i in tasks], config, seed)


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs uint8 [B, 784] and targets int64 [B]."""
    return {"inputs": data["images"][index], "targets": data["labels"][index]}


def model(config: SimpleNamespace) -> nn.Module:
    """Return the MLP of stream_split; with `norm: layer` a layer norm before each ReLU."""
    made = base.model(config)
    if config.model.norm == "layer":
        layers = []
        for layer in made.body:
            layers += (
                [layer, nn.LayerNorm(layer.out_features)]
                if isinstance(layer, nn.Linear)
                else [layer]
            )
        made.body = nn.Sequential(*layers)
    return made
