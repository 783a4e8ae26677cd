"""Stream of re-occurring classes (SCoLe): many short tasks of two random classes each.

    mini    100 tasks of 8 steps on 4,000 MNIST digits, an MLP 784-100-100-10
    base    500 tasks on Fashion-MNIST, a convnet

Lesort et al., "Challenging Common Assumptions about Catastrophic Forgetting", arXiv 2207.04543: if
classes come back, even plain SGD accumulates knowledge. Each task draws `data.classes` of the ten
classes without replacement, equally likely; its images are the next ones of seeded passes over each
class. The loss uses only the classes in the batch, as in the paper.
Evaluation is over all ten outputs, with each class as a group. Metrics that need a finished task do
not apply. The rest is as in stream_split, also data, licences, goal and budget.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.seeds import derive
from workloads import stream_split as base

batch = base.batch
features = base.features
logits = base.logits
metric = base.metric
model = base.model
quality = base.quality
score = base.score
size = base.size


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [N, 784], labels and group (the class) int64 [N], sorted by class."""
    found, labels = base.pixels(config, split)
    return {"images": found, "labels": labels, "group": labels.clone()}


def stream(data: dict[str, Tensor], config: SimpleNamespace, seed: int) -> Tensor:
    """Return example numbers in the order of training, int64 [horizon * batch]."""
    tasks, classes = config.stream.tasks, config.data.classes
    wanted = config.horizon // tasks * config.batch
    # Images of each class in a task.
    share = -(-wanted // classes)
    generator = torch.Generator().manual_seed(derive(seed, "classes"))
    members = [(data["labels"] == c).nonzero()[:, 0] for c in range(10)]
    queues = [torch.empty(0, dtype=torch.int64)] * 10
    order = []
    for _ in range(tasks):
        mixed = []
        for c in torch.randperm(10, generator=generator)[:classes].tolist():
            while len(queues[c]) < share:
                again = members[c][torch.randperm(len(members[c]), generator=generator)]
                queues[c] = torch.cat([queues[c], again])
            mixed.append(queues[c][:share])
            queues[c] = queues[c][share:]
        task = torch.cat(mixed)
        order.append(task[torch.randperm(len(task), generator=generator)][:wanted])
    return torch.cat(order)


def present(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores of the classes with labels in the batch, -inf elsewhere, [B, 10]."""
    absent = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device)
    absent = absent.scatter(0, batch["targets"], False)
    return scores.masked_fill(absent, -torch.inf)


def nats(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image by the scores of its classes, [B]."""
    return F.cross_entropy(present(scores, batch), batch["targets"], reduction="none")


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image, [B]."""
    return nats(logits(model, batch), batch)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per image."""
    return losses(model, batch).mean()


def sample(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return the mean nats per image against labels drawn from the model."""
    scores = present(logits(model, batch), batch)
    share = scores.detach().softmax(dim=1).to(generator.device)
    drawn = torch.multinomial(share, 1, generator=generator).squeeze(1)
    return F.cross_entropy(scores, drawn.to(scores.device))
