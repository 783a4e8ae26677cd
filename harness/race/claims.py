"""Compare what a runner reports with what is known from outside of it.

A submission shares its process with the code that reports on it, so a report proves nothing. It
must agree with the step that was asked for, the declared passes, the rows before it, the CPU time
that the kernel counts, and a reference step that the referee times itself. A false claim ends the
trial as `invalid`; what is only implausible is charged.
"""

import secrets
from fractions import Fraction
from pathlib import Path

from harness.catalog.data import open_data
from harness.catalog.definition import load_workload
from harness.catalog.kinds import REFERENCE_STEP, computes, parse_kind
from harness.race.message_schema import FalseClaim
from harness.race.trial import Trial
from harness.train.meter import Meter
from harness.train.runner import ANCHORS

SLACK_SECONDS = 0.05  # of CPU: resolution of the kernel's clock for ended processes, and waits
INSIDE_SLACK = 1.5  # seconds in passes before training, over those the passes explain
ANCHOR_SLACK = 1.25  # a reference step there over the one here, on average, before it is charged
ANCHOR_LIE = 3.0  # and twice in a row, before the trial is invalid; honest steps were 0.8 to 1.5
TIMED = 3.0  # reference steps that timing one may take


class ClaimChecker:
    """Checks each hand-over of one attempt against the one before it."""

    def __init__(self, trial: Trial, every: int):
        self._trial, self._every = trial, every
        self._step, self._counts, self._samples = 0, {}, 0
        self._ledger: dict = {"exposed": False, "spent": {}}

    def first(self, reply: dict, spent: float | None) -> dict:
        """Check the `ready` message; return it with the passes that were made up to then.

        Args:
            spent: CPU seconds of its process tree since it loaded the submission; None with a GPU.

        Raises:
            FalseClaim: it cannot be true.
        """
        where = "in set-up"
        _must(reply["step"] <= self._trial.horizon, f"step {reply['step']} does not exist")
        self._kinds(reply)
        reply["passes"] = {kind: n for kind, n in reply["counts"].items() if n}
        self._drawn(reply["samples"], reply["passes"], where)
        _within(reply, spent, where)
        self._keep(reply)
        return reply

    def next(self, reply: dict, until: int, asked: bool, spent: float | None) -> dict:
        """Check a `handover`; return it with the passes that were made since the one before.

        Args:
            until: the step that the runner was to train to.
            asked: whether it was asked to stop on the way.
            spent: CPU seconds of its process tree since the last hand-over; None with a GPU.

        Raises:
            FalseClaim: it cannot be true.
        """
        step, where = reply["step"], f"after step {self._step}, training to {until}"
        _must(step == until or (asked and self._step <= step < until), f"step {step} {where}")
        _must(reply["paused"] in ((False, True) if asked else (False,)), f"a pause {where}")
        self._kinds(reply)
        passes = {k: n - self._counts.get(k, 0) for k, n in reply["counts"].items()}
        _must(
            all(n >= 0 for n in passes.values()) and self._counts.keys() <= passes.keys(),
            f"passes were unmade {where}",
        )
        self._drawn(reply["samples"] - self._samples, passes, where)
        _within(reply, spent, where)
        self._privacy(reply, where)
        reply["passes"] = {kind: n for kind, n in passes.items() if n}
        between = range(self._step + 1, min(until, step))
        reply["passed"] = [s for s in between if self._every and s % self._every == 0]
        self._keep(reply)
        return reply

    def _drawn(self, drawn: int, passes: dict[str, int], where: str) -> None:
        """Check that these passes can have used so many training examples."""
        examples = _examples(passes, self._trial.definition.block["batch"])
        _must(0 <= drawn <= examples, f"{drawn} examples in passes for {examples} {where}")

    def _keep(self, reply: dict) -> None:
        self._step, self._counts = reply["step"], reply["counts"]
        self._samples = reply["samples"]
        self._ledger = reply.get("privacy", self._ledger)

    def _privacy(self, reply: dict, where: str) -> None:
        """Check that a private workload's ledger is there, only grows, and fits the passes."""
        if "private" not in self._trial.definition.block:
            return
        now, before = reply.get("privacy"), self._ledger
        _must(now is not None, f"no ledger of private gradients {where}")
        assert now is not None
        grown = all(
            now.get(name, {}).get(noise, 0) >= n
            for name in ("spent", "trees")
            for noise, n in before.get(name, {}).items()
        )
        _must(grown and now["exposed"] >= before["exposed"], f"privacy was unspent {where}")
        calls = sum(n for k, n in reply["counts"].items() if k.startswith("per_example"))
        noisy = sum(now["spent"].values()) + sum(now.get("trees", {}).values())
        _must(
            now["exposed"] or noisy == calls, f"{noisy} noisy gradients in {calls} passes {where}"
        )

    def _kinds(self, reply: dict) -> None:
        named = reply["counts"].keys() | reply["inside"].keys() | reply["passes"].keys()
        unknown = sorted(named - {*self._trial.passes})
        _must(not unknown, f"passes {unknown[:3]} that PASSES does not declare")


class StepTimeCheck:
    """The referee's own reference step, timed when it lets the runner time one.

    The runner cannot foresee when it is asked. On a GPU, which both would share, the runner is
    believed.
    """

    def __init__(self, trial: Trial, train: Path, known: float, step: int):
        self._trial, self._train = trial, train
        self._last, self._timed = known, step
        self._ratios: list[float] = []
        # Seconds of reference steps in the runner, and here.
        self._sums = [0.0, 0.0]
        self._step = None

    def ask(self, until: int) -> bool:
        """Return True if the hand-over at step `until` is to time a reference step.

        About ANCHORS of a trial do, at random places no further apart than two mean distances.
        """
        mean = max(1, self._trial.horizon // ANCHORS)
        since = until - self._timed
        return since >= 2 * mean or secrets.randbelow(mean) < min(since, mean // 2)

    def check(self, reply: dict, asked: bool) -> float:
        """Bring `anchor` down to what is credible; return the seconds that timing it may take.

        Raises:
            FalseClaim: two in a row are beyond belief.
        """
        if not asked:
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
        # On average, because single steps are noisy.
        too_long = self._sums[0] / self._sums[1] / ANCHOR_SLACK
        self._last = reply["anchor"] = reply["anchor"] / max(1.0, too_long)
        return TIMED * own

    def seconds(self) -> float:
        """Return the CPU seconds of a reference step in this process: the second of two."""
        import torch

        if self._step is None:
            self._step = self._prepared()
        meter, seconds = Meter(torch.device("cpu")), []
        with torch.random.fork_rng(devices=[]):
            for _ in range(2):
                before = meter.own()
                self._step()
                seconds.append(meter.own() - before)
        return seconds[-1]

    def _prepared(self):
        """Return a function that makes one reference step on an untouched model."""
        import torch

        from harness.train import arithmetic
        from harness.train.engine import prepared

        module, config = load_workload(self._trial.definition), self._trial.definition.config
        # Not compiled: the referee starts no compiler, and a compiled step is not slower.
        options = self._trial.engine | {"compile": False}
        data = open_data(self._train)
        size = module.size(data, config)
        batch = module.batch(data, torch.arange(config.batch) % size, config)
        with torch.random.fork_rng(devices=[]):
            model = module.model(config)
        arithmetic.impose(model, config)
        loss = prepared(module, model, options, "cpu").loss
        return lambda: (loss(model, batch).backward(), model.zero_grad())


def bare_step(trial: Trial, reference: float) -> float:
    """Return the CPU seconds of a step's declared passes, given those of a reference step."""
    unit = trial.table.of(REFERENCE_STEP).seconds
    passes = {k: n for k, n in trial.passes.items() if computes(k)}
    return reference * sum(n * trial.table.of(k).seconds for k, n in passes.items()) / unit


def credible_inside(trial: Trial, reply: dict, reference: float, ranks: int = 1) -> float:
    """Return the seconds in passes before training that the passes made there explain.

    Args:
        ranks: the number of processes that the seconds are a sum over.
    """
    unit = trial.table.of(REFERENCE_STEP).seconds
    counts = {k: n for k, n in reply["counts"].items() if computes(k)}
    explained = sum(n * trial.table.of(kind).seconds for kind, n in counts.items())
    credible = INSIDE_SLACK * reference * explained / unit
    return min(sum(reply["inside"].values()), ranks * credible)


def _within(reply: dict, spent: float | None, where: str) -> None:
    """Check that the seconds in passes are not more than the CPU time, where that is known."""
    inside = sum(reply["inside"].values())
    _must(
        spent is None or inside <= 1.02 * spent + SLACK_SECONDS,
        f"{inside:.3f} s in passes of {spent or 0:.3f} s of CPU time {where}",
    )


def _must(true: bool, what: str) -> None:
    if not true:
        raise FalseClaim(f"what the runner says cannot be: {what}")


def _examples(passes: dict[str, int], batch: int) -> int:
    """Return the training examples that so many passes can have used for gradients."""
    total = Fraction(0)
    for kind, n in passes.items():
        operation, ratio, _ = parse_kind(kind)
        if operation in ("forward_backward", "per_example_gradients"):
            total += n * ratio * batch
    return int(total)
