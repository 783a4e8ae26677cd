"""State memory: a linear recurrence learns a filter whose memory decays slowly.

    y_t = Σ_s ρ(s)·x_{t−s},  ρ(s) = (s + 1)^−1.1,  x white noise

    mini    100 steps of time, 16 complex states, 65 parameters

Setting: Wang and Li, "StableSSM", arXiv 2311.14495: a stable recurrence approximates such a filter
only with rates near zero, where plain training is unstable. The kernel is a sum of exponentials, so
how rates are parametrised, and where they begin, decides. In variant `exponential`
ρ(s) = exp(−s/10), which one state holds exactly.

Sequences are drawn from the trial's seed; no licence is needed. Metric: relative_error, the norm of
the error over that of y, on new sequences.

Goal at mini: the error of the tuned reference, nadamw, at three quarters of the budget, rule
`share` of conf/targets.yaml. Budget: `horizon` reference steps.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from harness.seeds import derive
from workloads.models.filter import Filter


def memory(config: SimpleNamespace) -> Tensor:
    """Return ρ, float64 [T]."""
    times = torch.arange(config.data.length).double()
    if config.data.kind == "exponential":
        return torch.exp(-times / 10)
    return (times + 1) ** -1.1


def data(config: SimpleNamespace, split: str, seed: int) -> dict[str, Tensor]:
    """Return inputs and targets, float32 [N, T]."""
    c, training = config.data, split == "train"
    source = torch.Generator().manual_seed(derive(seed, "noise", int(training)))
    x = torch.randn(c.train if training else c.validation, c.length, generator=source)
    padded = 2 * c.length
    spectrum = torch.fft.rfft(x.double(), padded) * torch.fft.rfft(memory(config), padded)
    return {"inputs": x, "targets": torch.fft.irfft(spectrum, padded)[:, : c.length].float()}


def size(data: dict[str, Tensor], config: SimpleNamespace) -> int:
    """Return the number of sequences."""
    return len(data["inputs"])


def batch(data: dict[str, Tensor], index: Tensor, config: SimpleNamespace) -> dict[str, Tensor]:
    """Return inputs and targets [B, T]."""
    return {name: tensor[index] for name, tensor in data.items()}


def model(config: SimpleNamespace) -> nn.Module:
    return Filter(config.model)


def inputs(batch: dict[str, Tensor]) -> Tensor:
    """Return the model's input."""
    return batch["inputs"]


def losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean squared error of every sequence, [B]."""
    return (model(batch["inputs"]) - batch["targets"]).square().mean(dim=1)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return losses(model, batch).mean()


def metric(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums of the squared error and of the squared target."""
    error = model(batch["inputs"]) - batch["targets"]
    return {
        "error": error.double().square().sum(),
        "norm": batch["targets"].double().square().sum(),
    }


def score(sums: dict[str, float]) -> dict[str, float]:
    """Return relative_error."""
    return {"relative_error": (sums["error"] / sums["norm"]) ** 0.5}
