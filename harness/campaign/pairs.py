"""Many trials outside Hydra: pairs of submission and workload, their jobs in order, their results.

A pair runs the tuning trials of its ruleset, then the best point of each study over new seeds. A
job that `known` records already cover (of this machine or of another) is not run again.
"""

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.campaign.plan import Plan
from harness.campaign.trial import apart, settings
from harness.catalog import discover
from harness.catalog.definition import Definition, define, tree_of
from harness.race import configuration, point
from harness.records.collect import read_folder
from harness.records.run import RecordedRun, tuning_order
from harness.records.run_folder import FINAL

TRIES = 2  # failures of a pair, none of its trials having finished, after which it is left

Job = tuple[int, int | None, int]  # study, trial (None: the best point again), seed


def _default(key: str) -> Any:
    """Return a dataclass field whose default is that of conf/config.yaml."""
    return field(default_factory=lambda: configuration.defaults()[key])


@dataclass
class Pair:
    """One submission on one workload under a ruleset: tuning trials, then the best over seeds."""

    workload: str
    submission: str
    ruleset: dict
    scale: str = _default("scale")
    variant: str | None = _default("variant")
    until: str = _default("until")
    hopeless: bool = _default("hopeless")
    isolation: str = _default("isolation")
    hp: dict | None = None  # without tuning: the point, instead of the defaults
    asked: set = field(default_factory=set)  # jobs handed out
    done: dict = field(default_factory=dict)  # job -> what `race` returned
    found: dict = field(default_factory=dict)  # job -> its finished RecordedRun, read and checked
    failed: str | None = None  # why it is given up: it never finished, and would fail again

    @property
    def name(self) -> str:
        where = f"{self.workload}.{self.variant}" if self.variant else self.workload
        return f"{where}/{self.submission}"

    @property
    def definition(self) -> Definition:
        return define(self.workload, tree_of(self.workload), self.scale, self.variant)

    @property
    def tuning(self) -> list[Job]:
        return [
            (s, t, s) for s in range(self.ruleset["studies"]) for t in range(self.ruleset["trials"])
        ]

    @property
    def total(self) -> int:
        return len(self.tuning) + self.ruleset["studies"] * self.ruleset["seeds"]

    @property
    def left(self) -> int:
        """How many jobs are neither done nor given up."""
        return 0 if self.failed else self.total - len(self.done)

    def ready(self) -> Iterator[Job]:
        """Jobs that may start now: trials; a study's seeds once all its trials are over."""
        if self.failed:
            return
        yield from (job for job in self.tuning if job not in self.asked)
        for study in range(self.ruleset["studies"]):
            trials = [job for job in self.tuning if job[0] == study]
            if all(job in self.done for job in trials) and (not trials or self.best(study)):
                yield from (
                    job
                    for seed in range(1, self.ruleset["seeds"] + 1)
                    if (job := (study, None, seed)) not in self.asked
                )

    def take(self, job: Job, told: dict, run: RecordedRun | None = None) -> None:
        """Note how a job ended; its record is `run`, or in the folder that `told` names."""
        self.asked.add(job)
        self.done[job] = told
        if run is None and told["outcome"] in FINAL:
            run = read_folder(Path(told["folder"]))
        if run is not None:
            self.found[job] = run
        reasons = [one["reason"] for one in self.done.values() if one["outcome"] == "failed"]
        if not self.found and len(reasons) >= min(TRIES, self.total):
            self.failed = reasons[-1]

    def best(self, study: int | None = None) -> RecordedRun | None:
        """The best tuning trial of a study (of all)."""
        found = [
            run
            for (s, trial, _), run in self.found.items()
            if trial is not None and study in (None, s)
        ]
        return min(found, key=tuning_order, default=None)

    def point(self, job: Job) -> dict:
        """The whole hyperparameter point of a job."""
        study, trial, _ = job
        if trial is None and self.ruleset["trials"]:
            found = self.best(study)
            assert found, f"{job} is not ready"
            return found.record["hp"]
        if self.hp is not None:
            return self.hp
        card = discover.read(discover.find(self.submission))
        goal = self.definition.block["goal"]
        return point.hyperparameters(card, {}, trial, study, None, goal)

    def config(self, job: Job, results: str) -> dict:
        study, trial, seed = job
        own = self.hp is not None or (trial is None and self.ruleset["trials"])
        return settings(
            self.workload,
            self.scale,
            self.submission,
            seed,
            results,
            self.point(job) if own else None,
            variant=self.variant,
            trial=trial,
            study=study,
            until=self.until,
            isolation=self.isolation,
            hopeless=self.hopeless and trial is not None,
            budget=self.ruleset.get("budget", 1),
        )


def pairs_of(made: Plan) -> list[Pair]:
    """The pairs of a plan: block by block, in each by submission, each pair and ruleset once."""
    found: dict[str, Pair] = {}
    for block in made.blocks:
        for submission, name, variant in block.pairs():
            how = (block.until, block.hopeless, block.isolation)
            pair = Pair(name, submission, block.rules, block.scale, variant, *how)
            found.setdefault(repr(pair), pair)
    return list(found.values())


class Pace:
    """How long trials take, by workload, and with that the rest."""

    def __init__(self, jobs: int):
        self.jobs, self.walls = jobs, defaultdict(list)

    def add(self, name: str, wall: float | None) -> None:
        if wall:
            self.walls[name].append(wall)

    def left(self, pairs: list[Pair]) -> float | None:
        """Seconds that the trials not done will take; None before one was timed."""
        every = [w for walls in self.walls.values() for w in walls]
        if not every:
            return None
        mean = {name: sum(walls) / len(walls) for name, walls in self.walls.items()}
        usual = sum(every) / len(every)
        return sum(p.left * mean.get(p.workload, usual) for p in pairs) / self.jobs


def run(
    pairs: list[Pair], results: str, jobs: int, known, tell, minutes: float | None = None
) -> bool:
    """Race every job, `jobs` at a time, pair after pair; `tell(pair, job, told, pace)` after each.

    Args:
        known: `known(pair, job)` is the run that covers a job already, or None; `known.add(run)`
            is told of every new one; `known.failed(pair)` says why a pair cannot be raced, or None.
        minutes: after so many, nothing more is handed out; what runs is finished.

    Returns:
        Whether every job was handed out. An interrupt stops handing out, lets running trials write
        their checkpoints, and is passed on; SIGTERM does the same.
    """
    pace, until = (
        Pace(jobs),
        time.monotonic() + 60 * minutes if minutes is not None else float("inf"),
    )
    running: dict[Future, tuple[Pair, Job]] = {}
    racing: set = set()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the referees; runners are told theirs

    def end(pair: Pair, job: Job, told: dict, found: RecordedRun | None = None) -> None:
        pair.take(job, told, found)
        if found is None and job in pair.found:
            known.add(pair.found[job])
        if not told["earlier"] and told["outcome"] in FINAL:
            pace.add(pair.workload, told["wall"])
        elif found is not None:
            pace.add(pair.workload, found.record.get("wall_seconds"))
        tell(pair, job, told, pace)

    def covered(pair: Pair, job: Job) -> bool:
        """Whether a record covers the job, which it then ends."""
        if found := known(pair, job):
            end(pair, job, _told(found), found)
        return found is not None

    def following() -> tuple[Pair, Job] | None:
        """The next job that has to be run; those that records cover are ended on the way."""
        while True:
            ready = ((p, job) for p in pairs if p.left for job in p.ready())
            if (found := next(ready, None)) is None or not covered(*found):
                return found

    for pair in pairs:  # before anything is raced, so that what is left is known
        pair.failed = known.failed(pair)
        while sum(covered(pair, job) for job in pair.ready()):  # seeds are ready after trials
            pass

    with ThreadPoolExecutor(jobs) as pool, _terminating(racing):
        try:
            while True:
                while len(running) < jobs and time.monotonic() < until:
                    if (found := following()) is None:
                        break
                    pair, job = found
                    pair.asked.add(job)
                    running[pool.submit(apart, pair.config(job, results), racing)] = found
                if not running:
                    return not any(pair.left for pair in pairs)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    pair, job = running.pop(future)
                    end(pair, job, future.result())
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _told(run: RecordedRun) -> dict:
    """What `race` would say of a trial whose record is known."""
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
    """While it holds, SIGTERM stops this process and the trials in `racing`, as Ctrl-C does."""

    def __init__(self, racing: set):
        self.racing = racing

    def _stop(self, *_) -> None:
        for child in list(self.racing):
            os.kill(child.pid, signal.SIGINT)
        raise KeyboardInterrupt

    def __enter__(self):
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.before = signal.signal(signal.SIGTERM, self._stop)

    def __exit__(self, *_):
        if self.main:
            signal.signal(signal.SIGTERM, self.before)


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
