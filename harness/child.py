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

from harness import discover, predictor, process, sandbox, testimony, weights, workload
from harness.discover import ROOT
from harness.link import Closed, Late, Link
from harness.plan import Trial
from harness.tree_clock import TreeClock

if TYPE_CHECKING:
    from torch import Tensor

TICK = 0.2  # seconds between two looks at the step count and the process tree
PROCESSES = 64  # of one runner


class Ended(Exception):
    """The trial is over for a reason other than its metric."""

    def __init__(self, outcome: str, message: str):
        super().__init__(message)
        self.outcome, self.message = outcome, message


def check_layout(theirs: list, ours: list) -> None:
    if problem := weights.difference(theirs, ours):
        raise Ended(
            "invalid", f"the submission's weights do not fit the workload's model: {problem}"
        )


class Hold:
    """What both runners share: the shelf of shared weights and the furthest step reached."""

    def __init__(self, trial: Trial, tick, signals):
        self.trial, self.tick, self.signals = trial, tick, signals
        self.deadlines = workload.DEADLINES | trial.definition.block.get("deadlines", {})
        self.progress = trial.folder / "progress"
        self.furthest = (
            int.from_bytes(self.progress.read_bytes()[:8], "little")
            if self.progress.exists()
            else 0
        )
        self.predicts = predictor.NAME in trial.card.functions
        self.every = trial.definition.block["evaluate"].get(
            "every", 0
        )  # steps between two sets of weights
        if self.predicts:
            self.every = 0  # it answers for what it knows now
        self.fd = weights.shared_file()
        self.harness = 0.0  # CPU seconds of our own work in the runner: copies, checkpoints, timing
        self.shelf: weights.Shelf  # once the layout is agreed
        self.keep: set[int] = set()  # our own helpers, which are no part of the runner's tree
        self.layers: list[str] = []  # of isolation, as far as they are active

    def furthest_step(self) -> int:
        """The last step that any earlier attempt finished."""
        return self.furthest

    def restart_progress(self, step: int) -> None:
        """Set the step count back to where training goes on: lost steps count once."""
        with open(self.progress, "r+b") as file:
            file.write(step.to_bytes(8, "little"))

    def weights(self, slot: int = 0) -> dict:
        return {name: tensor.clone() for name, tensor in self.shelf.tensors(slot).items()}

    def _start_message(self, train: Path, start: Path | None) -> dict:
        paths = {
            "train": str(train),
            "pretrained": start and str(start),
            "checkpoint": str(self.trial.folder / "checkpoint"),
            "progress": str(self.progress),
        }
        return self.trial.message() | paths


class ProcessRunner(Hold):
    """A runner in its own process tree, which the referee can stop, time and kill."""

    def __init__(self, trial: Trial, tick, signals):
        super().__init__(trial, tick, signals)
        process.become_subreaper()
        process.hide_memory()
        ours, theirs = socket.socketpair()
        self.link = Link(ours)
        # Its path names neither workload nor submission, and nothing is left in it from before.
        self.private = trial.results / "private" / trial.run_id
        shutil.rmtree(self.private, ignore_errors=True)
        environment = process.clean_environment(self.private, trial.engine["threads"])
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), environment.get("PYTHONPATH")])
        )
        handed = theirs.fileno(), self.fd, os.getpid()
        with open(trial.folder / "runner.log", "ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "harness.runner", *map(str, handed)],
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
            self.since = process.stat_of(self.child.pid).start
        self.clock = TreeClock(self.child.pid, self.since, self.keep)
        self.testimony = testimony.Testimony(trial, self.every)

    def start(self, train: Path, start: Path | None) -> None:
        """Tell the runner what to build; it works while the referee builds its own copy."""
        self.train, checkpoints = train, self.trial.folder / "checkpoint"
        checkpoints.mkdir(exist_ok=True)
        self.progress.touch()
        policy = sandbox.policy(
            self.trial.isolation,
            writable=[self.private, checkpoints, self.progress],
            data=[train, start],
            sources=discover.sources(self.trial.card.plugin),
            device=self.trial.engine["device"],
            hidden=[self.trial.results],
        )
        self._send("start", **self._start_message(train, start), policy=policy)

    def ready(self, layout: list) -> dict:
        deadline = self.deadlines["setup"]
        built = self._receive("built", deadline, "set-up")  # said before the submission is loaded
        self.layers = built["layers"]
        reply = self._receive("ready", deadline, "set-up")
        self._mark, self._own = self.clock.read(), 0.0
        reply = self._held(self.testimony.first, reply) | {"anchor": built["anchor"]}
        check_layout(reply["layout"], layout)
        weights.keep_size(self.fd)
        self.shelf = weights.Shelf(self.fd, layout, self.trial.slots)
        self.witness = testimony.Witness(self.trial, self.train, built["anchor"], reply["step"])
        kept = sum(file.stat().st_size for file in (self.trial.folder / "checkpoint").iterdir())
        limit = testimony.saving(kept + self.shelf.bytes) + testimony.TIMED * built["anchor"]
        own = min(max(0.0, reply["own"] - built["cpu"]), limit)
        if self.trial.engine["device"] == "cpu":  # with what its threads and children did
            spent = self._mark - built["cpu"] - own - sum(reply["inside"].values())
            reply["setup"] = max(0.0, spent)
        return reply | {"cpu": 0.0, "wall": 0.0}

    def go(self, until: int) -> dict:
        """Let the runner train to step `until`, or to the next step once a signal asks."""
        wall, paused = time.monotonic(), False
        self._send("go", until=until, every=self.every)
        step, moved = -1, time.monotonic()
        while not self.link.poll(TICK):
            if self.child.poll() is not None:  # a child of its own may hold its end of the line
                self._gone()
            self._watch()
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
        spent = (
            self.clock.read() - self._mark
        )  # since the last hand-over: nothing done in between is free
        on_cpu = self.trial.engine["device"] == "cpu"
        reply = self._held(
            self.testimony.next, reply, until, self.signals.asked, spent if on_cpu else None
        )
        limit = testimony.copying(self.shelf.bytes, 1 + len(reply["passed"]))
        limit += self._held(self.witness.check, reply)
        own = min(reply["own"], limit) + self._own
        self._own, self._mark = 0.0, self._mark + spent
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
        self._own += testimony.believed(own, testimony.saving(max(sizes, default=0)))

    @contextmanager
    def frozen(self):
        """Nothing of the runner's tree runs within the block."""
        try:
            process.freeze(self.child.pid, since=self.since, keep=self.keep)
        except TimeoutError as error:
            raise Ended(
                "timeout", f"the runner could not be stopped for evaluation: {error}"
            ) from None
        try:
            if self.link.poll():
                raise Ended("invalid", "the runner sent a message that nobody had asked for")
            before = self.clock.read()
            yield
            worked = self.clock.read() - before
            if worked > testimony.SLACK_SECONDS:
                raise Ended("invalid", f"the runner worked {worked:.2f} s while it was judged")
        finally:
            process.thaw(self.child.pid, since=self.since, keep=self.keep)

    def close(self) -> None:
        """End the whole tree; afterwards nothing of it is left."""
        with suppress(Closed):
            self.link.send("stop")
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(2.0)
        with suppress(TimeoutError):
            process.kill_tree(self.child.pid, since=self.since, keep=self.keep)
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(5.0)
        self.link.close()
        os.close(self.fd)
        shutil.rmtree(self.private, ignore_errors=True)

    def _steps(self) -> int:
        """What the runner says to have finished; for display, deadlines, and after a crash."""
        try:
            return int.from_bytes(self.progress.read_bytes()[:8], "little")
        except OSError:
            return 0

    def _watch(self) -> None:
        """Look at the whole tree while it works."""
        self.clock.read()
        if self.clock.members > PROCESSES:
            told = f"{self.clock.members} processes at once; at most {PROCESSES}"
            raise Ended("invalid", f"the submission had {told}")

    def _held(self, check, *arguments):
        """The result of a check of what the runner said."""
        try:
            return check(*arguments)
        except testimony.Contradiction as error:
            raise Ended("invalid", str(error)) from None

    def _send(self, kind: str, **fields) -> None:
        try:
            self.link.send(kind, **fields)
        except Closed:
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
        except Late:
            self._hung(f"{phase} took longer than {seconds:.0f} s")
        except Closed:
            self._gone()
        if message["kind"] == "failed":
            raise Ended(*self._held(testimony.failure, message))
        if message["kind"] != expected:
            raise Ended(
                "invalid", f"the runner sent {message['kind']!r} where {expected!r} was due"
            )
        return message

    def _hung(self, what: str):
        with suppress(ProcessLookupError):
            os.kill(self.child.pid, signal.SIGUSR1)  # its stacks go to runner.log
        time.sleep(0.2)
        raise Ended("timeout", f"{what}; its stacks are in {self.trial.folder / 'runner.log'}")

    def _gone(self):
        try:
            code = self.child.wait(5.0)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (by hand, or by the kernel when memory ran out)" if name == "SIGKILL" else ""
            raise Ended(
                "killed",
                f"the runner was killed by {name}{hint}; the same command continues the trial",
            )
        raise Ended(
            "failed",
            f"the runner ended (status {code}) without a word; see {self.trial.folder}/runner.log",
        )
