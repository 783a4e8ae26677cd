"""The counted passes of a task over its model: what a submission's step is made of."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from harness import derivatives, surgery
from harness.catalog.kinds import EXCHANGE, SILENT, kind_of
from harness.derivatives import Batch, Loss
from harness.train import clients, depth, ledger, loss_scale
from harness.train.meter import Meter, clear_gradients, parameters_of
from harness.train.offered import Functions


class Passes:
    """The passes of `Task`, which sets these attributes; each is counted as its kind."""

    model: nn.Module
    meter: Meter
    masks: surgery.Masks
    rng: torch.Generator
    batch_size: int
    last_terms: dict[str, Tensor]
    ledger: ledger.Ledger | None
    loss_scale: loss_scale.LossScale | None
    _workload: Functions
    _config: SimpleNamespace

    @property
    def examples(self) -> int:
        """Return the number of training examples."""
        raise NotImplementedError

    def _raw(self, index: Tensor) -> Batch:
        """Return the examples of these numbers, and expose nothing."""
        raise NotImplementedError

    @property
    def params(self) -> list[nn.Parameter]:
        """Return the model's trainable parameters."""
        return [p for p in parameters_of(self.model) if p.requires_grad]

    def forward_backward(
        self,
        batch: Batch,
        accumulate: bool = False,
        weights: Mapping[str, Tensor | None] | None = None,
    ) -> Tensor:
        """Return the loss of the batch (0-dim, detached), and write the gradients to `p.grad`.

        Args:
            accumulate: add to the existing gradients.
            weights: multiply the values of the loss's terms, for example {"residual": [B]}; a
                term whose weight is None is left out.
        """
        if weights or hasattr(self._workload, "terms"):
            return self.backward(batch, lambda *_: self._squares(batch, weights), accumulate)
        return self.backward(batch, self._workload.loss, accumulate)

    def backward(self, batch: Batch, loss: Loss, accumulate: bool = False) -> Tensor:
        """Make a `forward_backward` of loss(model, batch) instead of the workload's own loss."""
        value = self._backward(batch, loss, accumulate)
        self.meter.samples += _examples(batch)
        return value

    def sampled_backward(self, batch: Batch) -> Tensor:
        """Make a `forward_backward` with labels drawn from the model's own predictions."""
        sample = self._workload.get("sample")
        return self._backward(batch, lambda model, batch: sample(model, batch, self.rng), False)

    def _backward(self, batch: Batch, loss: Loss, accumulate: bool) -> Tensor:
        """Make and count a forward and backward pass. Return the loss."""
        if not accumulate:
            clear_gradients(self.model)
        with self._pass("forward_backward", batch):
            value = loss(self.model, batch)
            self._differentiate(value)
        return value.detach()

    def _differentiate(self, value: Tensor) -> None:
        """Add the gradients of a loss to those of the parameters."""
        if self.loss_scale:
            self.loss_scale.backward(value, self.params)
        else:
            value.backward()

    @property
    def overflowed(self) -> bool:
        """Return True if the last gradients are not finite in float16: their step is skipped."""
        return self.loss_scale is not None and self.loss_scale.overflowed

    def _squares(self, batch: Batch, weights: Mapping[str, Tensor | None] | None) -> Tensor:
        """Return the loss as the weighted sum of the mean squares of its terms."""
        terms = self._workload.get("terms")(self.model, batch)
        self.last_terms = {name: v.detach() for name, v in terms.items()}
        return derivatives.mean_squares(terms, weights)

    def logits(self, batch: Batch) -> Tensor:
        """Return the model's scores [B, ..., C], for use inside a loss of `backward`."""
        return self._workload.get("logits")(self.model, batch)

    def nats(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the workload's loss of each example, [B], from the model's scores."""
        return self._workload.get("nats")(logits, batch)

    def bounds(self, batch: Batch, radius: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the least and largest scores over boxes around the inputs, for a loss."""
        half = torch.as_tensor(radius, device=next(self.model.parameters()).device)
        return self._workload.get("bounds")(self.model, batch, half)

    def features(self, batch: Batch) -> Tensor:
        """Return the inputs of the model's readout [B, width], for use inside a loss."""
        return self._workload.get("features")(self.model, batch)

    @torch.no_grad()
    def logits_of(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the model's scores with other values of `params`, without gradients."""
        with self._pass("forward", batch):
            return derivatives.call(self._workload.get("logits"), self.model, batch, params)

    @torch.no_grad()
    def features_of(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the readout's inputs with other values of `params`, without gradients."""
        with self._pass("forward", batch):
            return derivatives.call(self._workload.get("features"), self.model, batch, params)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """Return the loss of the batch (0-dim), without gradients."""
        with self._pass("forward", batch):
            return self._workload.loss(self.model, batch)

    @torch.no_grad()
    def linear_maps(self, batch: Batch) -> tuple[Tensor, list[tuple[nn.Linear, Tensor, Tensor]]]:
        """Return the loss, and every nn.Linear of the pass with its inputs and outputs."""
        with self._pass("forward", batch):
            return derivatives.linear_maps(self._workload.loss, self.model, batch)

    @torch.no_grad()
    def losses(self, batch: Batch) -> Tensor:
        """Return the loss of each example [B], without gradients."""
        with self._pass("forward", batch):
            return self._workload.get("losses")(self.model, batch)

    @torch.no_grad()
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss's terms by name, before squaring and averaging, without gradients."""
        with self._pass("forward", batch):
            return self._workload.get("terms")(self.model, batch)

    @torch.no_grad()
    def residuals(self, batch: Batch) -> Tensor:
        """Return the vector r of all terms, each over the root of its length: the loss is ‖r‖²."""
        with self._pass("forward", batch):
            return self._residuals(batch)

    def vjp(self, batch: Batch, vector: Tensor) -> list[Tensor]:
        """Return the transposed Jacobian of `residuals` times a vector, a tensor per parameter."""
        with self._pass("vjp", batch):
            return list(torch.autograd.grad(self._residuals(batch), self.params, vector))

    def jvp(self, batch: Batch, vectors: Sequence[Tensor]) -> Tensor:
        """Return the Jacobian of `residuals` times `vectors` (one tensor per parameter)."""
        with self._pass("jvp", batch):
            return derivatives.jvp(self._residuals(batch), self.params, vectors)

    @torch.no_grad()
    def jvp_logits(self, batch: Batch, vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the model's scores, and their derivative along `vectors`, both [B, ..., C]."""
        with self._pass("jvp", batch):
            logits = self._workload.get("logits")
            return derivatives.forward_mode(logits, self.model, batch, vectors)

    def jacobian(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return `residuals` [n], and their Jacobian by all parameters in a row, [n, P]."""
        with self._pass("jacobian", batch):
            if "points" in batch:
                terms = self._workload.get("terms")
                return derivatives.jacobian_of_terms(terms, self.model, batch, self.params)
            r = self._residuals(batch)
            return r.detach(), derivatives.jacobian(r, self.params)

    def term_gradients(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Return the gradient of each term's mean square alone, by name: a pass for each term."""
        if not self.last_terms:  # the names alone are asked for, once
            with torch.no_grad():
                self.last_terms = self._workload.get("terms")(self.model, batch)
        names, found = list(self.last_terms), {}
        for name in names:
            self.forward_backward(batch, weights=dict.fromkeys(set(names) - {name}))
            found[name] = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        return found

    def hvp(self, batch: Batch, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Return the Hessian of the batch's loss times `vectors` (one tensor per parameter)."""
        with self._pass("hvp", batch):
            return derivatives.hvp(self._workload.loss, self.model, batch, vectors)

    def per_example_grads(self, batch: Batch) -> list[Tensor]:
        """Return the gradient of each example's loss: for each parameter a tensor [B, *shape]."""
        with self._pass("per_example_gradients", batch):
            grads = derivatives.per_example(self._workload.loss, self.model, batch)
        self.meter.samples += _examples(batch)
        return grads

    def exchange(self, share: float | Fraction = 1) -> None:
        """Count one all-reduce among the clients of a share of as many numbers as parameters.

        A pass on examples of more than one client counts one by itself. Whatever else a submission
        brings from one client's examples to another's work, it counts here.

        Raises:
            UserError: the workload has no clients, or the share is not above 0.
        """
        sent = clients.sent(self._workload, share)
        with self.meter.kind(kind_of(EXCHANGE, sent, Fraction(1))):
            pass

    def private_gradient(
        self, clip: float, noise: float, normalise: float | None = None
    ) -> list[Tensor]:
        """Return a noisy mean of clipped gradients of a random sample, a tensor per parameter.

        The task draws the examples, each with the workload's sampling rate, and the noise. It is
        the only way to train with a finite ε: any other use of the training data exposes it.

        The noise that keeps a number of calls within a bound on ε is that of `private_noise`.

        Args:
            clip: C, the largest norm of an example's gradient.
            noise: σ; the sum's noise has the standard deviation σ·C.
            normalise: γ, at least 1e-6; an example's factor is then C/(‖g‖ + γ), not min(1, C/‖g‖).

        Raises:
            UserError: the workload is not private, or clip or noise is out of range.
        """
        if self.ledger is None:
            raise ledger.refusal(self._workload.__name__)
        clip, noise, normalise = ledger.checked(clip, noise, normalise)
        rate = self._config.private.rate
        grads = self._private(self.ledger.sample(self.examples, rate))
        return self.ledger.noisy_mean(grads, clip, noise, rate * self.examples, normalise)

    def private_sum(self, clip: float, noise: float) -> list[Tensor]:
        """Return a noisy sum of the clipped gradients of all calls so far, a tensor per parameter.

        Each call adds a batch, over its expected size; an epoch is cut into as many as the sampling
        rate says. The noise is that of tree aggregation (`ledger.Tree`): a sum has little of it.
        `private_noise(epsilon, tree=True)` keeps within a bound. Arguments and errors are those of
        `private_gradient`; clip and noise may not change during a trial.
        """
        if self.ledger is None:
            raise ledger.refusal(self._workload.__name__)
        clip, noise, _ = ledger.checked(clip, noise, None)
        rate = self._config.private.rate
        grads = self._private(self.ledger.leaf(self.examples, rate))
        totals = self.ledger.noisy_sum(grads, clip, noise, rate)
        torch._foreach_div_(totals, rate * self.examples)
        return totals

    def _private(self, index: Tensor) -> list[Tensor]:
        """Return the gradients of these examples, which only the ledger may use.

        A hook sees the examples of the pass, so they are then exposed.
        """
        assert self.ledger is not None
        batch = self._raw(index)
        kind = kind_of("per_example_gradients", Fraction(1), depth.share(self.model))
        with self.meter.kind(kind, self.model):
            grads = derivatives.per_example(self._workload.loss, self.model, batch)
        self.meter.samples += self.batch_size
        self.ledger.exposed |= self.meter.hooked is not None
        return grads

    def _residuals(self, batch: Batch) -> Tensor:
        terms = self._workload.get("terms")(self.model, batch)
        return torch.cat([v / len(v) ** 0.5 for v in terms.values()])

    @contextmanager
    def _pass(self, operation: str, batch: Batch):
        """Count the block as one pass of the batch, and hide masked gradients after it."""
        if self.loss_scale:
            loss_scale.check_pass(operation)
        examples = Fraction(_examples(batch), self.batch_size)
        kind = kind_of(operation, examples, depth.share(self.model))
        with self.meter.kind(kind, self.model):
            yield
        if operation not in SILENT and clients.mixed(self._workload, batch):
            self.exchange()
        if operation == "forward_backward" and self.masks:
            self.masks.hide_grads()


def _examples(batch: Batch) -> int:
    return len(next(iter(batch.values())))
