"""What the command that started a sweep does while it runs: show progress, take signals."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.catalog.goal import primary
from harness.cli import sweep_plan, sweep_trial
from harness.cli.sweep_plan import Planned
from harness.errors import EXIT_INTERRUPTED
from harness.records import run_folder
from harness.records.references import reference
from harness.report.run.live import SweepLines
from harness.report.run.text import duration, number, verdict_lines
from harness.system import processes, procfs

SECONDS = 0.5  # between two looks at the trials


class Stopped(BaseException):
    """Every running trial has stopped, as Ctrl-C asked: the launcher need not be waited for."""


class Watch:
    """Reads the trials' progress, shows it, and stops the trials when a signal asks.

    Ctrl-C reaches the command and its workers alike. The command takes it in a thread of its own,
    blocks it elsewhere, and so in the workers it starts, and asks them through the folder: then a
    worker that has just begun ends as cleanly as one that trains. A second Ctrl-C kills.
    """

    def __init__(self, folder: Path, raced: Sequence[Planned], todo: Sequence[Planned], jobs: int):
        self.folder, self.todo, self.jobs = folder, todo, jobs
        self.total, self.done = len(raced), len(raced) - len(todo)
        self.lines = SweepLines()
        self.ended: set[str] = set()
        self.printed: dict[str, int] = {}
        self.running = 0
        self.asked = self.over = False
        self.begun = time.monotonic()
        costs = sweep_plan.Costs(todo[0].trial.results if todo[0].trial else Path())
        known = {e.trial.run_id: costs.of(e.trial)[0] for e in todo if e.trial}
        self.known = None not in known.values()
        self.costs = {key: (value if self.known else 1.0) or 1.0 for key, value in known.items()}
        if self.done:
            self.lines.note(f"{self.done} of {self.total} trials were run before")
        self._look()

    @contextmanager
    def watching(self, in_command: bool):
        """Watch while the launcher works; `in_command`: the trials run in this very process."""
        sweep_trial.in_command = in_command
        self.in_command = in_command
        caught = (signal.SIGTERM, signal.SIGHUP, *([signal.SIGINT] if not in_command else []))
        kept = {
            number: signal.signal(number, self._asked)
            for number in caught
            if signal.getsignal(number) != signal.SIG_IGN
        }
        self.waits = hasattr(signal, "sigtimedwait") and not in_command
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT} if self.waits else set())
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.over = True
            thread.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number, handler in kept.items():
                signal.signal(number, handler)
            sweep_trial.in_command = False

    def finish(self) -> None:
        """Take the last state, and remove the lines."""
        self._look()
        self.lines.close()
        if self.asked:
            left = sum(
                each.result.get("exit", EXIT_INTERRUPTED) == EXIT_INTERRUPTED for each in self.todo
            )
            for each in self.todo:
                each.result = each.result or {"exit": EXIT_INTERRUPTED}
            done = self.total - left
            self.lines.note(
                f"interrupted: {done} of {self.total} trials have ended, {left} are left; "
                "the same command continues them"
            )

    def _asked(self, number: int, frame: Any) -> None:
        """Take a signal: the first asks the trials to stop, a second kills their processes."""
        if self.over:
            raise Stopped
        if self.asked and number == signal.SIGINT:
            for child in procfs.children(os.getpid()):
                processes.kill_tree(child)
            return
        if not self.asked:
            self.asked = True
            sweep_trial.stop(self.folder)
            self.lines.note(
                f"stopping: {self.running} running trials save their state (Ctrl-C again: at once)"
            )

    def _watch(self) -> None:
        """Look at the trials until the launcher is done; the thread's work."""
        idle = 0
        while not self.over:
            if self.waits:
                if signal.sigtimedwait({signal.SIGINT}, SECONDS):
                    self._asked(signal.SIGINT, None)
            else:
                time.sleep(SECONDS)
            self._look()
            self.asked = self.asked or (self.folder / sweep_trial.STOP).exists()
            idle = idle + 1 if self.asked and not self.running else 0
            # a trial that was starting has had two seconds to show itself or to see the word
            if idle * SECONDS >= 2 and not self.in_command:
                self.over = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _look(self) -> None:
        """Read where each trial is; print what is new, and draw the rest."""
        lines, left = [], 0.0
        for each in self.todo:
            assert each.trial
            run_id = each.trial.run_id
            if run_id in self.ended:
                continue
            state = sweep_trial.status(self.folder, run_id)
            cost = self.costs[run_id]
            if state is None:
                left += cost
                continue
            for note in state["notes"][self.printed.get(run_id, 0) :]:
                self.lines.note(f"{each.label}: {note}")
            self.printed[run_id] = len(state["notes"])
            if "ended" in state:
                self._end(each, state["ended"])
                continue
            left += cost * max(0.0, 1 - state["step"] / state["total"])
            lines.append(f"{each.label}  {_where(each, state)}")
        self.running = len(lines)
        self.lines.draw(self._head(left), lines)

    def _end(self, each: Planned, ended: dict) -> None:
        """Print how a trial has ended."""
        assert each.trial
        self.ended.add(each.trial.run_id)
        if ended["outcome"] in ("busy", "interrupted"):
            status = run_folder.exit_code(ended["outcome"])
            each.result = each.result or {"outcome": ended["outcome"], "exit": status}
            return
        self.done += 1
        record = run_folder.read(each.trial.folder) or {"goal": {}} | ended
        text = verdict_lines(with_reference(each, record), _reference(each))[0]
        self.lines.note(f"[{self.done}/{self.total}] {each.label}: {text}")

    def _head(self, left: float) -> str:
        """Return the headline; the trials so far correct what earlier records say of the cost."""
        text = f"{self.done} of {self.total} trials done, {self.running} running"
        if self.asked:
            return f"{text}, stopping"
        spent = sum(self.costs.values()) - left
        passed = time.monotonic() - self.begun
        share = min(self.jobs, len(self.todo))
        if spent > 0.05 * sum(self.costs.values()):
            return f"{text}, about {duration(left * passed / spent)} left"
        return f"{text}, about {duration(left / share)} left" if self.known else text


def _where(each: Planned, state: dict) -> str:
    """Say how far a running trial is."""
    assert each.trial
    metric, _, target = primary(each.trial.definition.block["goal"])
    value = state["metrics"].get(metric)
    shown = f"  {metric} {number(value)} -> {number(target)}" if value is not None else ""
    return f"{state['step']:,}/{state['total']:,} steps{shown}"


def _reference(each: Planned) -> dict | None:
    return reference(each.trial.definition) if each.trial else None


def with_reference(each: Planned, record: dict) -> dict:
    """Return a record with what a verdict compares it with, and what the sweep gave it."""
    assert each.trial
    goal = each.trial.definition.block["goal"]
    return {"goal": goal} | record | {"reference": _reference(each), "swept": each.swept}
