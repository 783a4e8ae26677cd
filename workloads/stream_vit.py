"""Stream from a pretrained transformer: ten classes of garments in five tasks of two.

    mini    the vision transformer of ft_vit, pretrained on digits, 0.2 M parameters

The setting is that of rehearsal-free methods for pretrained models, as in Smith et al., arXiv
2203.17269, and CoSO, arXiv 2505.11816: training starts from a checkpoint, and what is asked is
whether the later tasks can be learnt without spoiling it. Class-incremental: the answer is one of
all ten classes. Pixels are bytes, as a memory of examples stores them; the model scales them.

Data: the part of Fashion-MNIST (MIT) that is shipped, see workloads/data/garments.py; checkpoint as
in ft_vit. Evaluation uses `data.subset` held-out images of each class, sorted by group: the classes
of task i are group i.

Measured at mini with three seeds, the best of three points each, accuracy at the end: er 0.64 to
0.67, etf 0.63 to 0.66, derpp 0.62 to 0.65, slca 0.53 to 0.55, frozen_means and dkvb 0.39 to 0.45,
gpm 0.29 to 0.42, l2p 0.18 to 0.26, lora_merge, lora_orthogonal and lora_codyra 0.17 to 0.25,
coso, l2_attention, lora_stream and finetune 0.16 to 0.21. derpp has the highest worst case, 0.50 to
0.53; er's is 0.37 to 0.42.

Goal at mini: what the tuned reference, er_balanced, ends at, rule `stream` of conf/targets.yaml.
Budget: the whole stream, `horizon` steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from workloads import stream_split as base
from workloads import vit
from workloads.data import garments
from workloads.models.vit import ViT
from workloads.pretrain.checkpoint import checkpoint

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
stream = base.stream


class Bytes(ViT):
    """The transformer on pixels uint8 [B, 784], with separate features and readout."""

    def __init__(self, config: SimpleNamespace, mean: float, std: float):
        super().__init__(config)
        self.side, self.mean, self.std = config.side, mean, std

    def features(self, pixels: Tensor) -> Tensor:
        """Return the readout's input, [B, width]."""
        scaled = (pixels.float() / 255 - self.mean) / self.std
        x = self.embed(self.tokens(scaled.view(-1, 1, self.side, self.side)))
        x = x + self.positions.weight
        for block, active in zip(self.blocks, self.active, strict=True):
            if active:
                x = block(x)
        return self.norm(x).mean(dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.readout(self.features(pixels))


def data(config: SimpleNamespace, split: str) -> dict[str, Tensor]:
    """Return images uint8 [N, 784], labels and group int64 [N], sorted by class."""
    held = split == "val"
    images, labels = garments.garments("test" if held else split)
    wanted = config.data.subset if held else config.data.train
    chosen = torch.cat([(labels == c).nonzero()[:wanted, 0] for c in range(10)])
    labels = labels[chosen]
    group = labels * config.stream.tasks // 10
    return {"images": images[chosen].flatten(1), "labels": labels, "group": group}


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs uint8 [B, 784] and targets int64 [B]."""
    return {"inputs": data["images"][index], "targets": data["labels"][index]}


def model(config: SimpleNamespace) -> nn.Module:
    return Bytes(config.model, config.data.mean, config.data.std)


def pretrained(config: SimpleNamespace) -> dict[str, Tensor]:
    """Return the weights that training starts from, by name."""
    return checkpoint(config, vit)
