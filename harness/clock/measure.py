"""Time kinds of passes in fresh processes, and summarise the times.

A process's time for a kind is the lower tenth of its passes, since other processes can only make a
pass slower (docs/clock.md compares the choices). A price is the median of these times over the
processes. Its interval is a bootstrap over processes.
"""

import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass

from harness.catalog import data, discover
from harness.catalog.definition import Definition
from harness.catalog.kinds import REFERENCE_STEP
from harness.errors import UserError
from harness.system.processes import THREADS

QUANTILE = 0.1
# The standard's step has this name among the kinds, in messages and in tables.
STANDARD = "yardstick"
# Above this ratio of wall to CPU seconds, other processes ran on a pinned process's core.
WAITED = 1.1
# Width that the 95 % interval of the reference step's median over processes may have, as a share of
# it. Of five processes it reaches from the fastest to the slowest; of more it is narrower.
DRIFT = 0.10
# The same share in seconds of the standard. It is larger, because a step that waits for memory
# drifts otherwise than a step that computes.
APART = 0.20


@dataclass(frozen=True)
class Standard:
    """A second workload, whose reference step is timed among the kinds, in the same process.

    Attributes:
        seconds: the frozen price of its step, which all times are converted to.
        origin: the table that has this price.
    """

    definition: Definition
    seconds: float
    origin: str


def measure(
    definition,
    engine: dict,
    kinds: list[str],
    processes: int,
    rounds: int,
    report=lambda i, timings: None,
    standard: Standard | None = None,
) -> list[dict]:
    """Time the kinds in fresh processes, one after the other. Return one dictionary for each.

    Args:
        kinds: names of the kinds; those that do not fit the workload are left out.
        processes: number of processes.
        rounds: number of blocks of every kind in a process.
        report: called with a process's number and all results so far, after each process.
        standard: if given, all times are converted as if its step had taken its frozen seconds.

    Raises:
        UserError: a process failed.
    """
    message = {
        "kinds": list(kinds), "engine": engine, "rounds": rounds, "workload": _opening(definition),
        "yardstick": _opening(standard.definition) if standard else None,
    }  # fmt: skip
    threads = dict.fromkeys(THREADS, str(engine["threads"]))
    timings = []
    for i in range(processes):
        command = [
            sys.executable,
            "-m",
            "harness.clock.pass_timer",
            json.dumps(message | {"seed": i}),
        ]
        completed = subprocess.run(
            command, cwd=discover.ROOT, env=os.environ | threads, capture_output=True, text=True
        )
        if completed.returncode:
            # A process that the kernel killed has said nothing.
            ended = f"its process ended with status {completed.returncode}"
            reason = [ended, *completed.stderr.strip().splitlines()][-1]
            raise UserError(f"measuring {definition.key} failed: {reason}")
        timing = json.loads(completed.stdout.splitlines()[-1])
        timings.append(in_units(timing, standard.seconds) if standard else timing)
        report(i, timings)
    return timings


def _opening(definition: Definition) -> dict:
    """Return what a process needs to open a workload."""
    train = str(data.prepare(definition, "train"))
    return {"definition": asdict(definition), "train": train}


def in_units(timing: dict, seconds: float) -> dict:
    """Return the times of one process, scaled as if the standard's step had taken `seconds`."""
    seconds_here = level(timing, STANDARD)
    samples = {
        kind: [t * seconds / seconds_here for t in times]
        for kind, times in timing["samples"].items()
        if kind != STANDARD
    }
    return timing | {"samples": samples, "yardstick": seconds_here}


def level(timing: dict, kind: str) -> float:
    """Return one process's seconds for a kind: the quantile QUANTILE of its passes."""
    samples = sorted(timing["samples"][kind])
    return samples[int(QUANTILE * (len(samples) - 1))]


def summary(levels: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """Return the median of the processes' levels, and the ends of its 95 % bootstrap interval."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(levels, k=len(levels))) for _ in range(draws))
    return statistics.median(levels), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def busy(timings: list[dict], load: float, complete: bool = True) -> str | None:
    """Return signs that other processes disturbed a measurement, or None.

    Args:
        timings: what `measure` returned.
        load: the machine's load average before the measurement.
        complete: False while processes are still to come, which may narrow the interval.
    """
    cores, waited = os.cpu_count() or 1, statistics.median(timing["waited"] for timing in timings)
    levels = [level(timing, REFERENCE_STEP) for timing in timings]
    median, low, high = summary(levels)
    drift = (high - low) / median if complete else 0.0
    signs = []
    if load > 0.5 * cores:
        signs.append(f"the load was {load:.1f} on {cores} cores")
    if waited > WAITED:
        signs.append(f"passes took {waited:.2f} times as long as they computed")
    if drift > (APART if "yardstick" in timings[0] else DRIFT):
        message = f"the reference step differed by {100 * drift:.0f} % between processes"
        signs.append(f"{message} (interval of the median of {len(levels)})")
    return "; ".join(signs) or None
