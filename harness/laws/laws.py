"""What every submission keeps to, one function a law; `harness check FILE` and the tests try them.

A law takes a Subject, a submission on the small problem of its kind, and returns what it saw in a
few words. It raises Broken where the submission breaks it and Idle where it says nothing of its
form. A file exempts itself from a law by SKIPS = {"law": "reason"}.
"""

import math
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from harness.catalog import space
from harness.catalog.discover import Card
from harness.errors import UserError, nearest
from harness.laws.small_run import Run, Subject, declared_hooks, handed_over
from harness.train import checkpoint

SAMPLED = 16  # points of SPACE that are looked at
TOLERANCE = 1e-4  # of a loss: what merging in another order of sums may change
MORE, LESS = 1.1, 0.5  # times the passes declared that a short run may make, and 2 more


class Broken(Exception):
    """A law is broken: what was seen, and the function of the file that it is about."""

    def __init__(self, what: str, function: str = ""):
        super().__init__(what)
        self.function = function


class Idle(Exception):
    """The law says nothing of this submission."""


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> str | None:
    """The first tensor that differs between two sets of weights, or None."""
    for name in one.keys() | other.keys():
        if name not in one or name not in other or not torch.equal(one[name], other[name]):
            return name
    return None


# The laws


def points(subject: Subject) -> str:
    """SPACE is valid; its default and sampled points are finite and inside it."""
    found = [space.default(subject.space)]
    found += [space.point(subject.space, 0, i) for i in range(SAMPLED)]
    for point in found:
        for name, value in point.items():
            space.check(subject.space, name, value, subject.card.plugin.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise Broken(f"SPACE[{name!r}] gives {value}")
    return f"{len(subject.space)} hyperparameters, {len(found)} points finite"


def runs(subject: Subject) -> str:
    """It trains to the end of the small problem of its kind."""
    run = subject.whole
    return f"{run.task.step} steps on {subject.problem.title}"


def descends(subject: Subject) -> str:
    """The loss falls within the horizon of the small problem, at the default point."""
    run = subject.whole
    if not run.last < run.first:
        told = f"the loss went from {run.first:.4g} to {run.last:.4g} in {run.task.step} steps"
        raise Broken(f"{told} at the default point", "update")
    return f"loss {run.first:.4g} to {run.last:.4g} in {run.task.step} steps"


def acts(subject: Subject) -> str:
    """What is handed over differs from the workload's start, and is finite."""
    run = subject.whole
    after = handed_over(run)
    for name, tensor in after.items():
        if not torch.isfinite(tensor).all():
            raise Broken(f"{name} is not finite after {run.task.step} steps", "update")
    if run.start.keys() != after.keys():
        odd = sorted(run.start.keys() ^ after.keys())[0]
        raise Broken(f"the workload's own tensors are not what is handed over: {odd}", "export")
    moved = [name for name in after if not torch.equal(after[name], run.start[name])]
    if not moved:
        raise Broken("nothing was changed", "update")
    return f"{len(moved)} of {len(after)} tensors changed"


def repeats(subject: Subject) -> str:
    """The same seed gives the same bits."""
    assert subject.whole.middle
    again = subject.begin()
    subject.advance(again, subject.problem.horizon // 2)
    if name := same(subject.whole.middle, handed_over(again)):
        raise Broken(
            f"{name} differs between two runs of one seed: draw from task.rng, or from torch's "
            "own generator, which the harness seeds before every step", "step"
        )  # fmt: skip
    return "two runs, the same bits"


def stores(subject: Subject) -> str:
    """State is tensors and numbers: it comes back out of a checkpoint file as it went in."""
    run = subject.whole
    state = run.submission.state_dict()
    try:
        flat, _ = checkpoint.flatten_state(state)
    except TypeError as error:
        raise Broken(f"state_dict: {error}", "state_dict") from None
    return f"{len(flat)} tensors"


def resumes(subject: Subject) -> str:
    """Interrupted and continued from a checkpoint file gives the bits of the whole run."""
    whole = subject.whole
    run = subject.resumed()
    step = run.task.step
    subject.advance(run, subject.problem.horizon - step)
    if name := same(handed_over(whole), handed_over(run)):
        raise Broken(
            f"{name} differs at the end from a run without interruption at step {step}: "
            "something training depends on is not in the state", "state_dict"
        )  # fmt: skip
    return f"from step {step}, the same bits"


def gradients(subject: Subject) -> str:
    """`update` leaves the gradients as it got them."""
    if subject.card.form != "b":
        raise Idle("update() alone is given gradients")
    run = subject.begin()
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
                raise Broken("update() overwrites the gradients", "update")
        run.task.step += 1
    return "left alone"


def zeros(subject: Subject) -> str:
    """Gradients of zero, from the first step on, leave everything finite."""
    if subject.card.form != "b":
        raise Idle("update() alone is given gradients")
    run = subject.begin()
    run.task.forward_backward(run.task.next_batch())
    for p in run.task.params:
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        with torch.no_grad():
            for group in run.submission.groups:
                group.update(run.task.progress)
    values = [*run.task.params, *(v for g in run.submission.groups for x in g.lists() for v in x)]
    if not all(torch.isfinite(v).all() for v in values):
        raise Broken("a gradient of zero gives what is not finite", "update")
    return "finite"


def missing(subject: Subject) -> str:
    """A parameter without a gradient keeps its value; the others train on."""
    run = subject.begin()
    task, original = run.task, run.task.forward_backward
    chosen = _one_of_each_group(run)

    def without(*arguments, **keywords):
        loss = original(*arguments, **keywords)
        for p in chosen:
            p.grad = None
        return loss

    subject.advance(run, 2)
    before = [p.detach().clone() for p in task.params]
    with patch.object(task, "forward_backward", without):
        subject.advance(run, 2)
    still = {id(p) for p in chosen}
    for p, old in zip(task.params, before, strict=True):
        if id(p) in still and not torch.equal(p, old):
            raise Broken("a parameter without a gradient was moved", "update")
        if not torch.isfinite(p).all():
            raise Broken("a parameter without a gradient makes others not finite", "update")
    if all(torch.equal(p, old) for p, old in zip(task.params, before, strict=True)):
        raise Broken("a parameter without a gradient keeps the others from training", "update")
    return f"{len(chosen)} kept their values"


def _one_of_each_group(run: Run) -> list[torch.nn.Parameter]:
    """A parameter of each group that has more than one, else of all."""
    groups = [g.params for g in getattr(run.submission, "groups", [])] or [run.task.params]
    chosen = [params[len(params) // 2] for params in groups if len(params) > 1]
    if not chosen or run.submission.card.form == "c":
        raise Idle("it owns its step" if chosen else "it has one parameter")
    return chosen


def passes(subject: Subject) -> str:
    """The passes that were made are those that PASSES declares, in number too."""
    run = subject.whole
    steps, declared = run.task.step, subject.passes
    for kind, mean in declared.items():
        made, expected = run.task.meter.counts[kind] - run.setup[kind], mean * steps
        if not LESS * expected - 2 <= made <= MORE * expected + 2:
            told = f"{made} passes {kind!r} in {steps} steps; PASSES declares {mean:g} a step"
            raise Broken(told, "step")
    return ", ".join(f"{run.task.meter.counts[kind]} {kind}" for kind in declared)


def exports(subject: Subject) -> str:
    """The loss of the weights handed over is the loss of the model as the submission has it."""
    run = subject.whole
    with run.submission.evaluated():
        inside = subject.problem.loss(run.task.model)
    outside = subject.handed(run)
    if not math.isclose(inside, outside, rel_tol=TOLERANCE, abs_tol=TOLERANCE * abs(run.first)):
        told = f"the loss is {inside:.6g} in the runner and {outside:.6g} once handed over"
        raise Broken(told, "export")
    return f"loss {outside:.4g} inside and outside"


def hooks(subject: Subject) -> str:
    """Every function of the contract that the file defines is called."""
    declared = declared_hooks(subject.card)
    idle = [name for name in declared if name not in subject.whole.called]
    if idle:
        raise Broken(f"{idle[0]}() is defined and was never called", idle[0])
    return ", ".join(declared) if declared else "none but the class's own"


def masks(subject: Subject) -> str:
    """What is masked stays zero under momentum, weight decay and a resume."""
    run = subject.begin()
    params = run.task.params
    chosen = max(params, key=lambda p: p.numel() if p.ndim == 2 else 0, default=None)
    if chosen is None or chosen.ndim != 2 or not run.task.masks.of(chosen).all():
        raise Idle("no matrix that trains without a mask of its own")
    name = next(n for n, p in run.task.model.named_parameters() if p is chosen)
    generator = torch.Generator().manual_seed(0)
    subject.advance(run, 2)
    run.task.masks.set(chosen, torch.rand(chosen.shape, generator=generator) > 0.5)
    subject.advance(run, 2)
    subject.save(run)
    resumed = subject.resumed()
    subject.advance(resumed, 2)
    for each in (run, resumed):
        p = each.task.model.get_parameter(name)
        off = ~each.task.masks.of(p)
        if not off.any() or bool(p[off].any()):
            raise Broken("a masked weight is not zero", "update")
    return f"{int(off.sum())} weights stay zero"


LAWS: dict[str, Callable[[Subject], str]] = {
    law.__name__: law
    for law in (
        points, runs, descends, acts, repeats, stores, resumes, gradients, zeros, missing, passes,
        exports, hooks, masks,
    )
}  # fmt: skip


def skips(card: Card) -> dict[str, str]:
    """The laws the file exempts itself from, with the reasons; UserError for an unknown one."""
    declared = card.literals.get("SKIPS", {})
    for name, reason in declared.items():
        if name not in LAWS:
            raise UserError(f"{card.plugin.path}: SKIPS names {name!r}", nearest(name, LAWS))
        if not isinstance(reason, str) or not reason.strip():
            raise UserError(f"{card.plugin.path}: SKIPS[{name!r}] gives no reason")
    return declared
