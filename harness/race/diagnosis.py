"""What `diagnose=true` measures of a trial's last weights: curvature, gradient noise, step sizes.

The referee measures it after the last evaluation, on a model of its own. It costs wall time and no
reference seconds, and the runner does not know of it.
"""

import math
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from harness import derivatives, roles
from harness.catalog import data
from harness.catalog.definition import Definition, load_workload
from harness.seeds import derive, forked

BATCHES = 16  # of the workload's size, for the gradient noise
CURVED = 2  # of them, for the Hessian
ITERATIONS = 30  # Hessian products


class Diagnosis:
    """Measures a trial's weights on training examples.

    Args:
        folder: the prepared training data.
        seed: the trial's, which draws the examples and the first direction.
    """

    def __init__(self, definition: Definition, folder: Path, device: str, seed: int):
        self._module, self._config = load_workload(definition), definition.config
        self._data = data.open_data(folder, device)
        self._device, self._seed = torch.device(device), derive(seed, "diagnosis")
        # The trial's own random numbers are not touched, whichever process draws them.
        with forked(self._device):
            torch.manual_seed(self._seed)
            self._model = self._module.model(self._config).to(device).eval()
        self._seen: list[tuple[int, dict[str, Tensor]]] = []

    def see(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights of this evaluation and of the one before."""
        copies = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self._seen = [*self._seen[-1:], (step, copies)]

    def result(self) -> dict[str, float | int | None]:
        """Return the measurements of the last weights; None where one is not finite.

        - `sharpness`: the Hessian's eigenvalue of largest magnitude, by power iteration on two
          batches; `sharpness_residual`: ‖Hv − λv‖/|λ| at its end.
        - `gradient_norm`, `gradient_variance`: estimates of |G| and of the trace S of one example's
          covariance; `noise_scale`: S/|G|², the critical batch size of arXiv 1812.06162.
        - `update_ROLE`: ‖change of the weights‖/‖weights‖ a step, over the last two evaluations.
        """
        step, weights = self._seen[-1]
        with torch.no_grad():
            for name, own in self._model.state_dict().items():
                own.copy_(weights[name])
        with forked(self._device):
            torch.manual_seed(self._seed)
            measured = self._noise() | self._sharpness() | self._updates()
        finite = {k: v if math.isfinite(v) else None for k, v in measured.items()}
        return {"step": step} | finite

    def _batches(self, count: int) -> list[dict[str, Tensor]]:
        """Return `count` batches of training examples, the same for the same seed."""
        size, batch = self._module.size(self._data, self._config), self._config.batch
        generator = torch.Generator().manual_seed(self._seed)
        index = torch.cat(
            [torch.randperm(size, generator=generator) for _ in range(-(-count * batch // size))]
        )
        parts = index[: count * batch].split(batch)
        batches = [self._module.batch(self._data, part, self._config) for part in parts]
        return [{k: v.to(self._device) for k, v in each.items()} for each in batches]

    def _noise(self) -> dict[str, float]:
        """Return the gradient's norm, its variance and their ratio from batches of two sizes."""
        params, squares = list(self._model.parameters()), []
        total = [torch.zeros_like(p, dtype=torch.float64) for p in params]
        for batch in self._batches(BATCHES):
            grads = torch.autograd.grad(
                self._module.loss(self._model, batch), params, allow_unused=True
            )
            present = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params)]
            squares.append(sum(float(g.double().square().sum()) for g in present))
            torch._foreach_add_(total, [g.double() for g in present])
        whole = sum(float(g.square().sum()) for g in total) / BATCHES**2
        return noise_scale(sum(squares) / BATCHES, whole, self._config.batch, BATCHES)

    def _sharpness(self) -> dict[str, float]:
        """Return the eigenvalue of largest magnitude of the mean loss of a few batches."""
        batches, params = self._batches(CURVED), list(self._model.parameters())
        vector = [torch.randn_like(p) for p in params]
        value, residual = math.nan, math.nan
        for _ in range(ITERATIONS):
            norm = torch.stack([v.double().square().sum() for v in vector]).sum().sqrt()
            vector = [v / norm.to(v) for v in vector]
            image = [torch.zeros_like(p) for p in params]
            for batch in batches:
                product = derivatives.hvp(self._module.loss, self._model, batch, vector)
                torch._foreach_add_(image, product, alpha=1 / len(batches))
            pairs = list(zip(image, vector, strict=True))
            value = sum(float((a.double() * b.double()).sum()) for a, b in pairs)
            away = sum(float((a - value * b).double().square().sum()) for a, b in pairs) ** 0.5
            residual, vector = away / abs(value) if value else math.inf, image
            if residual < 1e-3 or not math.isfinite(value):
                break
        return {"sharpness": value, "sharpness_residual": residual}

    def _updates(self) -> dict[str, float]:
        """Return the relative change of the weights a step, by role."""
        if len(self._seen) < 2:
            return {}
        (before, old), (now, new) = self._seen
        moved: dict[str, float] = defaultdict(float)
        length: dict[str, float] = defaultdict(float)
        for name, role in roles.of(self._model).items():
            moved[role.kind] += float((new[name] - old[name]).double().square().sum())
            length[role.kind] += float(new[name].double().square().sum())
        steps = max(1, now - before)
        return {
            f"update_{kind}": (moved[kind] / length[kind]) ** 0.5 / steps if length[kind] else 0.0
            for kind in moved
        }


def noise_scale(small: float, large: float, batch: int, times: int) -> dict[str, float]:
    """Return |G|, S and S/|G|² from mean squared norms of gradients (arXiv 1812.06162, appendix A).

    Args:
        small: mean of |g|² over gradients of `batch` examples.
        large: |g|² of the mean of `times` such gradients.
    """
    whole = batch * times
    square = (whole * large - batch * small) / (whole - batch)
    variance = (small - large) / (1 / batch - 1 / whole)
    return {
        "gradient_norm": math.sqrt(square) if square > 0 else math.nan,
        "gradient_variance": variance,
        "noise_scale": variance / square if square > 0 else math.nan,
    }
