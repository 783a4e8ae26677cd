"""Rotated stream: the same ten digits, rotated by another angle in each task.

    mini    an MLP 784-100-100-10 on 4,000 MNIST digits rotated by 0, 80 and 160 degrees
    base    a convnet on Fashion-MNIST, five angles

Domain-incremental: the classes stay, the inputs change. The setting is that of Hess, Tuytelaars and
van de Ven, "Two Complementary Perspectives to Continual Learning", arXiv 2311.04898. Every task has
all the images, rotated about the centre with bilinear interpolation. The rest is as in
stream_split, also data, licences, goal and budget.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import UserError
from workloads import stream_split as base

batch = base.batch
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
stream = base.stream


def turned(images: Tensor, degrees: float) -> Tensor:
    """Return images uint8 [N, side * side] rotated counter-clockwise about their centre."""
    side = int(images.shape[1] ** 0.5)
    angle = torch.deg2rad(torch.tensor(float(degrees), dtype=torch.float64))
    turn = [[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]]
    grid = F.affine_grid(torch.tensor(turn)[None], [1, 1, side, side], align_corners=False)
    whole = images.view(-1, 1, side, side)
    parts = [
        F.grid_sample(part.double(), grid.expand(len(part), -1, -1, -1), align_corners=False)
        for part in whole.split(2000)
    ]
    return torch.cat(parts).round().clamp(0, 255).byte().flatten(1)


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [tasks * N, 784], labels and group (the angle's number), int64."""
    angles = config.data.angles
    if len(angles) != config.stream.tasks:
        raise UserError(f"data.angles={angles}", f"as many as stream.tasks={config.stream.tasks}")
    found, labels = base.pixels(config, split)
    return {
        "images": torch.cat([turned(found, angle) for angle in angles]),
        "labels": labels.repeat(len(angles)),
        "group": torch.arange(len(angles)).repeat_interleave(len(labels)),
    }
