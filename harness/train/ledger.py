"""What a private trial has shown of its examples: noisy sums of clipped gradients, or more.

The task draws the sample and the noise, so a submission sees neither an example nor a gradient
without noise. The referee computes the privacy spent from this ledger (harness/privacy.py).
"""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from harness.errors import UserError
from harness.seeds import derive

# Added to the norm of an example's gradient before it divides.
TINY = 1e-6


class Ledger:
    """The calls of a trial that used training examples.

    Args:
        seed: the trial's seed; samples and noise depend on it, the step and the call.

    Attributes:
        exposed: whether examples were given out without noise.
        spent: number of noisy sums by noise multiplier, as text.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self.exposed = False
        self.spent: Counter[str] = Counter()

    def generator(self, use: str) -> torch.Generator:
        """Return a generator for one use of the next call."""
        return torch.Generator().manual_seed(derive(self._seed, use, sum(self.spent.values())))

    def sample(self, examples: int, rate: float) -> Tensor:
        """Return the numbers of a Poisson sample: each example is in it with chance `rate`."""
        drawn = torch.rand(examples, generator=self.generator("private sample")) < rate
        return drawn.nonzero()[:, 0]

    def noisy_mean(
        self,
        examples: Sequence[Tensor],
        clip: float,
        noise: float,
        count: float,
        normalise: float | None,
    ) -> list[Tensor]:
        """Return the sum of clipped gradients plus noise, over `count`, and note the noise.

        Args:
            examples: gradients by parameter, [B, *shape] each.
            clip: C. An example's gradient is multiplied by min(1, C/(‖g‖ + 1e-6)).
            noise: σ. The noise has the standard deviation σ·C.
            normalise: γ. The factor is then C/(‖g‖ + γ) instead, also below C.
        """
        norms = torch.stack([g.flatten(1).square().sum(dim=1) for g in examples]).sum(dim=0).sqrt()
        factor = (clip / (norms + TINY)).clamp(max=1.0)
        if normalise is not None:
            factor = clip / (norms + normalise)
        means, generator = [], self.generator("private noise")
        for g in examples:
            total = torch.einsum("b,b...->...", factor, g)
            drawn = torch.randn(total.shape, generator=generator, dtype=total.dtype)
            means.append(total.add_(drawn.to(total.device), alpha=clip * noise) / count)
        self.spent[repr(float(noise))] += 1
        return means

    def report(self) -> dict:
        """Return what the runner reports at a hand-over."""
        return {"exposed": self.exposed, "spent": dict(self.spent)}

    def load(self, state: dict) -> None:
        """Continue from what `report` returned."""
        self.exposed, self.spent = state["exposed"], Counter(state["spent"])


def ledger_of(config: SimpleNamespace, seed: int) -> Ledger | None:
    """Return the ledger of a private workload, or None for any other."""
    return Ledger(seed) if hasattr(config, "private") else None


def refusal(name: str) -> UserError:
    """Return the error of a workload that is not private."""
    return UserError(f"workload {name} is not private", do="workload=private")


def check(clip: float, noise: float, normalise: float | None) -> None:
    """Raise UserError for a clip or noise that is out of range."""
    if not (clip > 0 and noise >= 0 and (normalise is None or normalise > 0)):
        raise UserError(
            f"private_gradient(clip={clip}, noise={noise}, normalise={normalise})",
            "clip and normalise above 0, noise from 0 up",
        )
