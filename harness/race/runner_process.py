"""The referee's hold on a runner: its own process by default, or the same code in this one.

Both offer start, ready, go, save, frozen, weights, close. A process has deadlines, is stopped
while it is judged, and killed with everything it started.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.catalog import discover, reading
from harness.catalog.discover import ROOT
from harness.race import claims
from harness.race.limits import LimitExceeded, ResourceMonitor
from harness.race.runner_base import RunnerHandle, TrialEnded, check_layout
from harness.race.trial import Trial
from harness.system import processes, sandbox
from harness.system.messages import Channel, Disconnected, TimedOut
from harness.train import checkpoint, predictor, shared_weights

if TYPE_CHECKING:
    from torch import Tensor

TICK = 0.2  # seconds between two looks at the step count and the process tree


class ProcessRunner(RunnerHandle):
    """A runner in its own process tree, which the referee can stop, time and kill."""

    def __init__(self, trial: Trial, tick, signals):
        super().__init__(trial, tick, signals)
        processes.become_subreaper()
        processes.hide_memory()
        ours, theirs = socket.socketpair()
        self.link = Channel(ours)
        # Its path names neither workload nor submission, and nothing is left in it from before.
        self.private = trial.results / "private" / trial.run_id
        shutil.rmtree(self.private, ignore_errors=True)
        environment = processes.clean_environment(self.private, trial.engine["threads"])
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), environment.get("PYTHONPATH")])
        )
        handed = theirs.fileno(), self.fd, os.getpid()
        with open(trial.folder / "runner.log", "ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "harness.train.child", *map(str, handed)],
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
        checkpoints = trial.folder / "checkpoint"
        checkpoint.keep_only(checkpoints)
        self.places = [self.private, checkpoints]
        self.watch = ResourceMonitor(
            self.child.pid, self.since, self.keep, self.places, trial.folder / "spent"
        )
        self.clock = self.watch.clock
        self.testimony = claims.ClaimChecker(trial, self.every)

    def start(self, train: Path, start: Path | None) -> None:
        """Tell the runner what to build; it works while the referee builds its own copy."""
        self.train = train
        self.progress.touch()
        plugins = self.trial.card.plugin, self.trial.definition.plugin
        policy = sandbox.policy(
            self.trial.isolation,
            writable=[*self.places, self.progress],
            data=[train, start],
            sources=[path.resolve() for plugin in plugins for path in discover.sources(plugin)],
            plugins=reading.package_folders(),
            device=self.trial.engine["device"],
            hidden=[self.trial.results],
        )
        self._send("start", **self._start_message(train, start), policy=policy)

    def ready(self, layout: list) -> dict:
        deadline = self.deadlines["setup"]
        built = self._receive("built", deadline, "set-up")  # said before the submission is loaded
        self.layers = built["layers"]
        reply = self._receive("ready", deadline, "set-up")
        self.watch.mark, self._own = self.clock.read(), 0.0
        reply = self._held(self.testimony.first, reply) | {"anchor": built["anchor"]}
        check_layout(reply["layout"], layout)
        shared_weights.keep_size(self.fd)
        self.shared = shared_weights.SharedWeights(self.fd, layout, self.trial.slots)
        self.witness = claims.StepTimeCheck(self.trial, self.train, built["anchor"], reply["step"])
        kept = sum(file.stat().st_size for file in (self.trial.folder / "checkpoint").iterdir())
        limit = claims.saving(kept + self.shared.bytes) + claims.TIMED * built["anchor"]
        own = min(max(0.0, reply["own"] - built["cpu"]), limit)
        if self.trial.engine["device"] == "cpu":  # with what its threads and children did
            spent = self.watch.mark - built["cpu"] - own - sum(reply["inside"].values())
            reply["setup"] = max(0.0, spent)
        steps = max(0, self.furthest - reply["step"])
        bare = claims.bare_step(self.trial, built["anchor"])
        self.furthest = reply["step"] + self.watch.lost_steps(steps, bare)
        return reply | {"cpu": 0.0, "wall": 0.0}

    def go(self, until: int) -> dict:
        """Let the runner train to step `until`, or to the next step once a signal asks."""
        wall, paused = time.monotonic(), False
        self.watch.settle()
        self._send("go", until=until, every=self.every)
        step, moved = -1, time.monotonic()
        while not self.link.poll(TICK):
            if self.child.poll() is not None:  # a child of its own may hold its end of the line
                self._gone()
            try:
                self.watch.look()
            except LimitExceeded as excess:
                raise TrialEnded(*excess.args) from None
            now = self._steps()
            if now != step:
                step, moved = now, time.monotonic()
                self.tick(step)
            if self.signals.asked and not paused:
                paused = True
                self._send("pause")
            if time.monotonic() - moved > self.deadlines["step"]:
                self._hung(
                    f"no step finished within {self.deadlines['step']:.0f} s (after step {step})"
                )
        reply = self._receive("handover", self.deadlines["step"], "hand-over")
        wall = time.monotonic() - wall
        # Since the last hand-over: nothing done in between is free.
        spent = self.clock.read() - self.watch.mark
        on_cpu = self.trial.engine["device"] == "cpu"
        reply = self._held(
            self.testimony.next, reply, until, self.signals.asked, spent if on_cpu else None
        )
        limit = claims.copying(self.shared.bytes, 1 + len(reply["passed"]))
        limit += self._held(self.witness.check, reply)
        own = min(reply["own"], limit) + self._own
        self._own, self.watch.mark = 0.0, self.watch.mark + spent
        if on_cpu:
            reply["outside"] = max(0.0, spent - sum(reply["inside"].values()) - own)
        else:
            reply["outside"] += max(0.0, spent - own - wall)  # more than one core at work
        self.harness += own
        return reply | {"cpu": spent - own, "wall": wall}

    def predict(self, questions) -> "Tensor":
        """Scores of inputs by the submission's own predictor; its seconds count as any others."""
        self._send("predict", **predictor.pack(questions))
        return predictor.unpack(self._receive("predicted", self.deadlines["step"], "prediction"))

    def save(self) -> None:
        self._send("save")
        own = self._receive("saved", self.deadlines["save"], "checkpoint").get("own")
        sizes = [file.stat().st_size for file in (self.trial.folder / "checkpoint").iterdir()]
        self._own += claims.believed(own, claims.saving(max(sizes, default=0)))

    @contextmanager
    def frozen(self):
        """Nothing of the runner's tree runs within the block."""
        try:
            frozen = processes.freeze(self.child.pid, since=self.since, keep=self.keep)
        except TimeoutError as error:
            raise TrialEnded(
                "timeout", f"the runner could not be stopped for evaluation: {error}"
            ) from None
        try:
            if self.link.poll():
                raise TrialEnded("invalid", "the runner sent a message that nobody had asked for")
            before = processes.spent(frozen)
            yield
            worked = processes.spent(frozen) - before
            if worked > claims.SLACK_SECONDS:
                raise TrialEnded("invalid", f"the runner worked {worked:.2f} s while it was judged")
        finally:
            processes.thaw(frozen)

    def close(self) -> None:
        """End the whole tree; afterwards nothing of it is left."""
        with suppress(Disconnected):
            self.link.send("stop")
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(2.0)
        with suppress(TimeoutError):
            processes.kill_tree(self.child.pid, since=self.since, keep=self.keep)
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(5.0)
        self.link.close()
        os.close(self.fd)
        shutil.rmtree(self.private, ignore_errors=True)
        with suppress(OSError):  # another trial has its own there
            self.private.parent.rmdir()

    def _steps(self) -> int:
        """What the runner says to have finished; for display, deadlines, and after a crash."""
        try:
            return int.from_bytes(self.progress.read_bytes()[:8], "little")
        except OSError:
            return 0

    def _held(self, check, *arguments):
        """The result of a check of what the runner said."""
        try:
            return check(*arguments)
        except claims.FalseClaim as error:
            raise TrialEnded("invalid", str(error)) from None

    def _send(self, kind: str, **fields) -> None:
        try:
            self.link.send(kind, **fields)
        except Disconnected:
            self._gone()

    def _receive(self, expected: str, seconds: float, phase: str) -> dict:
        deadline = time.monotonic() + seconds
        while not self.link.poll(TICK):
            if self.child.poll() is not None:
                self._gone()
            if time.monotonic() > deadline:
                self._hung(f"{phase} took longer than {seconds:.0f} s")
        try:
            message = self.link.receive(seconds)
        except TimedOut:
            self._hung(f"{phase} took longer than {seconds:.0f} s")
        except Disconnected:
            self._gone()
        if message["kind"] == "failed":
            raise TrialEnded(*self._held(claims.failure, message))
        if message["kind"] != expected:
            raise TrialEnded(
                "invalid", f"the runner sent {message['kind']!r} where {expected!r} was due"
            )
        return message

    def _hung(self, what: str):
        with suppress(ProcessLookupError):
            os.kill(self.child.pid, signal.SIGUSR1)  # its stacks go to runner.log
        time.sleep(0.2)
        raise TrialEnded("timeout", f"{what}; its stacks are in {self.trial.folder / 'runner.log'}")

    def _gone(self):
        try:
            code = self.child.wait(5.0)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (by hand, or by the kernel when memory ran out)" if name == "SIGKILL" else ""
            raise TrialEnded(
                "killed",
                f"the runner was killed by {name}{hint}; the same command continues the trial",
            )
        raise TrialEnded(
            "failed",
            f"the runner ended (status {code}) without a word; see {self.trial.folder}/runner.log",
        )
