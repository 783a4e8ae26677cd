"""A submission at work on the small problem of its kind, run once for all the laws about it."""

import math
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from unittest.mock import patch

import torch
from torch import Tensor, nn

from harness import depth, surgery
from harness.catalog import discover, reading, space
from harness.catalog.discover import Card
from harness.clock import prices
from harness.errors import UserError
from harness.laws.small_workloads import SmallWorkload, small_workloads
from harness.seeds import derive
from harness.train import checkpoint, predictor
from harness.train.submission import Submission
from harness.train.task import Task


@dataclass
class Run:
    """A submission that has trained on a problem, and what was seen on the way."""

    task: Task
    submission: Submission
    start: dict[str, Tensor]  # the workload's weights before the submission saw them
    first: float  # loss once the submission was set up
    setup: Counter[str]  # passes made in set-up
    last: float = math.nan  # loss at the end
    middle: dict[str, Tensor] | None = None  # what was handed over half-way
    called: set[str] = field(default_factory=set)  # hooks
    most: int = 0  # bytes of state, at most


class Subject:
    """A submission on the small problem of its kind; its runs are made once."""

    def __init__(self, card: Card, problem: SmallWorkload | None = None):
        self.card = card
        self.space = card.literals["SPACE"]
        space.validate(self.space, str(card.plugin.path))
        self.passes = prices.canonical_passes(card.literals.get("PASSES", {"forward_backward": 1}))
        self.problem = problem or self.suitable()
        self.folder = tempfile.mkdtemp(prefix="harness-check-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def suitable(self) -> SmallWorkload:
        """The first problem of the submission's tracks that lets it begin and make a step.

        Raises:
            the error on the first of them, where there is none.
        """
        tracks = discover.tracks(self.card)
        errors = []
        for problem in (p for p in small_workloads() if p.track in tracks):
            try:
                run = self.begin(problem)
                self.advance(run, 1)
                return problem
            except Exception as error:  # whatever a submission raises on what it is not for
                errors.append(error)
        if not errors:
            raise UserError(f"TRACKS of {self.card.plugin.path} is {tracks}", "train, finetune, "
                            "compress, continual")  # fmt: skip
        raise errors[0]

    def begin(self, problem: SmallWorkload | None = None) -> Run:
        """A run at its start, seeded as a trial is."""
        problem = problem or self.problem
        task = problem.task(self.passes)
        start = {name: t.clone() for name, t in task.model.state_dict().items()}
        torch.manual_seed(derive(0, "setup"))
        submission = Submission(self.card, space.default(self.space), task)
        return Run(task, submission, start, math.nan, task.meter.counts.copy())

    def advance(self, run: Run, steps: int) -> None:
        for _ in range(steps):
            torch.manual_seed(derive(0, "step", run.task.step))
            run.submission.step()
            run.task.step += 1

    def save(self, run: Run) -> None:
        """Write the run's checkpoint, as a runner does."""
        state = {"task": run.task.state_dict(), "submission": run.submission.state_dict()}
        tensors = dict(run.task.model.state_dict())
        checkpoint.save(self.folder, run.task.step, tensors, state)

    def resumed(self) -> Run:
        """A new run that goes on from the checkpoint."""
        saved = checkpoint.load(self.folder)
        assert saved
        _, tensors, state = saved
        run = self.begin()
        own = run.task.model.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        run.task.load_state_dict(state["task"])
        run.submission.load_state_dict(state["submission"])
        return run

    @cached_property
    def whole(self) -> Run:
        """The run over the whole horizon, hooks watched, a checkpoint in its middle."""
        half = self.problem.horizon // 2
        with watched(self.card) as called:
            run = self.begin()
            run.first = self.judged(run)
            self.advance(run, half)
            self.save(run)
            run.middle, run.most = handed_over(run), run.submission.state_bytes()
            self.advance(run, self.problem.horizon - half)
            run.last, run.called = self.judged(run), called
        run.most = max(run.most, run.submission.state_bytes())
        return run

    def judged(self, run: Run) -> float:
        """The loss that a referee would see now: of the answers, where the submission predicts."""
        if predictor.NAME in self.card.functions:
            return self.problem.loss(Predictor(run.submission))
        return self.handed(run)

    def handed(self, run: Run) -> float:
        """The loss of the weights that a run hands over now."""
        return self.problem.judge(handed_over(run), depth.depth(run.task.model))


class Predictor(nn.Module):
    """A submission's own predictor in the place of a model."""

    def __init__(self, submission: Submission):
        super().__init__()
        self.submission = submission

    def forward(self, inputs: Tensor) -> Tensor:
        return predictor.answers(self.submission, inputs)


def handed_over(run: Run) -> dict[str, Tensor]:
    """Copies of what the referee would get: the evaluation view, merged."""
    export = getattr(run.submission.module, "export", surgery.export)
    with run.submission.evaluated():
        return {name: t.detach().clone() for name, t in export(run.task.model).items()}


@contextmanager
def watched(card: Card):
    """Within the block the names of the file's hooks that are called are collected."""
    called: set[str] = set()
    load, module = discover.load, discover.load(card.plugin)  # a loose file is a new one each time

    def wrapper(name: str, function: Callable) -> Callable:
        def call(*arguments, **keywords):
            called.add(name)
            return function(*arguments, **keywords)

        return call

    with ExitStack() as stack:
        mine = lambda plugin: module if plugin == card.plugin else load(plugin)  # noqa: E731
        stack.enter_context(patch.object(discover, "load", mine))
        for name in declared_hooks(card):
            original = getattr(module, name)
            stack.enter_context(patch.object(module, name, wrapper(name, original)))
        yield called


def declared_hooks(card: Card) -> list[str]:
    """The functions of the contract that the file defines."""
    return [name for name in reading.SIGNATURES if name in card.functions]
