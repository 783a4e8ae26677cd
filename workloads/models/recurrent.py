"""A language model of one linear recurrent layer, whose transitions' range is a number."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import UserError, nearest

KINDS = ("diagonal", "delta")


class Diagonal(nn.Module):
    """h_t = a_t·h_{t−1} + b_t with a_t in (low, 1): low 0, or −1 with negative eigenvalues."""

    def __init__(self, width: int, low: float, top: float):
        super().__init__()
        self.gate, self.value, self.low = nn.Linear(width, width), nn.Linear(width, width), low

    def forward(self, x: Tensor) -> Tensor:
        a = self.low + (1 - self.low) * torch.sigmoid(self.gate(x))
        b, h, states = self.value(x), torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = torch.addcmul(b[:, t], a[:, t], h)
            states.append(h)
        return torch.stack(states, dim=1)


class Delta(nn.Module):
    """S_t = S_{t−1}(I − β_t·k_t·k_tᵀ) + β_t·v_t·k_tᵀ, β_t in (0, top); y_t = S_t·q_t."""

    def __init__(self, width: int, low: float, top: float):
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.rate, self.top = nn.Linear(width, width), nn.Linear(width, 1), top

    def forward(self, x: Tensor) -> Tensor:
        k, q = F.normalize(self.key(x), dim=-1), F.normalize(self.query(x), dim=-1)
        v, beta, answers = self.value(x), self.top * torch.sigmoid(self.rate(x)), []
        state = x.new_zeros(len(x), x.shape[2], x.shape[2])
        for t in range(x.shape[1]):
            known = (state @ k[:, t, :, None])[..., 0]
            change = beta[:, t] * (v[:, t] - known)
            state = state + change[:, :, None] * k[:, t, None]
            answers.append((state @ q[:, t, :, None])[..., 0])
        return torch.stack(answers, dim=1)


class Tracker(nn.Module):
    """Tokens [B, T] to scores [B, T, classes]: embedding, recurrence, perceptron, readout.

    Args:
        config: tokens, classes, width, kind ("diagonal" or "delta"), low and top of transitions.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        if config.kind not in KINDS:
            raise UserError(f"model.kind={config.kind!r} is unknown", nearest(config.kind, KINDS))
        width = config.width
        self.tokens = nn.Embedding(config.tokens, width)
        layer = Diagonal if config.kind == "diagonal" else Delta
        self.mix = layer(width, config.low, config.top)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.readout = nn.Linear(width, config.classes)
        self.readout.role = "readout"

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.mix(self.tokens(tokens))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.readout(x)
