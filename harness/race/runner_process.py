"""A runner in its own process: what it hands over is checked, and its seconds are accounted for."""

import os
import time
from collections.abc import Collection
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalog import discover
from harness.race import checkpoint_metrics, claims
from harness.race.arrivals import Arrivals
from harness.race.credit import Credit, copying
from harness.race.label_office import LabelOffice, office_of
from harness.race.message_schema import FalseClaim
from harness.race.runner_base import RunnerHandle, TrialEnded, check_layout, policy_of
from harness.race.runner_child import RunnerChild
from harness.race.trial import Trial
from harness.system import torchrun
from harness.system.signals import Signals
from harness.train import checkpoint, predictor, shared_weights

if TYPE_CHECKING:
    from torch import Tensor

# What checks of a runner's words may raise besides FalseClaim, when the words are crafted.
CRAFTED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


@contextmanager
def crafted_words():
    """End the trial as invalid if what the runner says is false, or raises where it is read."""
    try:
        yield
    except FalseClaim as error:
        raise TrialEnded("invalid", str(error)) from None
    except CRAFTED as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise TrialEnded("invalid", f"what the runner says cannot be read: {reason}") from None


class ProcessRunner(RunnerHandle):
    """A runner in its own process.

    Args:
        checkpoints: names of the checkpoints that the log tells of; others are removed.
        step_seconds: mean CPU seconds of a step so far; 0 if there is none.
    """

    def __init__(
        self,
        trial: Trial,
        tick,
        signals: Signals,
        checkpoints: Collection[str] = (),
        step_seconds: float = 0.0,
    ):
        super().__init__(trial, tick, signals)
        self._checkpoints = trial.folder / "checkpoint"
        checkpoint.keep_only(self._checkpoints, checkpoints)
        self._mean_step = step_seconds
        # CPU seconds since the last hand-over: the harness's own, and those of predictions.
        self._own, self._predicted = 0.0, 0.0
        # Bytes of state in a checkpoint beyond those reported when it was written; the most so far.
        self._unreported = 0
        self._on_cpu = trial.engine["device"] == "cpu"
        # What the ranks measure comes as a sum; the clock counts the mean seconds of a rank.
        self._ranks = trial.ranks
        # A checkpoint has the whole state, of which each rank keeps one of so many parts.
        self._shards = trial.ranks if trial.engine.get("shard") else 1
        self._place = torchrun.here()
        if self._place and not self._place.alone:
            # The kernel here counts nothing of ranks on other machines.
            self._on_cpu = False
        # Its path names neither workload nor submission.
        private = trial.results / "private" / trial.run_id
        self.child = RunnerChild(
            trial.folder,
            private,
            [self._checkpoints],
            self.fd,
            trial.engine["threads"],
            self.keep,
        )
        self._arrivals: Arrivals | None = None
        self._office: LabelOffice | None = None
        # The step of the last hand-over.
        self._at = 0
        # Of the present segment: whether a stop was asked for; the step count, and since when.
        self._asked_to_pause, self._moved = False, (-1, 0.0)
        self._monitor = self.child.monitor
        self._claims = claims.ClaimChecker(trial, self.every)

    def start(self, train: Path, start: Path | None) -> None:
        self._train, self.pretrained = train, start is not None
        arrivals = None
        if self.trial.terms.streaming:
            arrivals = self._arrivals = Arrivals(self.trial, train, self.child.private / "stream")
            train = arrivals.folder
        if office := office_of(self.trial, train, self.child.private):
            self._office, train = office, office.folder
        # A count of steps and nothing more: an earlier attempt may have left a note behind it.
        self.progress.write_bytes(self.furthest.to_bytes(8, "little"))
        writable = [self.child.private, self._checkpoints, self.progress]
        given = arrivals or office
        allowed = policy_of(self.trial, writable, [None if given else train, start])
        message = self._start_message(train, start)
        if self._place:
            message["machines"] = self._place.machines(self.trial.run_id)
        known = discover.described(self.trial.card.plugin)
        part = arrivals and str(arrivals.first)
        message["labels"] = office and str(office.ready)
        self.child.send("start", **message, policy=allowed, submissions=known, part=part)
        # While the runner imports torch.
        if arrivals:
            arrivals.begin()
        if office:
            office.open()

    def ready(self, layout: list) -> dict:
        deadline = self.deadlines["setup"]
        # The runner sends this before it loads the submission, so what it says is true.
        built = self.child.receive("built", deadline, "set-up")
        self.layers, step_seconds = built["layers"], built["anchor"]
        begun = self._monitor.mark = min(built["cpu"], self._monitor.clock.read())
        reply = self.child.receive("ready", deadline, "set-up")
        self._monitor.mark = self._monitor.clock.read()
        with crafted_words():
            known = self._monitor.mark - begun if self._on_cpu else None
            reply = self._claims.first(reply, known) | {"anchor": step_seconds}
            check_layout(reply["layout"], layout)
            self.shared = self._sealed(layout)
            if self._office:
                self._office.begin(reply["counts"])
        self._credit = Credit(self.shared)
        self.state_bytes, self._at = reply["state_bytes"], reply["step"]
        limit = self._credit.begin(self._hashing()) + claims.TIMED * step_seconds
        limit *= self._ranks
        own = min(max(0.0, reply["own"] - built["cpu"]), limit)
        if self._on_cpu:
            # All that the process tree did since it loaded the submission.
            inside = claims.credible_inside(self.trial, reply, step_seconds, self._ranks)
            reply["setup"] = max(0.0, self._monitor.mark - begun - own - inside)
        self._share(reply, ("setup", "outside"))
        self._step_time = claims.StepTimeCheck(self.trial, self._train, step_seconds, reply["step"])
        bare = claims.bare_step(self.trial, step_seconds)
        steps = max(0, self.furthest - reply["step"])
        bare *= self._ranks
        self.furthest = reply["step"] + self._monitor.lost_steps(steps, max(bare, self._mean_step))
        return reply | {"cpu": 0.0, "wall": 0.0}

    def go(self, until: int) -> dict:
        started, timing = time.monotonic(), self._step_time.ask(until)
        self._monitor.settle()
        part = self._arrivals.due(self._at) if self._arrivals else None
        # Before the runner can write to it.
        part_bytes = part.stat().st_size if part else 0
        message = {"every": self.every, "time_step": timing, "part": str(part or "")}
        self.child.send("go", until=until, **message)
        reply = self._hand_over()
        wall = time.monotonic() - started
        # Counted from the last hand-over, so that work between two hand-overs is charged too.
        spent = self._monitor.clock.read() - self._monitor.mark
        with crafted_words():
            known = spent if self._on_cpu else None
            reply = self._claims.next(reply, until, self.signals.asked, known)
            if self._office:
                self._office.check(reply["counts"])
            limit = self._credit.handing_over(len(reply["passed"]))
            limit += self._step_time.check(reply, timing)
        if part:
            limit += copying(part_bytes, 2)
        self.state_bytes, self._at = reply["state_bytes"], reply["step"]
        # A goal may bound the state.
        reply["state_bytes"] += self._unreported // self._shards
        own = self._credit.believed(reply["own"], limit * self._ranks) + self._own
        self._own, self._monitor.mark = 0.0, self._monitor.mark + spent
        if self._on_cpu:
            reply["outside"] = max(0.0, spent - sum(reply["inside"].values()) - own)
        else:
            # More than one core at work.
            reply["outside"] += max(0.0, spent - own - wall)
        self.harness += own
        self._share(reply, ("outside",))
        return reply | {"cpu": spent - own, "wall": wall}

    def predict(self, questions: "Tensor") -> "Tensor":
        self.child.send("predict", **predictor.pack(questions))
        message = self.child.receive("predicted", self.deadlines["step"], "prediction")
        spent = self._monitor.clock.read() - self._monitor.mark
        self._monitor.mark += spent
        self._predicted += max(0.0, spent - self._own)
        self._own = max(0.0, self._own - spent)
        with crafted_words():
            return predictor.unpack(message)

    def answered(self) -> float:
        seconds, self._predicted = self._predicted, 0.0
        return seconds

    def save(self) -> str:
        before = self._monitor.clock.read()
        self.child.send("save")
        own = self.child.receive("saved", self.deadlines["save"], "checkpoint")["own"]
        worked = self._monitor.clock.read() - before
        name = checkpoint.newest(self._checkpoints)
        most = checkpoint_metrics.largest(self.shared.bytes + self.state_bytes)
        begun = time.process_time()
        if problem := checkpoint.problem(self._checkpoints / name, most):
            raise TrialEnded("invalid", f"the runner's checkpoint is not valid: {problem}")
        # Bytes beyond those expected are the submission's own, and so is the time they take.
        size = (self._checkpoints / name).stat().st_size
        hashing = (time.process_time() - begun) * min(
            1.0, self._credit.expected(self.state_bytes) / max(1, size)
        )
        self._own += self._credit.believed(min(own, worked), self._credit.saving(hashing))
        with crafted_words():
            reported = self._shards * self.state_bytes
            # The goal of a stream bounds all that a method keeps.
            weights = self.shared.bytes if self.trial.terms.streaming else None
            unreported = checkpoint_metrics.unreported(self._checkpoints / name, reported, weights)
            self._unreported = max(self._unreported, unreported)
            if self.pretrained:
                self.held.take(self._checkpoints / name)
        return name

    def frozen(self):
        return self.child.frozen()

    def settle(self) -> None:
        self._monitor.clear()

    def close(self) -> None:
        self.child.close()
        os.close(self.fd)
        # The record lists the files of its folder, and a submission may have nested folders there.
        with suppress(OSError):
            names = [path.name for path in self._checkpoints.iterdir()]
            checkpoint.keep_only(self._checkpoints, names)

    def _hand_over(self) -> dict:
        """Return what the runner hands over. On the way it may ask for labels."""
        self._asked_to_pause, self._moved = False, (-1, time.monotonic())
        kind = ("handover", self.deadlines["step"], "hand-over", "reveal" if self._office else "")
        while True:
            self._wait_for_message()
            message = self.child.receive(*kind)
            if message["kind"] == "handover":
                return message
            assert self._office
            with crafted_words():
                answer = self._office.answer(message["index"])
            self.child.send("revealed", **answer)

    def _wait_for_message(self) -> None:
        """Wait while the runner trains; show its steps, and pass a request to stop on, once."""
        while not self.child.poll():
            self._check_progress()
            if self.signals.asked and not self._asked_to_pause:
                self._asked_to_pause = True
                self.child.send("pause")
        # Or a question after the other would put the deadline off for ever.
        self._check_progress()

    def _check_progress(self) -> None:
        """Show the step count; end the trial if it has not grown for as long as a step may take."""
        (step, since), now = self._moved, self._steps()
        if now > step:
            self._moved = now, time.monotonic()
            self.tick(now)
        elif time.monotonic() - since > self.deadlines["step"]:
            limit = f"{self.deadlines['step']:.0f} s"
            self.child.hung(f"no step finished within {limit} (after step {step})")

    def _share(self, reply: dict, names: tuple[str, ...]) -> None:
        """Turn sums over the ranks into means."""
        if self._ranks > 1:
            reply["inside"] = {k: seconds / self._ranks for k, seconds in reply["inside"].items()}
            for name in names:
                reply[name] /= self._ranks

    def _sealed(self, layout: list) -> shared_weights.SharedWeights:
        """Return the shared weights, of a size that nobody can change any more."""
        shared = shared_weights.SharedWeights(self.fd, layout, self.trial.slots)
        expected = shared.bytes * self.trial.slots
        if (size := os.fstat(self.fd).st_size) != expected:
            raise FalseClaim(f"the shared memory has {size} bytes, the weights take {expected}")
        shared_weights.keep_size(self.fd)
        return shared

    def _hashing(self) -> float:
        """Return the CPU seconds of reading and hashing the checkpoints that may be continued."""
        begun, paths = time.process_time(), [*self._checkpoints.iterdir()]
        for path in paths:
            checkpoint.problem(path)
        size = sum(path.stat().st_size for path in paths)
        expected = len(paths) * self._credit.expected(self.state_bytes)
        share = min(1.0, expected / max(1, size))
        return (time.process_time() - begun) * share
