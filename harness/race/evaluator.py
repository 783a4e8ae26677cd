"""The judge's own copy of a workload: weights in, metrics out."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from harness import roles, surgery
from harness.catalog import data, key
from harness.catalog.definition import Definition, load_workload
from harness.catalog.goal import primary
from harness.errors import UserError
from harness.race import constraints, weight_metrics
from harness.race.checkpoint_metrics import Held
from harness.seeds import derive
from harness.train import depth, shared_weights

SUMMANDS = ("left", "right", "rest")  # of a map that is a sum (workloads/models/parts.py)
REDUCED = 4  # examples on which a reduced model must give the dense one's outputs


class Evaluator:
    """Builds the workload's model and validation data once, then scores weights it is handed."""

    # The order of all questions, and the numbers of those that were asked last.
    _order: Tensor | None = None
    _asked: Tensor
    # The answers to them, [examples, ...], if a submission predicts by itself.
    _answers: Tensor | None = None

    def __init__(
        self,
        definition: Definition,
        folder: Path,
        device: str,
        seed: int,
        start: Path | None = None,
    ):
        self._module = load_workload(definition)
        self._config = definition.config
        self._data = data.open_data(folder, device)
        torch.manual_seed(derive(seed, "evaluator"))
        self._model = self._module.model(self._config).to(device).eval()
        self._device = torch.device(device)
        self.layout = shared_weights.layout(dict(self._model.state_dict()))
        self._chunks: list | None = None
        self._seed = seed
        self._start = data.open_data(start) if start else None
        kinds = roles.of(self._model)
        head = {id(p) for p in surgery.head(self._model)}
        self._head = {name for name, p in self._model.named_parameters() if id(p) in head}
        self._prunable = [name for name, role in kinds.items() if role.kind == "hidden"]
        goal = definition.block["goal"]
        self._compressed = constraints.needs_matrices(goal) or definition.track == "compress"
        self._goal, self._asked_for = goal, constraints.Constraints(goal)
        self._asked_for.impose(self._model)
        self._other = _retained(definition, device, seed)

    @torch.inference_mode()
    def __call__(
        self,
        tensors: dict[str, Tensor],
        active: list[bool] | None,
        declared: tuple[int, bool, int] = (0, False, 0),
        held: Held | None = None,
    ) -> dict[str, float]:
        """Return the metrics over the validation set; NaN where a weight is not finite.

        Args:
            active: the model's blocks that are active, if it reported them.
            declared: the runner's counts: trained scalars, whether they are merged, memory.
            held: what the trial's checkpoints show of that.
        """
        scored, computed = self._scores(tensors, active)
        if not computed or not all(map(math.isfinite, scored.values())):
            # The trial has diverged, and no constraint is measured of such weights.
            return dict.fromkeys(self._goal, math.nan) | scored
        measured = self._constraints(tensors, declared, held or Held())
        measured |= self._reduced()
        for name, (metric, changed) in self._asked_for.relatives(self._model, tensors).items():
            measured[name] = self._scores(changed, active)[0].get(metric, math.nan)
        if self._other is not None:
            evaluator, metric = self._other
            measured[constraints.RETAINED] = evaluator._scores(tensors, active)[0][metric]
        return scored | measured

    def _scores(
        self, tensors: dict[str, Tensor], active: list[bool] | None
    ) -> tuple[dict[str, float], bool]:
        """Return the workload's metrics of these weights, and whether they could be computed."""
        self._take(tensors, active)
        sums: dict[str, float] = {}
        size = self._module.size(self._data, self._config)
        for index in torch.arange(size).split(self._config.evaluate.batch):
            batch = self._module.batch(self._data, index, self._config)
            batch = {k: v.to(self._device) for k, v in batch.items()}
            for name, value in self._module.metric(self._answering(index), batch).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        try:
            return {name: float(v) for name, v in self._module.score(sums).items()}, True
        except (OverflowError, ValueError):
            return dict.fromkeys(sums, math.nan), False

    @torch.inference_mode()
    def groups(
        self, tensors: dict[str, Tensor], active: list[bool] | None, count: int
    ) -> list[list]:
        """Return [sum of quality, examples] of the first `count` groups of validation examples.

        The chunks are always the same, so equal weights have equal sums; chunks of later groups
        alone are left out.
        """
        self._take(tensors, active)
        if self._chunks is None:
            index = torch.arange(self._module.size(self._data, self._config)).split(
                self._config.evaluate.batch
            )
            batches = [self._module.batch(self._data, part, self._config) for part in index]
            batches = [{k: v.to(self._device) for k, v in batch.items()} for batch in batches]
            self._chunks = [
                (part, batch, self._data["group"][part].to(self._device))
                for batch, part in zip(batches, index, strict=True)
            ]
            self._totals = torch.bincount(self._data["group"]).tolist()
        count = min(count, len(self._totals))
        sums = torch.zeros(len(self._totals), dtype=torch.float64, device=self._device)
        for part, batch, group in self._chunks:
            if group[0] < count:
                sums.index_add_(
                    0, group, self._module.quality(self._answering(part), batch).double()
                )
        whole = [int(s) if s.is_integer() else s for s in sums.tolist()]
        return [list(pair) for pair in zip(whole[:count], self._totals, strict=False)]

    def questions(self, count: int | None = None) -> Tensor:
        """Return the inputs of validation examples, without labels, [N, ...].

        Their order is unknown to every submission: stored examples are sorted by class.

        Args:
            count: take those of the first `count` groups alone; a stream's later tasks are not
                shown before they begin.
        """
        if self._order is None:
            size = self._module.size(self._data, self._config)
            generator = torch.Generator().manual_seed(key.hidden_seed(self._seed, "questions"))
            self._order = torch.randperm(size, generator=generator)
        self._asked = self._order
        if count is not None:
            self._asked = self._order[self._data["group"].cpu()[self._order] < count]
        batch = self._module.batch(self._data, self._asked, self._config)
        if "inputs" not in batch:
            raise UserError(
                f"workload {self._module.__name__} has no inputs apart from labels: "
                "a submission cannot predict for it by itself"
            )
        return batch["inputs"]

    @torch.inference_mode()
    def answer(self, scores: Tensor) -> None:
        """Evaluate these answers to the last `questions`, instead of the model's own scores.

        Raises:
            ValueError: they are not of the shape of the model's.
        """
        first = self._module.batch(self._data, self._asked[:1], self._config)["inputs"]
        ours = self._model(first.to(self._device))
        if scores.shape != (len(self._asked), *ours.shape[1:]):
            expected = [len(self._asked), *ours.shape[1:]]
            raise ValueError(f"the predictor's answers are {list(scores.shape)}, not {expected}")
        size = self._module.size(self._data, self._config)
        self._answers = scores.new_zeros(size, *scores.shape[1:])
        self._answers[self._asked] = scores
        self._answers = self._answers.to(self._device, ours.dtype)

    def _answering(self, index: Tensor):
        """Return what gives the scores of these examples: the model, or the answers it got."""
        if self._answers is None:
            return self._model
        scores = self._answers[index]
        return lambda inputs: scores

    def _take(self, tensors: dict[str, Tensor], active: list[bool] | None) -> None:
        for name, own in self._model.state_dict().items():
            own.copy_(tensors[name])
        depth.set_depth(self._model, active)

    def _constraints(
        self, tensors: dict[str, Tensor], declared: tuple[int, bool, int], held: Held
    ) -> dict[str, float]:
        """Return the weight metrics of the handed-over weights, where the goal names them."""
        measured, start, head = {}, self._start, self._head
        if start is not None:
            params = dict(self._model.named_parameters())
            measured = weight_metrics.of_change(tensors, start, head, params, declared, held)
        if self._compressed:
            matrices = [tensors[name] for name in self._prunable]
            measured |= weight_metrics.of_matrices(matrices)
            measured |= self._asked_for.of_matrices(matrices, self._parts(tensors))
        return measured | self._asked_for.of_change(tensors, start, head)

    def _parts(self, tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return what is added to hidden matrices that are sums of parts, in any order."""
        modules = [
            f"{name}.{surgery.PARTS}"
            for name, module in surgery.matrices(self._model).items()
            if hasattr(module, surgery.PARTS)
        ]
        left, right, rest = ([tensors[f"{m}.{part}"] for m in modules] for part in SUMMANDS)
        return list(zip(left, right, rest, strict=True))

    def _reduced(self) -> dict[str, float]:
        """Return `size` and `flops` of the model as it is, where the goal names them."""
        if not self._asked_for.reduced:
            return {}
        index = torch.arange(min(REDUCED, self._module.size(self._data, self._config)))
        batch = self._module.batch(self._data, index, self._config)
        batch = {k: _doubled(v.to(self._device)) for k, v in batch.items()}

        def run(model: nn.Module) -> Tensor:
            outputs: list[Tensor] = []

            def recording(inputs: Tensor) -> Tensor:
                outputs.append(model(inputs))
                return outputs[-1]

            self._module.metric(recording, batch)
            return outputs[0]

        # Operations are not counted in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            return self._asked_for.shares(self._model, run)


def _doubled(value: Tensor) -> Tensor:
    """Return numbers as float64, and anything else as it is."""
    return value.double() if value.is_floating_point() else value


def _retained(definition: Definition, device: str, seed: int) -> tuple["Evaluator", str] | None:
    """Return the evaluator of what must not be forgotten, and its metric; None if nothing must."""
    if (other := constraints.retained(definition)) is None:
        return None
    folder = data.prepare(other, "val", seed)
    assert folder is not None
    return Evaluator(other, folder, device, seed), primary(other.block["goal"])[0]
