"""What every submission keeps to while it trains, one function a law.

A law takes a SmallRun, a submission on the small workload of its kind, and returns what it measured
in a few words. It raises Violation if the submission breaks it, and NotApplicable if it does not
apply. A file exempts itself from a law by SKIPS = {"law": "reason"}. `harness check FILE`, the
tests and `pytest --pyargs harness.laws --submission FILE` try every law.
"""

import math
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from harness.catalog import space
from harness.catalog.card import Card
from harness.clock import prices
from harness.errors import UserError, nearest
from harness.laws import space_laws
from harness.laws.small_run import SmallRun, Training, declared_hooks, handed_over
from harness.laws.verdicts import NotApplicable, Violation
from harness.train import checkpoint

# Of a loss: what merging in another order of sums may change.
TOLERANCE = 1e-4
# A short run may make this many times the passes declared, and 2 more or less.
MORE, LESS = 1.1, 0.5


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> str | None:
    """Return the name of a tensor that differs between two sets of weights, or None."""
    for name in first.keys() | second.keys():
        if name not in first or name not in second or not torch.equal(first[name], second[name]):
            return name
    return None


def runs(small: SmallRun) -> str:
    """It trains to the end of the small workload of its kind."""
    run = small.whole
    return f"{run.task.step} steps on {small.workload.title}"


def descends(small: SmallRun) -> str:
    """The loss falls within the horizon of the small workload, at the default point."""
    run = small.whole
    if not run.last < run.first:
        change = f"the loss went from {run.first:.4g} to {run.last:.4g} in {run.task.step} steps"
        raise Violation(f"{change} at the default point", "update")
    return f"loss {run.first:.4g} to {run.last:.4g} in {run.task.step} steps"


def acts(small: SmallRun) -> str:
    """What is handed over differs from the workload's start, and is finite."""
    run = small.whole
    after = handed_over(run)
    for name, tensor in after.items():
        if not torch.isfinite(tensor).all():
            raise Violation(f"{name} is not finite after {run.task.step} steps", "update")
    if run.start.keys() != after.keys():
        odd = sorted(run.start.keys() ^ after.keys())[0]
        raise Violation(f"the workload's own tensors are not what is handed over: {odd}", "export")
    moved = [name for name in after if not torch.equal(after[name], run.start[name])]
    if not moved:
        raise Violation("nothing was changed", "update")
    return f"{len(moved)} of {len(after)} tensors changed"


def repeats(small: SmallRun) -> str:
    """The same seed gives the same bits, over a quarter of the horizon."""
    assert small.whole.early
    again = small.begin()
    small.advance(again, small.quarter)
    if name := difference(small.whole.early, handed_over(again)):
        raise Violation(
            f"{name} differs between two runs of one seed: draw from task.rng, or from torch's "
            "own generator, which the harness seeds before every step", "step"
        )  # fmt: skip
    return "two runs, the same bits"


def stores(small: SmallRun) -> str:
    """State is tensors and numbers: it comes back out of a checkpoint file as it went in."""
    run = small.whole
    state = run.submission.state_dict()
    try:
        flat, _ = checkpoint.flatten_state(state)
    except TypeError as error:
        raise Violation(f"state_dict: {error}", "state_dict") from None
    return f"{len(flat)} tensors"


def resumes(small: SmallRun) -> str:
    """Interrupted and continued from a checkpoint file gives the bits of the whole run."""
    whole = small.whole
    run = small.resumed()
    step = run.task.step
    small.advance(run, small.workload.horizon - step)
    if name := difference(handed_over(whole), handed_over(run)):
        raise Violation(
            f"{name} differs at the end from a run without interruption at step {step}: "
            "something training depends on is not in the state", "state_dict"
        )  # fmt: skip
    return f"from step {step}, the same bits"


def gradients(small: SmallRun) -> str:
    """`update` leaves the gradients as it got them."""
    if small.card.form != "b":
        raise NotApplicable("update() alone is given gradients")
    run = small.begin()
    for _ in range(2):
        run.task.forward_backward(run.task.next_batch())
        for group in run.submission.groups:
            kept = [p.grad.clone() for p in group.params if p.grad is not None]
            with torch.no_grad():
                group.update(run.task.progress)
            seen = [p.grad for p in group.params if p.grad is not None]
            if group.flat:
                seen = group.grads.split(group.grads.whole)
            if not all(torch.equal(a, b) for a, b in zip(kept, seen, strict=True)):
                raise Violation("update() overwrites the gradients", "update")
        run.task.step += 1
    return "left alone"


def zeros(small: SmallRun) -> str:
    """Gradients of zero, from the first step on, leave everything finite."""
    if small.card.form != "b":
        raise NotApplicable("update() alone is given gradients")
    run = small.begin()
    run.task.forward_backward(run.task.next_batch())
    for p in run.task.params:
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        with torch.no_grad():
            for group in run.submission.groups:
                group.update(run.task.progress)
    values = [*run.task.params, *(v for g in run.submission.groups for x in g.lists() for v in x)]
    if not all(torch.isfinite(v).all() for v in values):
        raise Violation("a gradient of zero gives what is not finite", "update")
    return "finite"


def missing(small: SmallRun) -> str:
    """A parameter without a gradient keeps its value; the others train on."""
    run = small.begin()
    task, original = run.task, run.task.forward_backward
    chosen = _one_of_each_group(run)

    def without(*arguments, **keywords):
        loss = original(*arguments, **keywords)
        for p in chosen:
            p.grad = None
        return loss

    small.advance(run, 2)
    before = [p.detach().clone() for p in task.params]
    with patch.object(task, "forward_backward", without):
        small.advance(run, 2)
    still = {id(p) for p in chosen}
    for p, old in zip(task.params, before, strict=True):
        if id(p) in still and not torch.equal(p, old):
            raise Violation("a parameter without a gradient was moved", "update")
        if not torch.isfinite(p).all():
            raise Violation("a parameter without a gradient makes others not finite", "update")
    if all(torch.equal(p, old) for p, old in zip(task.params, before, strict=True)):
        raise Violation("a parameter without a gradient keeps the others from training", "update")
    return f"{len(chosen)} kept their values"


def _one_of_each_group(run: Training) -> list[torch.nn.Parameter]:
    """A parameter of each group that has more than one, else of all."""
    groups = [g.params for g in getattr(run.submission, "groups", [])] or [run.task.params]
    chosen = [params[len(params) // 2] for params in groups if len(params) > 1]
    if not chosen or run.submission.card.form == "c":
        raise NotApplicable("it owns its step" if chosen else "it has one parameter")
    return chosen


def passes(small: SmallRun) -> str:
    """The passes that were made are those that PASSES declares, in number too."""
    run = small.whole
    steps, declared = run.task.step, small.passes
    for kind, mean in declared.items():
        made, expected = run.task.meter.counts[kind] - run.setup[kind], mean * steps
        if not LESS * expected - 2 <= made <= MORE * expected + 2:
            message = f"{made} passes {kind!r} in {steps} steps; PASSES declares {mean:g} a step"
            raise Violation(message, "step")
    if run.setup:
        _setup_within_budget(small)
    return ", ".join(f"{run.task.meter.counts[kind]} {kind}" for kind in declared)


def _setup_within_budget(small: SmallRun) -> None:
    """Raise Violation if the most passes of set-up overdraw a budget at the first scale.

    Passes count alike here, whatever their kind costs.
    """
    upper = space.default(small.space) | space_laws.bounds(small.space, -1)
    try:
        setup = small.begin(point=upper).setup.total()
    except UserError:
        # The small workload is too small for this point.
        return
    whole, budget = small.whole, small.workload.budget
    a_step = (whole.task.meter.counts.total() - whole.setup.total()) / whole.task.step
    steps = budget / sum(small.passes.values())
    if setup + a_step * steps > budget * prices.OVERDRAWN + 1:
        message = (
            f"set-up makes up to {setup} passes beside {budget} steps of {small.workload.name}"
        )
        raise Violation(f"{message}; PASSES declares fewer", "adapt")


def exports(small: SmallRun) -> str:
    """The loss of the weights handed over is the loss of the model as the submission has it."""
    run = small.whole
    with run.submission.evaluated():
        inside = small.workload.loss(run.task.model)
    outside = small.handed(run)
    if not math.isclose(inside, outside, rel_tol=TOLERANCE, abs_tol=TOLERANCE * abs(run.first)):
        message = f"the loss is {inside:.6g} in the runner and {outside:.6g} once handed over"
        raise Violation(message, "export")
    return f"loss {outside:.4g} inside and outside"


def hooks(small: SmallRun) -> str:
    """Every function of the contract that the file defines is called."""
    declared = declared_hooks(small.card)
    idle = [name for name in declared if name not in small.whole.called]
    if idle:
        raise Violation(f"{idle[0]}() is defined and was never called", idle[0])
    return ", ".join(declared) if declared else "none but the class's own"


def masks(small: SmallRun) -> str:
    """What is masked stays zero under momentum, weight decay and a resume."""
    run = small.begin()
    params = run.task.params
    chosen = max(params, key=lambda p: p.numel() if p.ndim == 2 else 0, default=None)
    if chosen is None or chosen.ndim != 2 or not run.task.masks.of(chosen).all():
        raise NotApplicable("no matrix that trains without a mask of its own")
    name = next(n for n, p in run.task.model.named_parameters() if p is chosen)
    generator = torch.Generator().manual_seed(0)
    small.advance(run, 2)
    run.task.masks.set(chosen, torch.rand(chosen.shape, generator=generator) > 0.5)
    small.advance(run, 2)
    small.save(run)
    resumed = small.resumed()
    small.advance(resumed, 2)
    for each in (run, resumed):
        p = each.task.model.get_parameter(name)
        off = ~each.task.masks.of(p)
        if not off.any() or bool(p[off].any()):
            raise Violation("a masked weight is not zero", "update")
    return f"{int(off.sum())} weights stay zero"


LAWS: dict[str, Callable[[SmallRun], str]] = {
    law.__name__: law
    for law in (
        space_laws.points, runs, descends, acts, repeats, stores, resumes, gradients, zeros,
        missing, passes, exports, hooks, masks, space_laws.values,
    )
}  # fmt: skip


def skips(card: Card) -> dict[str, str]:
    """Return the laws that the file exempts itself from, with the reasons.

    Raises:
        UserError: a law is unknown, or a reason is missing.
    """
    declared = card.literals.get("SKIPS", {})
    for name, reason in declared.items():
        if name not in LAWS:
            raise UserError(f"{card.plugin.path}: SKIPS names {name!r}", nearest(name, LAWS))
        if not isinstance(reason, str) or not reason.strip():
            raise UserError(f"{card.plugin.path}: SKIPS[{name!r}] gives no reason")
    return declared
