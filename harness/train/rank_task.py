"""A task whose passes are shared by several processes: each takes its part of every batch.

All ranks draw the same examples in the same order, and the same random numbers. A pass splits its
batch into one part for each rank; what it returns is that of the whole batch, on every rank. So a
method trains as it does in one process, up to the order of summation. Gradients are averaged by
torch's DistributedDataParallel.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from harness import derivatives
from harness.derivatives import Batch, Loss
from harness.errors import UserError
from harness.seeds import forked
from harness.train import averaging, shareable
from harness.train.group import Group
from harness.train.meter import Meter, parameters_of
from harness.train.parts import Parts, SharedDraws, count_of, generator_state
from harness.train.shareable import REMEDY, refused
from harness.train.task import Task

# A loss is a mean over examples if it differs by less from the mean over the parts of a batch.
TOLERANCE = 1e-3


class RankTask(Task):
    """The task of one rank. `join` is called once, before the submission is loaded."""

    def join(self, group: Group, kinds: Collection[str] | None) -> None:
        """Take part in a group.

        Args:
            kinds: the kinds that are allowed; None allows all.

        Raises:
            UserError: the model cannot be shared.
        """
        self._group, self._parts = group, Parts(group)
        # The model and parameters that the averaging module was made for, and what `_average` made.
        self._averaging: tuple[list[int], averaging.Average] | None = None
        self.meter = Meter(self._device, kinds, group.size)
        # Losses that are known to be means; terms, whether they have values for each example.
        self._means: set = set()
        self._divided: dict[str, bool] = {}
        self._draws = False
        shareable.check(self)

    def forward_backward(
        self,
        batch: Batch,
        accumulate: bool = False,
        weights: Mapping[str, Tensor | None] | None = None,
    ) -> Tensor:
        if not (weights or hasattr(self._workload, "terms")):
            return self.backward(batch, self._workload.loss, accumulate)
        count, weights = count_of(batch), weights or {}
        mine = self._parts.mine(batch)

        def loss(model: nn.Module, part: Batch) -> Tensor:
            own = dict(weights)
            for name, weight in weights.items():
                if part is not batch and weight is not None and weight.shape[:1] == (count,):
                    own[name] = weight[mine]
            return self._squares(part, own)

        value = self.backward(batch, loss, accumulate)
        self.last_terms = self._terms_of(self.last_terms, batch)
        return value

    def _backward(self, batch: Batch, loss: Loss, accumulate: bool) -> Tensor:
        self._check_mean(loss, batch)
        part = self._parts.of(batch)
        # The gradients of the parts are averaged with equal weights.
        scale = self._parts.weight(batch) * self._group.size
        params = list(parameters_of(self.model))
        if not accumulate:
            for p in params:
                p.grad = None
        # Backward may repeat a part of the forward pass.
        with self._pass("forward_backward", batch), self._drawing(batch):
            module, mean = self._shared([id(p) for p in params if p.requires_grad])
            value = module(loss, part)
            if value.grad_fn is None:
                raise UserError(
                    "a loss without a graph cannot be averaged over processes: its gradients "
                    "were made inside of it",
                    do=REMEDY,
                )
            self._differentiate(value * scale if scale != 1 else value)
            if mean is None:
                return self._parts.mean(value.detach(), batch)
            told, mean.grad = mean.grad, None
            assert told is not None
            return told

    def sampled_backward(self, batch: Batch) -> Tensor:
        raise refused("sampled_backward", "labels drawn from the model's predictions")

    def private_gradient(self, clip: float, noise: float, normalise: float | None = None):
        raise refused("private_gradient", "a random sample and the noise on it")

    def private_sum(self, clip: float, noise: float):
        raise refused("private_sum", "the noise of a tree of batches")

    def linear_maps(self, batch: Batch):
        raise refused("linear_maps", "the inputs and outputs of every layer")

    def logits_of(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        return self._with(params, "logits", batch)

    def features_of(self, params: Sequence[Tensor], batch: Batch) -> Tensor:
        return self._with(params, "features", batch)

    @torch.no_grad()
    def _with(self, params: Sequence[Tensor], name: str, batch: Batch) -> Tensor:
        function = self._workload.get(name)
        with self._pass("forward", batch):
            part = derivatives.call(function, self.model, self._parts.of(batch), params)
            return self._parts.whole(part, batch)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        self._check_mean(self._workload.loss, batch)
        with self._pass("forward", batch), self._drawing(batch):
            return self._parts.mean(self._run(self._workload.loss, self._parts.of(batch)), batch)

    @torch.no_grad()
    def losses(self, batch: Batch) -> Tensor:
        losses = self._workload.get("losses")
        with self._pass("forward", batch), self._drawing(batch):
            return self._parts.whole(self._run(losses, self._parts.of(batch)), batch)

    @torch.no_grad()
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        terms = self._workload.get("terms")
        with self._pass("forward", batch):
            return self._terms_of(self._run(terms, self._parts.of(batch)), batch)

    @torch.no_grad()
    def residuals(self, batch: Batch) -> Tensor:
        terms = self._workload.get("terms")
        with self._pass("forward", batch):
            whole = self._terms_of(self._run(terms, self._parts.of(batch)), batch)
            return torch.cat([v / len(v) ** 0.5 for v in whole.values()])

    def vjp(self, batch: Batch, vector: Tensor) -> list[Tensor]:
        with self._pass("vjp", batch):
            parts, mine = self._residual_parts(batch), []
            vectors = vector.split([self._length(name, v, batch) for name, v in parts.items()])
            for (name, v), u in zip(parts.items(), vectors, strict=True):
                divided = self._is_divided(name, batch)
                # Each rank has all of a term that is not divided.
                mine.append(u[self._parts.rows(v, batch)] if divided else u / self._group.size)
            residuals = torch.cat(list(parts.values()))
            return self._parts.sum(torch.autograd.grad(residuals, self.params, torch.cat(mine)))

    def jvp(self, batch: Batch, vectors: Sequence[Tensor]) -> Tensor:
        with self._pass("jvp", batch):
            parts = self._residual_parts(batch)
            lengths = [len(v) for v in parts.values()]
            product = derivatives.jvp(torch.cat(list(parts.values())), self.params, vectors)
            pieces = dict(zip(parts, product.split(lengths), strict=True))
            return torch.cat(list(self._terms_of(pieces, batch).values()))

    def jacobian(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self._pass("jacobian", batch):
            parts = self._residual_parts(batch)
            local = derivatives.jacobian(torch.cat(list(parts.values())), self.params)
            rows = dict(zip(parts, local.split([len(v) for v in parts.values()]), strict=True))
            wholes = [self._terms_of(each, batch) for each in (parts, rows)]
            residuals, jacobian = (torch.cat(list(whole.values())) for whole in wholes)
            return residuals, jacobian

    @torch.no_grad()
    def jvp_logits(self, batch: Batch, vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits = self._workload.get("logits")
        with self._pass("jvp", batch):
            part = self._parts.of(batch)
            scores, slopes = derivatives.forward_mode(logits, self.model, part, vectors)
            return self._parts.whole(scores, batch), self._parts.whole(slopes, batch)

    def hvp(self, batch: Batch, vectors: Sequence[Tensor]) -> list[Tensor]:
        self._check_mean(self._workload.loss, batch)
        with self._pass("hvp", batch):
            part, weight = self._parts.of(batch), self._parts.weight(batch)
            products = derivatives.hvp(self._workload.loss, self.model, part, vectors)
            return self._parts.sum([product * weight for product in products])

    def per_example_grads(self, batch: Batch) -> list[Tensor]:
        with self._pass("per_example_gradients", batch):
            part = self._parts.of(batch)
            grads = derivatives.per_example(self._workload.loss, self.model, part)
            grads = [self._parts.whole(grad, batch) for grad in grads]
        self.meter.samples += count_of(batch)
        return grads

    def _run(self, function: Callable, part: Batch) -> Any:
        """Return function(model, part)."""
        return function(self.model, part)

    def _shared(self, trained: list[int]) -> averaging.Average:
        """Return a module of (loss, part) whose gradients are averaged over the ranks.

        Args:
            trained: the identities of the parameters that train now.
        """
        made_for = [id(self.model), *trained]
        if self._averaging is None or self._averaging[0] != made_for:
            # A method may train other parameters from some step on.
            self._averaging = made_for, self._average()
        return self._averaging[1]

    def _average(self) -> averaging.Average:
        # A scaled loss is not the one that is told.
        return averaging.over_ranks(self.model, with_loss=not self.loss_scale)

    def _drawing(self, batch: Batch):
        """Within the block, dropout on a part is that on the whole batch."""
        if not self._draws:
            return nullcontext()
        return SharedDraws(self._parts.mine(batch), count_of(batch))

    def _check_mean(self, loss: Loss, batch: Batch) -> None:
        """Check once for each loss that it is a mean over the examples of a batch.

        Raises:
            UserError: its value is not the mean over the parts of the batch.
        """
        plain = inspect.unwrap(loss)
        code = getattr(plain, "__code__", plain)
        if code in self._means:
            return
        self._means.add(code)
        kept, terms, part = self.rng.get_state(), self.last_terms, self._parts.of(batch)
        with torch.no_grad(), forked(self._device):
            before = generator_state(self._device)
            self._run(loss, part)
            self._draws |= not torch.equal(before, generator_state(self._device))
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        with torch.no_grad(), forked(self._device):
            whole = self._run(loss, batch)
            shared = self._parts.mean(self._run(loss, part), batch)
        for module, mode in modes:
            module.training = mode
        self.last_terms = terms
        self.rng.set_state(kept)
        if not torch.isclose(whole, shared, rtol=TOLERANCE, atol=1e-6, equal_nan=True):
            raise UserError(
                f"the loss is {float(whole):.6g} on a batch, and {float(shared):.6g} as a mean "
                "over its parts: it is not a mean over examples",
                "losses that are",
                REMEDY,
            )

    # Terms of a loss: some have a value for each example, others do not depend on the batch.

    def _is_divided(self, name: str, batch: Batch) -> bool:
        """Return True if a term has values for each example of the batch."""
        if name not in self._divided:
            with forked(self._device):
                terms = self._workload.get("terms")
                whole = {k: len(v) for k, v in terms(self.model, batch).items()}
                part = {k: len(v) for k, v in terms(self.model, self._parts.of(batch)).items()}
            self._divided |= {k: whole[k] != part[k] for k in whole}
        return self._divided[name]

    def _terms_of(self, parts: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the whole batch."""
        return {
            name: self._parts.whole(v, batch) if self._is_divided(name, batch) else v.detach()
            for name, v in parts.items()
        }

    def _length(self, name: str, part: Tensor, batch: Batch) -> int:
        """Return the length of a term of the whole batch."""
        return self._parts.length(part, batch) if self._is_divided(name, batch) else len(part)

    def _residual_parts(self, batch: Batch) -> dict[str, Tensor]:
        """Return this rank's terms, each over the root of its length in the whole batch."""
        parts = self._workload.get("terms")(self.model, self._parts.of(batch))
        return {name: v / self._length(name, v, batch) ** 0.5 for name, v in parts.items()}
