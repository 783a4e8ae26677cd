"""What a runner says about itself, held against what can be known from outside of it.

A submission shares its process with the code that reports on it, so a report proves nothing. Here
is what it must agree with: the step that was asked for, the passes that were declared, the rows
before it, the CPU time that the kernel counts, and a reference step that the referee times itself.
A contradiction ends the trial as `invalid`; what is only implausible is charged.
"""

import math
from fractions import Fraction
from pathlib import Path

from harness.catalog import definition, kinds
from harness.catalog.data import open_data
from harness.catalog.kinds import parse_kind
from harness.race.trial import Trial
from harness.train.meter import Meter
from harness.train.runner import ANCHORS

FAILURES = ("failed", "oom", "disk_full")  # outcomes that a runner may report
SLACK_SECONDS = 0.05  # of CPU: resolution of the kernel's clock for ended processes, and our waits
COPIED = 1e8  # bytes a second that copying weights takes at worst
SAVED = 2e7  # and a checkpoint: checksum, writing, reading
ANCHOR_SLACK = 1.25  # a reference step there over the one here, on average, before it is charged
ANCHOR_LIE = 3.0  # and twice in a row, before the trial is invalid; honest steps were 0.8 to 1.5
TIMED = 3.0  # reference steps that timing one may take


class FalseClaim(ValueError):
    """A runner's message cannot be true."""


class ClaimChecker:
    """Checks each hand-over of one attempt against the one before it."""

    def __init__(self, trial: Trial, every: int):
        self._trial, self._every = trial, every
        self._step, self._counts, self._samples = 0, {}, 0

    def first(self, reply: dict) -> dict:
        """The `ready` message: where the attempt begins."""
        _check_types(reply)
        _must(0 <= reply["step"] <= self._trial.horizon, f"step {reply['step']} does not exist")
        self._kinds(reply)
        self._step, self._counts = reply["step"], reply["counts"]
        self._samples = reply["samples"]
        return reply

    def next(self, reply: dict, until: int, asked: bool, spent: float | None) -> dict:
        """A `handover`; returns it with the passes that were made since the one before.

        Args:
            until: the step that the runner was to train to.
            asked: whether it was asked to stop on the way.
            spent: CPU seconds of its process tree since the last hand-over; None with a GPU.

        Raises:
            FalseClaim: with what does not add up.
        """
        _check_types(reply)
        step, told = reply["step"], f"after step {self._step}, training to {until}"
        _must(step == until or (asked and self._step <= step < until), f"step {step} {told}")
        _must(reply.get("paused") in ((False, True) if asked else (False,)), f"a pause {told}")
        self._kinds(reply)
        made = {k: n - self._counts.get(k, 0) for k, n in reply["counts"].items()}
        _must(
            all(n >= 0 for n in made.values()) and self._counts.keys() <= made.keys(),
            f"passes were unmade {told}",
        )
        examples = _examples(made, self._trial.definition.block["batch"])
        drawn = reply["samples"] - self._samples
        _must(0 <= drawn <= examples, f"{drawn} examples in passes for {examples} {told}")
        if spent is not None:
            inside = sum(reply["inside"].values())
            _must(
                inside <= 1.02 * spent + SLACK_SECONDS,
                f"{inside:.3f} s in passes of {spent:.3f} s of CPU time {told}",
            )
        reply["passes"] = {kind: n for kind, n in made.items() if n}
        last = min(until, step)
        reply["passed"] = [
            s for s in range(self._step + 1, last) if self._every and s % self._every == 0
        ]
        self._step, self._counts, self._samples = step, reply["counts"], reply["samples"]
        return reply

    def _kinds(self, reply: dict) -> None:
        unknown = sorted((reply["counts"].keys() | reply["inside"].keys()) - {*self._trial.passes})
        _must(not unknown, f"passes {unknown} that PASSES does not declare")


class StepTimeCheck:
    """The referee's own reference step, timed when the runner says that it has timed one.

    On a GPU, which both would share, the runner is believed.
    """

    def __init__(self, trial: Trial, train: Path, known: float, step: int):
        self._trial, self._train = trial, train
        self._last, self._timed = known, step
        self._ratios: list[float] = []
        self._sums = [0.0, 0.0]  # seconds of reference steps there, and here
        self._make = None

    def check(self, reply: dict) -> float:
        """Bring `anchor` down to what is credible; returns the seconds that timing it may take.

        Raises:
            FalseClaim: two in a row are beyond belief.
        """
        often = max(1, self._trial.horizon // ANCHORS)
        if reply["anchor"] == self._last or reply["step"] - self._timed < often:
            reply["anchor"] = self._last
            return 0.0
        self._timed = reply["step"]
        own = reply["anchor"] if self._trial.engine["device"] != "cpu" else self.seconds()
        self._ratios.append(reply["anchor"] / own)
        if min(self._ratios[-2:]) > ANCHOR_LIE and len(self._ratios) > 1:
            raise FalseClaim(
                f"a reference step took {reply['anchor']:.4f} s in the runner and {own:.4f} s "
                "here: torch, or a clock, was changed in its process"
            )
        self._sums = [self._sums[0] + reply["anchor"], self._sums[1] + own]
        too_long = (
            self._sums[0] / self._sums[1] / ANCHOR_SLACK
        )  # on average: single steps are noisy
        self._last = reply["anchor"] = reply["anchor"] / max(1.0, too_long)
        return TIMED * own

    def seconds(self) -> float:
        """CPU seconds of a reference step in this process: the second of two."""
        import torch

        if self._make is None:
            module, config = (
                definition.load_workload(self._trial.definition),
                self._trial.definition.config,
            )
            data = open_data(self._train)
            size = module.size(data, config)
            batch = module.batch(data, torch.arange(config.batch) % size, config)
            with torch.random.fork_rng(devices=[]):
                model = module.model(config)
            self._make = lambda: (module.loss(model, batch).backward(), model.zero_grad())
        meter = Meter(torch.device("cpu"))
        took = []
        with torch.random.fork_rng(devices=[]):
            for _ in range(2):
                before = meter.own()
                self._make()
                took.append(meter.own() - before)
        return took[-1]


def bare_step(trial: Trial, reference: float) -> float:
    """CPU seconds of a step's declared passes, where a reference step takes so many."""
    unit = trial.table.of(kinds.REFERENCE_STEP).seconds
    return reference * sum(n * trial.table.of(k).seconds for k, n in trial.passes.items()) / unit


def copying(layout_bytes: int, sets: int) -> float:
    """CPU seconds that copying so many sets of weights may take."""
    return SLACK_SECONDS / 10 + layout_bytes * sets / COPIED


def saving(size: int) -> float:
    """CPU seconds that writing or reading a checkpoint of so many bytes may take."""
    return SLACK_SECONDS / 2 + size / SAVED


def believed(own, limit: float) -> float:
    """Seconds that the runner calls the harness's own, as far as they are plausible."""
    return min(own, limit) if _seconds(own) else 0.0


def failure(message: dict) -> tuple[str, str]:
    """Outcome and reason of a `failed` message; FalseClaim for an outcome that is not its."""
    outcome, error = message.get("outcome"), message.get("error")
    _must(outcome in FAILURES and isinstance(error, str), f"it reported the outcome {outcome!r}")
    return str(outcome), str(error)[:4000]


def _must(true: bool, told: str) -> None:
    if not true:
        raise FalseClaim(f"what the runner says cannot be: {told}")


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _seconds(value) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _mapping(value, good) -> bool:
    return isinstance(value, dict) and all(good(v) for v in value.values())


TYPES = {
    "step": _whole,
    "samples": _whole,
    "state_bytes": _whole,
    "trainable": _whole,
    "training_memory": _whole,
    "counts": lambda v: _mapping(v, _whole),
    "inside": lambda v: _mapping(v, _seconds),
    "outside": _seconds,
    "own": _seconds,
    "anchor": lambda v: _seconds(v) and v > 0,
    "merged": lambda v: isinstance(v, bool),
    "hooked": lambda v: v is None or isinstance(v, str),
    "active": lambda v: v is None or (isinstance(v, list) and all(b in (0, 1) for b in v)),
}


def _check_types(reply: dict) -> None:
    for name, good in TYPES.items():
        _must(name in reply and good(reply[name]), f"{name} is {str(reply.get(name))[:80]}")
    loss = reply.get("train_loss")
    _must(loss is None or isinstance(loss, float | int), f"train_loss is {str(loss)[:80]}")


def _examples(made: dict[str, int], batch: int) -> int:
    """Training examples that so many passes can have used for gradients."""
    total = Fraction(0)
    for kind, n in made.items():
        operation, ratio, _ = parse_kind(kind)
        if operation in ("forward_backward", "per_example_gradients"):
            total += n * ratio * batch
    return int(total)
