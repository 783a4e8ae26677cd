"""A decoder-only transformer of the GPT-2 shape."""

from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError, nearest

ACTIVATIONS = {"gelu": partial(F.gelu, approximate="tanh"), "relu": F.relu}
NORMS = ("pre", "post")


class Block(nn.Module):
    """Self-attention and a perceptron four times as wide, each with a norm and a residual."""

    def __init__(self, config: SimpleNamespace, causal: bool = True):
        super().__init__()
        width, self.causal = config.width, causal
        self.heads, self.pre = config.heads, config.norm == "pre"
        self.activation = ACTIVATIONS[config.activation]
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        examples, length, width = x.shape
        split = (examples, length, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # [B, heads, T, d]
        return self.project(y.transpose(1, 2).reshape(examples, length, width))

    def transform(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            x = x + self.attend(self.norm1(x))
            return x + self.transform(self.norm2(x))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.transform(x))


class GPT(nn.Module):
    """Tokens [B, T] to logits [B, T, vocabulary], with learned positions.

    Args:
        config: vocabulary, context, depth, heads, width, norm ("pre" or "post"), activation
            ("gelu" or "relu"), tied (bool), init_scale (multiplies GPT-2's deviation 0.02).

    Initialisation of GPT-2: weights normal with standard deviation 0.02, the two projections into
    the residual stream divided by sqrt(2 depth), biases zero.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        if config.width % config.heads:
            raise UserError(f"model.width={config.width} is not divisible by heads={config.heads}")
        if config.activation not in ACTIVATIONS:
            raise UserError(
                f"model.activation={config.activation!r} is unknown",
                nearest(config.activation, ACTIVATIONS),
            )
        if config.norm not in NORMS:
            raise UserError(f"model.norm={config.norm!r} is unknown", nearest(config.norm, NORMS))
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        # An inactive block is the identity.
        self.active = [True] * config.depth
        self.norm = nn.LayerNorm(config.width) if config.norm == "pre" else nn.Identity()
        self.readout = None
        if not config.tied:
            self.readout = nn.Linear(config.width, config.vocabulary, bias=False)
            self.readout.role = "readout"
        self.initialise(0.02 * config.init_scale)

    @torch.no_grad()
    def initialise(self, deviation: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(std=deviation)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        for block in self.blocks:
            block.project.weight.div_((2 * len(self.blocks)) ** 0.5)
            block.down.weight.div_((2 * len(self.blocks)) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block, active in zip(self.blocks, self.active, strict=True):
            if active:
                x = block(x)
        return F.linear(self.norm(x), (self.readout or self.tokens).weight)
