"""Racing the jobs of many pairs: here, pair after pair, or through a launcher, in rounds.

A job that `known` records already cover (of this machine or of another) is not run again.
"""

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from harness.campaign.pair_results import Job
from harness.campaign.pairs import Pair
from harness.campaign.trial import apart
from harness.records.run import RecordedRun
from harness.records.run_folder import FINAL

# jobs of a round through a launcher, by trials at a time: the end of a round leaves places empty
ROUND = 8


class KnownRuns(Protocol):
    """The records that a campaign need not race again (harness/campaign/board.py)."""

    def __call__(self, pair: Pair, job: Job) -> RecordedRun | None:
        """Return the run that covers a job already, or None."""
        ...

    def failed(self, pair: Pair) -> str | None:
        """Return why a pair cannot be raced, or None."""
        ...

    def add(self, run: RecordedRun) -> None:
        """Take note of a new run."""
        ...


class Pace:
    """The wall seconds of trials by workload, and an estimate of those that are left."""

    def __init__(self, jobs: int):
        self.jobs, self.walls = jobs, defaultdict(list)

    def add(self, name: str, wall: float | None) -> None:
        if wall:
            self.walls[name].append(wall)

    def left(self, pairs: list[Pair]) -> float | None:
        """Return the seconds that the trials not done will take; None before one was timed."""
        every = [w for walls in self.walls.values() for w in walls]
        if not every:
            return None
        mean = {name: sum(walls) / len(walls) for name, walls in self.walls.items()}
        usual = sum(every) / len(every)
        return sum(p.left * mean.get(p.workload, usual) for p in pairs) / self.jobs


class _Scheduler:
    """Hands out the jobs of pairs, and takes note of how each ends.

    Attributes:
        report: called after each job with its pair, the job, how it ended, and the pace.
    """

    def __init__(self, pairs: list[Pair], jobs: int, known: KnownRuns, report: Callable):
        self.pairs, self.known, self.report, self.pace = pairs, known, report, Pace(jobs)

    def end(self, pair: Pair, job: Job, result: dict, run: RecordedRun | None = None) -> None:
        """Take note of how a job ended; its record is `run` where it was known before."""
        pair.take(job, result, run)
        if run is None and job in pair.found:
            self.known.add(pair.found[job])
        if not result["earlier"] and result["outcome"] in FINAL:
            self.pace.add(pair.workload, result["wall"])
        elif run is not None:
            self.pace.add(pair.workload, run.record.get("wall_seconds"))
        self.report(pair, job, result, self.pace)

    def covered(self, pair: Pair, job: Job) -> bool:
        """Return True if a record covers the job, which it then ends."""
        run = self.known(pair, job)
        if run is not None:
            self.end(pair, job, _result_of(run), run)
        return run is not None

    def cover(self) -> None:
        """End all jobs that records cover: what is left is known before anything is raced."""
        for pair in self.pairs:
            pair.failed = self.known.failed(pair)
            # Jobs become ready as earlier ones end.
            while sum(self.covered(pair, job) for job in pair.ready()):
                pass

    def following(self) -> tuple[Pair, Job] | None:
        """Return the next job that has to be raced; end those that records cover on the way."""
        while True:
            ready = ((pair, job) for pair in self.pairs if pair.left for job in pair.ready())
            entry = next(ready, None)
            if entry is None or not self.covered(*entry):
                return entry


def run(
    pairs: list[Pair],
    results: str,
    jobs: int,
    known: KnownRuns,
    report: Callable,
    minutes: float | None = None,
) -> bool:
    """Race every job, `jobs` at a time, pair after pair.

    Args:
        report: called with (pair, job, result, pace) after each job.
        minutes: after so many, nothing more is handed out; what runs is finished.

    Returns:
        True if every job was handed out. An interrupt stops handing out, lets running trials write
        their checkpoints, and is passed on; SIGTERM does the same.
    """
    until = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    running: dict[Future, tuple[Pair, Job]] = {}
    racing: set = set()
    # of the referees; runners are given theirs
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    scheduler = _Scheduler(pairs, jobs, known, report)
    scheduler.cover()
    with ThreadPoolExecutor(jobs) as pool, _terminating(racing):
        try:
            while True:
                while len(running) < jobs and time.monotonic() < until:
                    if (entry := scheduler.following()) is None:
                        break
                    pair, job = entry
                    pair.asked.add(job)
                    running[pool.submit(apart, pair.config(job, results), racing)] = entry
                if not running:
                    return not any(pair.left for pair in pairs)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    pair, job = running.pop(future)
                    scheduler.end(pair, job, future.result())
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def run_in_rounds(
    pairs: list[Pair],
    results: str,
    jobs: int,
    known: KnownRuns,
    report: Callable,
    start: Callable[[list[dict]], list[dict]],
    minutes: float | None = None,
) -> bool:
    """Race every job as `run` does, but through a function that races many and waits for them.

    Args:
        start: races trials, given by their configurations, and returns how each ended.
        minutes: after so many, no further round is started.

    Returns:
        True if every job was handed out.
    """
    until = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    scheduler = _Scheduler(pairs, jobs, known, report)
    scheduler.cover()
    while time.monotonic() < until:
        entries: list[tuple[Pair, Job]] = []
        while len(entries) < ROUND * jobs and (entry := scheduler.following()) is not None:
            pair, job = entry
            pair.asked.add(job)
            entries.append(entry)
        if not entries:
            break
        ended = start([pair.config(job, results) for pair, job in entries])
        for (pair, job), result in zip(entries, ended, strict=True):
            scheduler.end(pair, job, result)
    return not any(pair.left for pair in pairs)


def _result_of(run: RecordedRun) -> dict:
    """Return what `race` would return for a trial whose record is known."""
    r = run.record
    number = f" trial {r['trial']}" if r["trial"] is not None else ""
    return {
        "label": f"{r['workload']}/{r['submission']} seed {r['seed']}{number}",
        **{key: r.get(key) for key in ("outcome", "reason", "time", "best", "hp")},
        "folder": "",
        "earlier": True,
        "wall": None,
    }


class _terminating:
    """A context in which SIGTERM stops this process and the trials in `racing`, as Ctrl-C does."""

    def __init__(self, racing: set):
        self.racing = racing

    def _stop(self, *_) -> None:
        for child in list(self.racing):
            os.kill(child.pid, signal.SIGTERM)
        raise KeyboardInterrupt

    def __enter__(self):
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.before = signal.signal(signal.SIGTERM, self._stop)

    def __exit__(self, *_):
        if self.main:
            signal.signal(signal.SIGTERM, self.before)
