"""A linear recurrence with a diagonal complex state, computed as one convolution."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class Filter(nn.Module):
    """x [B, T] to y [B, T]:  h' = λ ⊙ h + x,  y = 2·Re⟨gain, h⟩ + skip·x, in steps of `step`.

    The same as y = K * x with K_s = 2·Re Σ gain_k·exp(s·step·λ_k), λ = rate + i·frequency. A rate
    above 0 lets the state grow without bound.

    Args:
        config: states (n), step (of time).

    Start: λ_k = −1/2 + iπk, "S4D-Lin" of Gu et al., arXiv 2206.11893; gains normal with variance
    1/n, skip 0.
    """

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.step = config.step
        self.rate = nn.Parameter(torch.full((config.states,), -0.5))
        self.frequency = nn.Parameter(torch.pi * torch.arange(config.states).float())
        self.gain = nn.Parameter(torch.randn(2, config.states) * config.states**-0.5)
        self.skip = nn.Parameter(torch.zeros(()))

    def kernel(self, length: int) -> Tensor:
        """Return K [length]."""
        exponent = torch.complex(self.rate, self.frequency) * self.step
        times = torch.arange(length, device=exponent.device).to(self.rate)
        powers = torch.exp(exponent[:, None] * times)
        return 2 * (torch.complex(*self.gain) @ powers).real

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        spectrum = torch.fft.rfft(x, 2 * length) * torch.fft.rfft(self.kernel(length), 2 * length)
        return torch.fft.irfft(spectrum, 2 * length)[:, :length] + self.skip * x
