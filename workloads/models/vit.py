"""A vision transformer on square patches, without a class token."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from harness.errors import UserError, nearest
from workloads.models.gpt import ACTIVATIONS, NORMS, Block


class ViT(nn.Module):
    """Images [B, channels, side, side] to logits [B, classes]: patches, blocks, mean over tokens.

    The "simple ViT" of Beyer et al., arXiv 2205.01580, with learned positions.

    Args:
        config: side, channels, patch (pixels), classes, depth, heads, width, norm ("pre" or
            "post"), activation ("gelu" or "relu"), init_scale (multiplies the deviations).

    Initialisation: matrices normal with variance 2/(inputs + outputs) (Glorot), the patch embedding
    with variance 1/inputs, positions and readout with standard deviation 0.02, biases zero. (With a
    zero readout, the first step gives the blocks no gradient and low-rank methods no first basis.)
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        if config.width % config.heads:
            raise UserError(f"model.width={config.width} is not divisible by heads={config.heads}")
        if config.side % config.patch:
            raise UserError(f"model.side={config.side} is not divisible by patch={config.patch}")
        for key, known in {"activation": ACTIVATIONS, "norm": NORMS}.items():
            value = getattr(config, key)
            if value not in known:
                raise UserError(f"model.{key}={value!r} is unknown", nearest(value, known))
        self.patch = config.patch
        self.embed = nn.Linear(config.channels * config.patch**2, config.width)
        self.embed.role = "embedding"
        self.positions = nn.Embedding((config.side // config.patch) ** 2, config.width)
        self.blocks = nn.ModuleList(Block(config, causal=False) for _ in range(config.depth))
        # An inactive block is the identity.
        self.active = [True] * config.depth
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.readout = nn.Linear(config.width, config.classes)
        self.readout.role = "readout"
        self.initialise(config.init_scale)

    @torch.no_grad()
    def initialise(self, scale: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=scale * (2 / sum(module.weight.shape)) ** 0.5)
                module.bias.zero_()
        self.embed.weight.normal_(std=scale * self.embed.in_features**-0.5)
        self.positions.weight.normal_(std=scale * 0.02)
        self.readout.weight.normal_(std=scale * 0.02)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the patches row by row, [B, tokens, channels · patch²]."""
        size = self.patch
        cut = images.unfold(2, size, size).unfold(3, size, size)  # [B, C, rows, columns, p, p]
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(self.tokens(images)) + self.positions.weight
        for block, active in zip(self.blocks, self.active, strict=True):
            if active:
                x = block(x)
        return self.readout(self.norm(x).mean(dim=1))
