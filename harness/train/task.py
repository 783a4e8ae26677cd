"""The interface of a submission to its trial: the model, the next batch, and counted passes."""

from collections.abc import Collection
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from harness import roles, surgery
from harness.catalog import streams
from harness.catalog.kinds import LABEL
from harness.derivatives import Batch
from harness.errors import UserError
from harness.seeds import derive
from harness.train import labels, ledger, loss_scale, order, privacy
from harness.train.composite import Composite
from harness.train.meter import Meter
from harness.train.offered import Functions
from harness.train.passes import Passes


class Task(Passes):
    """The workload of one trial, as its submission uses it.

    Attributes:
        model: the workload's model, on the trial's device.
        meter: counts and times the passes.
        step: number of finished steps.
        horizon: number of steps that the budget buys.
        batch_size: number of examples in a step of the workload.
        rng: the submission's own torch.Generator on the CPU; checkpoints keep its state.
        masks: which elements of parameters stay (harness/surgery.py); applied after every step.
        labels: those that the trial has, where the workload sells them, or None.
        ledger: what a private workload's trial has shown of its examples, or None.
        loss_scale: the scale of the loss, where passes run in float16; else None.
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
        self.composite, self.model = Composite(self._workload, data, config), model
        self._device = next(model.parameters()).device
        self.meter = Meter(self._device, kinds)
        self.batch_size, self.horizon, self.step = config.batch, horizon, 0
        self.labels = labels.labels_of(workload, config, data, seed)
        self._stream = order.of_task(self, workload, data, config, seed, part)
        self.rng, self._seed = torch.Generator().manual_seed(derive(seed, "submission")), seed
        self.last_terms: dict[str, Tensor] = {}
        self.masks, self.pinned = surgery.Masks(lambda: self.model), False
        self.start: dict[str, Tensor] | None = None
        self.ledger = ledger.ledger_of(config, seed)
        self.loss_scale: loss_scale.LossScale | None = None

    def receive(self, part: Path) -> None:
        """Take the examples of a stream's next task from a file (arrival.py)."""
        assert isinstance(self._stream, order.Ordered)
        self._stream.receive(part, self._data, self._device)

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
    def labelled(self) -> Tensor:
        """Return the numbers of examples whose labels were given, int64, in the order given."""
        return self._sold.known

    @property
    def unlabelled(self) -> Tensor:
        """Return the numbers of examples without a label, int64; UserError if labels are free."""
        return self._sold.unknown

    def reveal(self, index: Tensor) -> None:
        """Buy the labels of examples by number, int64; a known label costs nothing again.

        `next_batch` gives examples that have a label, and begins a new epoch with those bought.
        Until a submission calls this for the first time, also with no number, the harness buys
        random labels for it, in rounds that the workload's block states.

        Raises:
            UserError: labels are free here, or there is no such example.
        """
        self.meter.counts[LABEL] += self._sold.buy(index)

    @property
    def _sold(self) -> labels.Labels:
        if self.labels is None:
            raise UserError(
                f"workload {self._workload.__name__} sells no labels", do="workload=active"
            )
        return self.labels

    @property
    def groups(self) -> Tensor:
        """Return the group of each training example, int64 [N]; UserError without groups."""
        return self._workload.get("groups")(self._data, self._config)

    @property
    def clients(self) -> list[Tensor]:
        """Return the example numbers of each client, int64; raise UserError without clients."""
        owner = self._workload.get("clients")(self._data, self._config)
        return [(owner == client).nonzero()[:, 0] for client in range(int(owner.max()) + 1)]

    def private_noise(self, epsilon: float, tree: bool = False) -> float:
        """Return σ at which one private gradient in each step of the horizon spends ε.

        Args:
            tree: for `private_sum` in the place of `private_gradient`.
        """
        if self.ledger is None:
            raise ledger.refusal(self._workload.__name__)
        private = self._config.private
        return privacy.noise_for(epsilon, self.horizon, private.rate, private.delta, tree)

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
        if self.labels is not None and (bought := self.labels.keep_up(self.step, self.horizon)):
            self.meter.counts[LABEL] += bought
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

    def state_dict(self) -> dict:
        """Return everything that a checkpoint keeps of the task."""
        state = {
            "step": self.step,
            "cursor": self._stream.cursor,
            "samples": self.meter.samples,
            "rng": self.rng.get_state(),
            "counts": dict(self.meter.counts),
            "masks": self.masks.state_dict(),
        }
        if self.labels is not None:
            state["labels"] = self.labels.state_dict()
        if self.ledger is not None:
            state["ledger"] = self.ledger.state_dict()
        if self.loss_scale is not None:
            state["loss_scale"] = self.loss_scale.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of a checkpoint."""
        if self.labels is not None:
            self.labels.load_state_dict(state["labels"])
        self.step, self._stream.cursor = state["step"], state["cursor"]
        self.meter.samples = state["samples"]
        self.rng.set_state(state["rng"])
        self.masks.load_state_dict(state["masks"])
        self.meter.counts.update(state["counts"])
        if self.ledger is not None:
            self.ledger.load_state_dict(state["ledger"])
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(state["loss_scale"])

    def gather(self, index: Tensor) -> Batch:
        """Return the training examples of these numbers; raise UserError for a stream."""
        if isinstance(self._stream, order.Ordered):
            raise UserError("a stream gives its examples in its own order", do="task.next_batch()")
        return self._gather(index)

    def _gather(self, index: Tensor) -> dict[str, Tensor]:
        if self.ledger is not None:
            self.ledger.exposed = True
        return self._raw(index)

    def _raw(self, index: Tensor) -> dict[str, Tensor]:
        return self._placed(self._workload.batch(self._data, index, self._config))

    def _placed(self, batch: Batch) -> dict[str, Tensor]:
        if self._device.type == "cpu":
            return batch
        pinned = {k: v.pin_memory() for k, v in batch.items() if self.pinned and not v.is_cuda}
        return {k: v.to(self._device, non_blocking=True) for k, v in (batch | pinned).items()}
