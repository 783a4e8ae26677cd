"""A submission that trains on the small workload of its kind, once for all the laws about it."""

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

from torch import Tensor, nn

from harness import surgery
from harness.catalog import discover, reading, space
from harness.catalog.card import Card
from harness.clock import prices
from harness.errors import UserError
from harness.laws.small_workloads import SmallWorkload, small_workloads
from harness.seeds import seed_cpu
from harness.train import checkpoint, depth, predictor
from harness.train.submission import Submission
from harness.train.task import Task


@dataclass
class Training:
    """A submission that has trained on a small workload, and what was measured on the way."""

    task: Task
    submission: Submission
    start: dict[str, Tensor]  # the workload's weights before the submission saw them
    first: float  # loss once the submission was set up
    setup: Counter[str]  # passes made in set-up
    last: float = math.nan  # loss at the end
    early: dict[str, Tensor] | None = None  # what was handed over at a quarter
    called: set[str] = field(default_factory=set)  # hooks
    most: int = 0  # bytes of state, at most


class SmallRun:
    """A submission on the small workload of its kind; its trainings are made once."""

    def __init__(self, card: Card, workload: SmallWorkload | None = None):
        self.card = card
        self.space = card.literals["SPACE"]
        space.validate(self.space, str(card.plugin.path))
        self.passes = prices.canonical_passes(card.literals.get("PASSES", {"forward_backward": 1}))
        self.workload = workload or self.suitable()
        self.folder = tempfile.mkdtemp(prefix="harness-check-")
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def suitable(self) -> SmallWorkload:
        """Return the first workload of its tracks on which the submission begins and makes a step.

        Raises:
            the error on the first of them, where there is none.
        """
        tracks = discover.tracks(self.card)
        errors = []
        for workload in (w for w in small_workloads() if w.track in tracks):
            try:
                self.advance(self.begin(workload), 1)
                return workload
            except Exception as error:
                # A submission raises anything on a workload that it is not for.
                errors.append(error)
        if not errors:
            allowed = ", ".join(discover.TRACKS)
            raise UserError(f"TRACKS of {self.card.plugin.path} is {tracks}", allowed)
        raise errors[0]

    def begin(self, workload: SmallWorkload | None = None, point: dict | None = None) -> Training:
        """Return a training at its start, seeded as a trial is.

        Args:
            point: hyperparameters; the default of SPACE without them.
        """
        task = (workload or self.workload).task(self.passes)
        start = {name: t.clone() for name, t in task.model.state_dict().items()}
        seed_cpu(0, "setup")
        submission = Submission(self.card, point or space.default(self.space), task)
        return Training(task, submission, start, math.nan, task.meter.counts.copy())

    def advance(self, run: Training, steps: int) -> None:
        """Make some steps, each seeded as in a trial."""
        for _ in range(steps):
            seed_cpu(0, "step", run.task.step)
            run.submission.step()
            run.task.step += 1

    def save(self, run: Training) -> None:
        """Write the run's checkpoint, as a runner does."""
        state = {"task": run.task.state_dict(), "submission": run.submission.state_dict()}
        tensors = dict(run.task.model.state_dict())
        checkpoint.save(self.folder, run.task.step, tensors, state)

    def resumed(self) -> Training:
        """Return a new training that goes on from the checkpoint."""
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

    @property
    def quarter(self) -> int:
        """Steps of the first quarter of the horizon."""
        return max(1, self.workload.horizon // 4)

    @cached_property
    def whole(self) -> Training:
        """The training over the whole horizon, hooks watched, a checkpoint in its middle."""
        half = self.workload.horizon // 2
        with watched(self.card) as called:
            run = self.begin()
            run.first = self.judged(run)
            self.advance(run, self.quarter)
            run.early = handed_over(run)
            self.advance(run, half - self.quarter)
            self.save(run)
            run.most = run.submission.state_bytes()
            self.advance(run, self.workload.horizon - half)
            run.last, run.called = self.judged(run), called
        run.most = max(run.most, run.submission.state_bytes())
        return run

    def judged(self, run: Training) -> float:
        """Return the loss that a referee would measure now.

        If the submission predicts by itself, it is the loss of its answers.
        """
        if predictor.NAME in self.card.functions:
            return self.workload.loss(Predictor(run.submission))
        return self.handed(run)

    def handed(self, run: Training) -> float:
        """Return the loss of the weights that the training hands over now."""
        return self.workload.judge(handed_over(run), depth.depth(run.task.model))


class Predictor(nn.Module):
    """A submission's own predictor in the place of a model."""

    def __init__(self, submission: Submission):
        super().__init__()
        self.submission = submission

    def forward(self, inputs: Tensor) -> Tensor:
        return predictor.answers(self.submission, inputs)


def handed_over(run: Training) -> dict[str, Tensor]:
    """Return copies of the weights that the referee would get: the evaluation view, merged."""
    export = getattr(run.submission.module, "export", surgery.export)
    with run.submission.evaluated():
        return {name: t.detach().clone() for name, t in export(run.task.model).items()}


@contextmanager
def watched(card: Card):
    """Collect the names of the file's hooks that are called within the block."""
    called: set[str] = set()
    # A file of its own is a new module each time it is loaded.
    load, module = discover.load, discover.load(card.plugin)

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
    """Return the functions of the contract that the file defines."""
    return [name for name in reading.SIGNATURES if name in card.functions]
