"""The interface of a submission to its trial: the model, the next batch, and counted passes."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from harness import derivatives, roles, surgery
from harness.catalog import streams
from harness.catalog.kinds import kind_of
from harness.derivatives import Batch, Loss
from harness.errors import UserError
from harness.seeds import derive
from harness.train import depth, order
from harness.train.composite import Composite
from harness.train.meter import Meter
from harness.train.offered import Functions


class Task:
    """The workload of one trial, as its submission uses it.

    Attributes:
        model: the workload's model, on the trial's device.
        meter: counts and times the passes.
        step: number of finished steps.
        horizon: number of steps that the budget buys.
        batch_size: number of examples in a step of the workload.
        rng: the submission's own torch.Generator on the CPU; checkpoints keep its state.
        masks: which elements of parameters stay (harness/surgery.py); applied after every step.
        start: the pretrained weights by name, or None if training starts from random weights.
        last_terms: the values of the loss's terms at the last forward_backward, if it has terms.
        composite: the loss's smooth part, and the proximal operator of the rest.
    """

    def __init__(
        self,
        workload: ModuleType,
        config: SimpleNamespace,
        data: dict,
        model: nn.Module,
        seed: int,
        horizon: int,
        kinds: Collection[str] | None = None,
        part: Path | None = None,
    ):
        self._workload, self._config, self._data = Functions(workload), config, data
        self.composite = Composite(self._workload, data, config)
        self._device = next(model.parameters()).device
        self.model, self.meter = model, Meter(self._device, kinds)
        self.batch_size, self.horizon, self.step = config.batch, horizon, 0
        self._stream = order.of_task(self, workload, data, config, seed, part)
        self.rng = torch.Generator().manual_seed(derive(seed, "submission"))
        self.last_terms: dict[str, Tensor] = {}
        self.masks = surgery.Masks(lambda: self.model)
        self.start: dict[str, Tensor] | None = None
        self._seed = seed

    def receive(self, part: Path) -> None:
        """Take the examples of a stream's next task from a file (arrival.py)."""
        assert isinstance(self._stream, order.Ordered)
        self._stream.receive(part, self._data, self._device)

    @property
    def params(self) -> list[nn.Parameter]:
        """Return the model's trainable parameters."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def roles(self) -> list[roles.Role]:
        """Return the roles of `params`, in the same order."""
        known = roles.of(self.model)
        return [known[name] for name, p in self.model.named_parameters() if p.requires_grad]

    @property
    def progress(self) -> float:
        """Return the share of the horizon at the middle of the present step, in (0, 1)."""
        return (self.step + 0.5) / self.horizon

    @property
    def examples(self) -> int:
        """Return the number of training examples."""
        return self._stream.size

    @property
    def trusted(self) -> Tensor:
        """Return the numbers of examples whose labels are right, int64; UserError without any."""
        return self._workload.get("trusted")(self._data, self._config)

    @property
    def groups(self) -> Tensor:
        """Return the group of each training example, int64 [N]; UserError without groups."""
        return self._workload.get("groups")(self._data, self._config)

    def pretrained(self) -> dict[str, Tensor]:
        """Return a copy of the pretrained weights by name; raise UserError if there are none."""
        if self.start is None:
            name = self._workload.__name__
            raise UserError(f"workload {name} is not pretrained: its weights are random")
        return {name: tensor.to(self._device, copy=True) for name, tensor in self.start.items()}

    def calibration(self, count: int) -> Tensor:
        """Return the model's inputs, without labels, for `count` random training examples."""
        generator = torch.Generator().manual_seed(derive(self._seed, "calibration"))
        index = torch.randperm(self._stream.size, generator=generator)[:count]
        return self._workload.get("inputs")(self.gather(index))

    @property
    def boundary(self) -> bool:
        """Return True at the first step of a stream's task; raise UserError if that is hidden."""
        return self.segment[0] == self.step

    @property
    def segment(self) -> tuple[int, int]:
        """Return first step and length of a stream's present task; raise UserError if hidden."""
        return streams.segment(self._config, self.step)

    @property
    def memory(self) -> int:
        """Return the bytes of training examples that a stream allows a submission to keep."""
        if not hasattr(self._config, "stream"):
            raise UserError("this workload is not a stream: it has no limit on stored examples")
        return self._config.stream.memory

    def next_batch(self, size: int | None = None) -> Batch:
        """Return the next `size` training examples (by default the workload's batch size)."""
        return self._gather(self.next_index(size))

    def next_index(self, size: int | None = None) -> Tensor:
        """Return the numbers of the next `size` training examples, int64 [size], for `gather`."""
        return self._stream.next(size or self.batch_size)

    @property
    def box(self) -> Tensor:
        """Return the lower and upper corner of the region of `batch_at`, [2, dimensions]."""
        return self._workload.get("box")(self._config).to(self._device)

    def batch_at(self, points: Tensor) -> Batch:
        """Return a training batch at chosen points [B, dimensions] inside the box."""
        low, high = self.box
        fits = points.ndim == 2 and points.shape[1] == len(low)
        if not fits or not bool(((low <= points) & (points <= high)).all()):
            raise ValueError(
                f"points {list(points.shape)} must lie in the box {low.tolist()} to {high.tolist()}"
            )
        return self._placed(self._workload.get("batch_of")(self._data, points, self._config))

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
            self.model.zero_grad(set_to_none=True)
        with self._pass("forward_backward", batch):
            value = loss(self.model, batch)
            value.backward()
        return value.detach()

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

    def state_dict(self) -> dict:
        """Return everything that a checkpoint keeps of the task."""
        return {
            "step": self.step,
            "cursor": self._stream.cursor,
            "samples": self.meter.samples,
            "rng": self.rng.get_state(),
            "counts": dict(self.meter.counts),
            "masks": self.masks.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of a checkpoint."""
        self.step, self._stream.cursor = state["step"], state["cursor"]
        self.meter.samples = state["samples"]
        self.rng.set_state(state["rng"])
        self.masks.load_state_dict(state["masks"])
        self.meter.counts.update(state["counts"])

    def gather(self, index: Tensor) -> Batch:
        """Return the training examples of these numbers; raise UserError for a stream."""
        if isinstance(self._stream, order.Ordered):
            raise UserError("a stream gives its examples in its own order", do="task.next_batch()")
        return self._gather(index)

    def _gather(self, index: Tensor) -> dict[str, Tensor]:
        return self._placed(self._workload.batch(self._data, index, self._config))

    def _residuals(self, batch: Batch) -> Tensor:
        terms = self._workload.get("terms")(self.model, batch)
        return torch.cat([v / len(v) ** 0.5 for v in terms.values()])

    def _placed(self, batch: Batch) -> dict[str, Tensor]:
        if self._device.type == "cpu":
            return batch
        return {k: v.to(self._device, non_blocking=True) for k, v in batch.items()}

    @contextmanager
    def _pass(self, operation: str, batch: Batch):
        """Count the block as one pass of the batch, and hide masked gradients after it."""
        examples = Fraction(_examples(batch), self.batch_size)
        kind = kind_of(operation, examples, depth.share(self.model))
        with self.meter.kind(kind, self.model):
            yield
        if operation == "forward_backward" and self.masks:
            self.masks.hide_grads()


def _examples(batch: Batch) -> int:
    return len(next(iter(batch.values())))
