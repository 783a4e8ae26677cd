"""A runner in its own process tree, which the referee can stop, time and kill."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalog import discover, reading
from harness.race import claims, message_schema
from harness.race.limits import LimitExceeded, ResourceMonitor
from harness.race.message_schema import FalseClaim
from harness.race.runner_base import RunnerHandle, TrialEnded, check_layout
from harness.race.trial import Trial
from harness.system import processes, sandbox
from harness.system.files import remove_tree
from harness.system.messages import Channel, Disconnected, Malformed, TimedOut
from harness.system.paths import ROOT
from harness.system.procfs import free_memory
from harness.system.terminal import printable
from harness.train import checkpoint, predictor, shared_weights

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT_MARGIN = 1 << 20  # bytes of generators, orders and counters beside weights and state
CHECKPOINT_TIMES = 8  # a model may have more tensors than it hands over
TICK = 0.2  # seconds between two looks at the step count and the process tree
# What checks of a runner's words may raise besides FalseClaim, when the words are crafted.
CRAFTED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class ProcessRunner(RunnerHandle):
    """A runner in its own process tree, which the referee can stop, time and kill.

    Args:
        checkpoints: names of the checkpoints that the log tells of; others are removed.
        step_seconds: mean CPU seconds of a step so far; 0 if there is none.
    """

    def __init__(self, trial: Trial, tick, signals, checkpoints=(), step_seconds: float = 0.0):
        super().__init__(trial, tick, signals)
        processes.become_subreaper()
        processes.hide_memory()
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        self._mean_step, self._own, self._predicted = step_seconds, 0.0, 0.0
        self._checkpoints = trial.folder / "checkpoint"
        checkpoint.keep_only(self._checkpoints, checkpoints)
        # Its path names neither workload nor submission, and no attempt finds another's files.
        own = trial.results / "private" / trial.run_id
        with suppress(OSError):
            remove_tree(own)
        self.private = own / secrets.token_hex(8)
        # A safe path: the interpreter imports nothing from the folder that it works in.
        environment = processes.clean_environment(self.private, trial.engine["threads"])
        path = filter(None, [str(ROOT), environment.get("PYTHONPATH")])
        environment |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
        handles = theirs.fileno(), self.fd, os.getpid()
        self.log = trial.folder / "runner.log"
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "harness.train.child", *map(str, handles)],
                pass_fds=[theirs.fileno(), self.fd],
                cwd=self.private,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()
        self.since = 0
        with suppress(ProcessLookupError):
            self.since = processes.stat_of(self.child.pid).start
        self.monitor = ResourceMonitor(
            self.child.pid,
            self.since,
            self.keep,
            folders=[self.private, self._checkpoints],
            log=self.log,
            spent=trial.folder / "spent",
            memory=free_memory(),
        )
        self.claims = claims.ClaimChecker(trial, self.every)

    def start(self, train: Path, start: Path | None) -> None:
        self.train = train
        self.progress.touch()
        plugins = self.trial.card.plugin, self.trial.definition.plugin
        policy = sandbox.policy(
            self.trial.isolation,
            writable=[self.private, self._checkpoints, self.progress],
            data=[train, start],
            sources=[path.resolve() for plugin in plugins for path in discover.sources(plugin)],
            plugins=reading.package_folders(),
            device=self.trial.engine["device"],
            hidden=[self.trial.results],
        )
        self._send("start", **self._start_message(train, start), policy=policy)

    def ready(self, layout: list) -> dict:
        deadline = self.deadlines["setup"]
        # The runner sends this before it loads the submission, so what it says is true.
        built = self._receive("built", deadline, "set-up")
        self.layers, step_seconds = built["layers"], built["anchor"]
        self.monitor.mark = min(built["cpu"], self.monitor.clock.read())
        begun = self.monitor.mark
        reply = self._receive("ready", deadline, "set-up")
        self.monitor.mark = self.monitor.clock.read()
        with self._crafted_words():
            reply = self.claims.first(reply) | {"anchor": step_seconds}
            check_layout(reply["layout"], layout)
            self.shared = self._sealed(layout)
        self.state_bytes = reply["state_bytes"]
        limit = claims.saving(self._hashing()) + claims.TIMED * step_seconds
        limit += claims.copying(self.shared.bytes, 1)
        own = min(max(0.0, reply["own"] - built["cpu"]), limit)
        if self.trial.engine["device"] == "cpu":
            # All that the process tree did since it loaded the submission.
            inside = claims.credible_inside(self.trial, reply, step_seconds)
            reply["setup"] = max(0.0, self.monitor.mark - begun - own - inside)
        self.step_time = claims.StepTimeCheck(self.trial, self.train, step_seconds, reply["step"])
        bare = claims.bare_step(self.trial, step_seconds)
        steps = max(0, self.furthest - reply["step"])
        lost = self.monitor.lost_steps(steps, max(bare, self._mean_step))
        self.furthest = reply["step"] + lost
        return reply | {"cpu": 0.0, "wall": 0.0}

    def go(self, until: int) -> dict:
        started, timing = time.monotonic(), self.step_time.ask(until)
        self.monitor.settle()
        self._send("go", until=until, every=self.every, time_step=timing)
        self._wait_for_hand_over()
        reply = self._receive("handover", self.deadlines["step"], "hand-over")
        wall = time.monotonic() - started
        # Counted from the last hand-over, so that work between two hand-overs is charged too.
        spent = self.monitor.clock.read() - self.monitor.mark
        on_cpu = self.trial.engine["device"] == "cpu"
        with self._crafted_words():
            reply = self.claims.next(reply, until, self.signals.asked, spent if on_cpu else None)
            limit = claims.copying(self.shared.bytes, 1 + len(reply["passed"]))
            limit += self.step_time.check(reply, timing)
        self.state_bytes = reply["state_bytes"]
        own = min(reply["own"], limit) + self._own
        self._own, self.monitor.mark = 0.0, self.monitor.mark + spent
        if on_cpu:
            reply["outside"] = max(0.0, spent - sum(reply["inside"].values()) - own)
        else:
            # More than one core at work.
            reply["outside"] += max(0.0, spent - own - wall)
        self.harness += own
        return reply | {"cpu": spent - own, "wall": wall}

    def _wait_for_hand_over(self) -> None:
        """Wait while the runner trains; show its steps, check its limits, pass on a stop."""
        step, moved, paused = -1, time.monotonic(), False
        while not self.channel.poll(TICK):
            # A child of the runner may hold its end of the connection open.
            if self.child.poll() is not None:
                self._gone()
            self._check_limits()
            now = self._steps()
            if now != step:
                step, moved = now, time.monotonic()
                self.tick(step)
            if self.signals.asked and not paused:
                paused = True
                self._send("pause")
            if time.monotonic() - moved > self.deadlines["step"]:
                limit = f"{self.deadlines['step']:.0f} s"
                self._hung(f"no step finished within {limit} (after step {step})")

    def predict(self, questions: "Tensor") -> "Tensor":
        self._send("predict", **predictor.pack(questions))
        message = self._receive("predicted", self.deadlines["step"], "prediction")
        spent = self.monitor.clock.read() - self.monitor.mark
        self.monitor.mark += spent
        self._predicted += max(0.0, spent - self._own)
        self._own = max(0.0, self._own - spent)
        with self._crafted_words():
            return predictor.unpack(message)

    def answered(self) -> float:
        seconds, self._predicted = self._predicted, 0.0
        return seconds

    def save(self) -> str:
        self._send("save")
        own = self._receive("saved", self.deadlines["save"], "checkpoint")["own"]
        name = checkpoint.newest(self._checkpoints)
        expected = self.shared.bytes + self.state_bytes + CHECKPOINT_MARGIN
        begun = time.process_time()
        if problem := checkpoint.problem(self._checkpoints / name, CHECKPOINT_TIMES * expected):
            raise TrialEnded("invalid", f"the runner's checkpoint is not valid: {problem}")
        # Bytes beyond those expected are the submission's own, and so is the time they take.
        size = (self._checkpoints / name).stat().st_size
        hashing = (time.process_time() - begun) * min(1.0, expected / max(1, size))
        self._own += min(own, claims.saving(hashing))
        return name

    @contextmanager
    def frozen(self):
        try:
            frozen = processes.freeze(self.child.pid, since=self.since, keep=self.keep)
        except TimeoutError as error:
            raise TrialEnded(
                "timeout", f"the runner could not be stopped for evaluation: {error}"
            ) from None
        try:
            if self.channel.poll():
                raise TrialEnded("invalid", "the runner sent a message that nobody had asked for")
            before = processes.spent(frozen)
            yield
            worked = processes.spent(frozen) - before
            if worked > claims.SLACK_SECONDS:
                raise TrialEnded("invalid", f"the runner worked {worked:.2f} s while it was judged")
        finally:
            processes.thaw(frozen)

    def close(self) -> None:
        with suppress(Disconnected):
            self.channel.send("stop")
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(2.0)
        with suppress(TimeoutError):
            processes.kill_tree(self.child.pid, since=self.since, keep=self.keep)
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(5.0)
        self.channel.close()
        os.close(self.fd)
        with suppress(OSError):
            remove_tree(self.private)
        # Another attempt may have its own folder there.
        for folder in (self.private.parent, self.private.parent.parent):
            with suppress(OSError):
                folder.rmdir()

    def _sealed(self, layout: list) -> shared_weights.SharedWeights:
        """Return the shared weights, of a size that nobody can change any more."""
        shared = shared_weights.SharedWeights(self.fd, layout, self.trial.slots)
        expected = shared.bytes * self.trial.slots
        if (size := os.fstat(self.fd).st_size) != expected:
            raise FalseClaim(f"the shared memory has {size} bytes, the weights take {expected}")
        shared_weights.keep_size(self.fd)
        return shared

    def _hashing(self) -> float:
        """Return the CPU seconds of reading and hashing the checkpoint that is continued."""
        begun = time.process_time()
        for path in self._checkpoints.iterdir():
            checkpoint.problem(path)
        return time.process_time() - begun

    def _steps(self) -> int:
        """Return the steps that the runner says to have finished.

        They serve for display and deadlines, and are charged after a crash.
        """
        try:
            with open(self.progress, "rb") as file:
                return min(int.from_bytes(file.read(8), "little"), self.trial.horizon)
        except OSError:
            return 0

    def _check_limits(self) -> None:
        try:
            self.monitor.check()
        except LimitExceeded as exceeded:
            raise TrialEnded(*exceeded.args) from None

    @contextmanager
    def _crafted_words(self):
        """End the trial as invalid if what the runner says is false, or raises where it is read."""
        try:
            yield
        except FalseClaim as error:
            raise TrialEnded("invalid", str(error)) from None
        except CRAFTED as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise TrialEnded("invalid", f"what the runner says cannot be read: {reason}") from None

    def _send(self, kind: str, **fields) -> None:
        try:
            self.channel.send(kind, **fields)
        except Disconnected:
            self._gone()

    def _receive(self, expected: str, seconds: float, phase: str) -> dict:
        """Return the next message, checked against its schema.

        Raises:
            TrialEnded: it did not come in time, is another, or reports a failure.
        """
        deadline = time.monotonic() + seconds
        while not self.channel.poll(TICK):
            if self.child.poll() is not None:
                self._gone()
            self._check_limits()
            if time.monotonic() > deadline:
                self._hung(f"{phase} took longer than {seconds:.0f} s")
        try:
            message = self.channel.receive(max(TICK, deadline - time.monotonic()))
            message_schema.check(message)
        except TimedOut:
            self._hung(f"{phase} took longer than {seconds:.0f} s")
        except Disconnected:
            self._gone()
        except Malformed as error:
            raise TrialEnded("invalid", f"the runner sent something else: {error}") from None
        except FalseClaim as error:
            raise TrialEnded("invalid", str(error)) from None
        if message["kind"] == "failed":
            reason = printable(message["error"][: message_schema.TEXT])
            raise TrialEnded(message["outcome"], reason)
        if message["kind"] != expected:
            kind = message["kind"]
            raise TrialEnded("invalid", f"the runner sent {kind!r} where {expected!r} was due")
        return message

    def _hung(self, what: str):
        """End the trial as timed out; the runner writes its stacks into runner.log first."""
        with suppress(ProcessLookupError):
            os.kill(self.child.pid, signal.SIGUSR1)
        time.sleep(0.2)
        raise TrialEnded("timeout", f"{what}; its stacks are in {self.log}")

    def _gone(self):
        """End the trial whose runner is gone."""
        try:
            code = self.child.wait(5.0)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (by hand, or by the kernel when memory ran out)" if name == "SIGKILL" else ""
            reason = f"the runner was killed by {name}{hint}"
            raise TrialEnded("killed", f"{reason}; the same command continues the trial")
        raise TrialEnded(
            "failed", f"the runner ended (status {code}) without a word; see {self.log}"
        )
