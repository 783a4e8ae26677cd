"""What every workload keeps to, one function a law; `harness check FILE` tries them.

A law takes a WorkloadRun and returns what it measured in a few words. It raises Violation if the
workload breaks it, and NotApplicable if it does not apply. A file exempts itself from a law by
SKIPS = {"law": "reason"}.
"""

import inspect
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness import contract, roles
from harness.catalog import reading, streams
from harness.catalog.definition import define, scales_of, tree_of
from harness.errors import UserError, nearest
from harness.laws.verdicts import NotApplicable, Violation
from harness.laws.workload_run import SPLITS, WorkloadRun, advance
from harness.records.judging import conditions_hold

# Examples of each split that `disjoint` compares.
COMPARED = 50_000
# CPU seconds that `reachable` trains.
SECONDS = 20.0
# Of a metric: what another order of sums may change.
TOLERANCE = 1e-4


def numbers(run: WorkloadRun) -> str:
    """Every scale and every variant in the YAML can be raced."""
    name = run.definition.place or run.definition.name
    tree, count = tree_of(name), 0
    for scale in scales_of(tree):
        for variant in (None, *(tree[scale].get("variants") or {})):
            define(name, tree, scale, variant)
            count += 1
    return f"{len(scales_of(tree))} scales, {count} with their variants"


def functions(run: WorkloadRun) -> str:
    """Every function of the contract is there, and takes the contract's arguments."""
    every = contract.parameters(contract.Workload) | contract.parameters(contract.WorkloadOptions)
    offered = {name: expected for name, expected in every.items() if hasattr(run.module, name)}
    for name, expected in offered.items():
        taken = list(inspect.signature(getattr(run.module, name)).parameters)
        # A workload that draws no problem for each seed leaves out the seed.
        least = len(expected) - (name == "data")
        if not least <= len(taken) <= len(expected):
            written = f"{name}({', '.join(taken)})"
            raise Violation(f"{written}, not {name}({', '.join(expected)})", name)
    return ", ".join(offered)


def deterministic(run: WorkloadRun) -> str:
    """The same seed gives the same data, the same weights and the same loss, to the bit."""
    for split in SPLITS:
        if name := _difference(run.draw(split), run.draw(split)):
            raise Violation(f"{name} of the split {split} differs between two calls", "data")
    first, second = run.model(), run.model()
    if name := _difference(dict(first.state_dict()), dict(second.state_dict())):
        raise Violation(f"{name} differs between two models of one seed", "model")
    batch = next(run.batches("train", run.config.batch))
    losses = []
    for model in (first, second):
        torch.manual_seed(0)
        losses.append(run.module.loss(model, batch))
    if not torch.equal(*losses):
        raise Violation(f"the loss of one batch is {losses[0]:.8g} and {losses[1]:.8g}", "loss")
    return "data, weights and loss, the same bits"


def _difference(first: dict, second: dict) -> str | None:
    """Return the name of an entry that differs, or None."""
    for name in first.keys() | second.keys():
        a, b = first.get(name), second.get(name)
        same = torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        if not same:
            return name
    return None


def disjoint(run: WorkloadRun) -> str:
    """No validation example is a training example as well."""
    shared = None
    examples: dict[str, set[bytes]] = {}
    for split in SPLITS:
        examples[split] = set()
        for batch in run.batches(split, run.config.evaluate.batch, COMPARED):
            shapes = {name: tuple(t.shape[1:]) for name, t in batch.items() if t.ndim}
            shared = shapes if shared is None else dict(shared.items() & shapes.items())
            examples[split] |= _rows(batch, sorted(shared))
    if not shared:
        raise NotApplicable("the examples of the two splits have nothing in common to compare")
    common = len(examples["train"] & examples["val"])
    if common:
        raise Violation(f"{common} validation examples are training examples", "data")
    counts = ", ".join(f"{len(rows):,} of {split}" for split, rows in examples.items())
    return f"different examples compared: {counts}"


def _rows(batch: dict[str, Tensor], names: list[str]) -> set[bytes]:
    """Return each example's bytes in these tensors."""
    parts = [batch[name].contiguous().flatten(1) if batch[name].ndim > 1 else batch[name][:, None]
             for name in names]  # fmt: skip
    return {b"".join(row.numpy().tobytes() for row in rows) for rows in zip(*parts)}


def starts(run: WorkloadRun) -> str:
    """The loss and the metrics of the model at its start are finite, and it misses the goal."""
    model, goal = run.model(), run.definition.block["goal"]
    loss = float(run.module.loss(model, next(run.batches("train", run.config.batch))).detach())
    if not math.isfinite(loss):
        raise Violation(f"the loss at the start is {loss}", "loss")
    metrics = run.metrics(model)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Violation(f"{name} at the start is {value}", "score")
    if "stream" in run.definition.block:
        return f"loss {loss:.4g}, {_written(metrics)}"
    measured = {name: condition for name, condition in goal.items() if name in metrics}
    if not measured:
        raise Violation(
            f"the goal names {', '.join(goal)}; score() has {', '.join(metrics)}", "score"
        )
    if conditions_hold(measured, metrics):
        raise Violation(f"the model at its start meets the goal: {_written(metrics)}", "score")
    return f"loss {loss:.4g}, {_written(metrics)}"


def _written(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def neutral(run: WorkloadRun) -> str:
    """An evaluation changes neither model nor data, and does not depend on the batch's size."""
    model = run.model()
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    before = {k: v.clone() for k, v in run.splits["val"].items() if isinstance(v, Tensor)}
    first = run.metrics(model)
    if name := _difference(weights, dict(model.state_dict())):
        raise Violation(f"metric() changes {name}", "metric")
    after = {k: v for k, v in run.splits["val"].items() if isinstance(v, Tensor)}
    if name := _difference(before, after):
        raise Violation(f"an evaluation changes the data's {name}", "batch")
    other = run.metrics(model, max(1, run.config.evaluate.batch // 2))
    for name, value in first.items():
        if not math.isclose(value, other[name], rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            half = "in batches of half the size"
            raise Violation(f"{name} is {value:.6g}, and {other[name]:.6g} {half}", "metric")
    return "model and data unchanged"


def parts(run: WorkloadRun) -> str:
    """Parameters have roles, so that methods for matrices or norms find what they act on."""
    model = run.model()
    known = roles.of(model)
    kinds = [known[name].kind for name, p in model.named_parameters() if p.requires_grad]
    if not kinds:
        raise Violation("no parameter is trained", "model")
    if {*kinds} <= {"other"}:
        raise Violation("no parameter has a role: build the model of torch.nn's modules", "model")
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common())


def reachable(run: WorkloadRun) -> str:
    """The reference trains it: the loss falls, and the goal is reached or the gap is named.

    Of a stream, the loss of its first task.
    """
    task, submission = run.begin()
    goal, horizon = run.definition.block["goal"], run.definition.block["horizon"]
    streaming = "stream" in run.definition.block
    steps = streams.begins(run.definition.config)[1] if streaming else horizon
    every = max(1, horizon // run.definition.block["evaluate"]["points"])
    losses: list[float] = []
    stop = time.process_time() + SECONDS
    metrics: dict[str, float] = {}
    while task.step < steps and time.process_time() < stop:
        loss = advance(task, submission)
        losses.append(math.nan if loss is None else float(loss))
        if task.step % every == 0 and not streaming:
            with submission.evaluated():
                metrics = run.metrics(task.model)
            if {*goal} <= {*metrics} and conditions_hold(goal, metrics):
                return f"{run.reference.plugin.name} reaches the goal by step {task.step}"
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    if not last < first:
        raise Violation(f"the training loss goes from {first:.4g} to {last:.4g}", "loss")
    message = f"loss {first:.4g} to {last:.4g} in {task.step} of {horizon} steps"
    return f"{message}; the goal is not reached: {_written(metrics) or 'not evaluated'}"


LAWS: dict[str, Callable[[WorkloadRun], str]] = {
    law.__name__: law
    for law in (numbers, functions, deterministic, disjoint, starts, neutral, parts, reachable)
}


def skips(path: Path) -> dict[str, str]:
    """Return the laws that a workload's file exempts itself from, with the reasons.

    Raises:
        UserError: a law is unknown, or a reason is missing.
    """
    declared = reading.literals(path, ("SKIPS",)).get("SKIPS", {})
    for name, reason in declared.items():
        if name not in LAWS:
            raise UserError(f"{path}: SKIPS names {name!r}", nearest(name, LAWS))
        if not isinstance(reason, str) or not reason.strip():
            raise UserError(f"{path}: SKIPS[{name!r}] gives no reason")
    return declared
