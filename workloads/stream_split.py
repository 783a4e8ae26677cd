"""Split stream: ten classes of images in five tasks of two, learnt one after another.

    mini    an MLP 784-100-100-10 on 4,000 MNIST digits, 20 passes over each task
    base    a convnet on Fashion-MNIST, one pass over 60,000 garments

The setting is that of De Lange, van de Ven and Tuytelaars, "Continual evaluation for lifelong
learning: Identifying the stability gap", arXiv 2205.13452. Class-incremental: the answer is one of
all ten classes, and the task of an example is not given. In variant task_incremental, batches give
the two possible classes. Pixels are bytes, as a memory of examples stores them; the model scales
them.

Held out: every fifth digit, or the test set. Evaluation uses a fixed stratified subset of it, drawn
from a seed of its own, sorted by group: the classes of task i are group i. Licences: MNIST states
none, Fashion-MNIST MIT.

Goal at mini: the tuned reference's median over three seeds at the end of the stream, 3 % easier,
rule `stream` of conf/targets.yaml. The reference is er or er_balanced. The goal at base is
provisional. Budget: the whole stream, `horizon` steps.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError, nearest
from harness.stream import visits
from workloads.data import images
from workloads.models.classifier import Classifier

# The seed of the evaluated subset, the same for every trial.
SUBSET_SEED = 20220525
SOURCES = ("mnist", "fashion")


def pixels(config: SimpleNamespace, split: str) -> tuple[Tensor, Tensor]:
    """Return a split's images, uint8 [N, 784], and labels: an equal number of each class.

    There are `data.train` images of each class to train on, and `data.subset` to evaluate.
    """
    c = config.data
    if c.source == "mnist":
        found, labels = images.mnist()
        held = torch.arange(len(labels)) % 5 == 4
        mine = held if split == "val" else ~held
        found, labels = found[mine], labels[mine]
    elif c.source == "fashion":
        found, labels = images.fashion(c.folder, "test" if split == "val" else split)
    else:
        raise UserError(f"data.source={c.source!r} is unknown", nearest(str(c.source), SOURCES))
    wanted, chosen = c.subset if split == "val" else c.train, []
    generator = torch.Generator().manual_seed(SUBSET_SEED)
    for label in range(10):
        members = (labels == label).nonzero()[:, 0]
        if wanted > len(members):
            raise UserError(f"{wanted} images of a class", f"{c.source} has {len(members)}")
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:wanted]])
    index = torch.cat(chosen)
    return found[index].flatten(1), labels[index]


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [N, 784], labels and group int64 [N], sorted by group."""
    found, labels = pixels(config, split)
    return {"images": found, "labels": labels, "group": labels * config.stream.tasks // 10}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of images."""
    return len(data["labels"])


def stream(data: dict[str, Tensor], config: SimpleNamespace, seed: int) -> Tensor:
    """Return example numbers in the order of training, int64 [horizon * batch]."""
    tasks = range(config.stream.tasks)
    return visits([(data["group"] == i).nonzero()[:, 0] for i in tasks], config, seed)


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs uint8 [B, 784], targets int64 [B]; allowed bool [B, 10] if data.task_given."""
    chosen = {"inputs": data["images"][index], "targets": data["labels"][index]}
    if not config.data.task_given:
        return chosen
    groups = torch.arange(10, device=index.device) * config.stream.tasks // 10
    return chosen | {"allowed": groups == data["group"][index, None]}


def model(config: SimpleNamespace) -> nn.Module:
    return Classifier(config.model)


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores of all classes, [B, 10]."""
    return model(batch["inputs"])


def features(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the readout's input, [B, width]."""
    return model.features(batch["inputs"])


def answers(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the scores of the possible classes, -inf elsewhere, [B, 10]."""
    return scores.masked_fill(~batch["allowed"], -torch.inf) if "allowed" in batch else scores


def nats(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image by the scores of its classes, [B]."""
    return F.cross_entropy(answers(scores, batch), batch["targets"], reduction="none")


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the nats of every image, [B]."""
    return nats(logits(model, batch), batch)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean nats per image."""
    return losses(model, batch).mean()


def sample(model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """Return the mean nats per image against labels drawn from the model."""
    scores = answers(logits(model, batch), batch)
    share = scores.detach().softmax(dim=1).to(generator.device)
    drawn = torch.multinomial(share, 1, generator=generator).squeeze(1)
    return F.cross_entropy(scores, drawn.to(scores.device))


def quality(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return 1 for a correct answer, 0 for a wrong one, NaN if a score is not finite, [B]."""
    scores = answers(logits(model, batch), batch)
    right = (scores.argmax(dim=1) == batch["targets"]).double()
    return right.masked_fill(scores.isnan().any(dim=1), torch.nan)


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the correct answers and the images of the batch, over all tasks."""
    right = quality(model, batch)
    return {"right": right.sum(), "count": torch.tensor(len(right))}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return pooled_accuracy, the share of correct answers over all images."""
    return {"pooled_accuracy": sums["right"] / sums["count"]}
