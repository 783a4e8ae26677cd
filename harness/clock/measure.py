"""Timing kinds of passes in fresh processes, and what is made of their times.

A price is the median over processes of each process's lowest tenth: work of others only adds to
a time (docs/clock.md has the comparison). Its interval is the bootstrap's over processes.
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
YARDSTICK = "yardstick"  # its name among the kinds
WAITED = 1.1  # wall over CPU seconds of a pinned process: above it, others ran on its core
DRIFT = 0.10  # share by which the processes' reference steps may differ
APART = 0.20  # the same in yardsticks: what waits for memory drifts otherwise than what computes


@dataclass(frozen=True)
class Yardstick:
    """Another workload, whose reference step is timed among the kinds, in the same process.

    Attributes:
        seconds: what the step is held to take, whatever it takes here.
        origin: the table that says so.
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
    tell=lambda i, found: None,
    yardstick: Yardstick | None = None,
) -> list[dict]:
    """What so many fresh processes, one after the other, find; `tell` hears of each.

    With a `yardstick`, all times are told as if it had taken its seconds.
    """
    order = {
        "kinds": list(kinds), "engine": engine, "rounds": rounds, "workload": _opening(definition),
        "yardstick": _opening(yardstick.definition) if yardstick else None,
    }  # fmt: skip
    threads = dict.fromkeys(THREADS, str(engine["threads"]))
    found = []
    for i in range(processes):
        command = [
            sys.executable,
            "-m",
            "harness.clock.pass_timer",
            json.dumps(order | {"seed": i}),
        ]
        done = subprocess.run(
            command, cwd=discover.ROOT, env=os.environ | threads, capture_output=True, text=True
        )
        if done.returncode:
            raise UserError(
                f"measuring {definition.key} failed: {done.stderr.strip().splitlines()[-1]}"
            )
        one = json.loads(done.stdout.splitlines()[-1])
        found.append(in_units(one, yardstick.seconds) if yardstick else one)
        tell(i, found)
    return found


def _opening(definition: Definition) -> dict:
    """What a process needs to open a workload."""
    train = str(data.prepare(definition, "train"))
    return {"definition": asdict(definition), "train": train}


def in_units(found: dict, seconds: float) -> dict:
    """The times of one process as if its yardstick had taken so many seconds."""
    here = level(found, YARDSTICK)
    samples = {
        kind: [t * seconds / here for t in times]
        for kind, times in found["samples"].items()
        if kind != YARDSTICK
    }
    return found | {"samples": samples, "yardstick": here}


def level(found: dict, kind: str) -> float:
    """One process's seconds for a kind: the quantile QUANTILE of its passes."""
    samples = sorted(found["samples"][kind])
    return samples[int(QUANTILE * (len(samples) - 1))]


def summary(levels: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """Median of the processes' levels, and the ends of its 95 % bootstrap interval."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(levels, k=len(levels))) for _ in range(draws))
    return statistics.median(levels), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def busy(found: list[dict], load: float) -> str | None:
    """Signs that others were at work during a measurement, or None."""
    cores, waited = os.cpu_count() or 1, statistics.median(one["waited"] for one in found)
    anchors = [level(one, REFERENCE_STEP) for one in found]
    drift = (max(anchors) - min(anchors)) / statistics.median(anchors)
    signs = []
    if load > 0.5 * cores:
        signs.append(f"the load was {load:.1f} on {cores} cores")
    if waited > WAITED:
        signs.append(f"passes took {waited:.2f} times as long as they computed")
    if drift > (APART if "yardstick" in found[0] else DRIFT):
        signs.append(f"the reference step differed by {100 * drift:.0f} % between processes")
    return "; ".join(signs) or None
