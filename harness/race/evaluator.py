"""The judge's own copy of a workload: weights in, metrics out."""

import math
from pathlib import Path

import torch
from torch import Tensor

from harness import roles, surgery
from harness.catalog import data, key
from harness.catalog.definition import Definition, load_workload
from harness.errors import UserError
from harness.race import weight_metrics
from harness.race.checkpoint_metrics import Held
from harness.seeds import derive
from harness.train import depth, shared_weights


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
        bounded = bool({"sparsity", "two_four", "bits"} & definition.block["goal"].keys())
        self._compressed = bounded or definition.track == "compress"

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
        self._take(tensors, active)
        sums: dict[str, float] = {}
        size = self._module.size(self._data, self._config)
        for index in torch.arange(size).split(self._config.evaluate.batch):
            batch = self._module.batch(self._data, index, self._config)
            batch = {k: v.to(self._device) for k, v in batch.items()}
            for name, value in self._module.metric(self._answering(index), batch).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        try:
            scored = {name: float(value) for name, value in self._module.score(sums).items()}
        except (OverflowError, ValueError):
            return dict.fromkeys(sums, math.nan)
        return scored | self._constraints(tensors, declared, held or Held())

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
            measured |= weight_metrics.of_matrices([tensors[name] for name in self._prunable])
        return measured
