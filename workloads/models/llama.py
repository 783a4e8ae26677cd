"""A decoder-only transformer of the Llama shape."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError

# The epsilon of the norms.
EPSILON = 1e-5


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Return x with rotary embedding (Su et al., arXiv 2104.09864) of neighbouring channels.

    The files of llama.cpp have the rows of queries and keys in this order. Those of transformers
    rotate channel i with channel i + d/2 instead.

    Args:
        x: [..., T, d]. angles: unit complex numbers as [2, T, d/2], cosine and sine.
    """
    (cos, sin), (a, b) = angles, x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class Block(nn.Module):
    """Causal self-attention and a gated perceptron, each with a norm before and a residual.

    Each key and value serves heads/groups queries (Ainslie et al., arXiv 2305.13245); the gate is
    SwiGLU (Shazeer, arXiv 2002.05202). No biases.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        width, inner, each = config.width, config.inner, config.width // config.heads
        self.heads, self.groups = config.heads, config.groups
        self.norm1, self.norm2 = nn.RMSNorm(width, EPSILON), nn.RMSNorm(width, EPSILON)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, config.groups * each, bias=False)
        self.value = nn.Linear(width, config.groups * each, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up, self.down = (
            nn.Linear(width, inner, bias=False),
            nn.Linear(inner, width, bias=False),
        )

    def attend(self, x: Tensor, angles: Tensor) -> Tensor:
        examples, length, width = x.shape
        q, k, v = (
            part(x).view(examples, length, heads, -1).transpose(1, 2)
            for part, heads in (
                (self.query, self.heads),
                (self.key, self.groups),
                (self.value, self.groups),
            )
        )
        times = self.heads // self.groups
        k, v = (
            part[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2)
            for part in (turned(k, angles), v)
        )
        y = F.scaled_dot_product_attention(turned(q, angles), k, v, is_causal=True)
        return self.project(y.transpose(1, 2).reshape(examples, length, width))

    def transform(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x), angles)
        return x + self.transform(self.norm2(x))


class Llama(nn.Module):
    """Tokens [B, T] to logits [B, T, vocabulary] (Touvron et al., arXiv 2302.13971).

    Args:
        config: vocabulary, context (T is at most that), depth, heads, groups (heads of keys and
            values), width, inner (width of the perceptrons), base (of the rotary frequencies),
            tied (the readout is the embedding).

    Initialisation: weights normal with standard deviation 0.02.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        if config.width % (2 * config.heads):
            told = f"model.width={config.width} is not divisible by twice heads={config.heads}"
            raise UserError(told)
        if config.heads % config.groups:
            told = f"model.heads={config.heads} is not divisible by groups={config.groups}"
            raise UserError(told)
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        # An inactive block is the identity.
        self.active = [True] * config.depth
        self.norm = nn.RMSNorm(config.width, EPSILON)
        self.readout = None
        if not config.tied:
            self.readout = nn.Linear(config.width, config.vocabulary, bias=False)
            self.readout.role = "readout"
        half = config.width // config.heads // 2
        speeds = config.base ** -(torch.arange(half) / half)
        angles = torch.arange(config.context)[:, None] * speeds
        self.register_buffer("angles", torch.stack([angles.cos(), angles.sin()]), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x, angles = self.tokens(tokens), self.angles[:, : tokens.shape[1]]
        for block, active in zip(self.blocks, self.active, strict=True):
            if active:
                x = block(x, angles)
        return F.linear(self.norm(x), (self.readout or self.tokens).weight)
