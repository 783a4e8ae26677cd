"""A text classifier of the BERT shape: encoder, mean over tokens, linear readout."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError

# The token that pads a text to the context.
PAD = 0
# The epsilon of the norms, as published.
EPSILON = 1e-12


class Block(nn.Module):
    """Self-attention and a perceptron of width `inner`, each followed by a residual and a norm."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        width, inner, self.heads = config.width, config.inner, config.heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.project = nn.Linear(width, width), nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, EPSILON)

    def attend(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)  # [B, heads, T, d]
        return self.project(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = self.norm1(x + self.attend(x, seen))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class BERT(nn.Module):
    """Tokens [B, T], padded with PAD, to logits [B, classes].

    Devlin et al., arXiv 1810.04805, without the pooler; mean over the tokens that are not PAD
    (Reimers, Gurevych, arXiv 1908.10084). All tokens belong to one segment, whose embedding is
    added to those of the positions. There is no dropout.

    Args:
        config: vocabulary, positions (learned; T is at most that), depth, heads, width, inner
            (width of the perceptrons), classes.

    Initialisation: weights normal with standard deviation 0.02, biases zero.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        if config.width % config.heads:
            raise UserError(f"model.width={config.width} is not divisible by heads={config.heads}")
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, EPSILON)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        # An inactive block is the identity.
        self.active = [True] * config.depth
        self.readout = nn.Linear(config.width, config.classes)
        self.readout.role = "readout"
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(std=0.02)
            if isinstance(module, nn.Linear):
                module.bias.zero_()

    def features(self, tokens: Tensor) -> Tensor:
        """Return the mean over a text's tokens, [B, width]."""
        seen = tokens != PAD
        x = self.norm(self.tokens(tokens) + self.positions.weight[: tokens.shape[1]])
        for block, active in zip(self.blocks, self.active, strict=True):
            if active:
                x = block(x, seen[:, None, None, :])
        share = seen.to(x.dtype) / seen.sum(dim=1, keepdim=True)
        return (share[:, None, :] @ x)[:, 0]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.features(tokens))
