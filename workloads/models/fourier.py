"""A Fourier neural operator in one dimension (Li et al., arXiv 2010.08895)."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Spectral(nn.Module):
    """Multiplies the lowest Fourier modes of each channel by matrices; weights are real pairs."""

    def __init__(self, width: int, modes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2, modes, width, width) / width)
        self.modes = modes

    def forward(self, x: Tensor) -> Tensor:
        """Return for x [B, N, width] the same shape."""
        kept = torch.fft.rfft(x, dim=1)[:, : self.modes]
        (a, b), (c, d) = (kept.real, kept.imag), self.weight
        product = [torch.einsum("bmi,mij->bmj", *pair) for pair in ((a, c), (b, d), (a, d), (b, c))]
        mixed = torch.complex(product[0] - product[1], product[2] + product[3])
        return torch.fft.irfft(mixed, n=x.shape[1], dim=1)


class Operator(nn.Module):
    """Maps a periodic function's values [B, N] to another's: u + what the layers say of it.

    Args:
        config: width (channels), modes, depth.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.lift = nn.Linear(2, config.width)
        self.spectral = nn.ModuleList(
            Spectral(config.width, config.modes) for _ in range(config.depth)
        )
        self.local = nn.ModuleList(
            nn.Linear(config.width, config.width) for _ in range(config.depth)
        )
        self.mix = nn.Linear(config.width, 2 * config.width)
        self.readout = nn.Linear(2 * config.width, 1)
        self.readout.role = "readout"

    def forward(self, u: Tensor) -> Tensor:
        places = torch.arange(u.shape[1], device=u.device).to(u) / u.shape[1]
        x = self.lift(torch.stack([u, places.expand_as(u)], dim=2))
        for spectral, local in zip(self.spectral, self.local, strict=True):
            x = F.gelu(spectral(x) + local(x))
        return u + self.readout(F.gelu(self.mix(x)))[:, :, 0]
