"""What a private trial has shown of its examples: noisy sums of clipped gradients, or more.

The task draws the sample and the noise, so a submission sees neither an example nor a gradient
without noise. The referee computes the privacy spent from this ledger (harness/train/privacy.py).
"""

import math
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from harness.errors import UserError
from harness.seeds import derive
from harness.train.privacy import leaves_of

# Added to the norm of an example's gradient before it divides, and the least γ that may take its
# place: squares of smaller gradients vanish in float32, so their norm would be 0.
TINY = 1e-6


class Tree:
    """Noisy sums of all clipped gradients so far, by tree aggregation (arXiv 2103.00039).

    An epoch is cut into `leaves` batches, and has a tree of its own. The sum of its first t batches
    is that of the nodes in t's binary expansion; each node has noise of its own, drawn once. So a
    sum has the noise of as many nodes as t has ones, and an example is in one node of each level.

    Attributes:
        calls: number of batches so far.
        noise, clip: those of the first call; they may not change.
    """

    def __init__(self):
        self.calls, self.noise, self.clip = 0, 0.0, 0.0
        # The clipped gradients of this epoch, the noise of open nodes by level, the epochs before.
        self._sum: list[Tensor] = []
        self._nodes: dict[int, list[Tensor]] = {}
        self._before: list[Tensor] = []

    def settle(self, clip: float, noise: float) -> None:
        """Raise UserError if noise or clip are not those of the first call."""
        if self.calls and (clip, noise) != (self.clip, self.noise):
            raise UserError(
                f"private_sum(clip={clip}, noise={noise})",
                f"clip={self.clip} and noise={self.noise}, as in the first call",
            )
        self.clip, self.noise = clip, noise

    def add(self, clipped: list[Tensor], leaves: int, draw) -> list[Tensor]:
        """Add a batch's sum of clipped gradients. Return the noisy sum of all batches.

        Args:
            draw: returns the noise of a new node, a tensor per parameter.
        """
        at = self.calls % leaves + 1
        self.calls += 1
        if not self._before:
            self._before = [torch.zeros_like(c) for c in clipped]
        if at == 1:
            self._sum, self._nodes = [torch.zeros_like(c) for c in clipped], {}
        self._sum = list(torch._foreach_add(self._sum, clipped))
        level = (at & -at).bit_length() - 1
        self._nodes = {k: node for k, node in self._nodes.items() if k > level} | {level: draw()}
        noisy = list(torch._foreach_add(self._before, self._sum))
        for node in self._nodes.values():
            torch._foreach_add_(noisy, node)
        if at == leaves:
            self._before = [total.clone() for total in noisy]
        return noisy

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps."""
        return {
            "calls": self.calls, "noise": self.noise, "clip": self.clip,
            "sum": self._sum, "nodes": self._nodes, "before": self._before,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.calls, self.noise, self.clip = state["calls"], state["noise"], state["clip"]
        self._sum, self._nodes, self._before = state["sum"], state["nodes"], state["before"]


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
        self.tree = Tree()

    def generator(self, use: str) -> torch.Generator:
        """Return a generator for one use of the next call."""
        calls = sum(self.spent.values()) + self.tree.calls
        return torch.Generator().manual_seed(derive(self._seed, use, calls))

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
        totals = clipped_sums(examples, clip, normalise)
        drawn = self._noise(totals, "private noise")
        self.spent[repr(float(noise))] += 1
        pairs = zip(totals, drawn, strict=True)
        return [total.add_(z, alpha=clip * noise) / count for total, z in pairs]

    def leaf(self, examples: int, rate: float) -> Tensor:
        """Return the numbers of the next batch of an epoch: each example is in one of them."""
        epoch, at = divmod(self.tree.calls, leaves_of(rate))
        generator = torch.Generator().manual_seed(derive(self._seed, "private epoch", epoch))
        order = torch.randperm(examples, generator=generator)
        return order.tensor_split(leaves_of(rate))[at]

    def noisy_sum(
        self, examples: Sequence[Tensor], clip: float, noise: float, rate: float
    ) -> list[Tensor]:
        """Return the noisy sum of the clipped gradients of this batch and all before it."""
        self.tree.settle(clip, noise)
        clipped = clipped_sums(examples, clip, None)

        def node() -> list[Tensor]:
            return [z * (clip * noise) for z in self._noise(clipped, "private node")]

        return self.tree.add(clipped, leaves_of(rate), node)

    def _noise(self, like: Sequence[Tensor], use: str) -> list[Tensor]:
        """Return standard normal tensors; each `use` has its own, so that no two uses cancel."""
        generator, drawn = self.generator(use), []
        for tensor in like:
            z = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            drawn.append(z.to(tensor.device))
        return drawn

    def report(self) -> dict:
        """Return what the runner reports at a hand-over."""
        report = {"exposed": self.exposed, "spent": dict(self.spent)}
        trees = {repr(float(self.tree.noise)): self.tree.calls} if self.tree.calls else {}
        return report | ({"trees": trees} if trees else {})

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps."""
        return {
            "exposed": self.exposed, "spent": dict(self.spent), "tree": self.tree.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.exposed, self.spent = state["exposed"], Counter(state["spent"])
        self.tree.load_state_dict(state["tree"])


def clipped_sums(examples: Sequence[Tensor], clip: float, normalise: float | None) -> list[Tensor]:
    """Return the sum of clipped gradients, a tensor per parameter; arguments as in `Ledger`.

    An example whose gradient is not finite counts as 0: no noise would hide it.
    """
    norms = torch.stack([g.flatten(1).square().sum(dim=1) for g in examples]).sum(dim=0).sqrt()
    factor = (clip / (norms + TINY)).clamp(max=1.0)
    if normalise is not None:
        factor = clip / (norms + normalise)
    finite = norms.isfinite()
    if not bool(finite.all()):
        factor = factor.where(finite, 0.0)
        examples = [g.where(finite.view(-1, *[1] * (g.ndim - 1)), 0.0) for g in examples]
    return [torch.einsum("b,b...->...", factor, g) for g in examples]


def ledger_of(config: SimpleNamespace, seed: int) -> Ledger | None:
    """Return the ledger of a private workload, or None for any other."""
    return Ledger(seed) if hasattr(config, "private") else None


def refusal(name: str) -> UserError:
    """Return the error of a workload that is not private."""
    return UserError(f"workload {name} is not private", do="workload=private")


def checked(
    clip: float, noise: float, normalise: float | None
) -> tuple[float, float, float | None]:
    """Return the arguments as plain numbers, so that what is noted is what is used.

    Raises:
        UserError: one is out of range.
    """
    clip, noise = float(clip), float(noise)
    normalise = None if normalise is None else float(normalise)
    fits = 0 < clip < math.inf and 0 <= noise < math.inf
    if not fits or not (normalise is None or TINY <= normalise < math.inf):
        raise UserError(
            f"private_gradient(clip={clip}, noise={noise}, normalise={normalise})",
            f"clip above 0, noise from 0 up, normalise from {TINY:g} up",
        )
    return clip, noise, normalise
