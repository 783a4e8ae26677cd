"""Black box: a linear head is scored by its macro F1, which has no useful gradient.

    loss = 1 - mean over the ten classes of F1 = 2·right/(predicted + actual), on hard predictions

    mini    4,000 MNIST digits as 20 principal components, 1,000 held out; 210 parameters, float64

The loss is constant but for jumps, so its gradient is zero wherever it exists, and automatic
differentiation says so. Only forward passes are offered: a submission that declares any other pass
is refused. Finite differences need a distance that moves some digits
over a boundary, and a surrogate such as cross-entropy is not what is asked for: the loss alone is
told. Licence of MNIST: none stated.

An example is one digit. The components are those of the training digits, scaled to variance 1. The
goal is the macro F1 of the held-out digits.

Goal at mini: the F1 of the tuned reference, two_point, at three quarters of the budget, rule
`share` of conf/targets.yaml. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads.data import digits

CLASSES = 10


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return features, float64 [n, 20], and targets, int64 [n]."""
    return digits.components(config.data.features, held_out=split == "val")


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of digits."""
    return len(data["targets"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs [B, 20] and targets [B]; if the batch has all, in stored order, no copy."""
    whole = len(index) == len(data["targets"])
    return {name: data[name] if whole else data[name][index] for name in ("inputs", "targets")}


def model(config: SimpleNamespace) -> nn.Module:
    """Return a linear map of torch's own start; its role is "readout"."""
    head = nn.Linear(config.data.features, CLASSES, dtype=torch.float64)
    head.role = "readout"  # type: ignore[assignment]
    return head


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def counts(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return right answers, predictions and examples of every class, float64 [3, 10]."""
    predicted, targets = model(batch["inputs"]).argmax(dim=1), batch["targets"]
    right = predicted[predicted == targets]
    tallies = (torch.bincount(each, minlength=CLASSES) for each in (right, predicted, targets))
    return torch.stack(list(tallies)).double()


def macro_f1(counts: Tensor) -> Tensor:
    """Return the mean over classes of 2·right/(predicted + actual); of an absent class 0."""
    right, predicted, actual = counts
    return (2 * right / (predicted + actual).clamp(min=1)).mean()


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return 1 - F1 of the batch; its gradient is zero."""
    flat = sum(0.0 * p.sum() for p in model.parameters())
    return 1 - macro_f1(counts(model, batch)) + flat


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the three counts of every class, by name, and the examples."""
    names = ("right", "predicted", "actual")
    rows = counts(model, batch)
    sums = {f"{name}_{c}": row[c] for name, row in zip(names, rows) for c in range(CLASSES)}
    return sums | {"count": torch.tensor(len(batch["targets"]))}


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return f1, the mean over classes of their F1, and accuracy."""
    names = ("right", "predicted", "actual")
    rows = torch.tensor([[sums[f"{name}_{c}"] for c in range(CLASSES)] for name in names])
    right = float(rows[0].sum())
    return {"f1": float(macro_f1(rows)), "accuracy": right / sums["count"]}


SKIPS = {"reachable": "adamw, which trains the others, has no gradient here"}
