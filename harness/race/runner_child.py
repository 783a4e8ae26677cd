"""The child process of a runner, seen from its parent: started, watched, talked to, ended.

Nothing here believes what the child says: messages are checked against their schema, CPU time comes
from the kernel, and every wait has a deadline.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.race import message_schema
from harness.race.limits import LimitExceeded, ResourceMonitor
from harness.race.message_schema import FalseClaim
from harness.race.runner_base import TrialEnded
from harness.system import processes
from harness.system.files import remove_tree
from harness.system.messages import Channel, Disconnected, Malformed, TimedOut
from harness.system.paths import ROOT
from harness.system.procfs import free_memory

TICK = 0.2  # seconds between two looks at the process tree
TAKEN = 60.0  # seconds in which a child must take a message
FROZEN_SECONDS = 0.05  # of CPU that a stopped tree may show: the kernel's resolution


class RunnerChild:
    """One runner's process tree.

    Args:
        folder: the run's folder; runner.log and the note of spent CPU time go there.
        private: the folder for the private folders of this trial's attempts.
        writable: further folders that the child may write to.
        shared: the descriptor of the shared memory that it inherits.
        threads: of the engine.
        keep: pids that are not part of the tree; others may be added.

    Attributes:
        private: the folder that the child works in; no attempt finds another's files there.
        monitor: CPU time and limits of the tree.
    """

    def __init__(
        self,
        folder: Path,
        private: Path,
        writable: list[Path],
        shared: int,
        threads: int,
        keep: Collection[int],
    ):
        processes.become_subreaper()
        processes.hide_memory()
        self._log, self._keep = folder / "runner.log", keep
        with suppress(OSError):
            remove_tree(private)
        self.private = private / secrets.token_hex(8)
        # A safe path: the interpreter imports nothing from the folder that it works in.
        environment = processes.clean_environment(self.private, threads)
        path = filter(None, [str(ROOT), environment.get("PYTHONPATH")])
        environment |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours, TAKEN)
        handles = theirs.fileno(), shared, os.getpid()
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.train.child", *map(str, handles)],
                pass_fds=[theirs.fileno(), shared],
                cwd=self.private,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        theirs.close()
        self._since = 0
        with suppress(ProcessLookupError):
            self._since = processes.stat_of(self._process.pid).start
        self.monitor = ResourceMonitor(
            self._process.pid,
            self._since,
            keep,
            folders=[self.private, *writable],
            log=self._log,
            files=[folder / "progress"],
            spent=folder / "spent",
            memory=free_memory(),
        )

    def send(self, kind: str, **fields) -> None:
        """Send a message; raise TrialEnded if the child is gone, or does not take it."""
        try:
            self._channel.send(kind, **fields)
        except Disconnected:
            self._gone()
        except TimedOut:
            self.hung(f"the runner took no message for {TAKEN:.0f} s")

    @property
    def status(self) -> int | None:
        """The exit status of the child; None while it runs."""
        return self._process.poll()

    def poll(self) -> bool:
        """Wait for TICK at most; return True if there is a message.

        Raises:
            TrialEnded: the child is gone, or broke a limit.
        """
        if self._channel.poll(TICK):
            return True
        # A process that the child has started may hold its end of the connection open.
        if self._process.poll() is not None:
            self._gone()
        try:
            self.monitor.check()
        except LimitExceeded as exceeded:
            raise TrialEnded(*exceeded.args) from None
        return False

    def receive(self, expected: str, seconds: float, phase: str, or_else: str = "") -> dict:
        """Return the next message, checked against its schema.

        Args:
            expected: its kind.
            phase: what the child does, for the reason of a timeout.
            or_else: another kind that may come instead.

        Raises:
            TrialEnded: it did not come in time, is another, is false, or reports a failure.
        """
        deadline = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > deadline:
                self.hung(f"{phase} took longer than {seconds:.0f} s")
        try:
            message = self._message(max(TICK, deadline - time.monotonic()))
        except TimedOut:
            self.hung(f"{phase} took longer than {seconds:.0f} s")
        if message["kind"] not in (expected, or_else):
            kind = message["kind"]
            raise TrialEnded("invalid", f"the runner sent {kind!r} where {expected!r} was due")
        return message

    def _message(self, seconds: float) -> dict:
        """Return the next message, checked against its schema.

        Raises:
            TimedOut: no whole message came within so many seconds.
            TrialEnded: the child is gone; the message is false, or reports a failure.
        """
        try:
            message = self._channel.receive(seconds)
            message_schema.check(message)
        except Disconnected:
            self._gone()
        except Malformed as error:
            raise TrialEnded("invalid", f"the runner sent something else: {error}") from None
        except FalseClaim as error:
            raise TrialEnded("invalid", str(error)) from None
        if message["kind"] == "failed":
            raise TrialEnded(message["outcome"], message["error"])
        return message

    def _refuse_word(self) -> None:
        """End the trial if the child has said something since it handed over.

        It may have failed, or have been killed, since then: that ends the trial as at any other
        time. Any other word is false, since nobody has asked for it.
        """
        if self._channel.poll():
            with suppress(TimedOut):
                self._message(TICK)
            raise TrialEnded("invalid", "the runner sent a message that nobody had asked for")

    def hung(self, what: str):
        """End the trial as timed out; the child writes its stacks into runner.log first."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(0.2)
        raise TrialEnded("timeout", f"{what}; its stacks are in {self._log}")

    @contextmanager
    def frozen(self):
        """Stop the whole tree within the block.

        Raises:
            TrialEnded: it cannot be stopped, worked all the same, or has sent a message.
        """
        try:
            frozen = processes.freeze(self._process.pid, since=self._since, keep=self._keep)
        except TimeoutError as error:
            reason = f"the runner could not be stopped for evaluation: {error}"
            raise TrialEnded("timeout", reason) from None
        try:
            self._refuse_word()
            before = processes.spent(frozen)
            yield
            worked = processes.spent(frozen) - before
            if worked > FROZEN_SECONDS:
                raise TrialEnded("invalid", f"the runner worked {worked:.2f} s while it was judged")
        finally:
            processes.thaw(frozen)

    def close(self) -> None:
        """End the whole tree, and remove its private folder."""
        self._channel.patience = 2.0
        with suppress(Disconnected, TimedOut):
            self._channel.send("stop")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        with suppress(TimeoutError):
            processes.kill_tree(self._process.pid, since=self._since, keep=self._keep)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        self._channel.close()
        with suppress(OSError):
            remove_tree(self.private)
        # Another attempt may have its own folder there.
        for folder in (self.private.parent, self.private.parent.parent):
            with suppress(OSError):
                folder.rmdir()

    def _gone(self):
        """End the trial whose child is gone."""
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (by hand, or by the kernel when memory ran out)" if name == "SIGKILL" else ""
            reason = f"the runner was killed by {name}{hint}"
            raise TrialEnded("killed", f"{reason}; the same command continues the trial")
        reason = f"the runner ended (status {code}) without a word; see {self._log}"
        raise TrialEnded("failed", reason)
